"""A measured machine as the text of a cluster file."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from pipecut.calibrate.achieved import Achieved
from pipecut.calibrate.link_fit import Fit
from pipecut.calibrate.measured import MachineReport
from pipecut.compiler.inputs.machine import kind_here
from pipecut.device.types import type_of

# MiB to leave free for what an allocator does not use of its blocks; assumed.
UNUSED = 256


@dataclass(frozen=True)
class MeasuredMachine:
    """The ranks' reports, the type of their devices, their link if there are several.

    `achieved` has the fractions of the roofline by operator.
    """

    report: MachineReport
    device: str
    link: Fit | None = None
    achieved: Mapping[str, Achieved] = field(default_factory=dict)

    def __str__(self) -> str:
        """The cluster file."""
        ranks = len(self.report.ranks)
        source = (
            f"measured on {datetime.date.today()} by {ranks} ranks at once, "
            f"torch {torch.__version__}"
        )
        kind = kind_here(type_of(self.device))
        link = ", link: measured" if self.link else ""
        lines = [
            "# Written by pipecut calibrate.",
            "name: this-machine",
            f'source: "{source}"',
            "nodes:",
            f"  - {{devices: {{{kind}: {ranks}}}{link}}}",
            "devices:",
            f"  {kind}:",
            *self._device(source),
            *self._operators(),
            *self._links(source),
            *self._reserve(),
        ]
        return "\n".join(lines) + "\n"

    def _device(self, source: str) -> list[str]:
        report = self.report
        precisions = report.ranks[0].speed.flops
        rates = ", ".join(f"{name}: {self._rate(name):.4g}GFLOP/s" for name in precisions)
        return [
            f"    memory: {int(report.median(lambda speed: speed.memory))}B",
            f"    bandwidth: {report.median(lambda speed: speed.bandwidth) / 1e9:.4g}GB/s",
            f"    flops: {{{rates}}}",
            f"    overhead: {report.median(lambda speed: speed.overhead) * 1e6:.4g}us",
            "    efficiency: 1",
            f"    type: {self.device}",
            f'    source: "{source}"',
        ]

    def _rate(self, precision: str) -> float:
        """GFLOP/s."""
        return self.report.median(lambda speed: speed.flops[precision]) / 1e9

    def _operators(self) -> list[str]:
        if not self.achieved:
            return []
        return [
            "    # The part of the roofline that each operator reaches, forward and backward.",
            "    operators:",
            *(
                f"      {name}: [{achieved.forward:.3g}, {achieved.backward:.3g}]"
                for name, achieved in self.achieved.items()
            ),
        ]

    def _links(self, source: str) -> list[str]:
        if self.link is None:
            return []
        error = f"the largest error of the fit is {self.link.residual:.0%}"
        return [
            "links:",
            "  measured:",
            f"    bandwidth: {self.link.bandwidth / 1e9:.4g}GB/s",
            f"    latency: {self.link.latency * 1e6:.4g}us",
            f'    source: "{source}; {error}"',
        ]

    def _reserve(self) -> list[str]:
        beside = self.report.beside_tensors
        comment = (
            "# Measured: a GPU's context, cuBLAS's workspaces and the communicators of two "
            "neighbours; and what an allocator leaves unused."
        )
        reserve = f"reserve: {(beside >> 20) + UNUSED}MiB"
        return [comment, reserve] if beside else [reserve]
