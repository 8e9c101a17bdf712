"""The stages of a page: layers, operators, code, boundaries, and what a run measured."""

from pathlib import Path

import pytest

from pipecut.errors import PlanError
from pipecut.plan.folder import read_plan
from pipecut.plan.schema import Boundary, StageTensor
from pipecut.view.layers import OUTSIDE, layer_of
from pipecut.view.sources import RunReport, RunRow, Sources, code_of
from pipecut.view.stages import MeasuredStage, layers_of, measured_stage, stages_of
from tests.graphs import made_graph, made_operator
from tests.plans import made_stage, made_tensor, write_made_plan
from tests.view.made import made_sources


@pytest.mark.parametrize(
    ("module", "layer"),
    [
        ("model.layers.3.mlp.up_proj", "model.layers.3"),
        ("encoder.block.0.layer.1", "encoder.block.0"),
        ("transformer.wte", "transformer.wte"),
        ("0", "0"),
        ("", OUTSIDE),
    ],
)
def test_a_layer_is_a_module_up_to_its_number(module: str, layer: str) -> None:
    assert layer_of(module) == layer


def test_operators_stand_under_their_layer_with_its_sums() -> None:
    operators = (
        made_operator("a", ("x",), 0, module="h.0.attn", source="m/gpt.py:3"),
        made_operator("b", ("a",), 1, module="h.1"),
        made_operator("c", ("a",), 0, module="h.0.mlp", saved_bytes=5),
        made_operator("d", ("x",), 0, module="", stages=(0, 1)),
    )
    layer, outside = layers_of(made_graph(operators=operators), made_stage(0, 2))
    assert (layer.name, layer.forward, layer.backward, layer.saved) == ("h.0", 2.0, 4.0, 15)
    assert layer.operators.name == ("a", "c") and layer.operators.source[0] == "m/gpt.py:3"
    assert (outside.name, outside.operators.name) == (OUTSIDE, ("d",))
    later = layers_of(made_graph(operators=operators), made_stage(1, 2))
    assert [row.name for row in later] == ["h.1", OUTSIDE]


def test_parameters_count_for_the_layer_that_has_them() -> None:
    (layer,) = layers_of(made_graph(), made_stage(0, 2))
    assert (layer.name, layer.parameters) == ("layers.0", 16)


def test_a_tied_parameter_counts_for_the_layer_that_is_on_the_stage() -> None:
    tied = StageTensor(names=["wte.weight", "layers.0.weight"], shape=[4, 4], dtype="float32")
    (layer,) = layers_of(made_graph(), made_stage(0, 2, parameters=[tied]))
    assert (layer.name, layer.parameters) == ("layers.0", 16)


def test_a_boundary_has_bytes_and_seconds_each_way() -> None:
    boundary = Boundary(
        left=0,
        tensors=[made_tensor("hidden_0"), made_tensor("mask", needs_grad=False, dtype="bool")],
        bandwidth=100.0,
        latency=0.5,
    )
    (crossings,) = stages_of(made_sources(boundaries=[boundary])).boundaries
    # 2 samples of 4 numbers: 32 bytes as float32, 8 as bool, which has no gradient.
    assert (crossings.forward_bytes, crossings.backward_bytes) == (40, 32)
    assert crossings.forward_seconds == pytest.approx(0.9)
    assert crossings.backward_seconds == pytest.approx(0.82)
    assert crossings.tensors[1].shape == ("batch", "4") and not crossings.tensors[1].relayed


def test_what_a_run_measured_is_the_mean_of_replicas_and_the_most_bytes() -> None:
    rows = [
        RunRow(
            rank=rank, stage=0, forward=1.0 + rank, backward=2.0, wait=0.0, send=0.5, memory=rank
        )
        for rank in (0, 1)
    ]
    run = RunReport(
        predicted_step=1.0, measured_step=1.0, predicted=tuple(rows), measured=tuple(rows)
    )
    assert measured_stage(run, 0) == MeasuredStage(1.5, 2.0, 0.0, 0.5, 1)
    assert measured_stage(run, 1) is None and measured_stage(None, 0) is None


def test_a_stage_brings_its_code(tmp_path: Path) -> None:
    folder = read_plan(write_made_plan(tmp_path))
    (stage,) = stages_of(Sources(folder, code=code_of(folder))).stages
    assert stage.code == "class Stage0: ...\n"


def test_code_that_was_edited_is_refused(tmp_path: Path) -> None:
    folder = read_plan(write_made_plan(tmp_path))
    (tmp_path / "stages" / "stage_0.py").write_text("class Stage0: print('edited')\n")
    with pytest.raises(PlanError, match="was edited"):
        code_of(folder)
