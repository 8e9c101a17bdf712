"""Ranks whose step takes more than their device has leave more free; nothing is solved twice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.fit import shortage
from pipecut.plan.schema import Stage
from tests.plans import made_stage

CLUSTER = """name: unlike
nodes:
  - {{devices: {{tight: 1, roomy: 1}}, link: fast}}
devices:
  tight:
    memory: {tight}B
    bandwidth: 1GB/s
    flops: {{fp32: 100MFLOP/s}}
    type: cpu
    source: made up
  roomy:
    memory: {roomy}B
    bandwidth: 1GB/s
    flops: {{fp32: 100MFLOP/s}}
    type: cpu
    source: made up
links:
  fast: {{bandwidth: 100GB/s, latency: 0us, source: made up}}
"""


def stage(rank: int, counted: int, peak: int, capacity: int = 100, reserve: int = 10) -> Stage:
    return made_stage(
        pipeline_rank=rank,
        memory_bytes=counted,
        peak_bytes=peak,
        capacity_bytes=capacity,
        device_bytes=capacity + reserve,
    )


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([stage(0, 90, 100), stage(1, 90, 110)], [0, 0]),
        # By what it is over, where that moves the placement; else by the free bytes and one.
        ([stage(0, 95, 118), stage(1, 90, 100)], [8, 0]),
        ([stage(0, 60, 118), stage(1, 90, 113)], [41, 11]),
        # Two stages of a rank fill its device together.
        ([stage(0, 40, 118), stage(1, 50, 100), stage(0, 50, 118), stage(1, 40, 100)], [11, 0]),
    ],
)
def test_only_ranks_that_are_over_leave_more_and_enough_to_move_the_placement(
    stages: list[Stage], expected: list[int]
) -> None:
    assert shortage(SimpleNamespace(stages=stages)) == tuple(expected)


def test_the_other_devices_keep_their_room(write_job: Any, slow_cores: str, tmp_path: Path) -> None:
    job, options = write_job("mlp", "vectors"), Options(SizeOverrides(stages=2))
    first = compile(job, slow_cores, tmp_path / "roomy", options).plan.stages[0]
    assert first.peak_bytes > first.memory_bytes
    cluster = tmp_path / "unlike.yaml"
    cluster.write_text(CLUSTER.format(tight=first.peak_bytes - 1, roomy=2**32))
    said: list[str] = []
    plan = compile(job, str(cluster), tmp_path / "tight", options, said.append).plan
    assert all(s.peak_bytes <= s.device_bytes for s in plan.stages)
    assert plan.stages[1].capacity_bytes == 2**32
    assert any(
        "on rank 0" in note and "rank 1" not in note
        for note in plan.notes
        if "the reserve was raised" in note
    )
    assert sum(text.startswith("placing") for text in said) == 2
