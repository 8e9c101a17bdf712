"""How much of the roofline each operator achieves, from layers like those of real models."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from pipecut.calibrate import reference_model
from pipecut.calibrate.reference_model import scale_of
from pipecut.compiler.costs.roofline import OTHER, cost
from pipecut.compiler.costs.work import measure_all
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.operators.lookup import short_name
from pipecut.compiler.profile.job import profile_job
from pipecut.compiler.profile.profile import ProfileProgress
from pipecut.compiler.profile.scaled import measured_seconds
from pipecut.compiler.profile.timing import PassSeconds
from pipecut.compiler.trace.trace import trace
from pipecut.device.types import type_of


@dataclass(frozen=True)
class Achieved:
    """Fractions of the roofline, forward and backward; above 1 where a cache helps."""

    forward: float
    backward: float


@dataclass(frozen=True)
class Sample:
    """An operator that was timed: its name, whether it multiplies, and its seconds.

    `roofline` is what it would take at the full rates.
    """

    name: str
    multiplies: bool
    roofline: PassSeconds
    measured: PassSeconds


def achieved_fractions(
    cluster: Cluster, device: torch.device, ranks: int, folder: Path, progress: ProfileProgress
) -> dict[str, Achieved]:
    """By operator, with `ranks` processes at work; OTHER is for all other operators.

    The devices of the cluster are of this machine's kind. Scratch files go to the folder.
    """
    job, store = _job(device, folder), folder / "reference.sqlite"
    profile_job(job.path, device, None, store, progress, ranks)
    return fractions_of(_samples(job, cluster, store))


def fractions_of(samples: Iterable[Sample]) -> dict[str, Achieved]:
    """The roofline's seconds over measured ones, summed by name; by OTHER of all that multiply not.

    An operator that takes no time on the roofline, such as a view, has no fraction.
    """
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.roofline.forward == 0:
            continue
        by_name.setdefault(sample.name, []).append(sample)
        if not sample.multiplies:
            by_name.setdefault(OTHER, []).append(sample)
    return {name: _fraction(by_name[name]) for name in sorted(by_name)}


def _fraction(samples: list[Sample]) -> Achieved:
    return Achieved(
        _ratio(
            sum(sample.roofline.forward for sample in samples),
            sum(sample.measured.forward for sample in samples),
        ),
        _ratio(
            sum(sample.roofline.backward for sample in samples),
            sum(sample.measured.backward for sample in samples),
        ),
    )


def _ratio(roofline: float, measured: float) -> float:
    return roofline / measured if roofline > 0 and measured > 0 else 1.0


def _job(device: torch.device, folder: Path) -> Job:
    """A job of the reference model, of a size for the device."""
    microbatch = scale_of(device.type).microbatch
    module, inputs = reference_model.__name__, "inputs" if type_of(device).of_host else "gpu_inputs"
    text = {
        "model": {"factory": f"{module}:build", "args": {"device": device.type}},
        "inputs": f"{module}:{inputs}",
        "batch": {"global": microbatch, "microbatch": microbatch},
    }
    path = folder / "reference.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return read_job(path)


def _samples(job: Job, cluster: Cluster, store: Path) -> Iterable[Sample]:
    microbatch, kind = job.microbatch, cluster.devices[0].kind
    graph = trace(job)
    costs = cost(graph, cluster, "fp32", microbatch).costs
    seconds = measured_seconds(graph, microbatch, [kind], store)[kind]
    works = measure_all(graph, microbatch, cluster.devices[0].type)
    for operator, estimate, measured, work in zip(
        graph.operators, costs, seconds, works, strict=True
    ):
        roofline = PassSeconds(estimate.forward[kind], estimate.backward[kind])
        name, multiplies = short_name(operator.target), bool(work.forward_flops)
        yield Sample(name, multiplies, roofline, PassSeconds(*measured))
