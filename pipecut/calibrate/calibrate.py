"""This machine, measured, as a cluster file."""

import datetime
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipecut.calibrate.reference_model import reached
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.machine import kind_here
from pipecut.compiler.profile.profile import ProfileProgress
from pipecut.device.local import device_count, has_devices
from pipecut.device.types import type_of
from pipecut.errors import UserFileError
from pipecut.runtime.launch.launch import launch


@dataclass(frozen=True)
class Fit:
    """Seconds of a message = latency + bytes / bandwidth; `residual` is the largest relative error over the sizes measured."""

    latency: float
    bandwidth: float
    residual: float


def fit(seconds: dict[int, float]) -> Fit:
    """Least squares of the relative errors over message sizes in bytes; neither term below zero."""
    sizes, times = np.array(list(seconds), dtype=float), np.array(list(seconds.values()))
    rows = np.stack([1 / times, sizes / times], axis=1)
    latency, rate = (float(x) for x in np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)[0])
    if latency < 0:
        latency, rate = 0.0, float((sizes / times).sum() / ((sizes / times) ** 2).sum())
    if rate <= 0:
        latency, rate = float(np.median(times)), 1e-15
    return Fit(latency, 1 / rate, float(np.abs((latency + rate * sizes) / times - 1).max()))


def calibrate(
    ranks: int, device: str, output: Path, progress: ProfileProgress = lambda *_: None
) -> Fit | None:
    """Start ranks that measure together, and write a cluster of as many devices. The fit of their link, None for one rank.

    Raises UserFileError when the file cannot be written or there are not so many GPUs, RunError when a rank fails.
    """
    kind = type_of(device)
    if not has_devices(kind, ranks):
        raise UserFileError(
            f"--ranks {ranks}: this machine has {device_count(kind)} GPUs; give --device cpu, or fewer"
        )
    with tempfile.TemporaryDirectory(prefix="pipecut-calibrate-") as folder:
        found = Path(folder) / "found.json"
        progress("products, memory and messages", 0, 1)
        launch(ranks, "pipecut.calibrate.links", [str(found), device])
        everyone = json.loads(found.read_text())
        link = fit(_medians(everyone)) if ranks > 1 else None
        plain = Path(folder) / "cluster.yaml"
        plain.write_text(_cluster(everyone, ranks, device, link, {}), encoding="utf-8")
        parts = reached(
            read_cluster(str(plain)),
            torch.device(device),
            ranks if kind.of_host else 1,
            Path(folder),
            progress,
        )
    try:
        output.write_text(_cluster(everyone, ranks, device, link, parts), encoding="utf-8")
    except OSError as error:
        raise UserFileError(
            f"{output} cannot be written: {error.strerror}; give another -o"
        ) from None
    return link


def _medians(everyone: list[dict[str, Any]]) -> dict[int, float]:
    times: dict[int, list[float]] = {}
    for one in everyone:
        for size, seconds in one["messages"].items():
            times.setdefault(int(size), []).extend(seconds)
    return {size: statistics.median(seconds) for size, seconds in times.items() if seconds}


def _cluster(
    everyone: list[dict[str, Any]],
    ranks: int,
    device: str,
    link: Fit | None,
    parts: dict[str, tuple[float, float]],
) -> str:
    def middle(*path: str) -> float:
        values: list[float] = []
        for one in everyone:
            value = one["compute"]
            for key in path:
                value = value[key]
            values.append(value)
        return statistics.median(values)

    kind = kind_here(type_of(device))
    rates = ", ".join(
        f"{name}: {middle('flops', name) / 1e9:.4g}GFLOP/s" for name in ("fp32", "bf16", "fp16")
    )
    where = (
        f"measured on {datetime.date.today()} by {ranks} ranks at once, torch {torch.__version__}"
    )
    lines = [
        "# Written by pipecut calibrate.",
        "name: this-machine",
        f'source: "{where}"',
        "nodes:",
        f"  - {{devices: {{{kind}: {ranks}}}{', link: measured' if link else ''}}}",
        "devices:",
        f"  {kind}:",
        f"    memory: {int(middle('memory'))}B",
        f"    bandwidth: {middle('bandwidth') / 1e9:.4g}GB/s",
        f"    flops: {{{rates}}}",
        f"    overhead: {middle('overhead') * 1e6:.4g}us",
        "    efficiency: 1",
        f"    type: {device}",
        f'    source: "{where}"',
    ]
    if parts:
        lines += [
            "    # The part of the roofline that each operator reaches, forward and backward.",
            "    operators:",
        ]
        lines += [
            f"      {name}: [{forward:.3g}, {backward:.3g}]"
            for name, (forward, backward) in parts.items()
        ]
    if link is not None:
        lines += [
            "links:",
            "  measured:",
            f"    bandwidth: {link.bandwidth / 1e9:.4g}GB/s",
            f"    latency: {link.latency * 1e6:.4g}us",
            f'    source: "{where}; the largest error of the fit is {link.residual:.0%}"',
        ]
    outside = max(one["outside"] for one in everyone)
    if outside:
        lines.append(
            "# Measured: a GPU's context and the communicators of two neighbours; and what an allocator leaves unused."
        )
    return "\n".join([*lines, f"reserve: {(outside >> 20) + 256}MiB", ""])
