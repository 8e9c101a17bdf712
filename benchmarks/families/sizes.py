"""Sizes of models that a zoo's own sizes do not make, or that do not run forward and backward.

A zoo may keep the arguments of transformers' configurations in CONFIG, by `KIND:TYPE` or by type,
and models of other libraries in CUSTOM, with the functions that make them in a module `custom`.
"""

import importlib
from types import ModuleType
from typing import Any

RESNET = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 2, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
# What differs from the zoo's arguments; None leaves one out.
ARGUMENTS: dict[str, dict[str, Any]] = {
    # Its hybrid layers are listed before another name of this argument is looked at.
    "zamba2": {
        "layer_types": None,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
    },
    # A block takes the rate of its stage's number, so a stage must have as many blocks.
    "cvt": {"depth": [1, 2, 3]},
    "upernet": {
        "backbone_config": RESNET,
        "hidden_size": 32,
        "pool_scales": [1, 2],
        "auxiliary_channels": 16,
        "num_labels": 2,
    },
}
# Pixels of images, of which both sizes of patch (12, and 16 of 224/240 of them), or the blocks of
# 8 that attend to each other after five halvings, are a part.
IMAGES = {"crossvit_9_240": 120, "halonet26t": 256}


def with_own_sizes(zoo: ModuleType) -> ModuleType:
    """The zoo, in which these models have other sizes."""
    arguments = getattr(zoo, "CONFIG", {})
    for name, own in ARGUMENTS.items() if arguments else ():
        differing = {**arguments.get(name, {}), **own}
        arguments[name] = {key: value for key, value in differing.items() if value is not None}
    models = getattr(zoo, "CUSTOM", {})
    for name in IMAGES.keys() & {name.removeprefix("timm:") for name in models}:
        custom = importlib.import_module("custom")
        made = custom.timm_model(name, IMAGES[name]), custom.images(IMAGES[name])
        models[f"timm:{name}"] = (*made, *models[f"timm:{name}"][2:])
    return zoo
