"""A job with a layout is cut by it, and its plan says what that costs beside the best cut."""

import re
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, compile
from pipecut.compiler.partition.layouts import layout_of
from pipecut.plan.folder import PlanFolder

# So slow that messages take nothing beside layers.
SLOW_CORES = """name: small
nodes:
  - {devices: {core: 2}, link: wire}
devices:
  core:
    memory: 1GiB
    bandwidth: 1GB/s
    flops: {fp32: 10MFLOP/s}
    overhead: 0us
    efficiency: 1
    type: cpu
    source: made up
links:
  wire: {bandwidth: 1GB/s, latency: 1us, source: made up}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> PlanFolder:
    """Six equal layers, of which the layout puts one on the first stage."""
    path: Path = tmp_path_factory.mktemp("layout")
    job = path / "job.yaml"
    job.write_text(
        'model: {factory: "tests.models.core:mlp"}\n'
        'inputs: "tests.models.core:vectors"\n'
        "batch: {global: 8, microbatch: 2}\n"
        'placement: {layout: "Et|t*5L"}\n'
    )
    cluster = path / "cluster.yaml"
    cluster.write_text(SLOW_CORES)
    return compile(job, str(cluster), path / "plan", Options(costs="roofline"))


def test_the_plan_is_cut_by_the_layout(folder: PlanFolder) -> None:
    assert folder.plan.stages[0].modules == ["layers.0"]
    placed = [operator.placed_on for operator in folder.graph.operators]
    parameters = {parameter.value for parameter in folder.graph.parameters}
    assert str(layout_of(folder.graph.operators, parameters, placed, 2)) == "Et|t*5L"


def test_its_note_has_both_bottlenecks_and_steps(folder: PlanFolder) -> None:
    (note,) = (note for note in folder.plan.notes if note.startswith("layout "))
    found = re.fullmatch(
        r"layout Et\|t\*5L: bottleneck .* per microbatch, ([\d.]+)% above the best cut's .*; "
        r"predicted step .*, the best cut's .*; the best cut: Ettt\|tttL",
        note,
    )
    # Five layers in place of three.
    assert found is not None and 40 < float(found[1]) < 80, note
