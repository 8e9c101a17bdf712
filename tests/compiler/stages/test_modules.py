"""Modules are named as a person would: layers as ranges, and no module beside its own parts."""

import pytest

from pipecut.compiler.stages.modules import modules_covered
from tests.compiler.chain_graphs import made_operator


@pytest.mark.parametrize(
    ("modules", "names"),
    [
        (["h.0.attn", "h.1.mlp", "h.1", "h.3"], ["h.0-1", "h.3"]),
        (["model.embed.norm.inner"], ["model.embed.norm"]),
        (["model", "model.embed"], ["model.embed"]),
        (["model.embed", "model.embed.norm"], ["model.embed.norm"]),
        (["head"], ["head"]),
        (["", "head"], ["head"]),
        ([""], []),
        (["encoder.layers.0", "decoder.layers.0"], ["encoder.layers.0", "decoder.layers.0"]),
    ],
)
def test_modules_are_named_once_and_layers_as_ranges(modules: list[str], names: list[str]) -> None:
    operators = [
        made_operator(f"o{number}", "aten.relu.default", module=module)
        for number, module in enumerate(modules)
    ]
    assert modules_covered(operators) == names
