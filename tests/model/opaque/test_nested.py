"""Tensors in nested values are found, and values nested alike are made."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import torch

from pipecut.model.opaque.nested import leaves_in, tensors_in, with_leaves

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Both:
    x: Any
    y: Any


def test_tensors_come_in_order_from_all_kinds_of_nesting() -> None:
    a, b, c = torch.zeros(3).unbind()
    value = {"k": [a, None], "l": (Pair(b, 2), Both(c, "text")), "m": a}
    assert [t is e for t, e in zip(tensors_in(value), [a, b, c, a], strict=True)] == [True] * 4
    assert [leaf for leaf in leaves_in(value) if not isinstance(leaf, torch.Tensor)] == [
        None,
        2,
        "text",
    ]


def test_other_leaves_keep_the_nesting() -> None:
    value = {"k": [1, None], "l": (Pair(2, 3), Both(4, 5))}
    changed = with_leaves(value, lambda leaf: leaf and 10 * leaf)
    assert changed == {"k": [10, None], "l": (Pair(20, 30), Both(40, 50))}
    assert value["k"] == [1, None]


def test_outputs_of_transformers_keep_what_they_lack() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    value = BaseModelOutput(last_hidden_state=torch.zeros(2))
    changed = with_leaves(value, lambda leaf: None if leaf is None else leaf + 1)
    assert isinstance(changed, BaseModelOutput) and list(changed) == ["last_hidden_state"]
    assert torch.equal(changed[0], torch.ones(2)) and changed.attentions is None
