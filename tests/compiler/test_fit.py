"""More is left free on the ranks where a step takes more than their device has, and no problem is solved twice."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.fit import _lacking

CLUSTER = """name: unlike
nodes:
  - {{devices: {{tight: 1, roomy: 1}}, link: fast}}
devices:
  tight: {{memory: {tight}B, bandwidth: 1GB/s, flops: {{fp32: 100MFLOP/s}}, type: cpu, source: made up}}
  roomy: {{memory: {roomy}B, bandwidth: 1GB/s, flops: {{fp32: 100MFLOP/s}}, type: cpu, source: made up}}
links:
  fast: {{bandwidth: 100GB/s, latency: 0us, source: made up}}
"""


def row(
    rank: int, counted: int, peak: int, capacity: int = 100, reserve: int = 10
) -> dict[str, Any]:
    own = {
        "pipeline_rank": rank,
        "memory_bytes": counted,
        "peak_bytes": peak,
        "capacity_bytes": capacity,
        "outside_bytes": 0,
    }
    return {**own, "device_bytes": capacity + reserve}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(0, 90, 100), row(1, 90, 110)], [0, 0]),
        # By what it is over, where that moves the placement; else by what it leaves free, and a byte.
        ([row(0, 95, 118), row(1, 90, 100)], [8, 0]),
        ([row(0, 60, 118), row(1, 90, 113)], [41, 11]),
        # Two stages of a rank fill its device together.
        ([row(0, 40, 118), row(1, 50, 100), row(0, 50, 118), row(1, 40, 100)], [11, 0]),
    ],
)
def test_only_ranks_that_are_over_leave_more_and_enough_to_move_the_placement(
    rows: list[dict[str, Any]], expected: list[int]
) -> None:
    assert _lacking(rows, 2) == expected


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
