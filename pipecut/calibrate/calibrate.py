"""This machine, measured, as a cluster file."""

import tempfile
from pathlib import Path

import torch

from pipecut.calibrate.achieved import achieved_fractions
from pipecut.calibrate.cluster_text import MeasuredMachine
from pipecut.calibrate.link_fit import Fit, fit
from pipecut.calibrate.measured import MachineReport
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.profile.profile import ProfileProgress
from pipecut.device.local import device_count, has_devices
from pipecut.device.types import type_of
from pipecut.errors import UserFileError
from pipecut.runtime.launch.launch import launch

# The module that each rank runs.
RANK = "pipecut.calibrate.rank"


def calibrate(
    ranks: int, device: str, output: Path, progress: ProfileProgress = lambda *_: None
) -> Fit | None:
    """Start ranks that measure together, and write a cluster of as many devices.

    Returns the fit of their link, None for one rank. Raises UserFileError when the file cannot be
    written or there are not so many GPUs, RunError when a rank fails.
    """
    kind = type_of(device)
    if not has_devices(kind, ranks):
        raise UserFileError(
            f"--ranks {ranks}: this machine has {device_count(kind)} GPUs; give --device cpu, "
            "or fewer"
        )
    with tempfile.TemporaryDirectory(prefix="pipecut-calibrate-") as scratch:
        machine = _measured(ranks, device, Path(scratch), progress)
    try:
        output.write_text(str(machine), encoding="utf-8")
    except OSError as error:
        raise UserFileError(
            f"{output} cannot be written: {error.strerror}; give another -o"
        ) from None
    return machine.link


def _measured(ranks: int, device: str, folder: Path, progress: ProfileProgress) -> MeasuredMachine:
    """Rates and messages first: what operators achieve is compared with a cluster of these."""
    reports = folder / "reports.json"
    progress("products, memory and messages", 0, 1)
    launch(ranks, RANK, [str(reports), device])
    report = MachineReport.read(reports)
    link = fit(report.message_seconds) if ranks > 1 else None
    rates = folder / "cluster.yaml"
    rates.write_text(str(MeasuredMachine(report, device, link)), encoding="utf-8")
    # The ranks of several GPUs do not disturb each other; those of a CPU share its memory.
    at_work = ranks if type_of(device).of_host else 1
    cluster = read_cluster(str(rates))
    achieved = achieved_fractions(cluster, torch.device(device), at_work, folder, progress)
    return MeasuredMachine(report, device, link, achieved)
