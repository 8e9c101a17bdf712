"""`pipecut profile` and `pipecut calibrate`: this machine, measured."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.commands.options import (
    BusyRanksOption,
    CalibratedRanksOption,
    JobArgument,
    MeasuredDeviceOption,
    ProfiledMicrobatchOption,
    ProfileOption,
)
from pipecut.console import console, progress_bar, refuse_other_than
from pipecut.device.local import best_type, device_count, is_available
from pipecut.device.types import DEVICE_TYPES, DeviceType, type_of
from pipecut.errors import UserFileError


def profile(
    job: JobArgument,
    device: MeasuredDeviceOption = None,
    microbatch: ProfiledMicrobatchOption = None,
    ranks: BusyRanksOption = None,
    profile_file: ProfileOption = None,
) -> None:
    """Time a job's operators and layers on this machine, so that compile plans with measurements.

    A second run measures only what is new, and what was measured when this machine was faster or
    slower than it is now.

    Example: pipecut profile job.yaml && pipecut compile job.yaml
    """
    from pipecut.compiler.inputs.document.read import read_text

    # A file that is not there is refused before imports that take seconds.
    read_text(job)
    import torch

    from pipecut.compiler import profile_job

    device_type = _device_type(device)
    busy_ranks = ranks or (2 if device_type.of_host else 1)
    with progress_bar() as report:
        measured = profile_job(
            job, torch.device(device_type.name), microbatch, profile_file, report, busy_ranks
        )
    console.print(f"{measured.new} measured now, {measured.stored} measured before")
    if measured.again:
        console.print(
            f"of these {measured.again} once more: this machine was faster or slower before, as it "
            "is beside other work"
        )
    if measured.failed:
        failed = ", ".join(measured.failed)
        console.print(f"cannot run by themselves, part of their layer's time: {failed}")
    side = "above" if measured.overstated >= 0 else "below"
    console.print(
        f"single operators sum to {abs(measured.overstated):.1%} {side} whole layers;"
        " plans use the layers' times"
    )


def calibrate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The cluster file to write.")
    ] = Path("cluster.yaml"),
    ranks: CalibratedRanksOption = None,
    device: MeasuredDeviceOption = None,
) -> None:
    """Measure this machine and write its cluster file.

    Measured are matrix products, memory, messages between ranks, and what part of the roofline
    each operator reaches.

    Example: pipecut calibrate --ranks 2 -o cluster.yaml
    """
    from pipecut.calibrate.calibrate import calibrate as calibrate_machine

    device_type = _device_type(device)
    devices = 2 if device_type.of_host else max(1, device_count(device_type))
    with progress_bar() as report:
        link = calibrate_machine(ranks or devices, device_type.name, output, report)
    if link is not None:
        console.print(
            f"messages: {link.latency * 1e6:.0f} us + bytes at {link.bandwidth / 1e9:.2f} GB/s; "
            f"the largest error of this fit is {link.residual:.0%}"
        )
    console.print(f"cluster written to {output}; next: pipecut compile JOB --cluster {output}")


def _device_type(device: str | None) -> DeviceType:
    """The device type that the user named, or that of a GPU where there is one.

    Raises UserFileError where this machine has no such device.
    """
    refuse_other_than("--device", device, tuple(DEVICE_TYPES))
    if device is not None and not is_available(type_of(device)):
        raise UserFileError(f"--device {device}: this machine has none; give --device cpu")
    return best_type() if device is None else type_of(device)
