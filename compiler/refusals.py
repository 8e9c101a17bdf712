"""Every rule by which a model is refused for what is asked of it, in one list.

Sizes that contradict each other before any model is traced are refused in search/sizes.py.

`compile_plan` asks all rules before its search, of what is fixed then; the search asks
`SIZE_RULES` of each candidate. Rules in values that a finished plan has, too, stand in
plan/rules.py, where the checker asks them. What does not fit into memory is no refusal for
`compile_plan`, since the partitioner says what binds and what would do: `parameters_too_large` only
spares the search a placement.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from safetensors import SafetensorError

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.loss_terms import terms_of
from pipecut.compiler.costs.samples_apart import why_not_apart
from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.graphs import Estimates
from pipecut.compiler.inputs.auto import AUTO, Auto
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.document.positions import KEY, location_of
from pipecut.compiler.inputs.job import Job, JobSpec, location_in_job
from pipecut.compiler.operators.lookup import rule_of, short_name
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec, fixed_bytes
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.compiler.stages.cut import opaque_modules
from pipecut.device.types import type_of
from pipecut.errors import PipecutError, TraceError, UserFileError
from pipecut.model.weights import check_files
from pipecut.plan.rules import Combination, conflict_of
from pipecut.plan.schema import StageTensor, has_value
from pipecut.quantities import show_bytes


class Sizes(Protocol):
    """What a search space fixes, or a candidate."""

    @property
    def stages(self) -> int | Auto: ...
    @property
    def replicas(self) -> int | Auto: ...
    @property
    def microbatch(self) -> int | Auto: ...
    @property
    def schedule(self) -> str | Auto: ...


@dataclass(frozen=True)
class Proposal:
    """What is asked of a model on a cluster; AUTO is what the search has yet to decide."""

    job: Job
    graph: Graph
    cluster: Cluster
    costs: Estimates
    stages: int | Auto
    replicas: int | Auto
    microbatch: int | Auto
    schedule: str | Auto

    @staticmethod
    def of(job: Job, graph: Graph, cluster: Cluster, costs: Estimates, sizes: Sizes) -> "Proposal":
        """With the sizes of a search space, or of a candidate."""
        asked = sizes.stages, sizes.replicas, sizes.microbatch, sizes.schedule
        return Proposal(job, graph, cluster, costs, *asked)


@dataclass(frozen=True)
class Refusal:
    """Why a proposal cannot be, in a few words for a table of candidates, and as an error."""

    why: str
    error: UserFileError


Rule = Callable[[Proposal], Refusal | None]


def plan_conflicts(asked: Proposal) -> Refusal | None:
    """The rules of plan/rules.py."""
    spec, drawing = asked.job.spec, _drawing(asked.graph)
    conflict = conflict_of(
        Combination(
            replicas=1 if asked.replicas is AUTO else asked.replicas,
            writes_buffers=writes_buffers(asked.graph),
            compiled=spec.compile == "inductor",
            split=_split(asked.schedule),
            draws=_named(drawing) if drawing else "",
            sharded=spec.shard_optimizer,
            whole="" if spec.optimizer.in_plan.kind.elementwise else spec.optimizer.name,
            opaque=next(iter(opaque_modules(asked.graph.operators)), ""),
        )
    )
    if conflict is None:
        return None
    location = str(asked.job.path)
    if conflict.key in spec.model_fields_set:
        location = location_in_job(asked.job.path, conflict.key)
    error = UserFileError(f"{location}: {conflict.why}; {conflict.remedy}")
    return Refusal(conflict.why, error)


def _split(schedule: str | Auto) -> str:
    """A schedule that splits the backward of a stage; "" where none is asked for."""
    splits = schedule is not AUTO and SCHEDULES[schedule].splits_backward
    return str(schedule) if splits else ""


def placement_patterns(asked: Proposal) -> Refusal | None:
    """Patterns of `placement:` that match no module, or ask for what the stages cannot be."""
    stages = asked.stages
    if stages is AUTO:
        # Enough that no pattern is refused for the number of stages.
        stages = 2 + max(asked.job.spec.placement.on_stage.values(), default=0)
    try:
        placement_rules(asked.job, asked.graph, stages)
    except UserFileError as error:
        return Refusal(str(error).rsplit("placement: ", 1)[-1], error)
    return None


def unmeasured(asked: Proposal) -> Refusal | None:
    """Measured costs are asked for, and some device has none."""
    if asked.microbatch is AUTO or not asked.costs.measured.required:
        return None
    kinds = asked.costs.unmeasured_kinds(asked.microbatch)
    if not kinds:
        return None
    option = asked.costs.measured.option
    why = f"no measurements on {', '.join(kinds)} for a microbatch of {asked.microbatch}"
    remedy = "give a report of this job and batch"
    if option == "profile":
        remedy = f"run pipecut profile {asked.job.path} there"
    return Refusal(why, UserFileError(f"--costs {option}: {why}; {remedy}"))


def recurrent_dropout_on_gpu(asked: Proposal) -> Refusal | None:
    """cuDNN's dropout between layers of an RNN is seeded by nothing."""
    recurrent = [
        operator
        for operator in _drawing(asked.graph)
        if rule_of(operator.target).cudnn_draws
        or (operator.opaque is not None and operator.opaque.recurrent_dropout)
    ]
    unseeded = any(type_of(d.type).unseeded_recurrence for d in asked.cluster.devices)
    if not recurrent or not unseeded:
        return None
    why = f"{_named(recurrent)} draws random numbers: on a GPU cuDNN drops by a state of its own"
    remedy = "build it with dropout=0, and put nn.Dropout between single layers"
    return Refusal(why, UserFileError(f"{why}, which no seed sets; {remedy}"))


def weights_match(asked: Proposal) -> Refusal | None:
    """What the weights' files lack, have too much, or have of another kind."""
    job, graph = asked.job, asked.graph
    if job.spec.weights is None:
        return None
    parameters = [
        StageTensor(names=list(p.names), shape=list(p.shape), dtype=p.dtype)
        for p in graph.parameters
    ]
    buffers = [
        StageTensor(names=list(b.names), shape=list(b.data.shape), dtype=_dtype(b.data.dtype))
        for b in graph.buffers
    ]
    try:
        check_files(job.folder / job.spec.weights, parameters, buffers)
    except (PipecutError, OSError, SafetensorError) as error:
        return Refusal(str(error), UserFileError(f"{job.path}: weights: {error}"))
    return None


def optimizer_fits_parameters(asked: Proposal) -> Refusal | None:
    """Patterns of `no_decay:` that match no parameter, and parameters that are no matrices."""
    job, keys = asked.job, asked.job.spec.optimizer
    names = [parameter.names[0] for parameter in asked.graph.parameters]
    for index, pattern in enumerate(keys.no_decay):
        if not any(fnmatchcase(name, pattern) for name in names):
            why = f"no_decay: '{pattern}' matches no parameter; they are called {_some(names)}"
            location = location_of(job.path, "optimizer", "no_decay", index)
            return Refusal(why, UserFileError(f"{location}: optimizer.{why}"))
    trained = [p for p in asked.graph.parameters if p.trainable]
    other = next((p for p in trained if len(p.shape) != 2), None)
    if keys.in_plan.kind.takes_matrices and other is not None:
        why = f"{keys.name} steps matrices only, and {other.names[0]} is {list(other.shape)}"
        remedy = "use another optimizer, or one for each kind in your own loop (docs/own-loop.md)"
        location = location_of(job.path, "optimizer")
        return Refusal(why, UserFileError(f"{location}: optimizer: {why}; {remedy}"))
    return None


def padded_inputs_known(asked: Proposal) -> Refusal | None:
    """Keys of `pad:` that are no tensor of a batch."""
    job, names = asked.job, [tensor.name for tensor in asked.graph.batch_inputs]
    unknown = sorted(job.spec.batch.pad.keys() - set(names))
    if not unknown:
        return None
    why = f"pad has '{unknown[0]}', which {job.spec.inputs} does not return"
    location = location_of(job.path, "batch", "pad", unknown[0], KEY)
    remedy = f"it returns {', '.join(names)}"
    return Refusal(why, UserFileError(f"{location}: batch: {why}; {remedy}"))


def pads_are_values(asked: Proposal) -> Refusal | None:
    """A number of `pad:` that the input's type does not have, as 0.5 of integers."""
    job = asked.job
    for tensor in asked.graph.batch_inputs:
        value = job.spec.batch.pad.get(tensor.name)
        dtype = asked.graph.values[tensor.value].dtype
        if value is not None and not has_value(dtype, value):
            why = f"pad has {value:g} for '{tensor.name}', which no {dtype} is"
            location = location_of(job.path, "batch", "pad", tensor.name)
            return Refusal(why, UserFileError(f"{location}: batch: {why}; write one that is"))
    return None


def grouping_keeps_loss(asked: Proposal) -> Refusal | None:
    """Samples are grouped by length, and the step's loss depends on which share a microbatch."""
    job, batch = asked.job, asked.job.spec.batch
    if batch.order != "balanced" or not batch.pad:
        return None
    reduction = job.spec.reduction
    why = why_not_apart(asked.graph, reduction)
    if not why and reduction == "samples":
        why = _mean_over_labels(asked.graph, job.microbatch)
    if not why:
        return None
    why = f"the step's loss may depend on which samples are together: {why}"
    remedy = "write order: as-given"
    if "mean over" in why and reduction == "samples":
        remedy = "write reduction: tokens, which weights every label alike, or order: as-given"
    location = location_of(job.path, "batch", "order")
    return Refusal(why, UserFileError(f"{location}: order: balanced: {why}; {remedy}"))


def _mean_over_labels(graph: Graph, microbatch: int) -> str:
    """Why a mean over labels is none over samples; "" where each sample has one label."""
    try:
        terms = terms_of(graph, microbatch)
    except TraceError:
        return ""
    names = {tensor.name: tensor.value for tensor in graph.batch_inputs}
    if len(graph.values[names[terms.input]].sizes) == 1:
        return ""
    return f"it is the mean over the labels of '{terms.input}' in a microbatch"


def _some(names: Sequence[str]) -> str:
    """The first and last of some names, which show how they are made."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]}, ..., {names[-1]}"


MODEL_RULES: tuple[Rule, ...] = (
    weights_match,
    recurrent_dropout_on_gpu,
    optimizer_fits_parameters,
    padded_inputs_known,
    pads_are_values,
    grouping_keeps_loss,
)
SIZE_RULES: tuple[Rule, ...] = (plan_conflicts, placement_patterns, unmeasured)


def refuse_impossible(asked: Proposal) -> None:
    """Raises UserFileError where some rule refuses, whatever the search would choose."""
    refusal = _first_refusal((*MODEL_RULES, *SIZE_RULES), asked)
    if refusal is not None:
        raise refusal.error


def refusal_of_sizes(asked: Proposal) -> Refusal | None:
    """The first rule that refuses a candidate of a model that is not refused as such."""
    return _first_refusal(SIZE_RULES, asked)


def parameters_too_large(
    graph: Graph, cluster: Cluster, spec: JobSpec, candidate: Candidate
) -> str | None:
    """Why no placement of a candidate can fit; None where one may."""
    optimizer = OptimizerSpec.of(spec, candidate.replicas)
    needed = sum(fixed_bytes(parameter, optimizer) for parameter in graph.parameters)
    first_replicas = [cluster.devices[rank] for rank in candidate.layout.pipeline(replica=0)]
    capacity = sum(device.memory - cluster.reserve for device in first_replicas)
    if needed <= capacity:
        return None
    return f"memory: parameters by themselves need {show_bytes(needed)} of {show_bytes(capacity)}"


def writes_buffers(graph: Graph) -> bool:
    """Whether a forward writes to a buffer that is part of the model's state."""
    buffers = {buffer.value for buffer in graph.buffers}
    roots = graph.roots()
    return any(
        roots.get(name, name) in buffers for operator in graph.operators for name in operator.writes
    )


def _first_refusal(rules: tuple[Rule, ...], asked: Proposal) -> Refusal | None:
    refusals = (rule(asked) for rule in rules)
    return next((refusal for refusal in refusals if refusal is not None), None)


def _drawing(graph: Graph) -> list[Operator]:
    """Operators of either mode that draw random numbers."""
    evaluation = graph.evaluation.operators if graph.evaluation else ()
    return [operator for operator in (*graph.operators, *evaluation) if operator.draws]


def _named(operators: list[Operator]) -> str:
    first = operators[0]
    others = f" and {len(operators) - 1} more" if len(operators) > 1 else ""
    return f"{short_name(first.target)} of {first.module or 'the model'}{first.source}{others}"


def _dtype(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
