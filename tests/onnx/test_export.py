"""Exported stages, run one after the other in onnxruntime, are the model."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from pipecut import cli
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.errors import PlanError
from pipecut.onnx.manifest import read_manifest
from tests.onnx.models import heads

JOB = """
model: {{factory: "tests.onnx.models:{name}"}}
inputs: "tests.onnx.models:vectors"
batch: {{global: 8, microbatch: 4}}
"""


def plan_of(name: str, folder: Path, cluster: str) -> Path:
    job = folder / f"{name}.yaml"
    job.write_text(JOB.format(name=name))
    compile(job, cluster, folder / name, Options(SizeOverrides(stages=2), costs="roofline"))
    return folder / name


def export(*arguments: object) -> Any:
    command = ["export-onnx", *map(str, arguments)]
    return CliRunner().invoke(cli.app, command, catch_exceptions=False)


@pytest.mark.slow
def test_stages_in_onnxruntime_are_the_model(tmp_path: Path, slow_cores: str) -> None:
    plan, output = plan_of("heads", tmp_path, slow_cores), tmp_path / "onnx"
    model = heads()
    with torch.no_grad():
        model.norm.running_mean.fill_(0.25)
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.clone() for name, value in model.state_dict().items()}, str(weights))
    result = export(plan, "-o", output, "--weights", weights, "--verify")
    assert result.exit_code == 0 and "ok  first" in result.output and "ok  x" in result.output
    manifest = read_manifest(output)
    assert [port.name for port in manifest.inputs] == ["x"], "labels are for the loss alone"
    assert [stage.stage for stage in manifest.stages] == [0, 1]
    first = onnx.load(output / "stage_0.onnx")
    held = {tensor.name: tensor for tensor in first.graph.initializer}
    assert {"enter.weight", "leave.bias", "norm.running_mean"} <= set(held)
    assert (onnx.numpy_helper.to_array(held["norm.running_mean"]) == 0.25).all()
    modules = {p.value for node in first.graph.node for p in node.metadata_props}
    assert {"enter", "norm", "leave"} <= modules and not any("/" in m for m in modules)
    text = (output / "stage_0.onnx").read_bytes()
    assert str(tmp_path).encode() not in text, "no path of this machine"


@pytest.mark.slow
def test_without_weights_only_the_structure_is_written(tmp_path: Path, slow_cores: str) -> None:
    plan, output = plan_of("heads", tmp_path, slow_cores), tmp_path / "onnx"
    assert export(plan, "-o", output, "--weights", "none").exit_code == 0
    assert not list(output.glob("*.data"))
    graph = onnx.load(output / "stage_1.onnx", load_external_data=False).graph
    weight = next(tensor for tensor in graph.initializer if tensor.name == "enter.weight")
    assert weight.dims == [8, 8] and weight.data_location == onnx.TensorProto.EXTERNAL
    entries = json.loads((output / "manifest.json").read_text())["stages"]
    assert entries[1]["data"] == weight.external_data[0].value


@pytest.mark.slow
def test_autograd_functions_are_written_as_their_forward(tmp_path: Path, slow_cores: str) -> None:
    plan, output = plan_of("functions", tmp_path, slow_cores), tmp_path / "onnx"
    result = export(plan, "-o", output, "--verify")
    assert result.exit_code == 0
    assert "ok  result" in result.output and "ok  places" in result.output
    graphs = [onnx.load(file).graph for file in sorted(output.glob("*.onnx"))]
    kinds = {node.op_type for graph in graphs for node in graph.node}
    assert {"Round", "TopK"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("drawing", "draws random numbers"),
        ("noisy_functions", "draws random numbers"),
        ("unwritable", "prims.bessel_j0"),
    ],
)
def test_what_onnx_cannot_say_is_refused(
    name: str, reason: str, tmp_path: Path, slow_cores: str
) -> None:
    plan = plan_of(name, tmp_path, slow_cores)
    with pytest.raises(PlanError, match=f"stage 0.*{reason}"):
        export(plan, "-o", tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()
