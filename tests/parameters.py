"""Records of parameters made by hand, to start tests from values."""

from typing import Any

from torch import nn

from pipecut.runtime.gradients.parameters import RankParameter, master_for


def rank_parameter(model: nn.Parameter, name: str = "weight", **fields: Any) -> RankParameter:
    """A parameter of stage 0 that no other rank holds, with a filled master."""
    master = fields.pop("master", master_for(model))
    usual = {"names": (name,), "stages": (0,), "trainable": model.requires_grad, "stepped": master}
    return RankParameter(**{**usual, "model": model, "master": master, **fields})
