"""A calibrated machine is a cluster file that compiles."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipecut.calibrate.calibrate import calibrate
from pipecut.calibrate.link_fit import fit
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.errors import UserFileError


@given(st.floats(1e-6, 1e-3), st.floats(1e8, 1e12))
def test_the_fit_finds_latency_and_bandwidth(latency: float, bandwidth: float) -> None:
    found = fit(
        {size: latency + size / bandwidth for size in (1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 26)}
    )
    assert found.residual < 1e-6
    assert found.latency == pytest.approx(latency, rel=1e-3)
    assert found.bandwidth == pytest.approx(bandwidth, rel=1e-3)


@pytest.mark.slow
def test_two_ranks_measure_this_machine(write_job: Any, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    link = calibrate(2, "cpu", path)
    cluster = read_cluster(str(path))
    assert link is not None and len(cluster.devices) == 2
    assert cluster.inside[0].bandwidth == pytest.approx(link.bandwidth, rel=1e-3)
    assert cluster.devices[0].rate("fp32") > 1e8
    plan = compile(
        write_job("mlp", "vectors"), str(path), tmp_path / "plan", Options(SizeOverrides(stages=2))
    ).plan
    assert {stage.device for stage in plan.stages} == {"cpu-core"}


def test_more_gpus_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserFileError, match="GPUs"):
        calibrate(torch.cuda.device_count() + 1, "cuda", tmp_path / "cluster.yaml")
