"""What ranks measured becomes a cluster file."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.calibrate.achieved import Achieved, Sample, fractions_of
from pipecut.calibrate.cluster_text import MeasuredMachine
from pipecut.calibrate.link_fit import Fit, fit
from pipecut.calibrate.measured import REPORTS, DeviceSpeed, MachineReport, RankReport
from pipecut.compiler.costs.roofline import OTHER
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.profile.timing import PassSeconds


def rank(flops: float = 1e9, messages: dict[int, list[float]] | None = None, **fields: Any) -> Any:
    rates = {"fp32": flops, "bf16": 2e9, "fp16": 3e9}
    speed = DeviceSpeed(flops=rates, bandwidth=4e9, overhead=5e-6, memory=2**30)
    return RankReport(speed=speed, messages=messages or {}, **({"beside_tensors": 0} | fields))


def test_medians_are_over_ranks_and_messages_over_pairs() -> None:
    report = MachineReport(
        (
            rank(1e9, {1024: [1.0, 3.0], 4096: []}),
            rank(5e9, {1024: [2.0], 4096: [4.0]}, beside_tensors=7),
            rank(2e9),
        )
    )
    assert report.median(lambda speed: speed.flops["fp32"]) == 2e9
    assert report.message_seconds == {1024: 2.0, 4096: 4.0}
    assert report.beside_tensors == 7


def test_reports_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "reports.json"
    ranks = [rank(messages={1024: [1.0]}), rank()]
    path.write_bytes(REPORTS.dump_json(ranks))
    assert MachineReport.read(path) == MachineReport(tuple(ranks))


@pytest.mark.parametrize("link", [None, Fit(2e-5, 3e9, 0.04)])
def test_the_text_is_a_cluster_file_of_these_devices(link: Fit | None, tmp_path: Path) -> None:
    ranks = (rank(), rank()) if link else (rank(),)
    achieved = {"mm": Achieved(0.5, 0.25), OTHER: Achieved(1.5, 1.0)}
    path = tmp_path / "cluster.yaml"
    path.write_text(str(MeasuredMachine(MachineReport(ranks), "cpu", link, achieved)))
    cluster = read_cluster(str(path))
    assert len(cluster.devices) == len(ranks)
    device = cluster.devices[0]
    assert (device.type, device.memory, device.bandwidth) == ("cpu", 2**30, 4e9)
    assert dict(device.flops) == {"fp32": 1e9, "bf16": 2e9, "fp16": 3e9}
    assert dict(device.operators) == {"mm": (0.5, 0.25), OTHER: (1.5, 1.0)}
    assert device.efficiency == 1 and cluster.reserve == 256 * 2**20
    if link:
        assert cluster.inside[0].bandwidth == 3e9
        assert cluster.inside[0].latency == pytest.approx(2e-5)


def test_what_a_process_takes_beside_its_tensors_is_left_free(tmp_path: Path) -> None:
    report = MachineReport((rank(beside_tensors=100 * 2**20),))
    text = str(MeasuredMachine(report, "cpu"))
    assert "reserve: 356MiB" in text and "operators:" not in text and "links:" not in text
    assert text.index("# Measured: a GPU's context") < text.index("reserve:")


def sample(name: str, multiplies: bool, roofline: float, measured: float) -> Sample:
    return Sample(name, multiplies, PassSeconds(roofline, 0.0), PassSeconds(measured, 2 * measured))


def test_fractions_are_of_the_sums_and_of_all_that_multiply_not_together() -> None:
    fractions = fractions_of(
        [
            sample("mm", True, 1.0, 2.0),
            sample("mm", True, 3.0, 6.0),
            sample("gelu", False, 1.0, 4.0),
            sample("add", False, 2.0, 2.0),
            sample("view", False, 0.0, 1.0),
        ]
    )
    assert list(fractions) == sorted(["add", "gelu", "mm", OTHER])
    assert fractions["mm"].forward == 0.5 and fractions["gelu"].forward == 0.25
    assert fractions[OTHER].forward == 0.5
    # No backward on the roofline: nothing is known of it.
    assert fractions["mm"].backward == 1.0


def test_the_fit_has_no_term_below_zero() -> None:
    falling = fit({1000: 3.0, 2000: 2.0, 4000: 1.0})
    assert falling.latency == 2.0 and falling.bandwidth == pytest.approx(1e15)
    steep = fit({1000: 1.0, 2000: 3.0, 4000: 9.0})
    assert steep.latency == 0.0 and steep.bandwidth > 0 and steep.residual > 0
