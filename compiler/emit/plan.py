"""A draft -> the Plan: all of plan.yaml but hashes and seal, which come when it is written."""

import os
from collections.abc import Sequence

import torch

from pipecut.compiler.costs.loss_terms import sum_over_samples, terms_of
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.draft import Draft
from pipecut.compiler.emit.evaluation import evaluation_of
from pipecut.compiler.emit.stages import boundaries_of, stages_of
from pipecut.compiler.emit.tensors import tensor_of
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.operators.lookup import short_name
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec
from pipecut.compiler.partition.placement import Certificate
from pipecut.compiler.predict.more_samples import more_samples
from pipecut.compiler.predict.order import with_order
from pipecut.compiler.predict.shorter import with_shorter
from pipecut.compiler.predict.step import Scheduled
from pipecut.compiler.stages.imports import functions_called
from pipecut.device.types import type_of
from pipecut.plan.schema import (
    VERSION,
    Batch,
    CertificateRecord,
    LengthRange,
    ModelRef,
    Plan,
    Prediction,
    Source,
    Tensor,
    Tied,
    TraceComparison,
)
from pipecut.plan.sources import source_hashes
from pipecut.version import __version__


def plan_of(
    job: Job,
    costed: CostedGraph,
    draft: Draft,
    source: Source,
    notes: Sequence[str],
    compared: TraceComparison | None = None,
) -> Plan:
    """The plan of a draft, without what its replay finds.

    `notes` stand before those of the cluster; `compared` says whether the trace was.
    """
    spec, graph = job.spec, costed.graph
    candidate, cluster, scheduled = draft.candidate, draft.cluster, draft.scheduled
    optimizer = OptimizerSpec.of(spec, candidate.replicas)
    plan = Plan(
        version=VERSION,
        pipecut=__version__,
        torch=str(torch.__version__),
        cluster=cluster.name,
        model=_model(job, graph),
        batch=_batch(job, graph),
        optimizer=spec.optimizer.in_plan,
        lr_schedule=spec.lr_schedule.in_plan if spec.lr_schedule is not None else None,
        clip=spec.clip,
        eval=spec.eval.in_plan if spec.eval is not None else None,
        shard_optimizer=spec.shard_optimizer,
        compile=spec.compile,
        replicas=candidate.replicas,
        schedule=candidate.schedule,
        inputs=_inputs(graph),
        constants=graph.constants,
        nesting=graph.nesting,
        stages=with_shorter(
            stages_of(costed, draft, optimizer), job, costed, scheduled.cuts, cluster
        ),
        boundaries=boundaries_of(graph, draft),
        tied=_tied(scheduled),
        prediction=_prediction(job, costed, draft),
        certificate=_certificate(draft.placement.certificate),
        trace=compared or TraceComparison(),
        notes=[
            *graph.notes,
            *notes,
            *_sum_taken_as_mean(job, graph),
            *_node_order(cluster, candidate.devices),
        ],
        source=source,
    )
    plan = with_order(plan, scheduled.actions)
    evaluation = evaluation_of(graph, scheduled.cuts, draft.evaluation_refused)
    return plan if evaluation is None else plan.model_copy(update={"evaluation": evaluation})


def _prediction(job: Job, costed: CostedGraph, draft: Draft) -> Prediction:
    """With FLOPs where all devices are accelerators, whose data sheets say what they reach."""
    devices = draft.cluster.devices[: draft.candidate.devices]
    scheduled = draft.scheduled
    if any(type_of(device.type).of_host for device in devices):
        return Prediction(step_seconds=scheduled.step_seconds, bubble=scheduled.bubble)
    return Prediction(
        step_seconds=scheduled.step_seconds,
        bubble=scheduled.bubble,
        flops=costed.flops * job.spec.batch.global_ / job.microbatch,
        peak_flops=sum(device.peak(job.spec.precision) for device in devices),
    )


def _model(job: Job, graph: Graph) -> ModelRef:
    spec = job.spec
    return ModelRef(
        factory=spec.model.factory,
        args=spec.model.args,
        inputs=spec.inputs,
        loss=spec.loss,
        folders=[str(folder) for folder in job.folders],
        precision=spec.precision,
        seed=spec.seed,
        default_dtype=graph.default_dtype,
        weights=os.path.abspath(job.folder / spec.weights) if spec.weights else None,
        sources=source_hashes(
            (spec.model.factory, spec.loss, *functions_called(graph)), job.folders
        ),
    )


def _sum_taken_as_mean(job: Job, graph: Graph) -> list[str]:
    """What a step makes of a loss that adds up samples, where the job does not say so."""
    summing = sum_over_samples(graph) if job.spec.reduction == "samples" else None
    if summing is None:
        return []
    return [
        f"the loss, {short_name(summing.target)}{summing.source}, adds up samples, and a step "
        "takes the mean of its microbatches' losses; reduction: sum in the job file adds them up"
    ]


def _batch(job: Job, graph: Graph) -> Batch:
    sizes = job.spec.batch
    return Batch(
        global_size=sizes.global_,
        microbatch=job.microbatch,
        dynamic=graph.dynamic,
        least_samples=graph.least_samples,
        terms=terms_of(graph, job.microbatch) if job.spec.reduction == "tokens" else None,
        summed=job.spec.reduction == "sum",
        lengths={
            name: LengthRange(shortest=graph.shortest[name], longest=longest)
            for name, longest in graph.lengths.items()
        },
        order=sizes.order,
        pad=sizes.pad,
        more_samples=more_samples(graph, job.microbatch) if sizes.order == "balanced" else None,
    )


def _inputs(graph: Graph) -> list[Tensor]:
    """Tensors of a batch under the user's names."""
    needed = _needed_for_outputs(graph.evaluation or graph)
    return [
        tensor_of(graph, batch_input.value).model_copy(
            update={
                "name": batch_input.name,
                "optional": batch_input.value not in needed,
                "whole": batch_input.whole,
            }
        )
        for batch_input in graph.batch_inputs
    ]


def _needed_for_outputs(graph: Graph) -> set[str]:
    """All values that the outputs depend on, or the loss where the model returns nothing else."""
    needed = {output.value for output in graph.outputs} or {graph.loss}
    for operator in reversed(graph.operators):
        if operator.name in needed:
            needed |= set(operator.inputs)
    return needed


def _tied(scheduled: Scheduled) -> list[Tied]:
    return [
        Tied(names=list(tie.parameter.names), stages=list(tie.stages), reduce_seconds=tie.seconds)
        for tie in scheduled.ties
    ]


def _certificate(certificate: Certificate) -> CertificateRecord:
    return CertificateRecord(
        objective=certificate.objective,
        bound=certificate.bound,
        gap=certificate.gap,
        proven=certificate.proven,
        solver=certificate.solver,
        seconds=certificate.seconds,
    )


def _node_order(cluster: Cluster, ranks: int) -> list[str]:
    """How to start the ranks, where the nodes are not used in the cluster file's order."""
    nodes = list(dict.fromkeys(device.node for device in cluster.devices[:ranks]))
    if nodes == sorted(nodes):
        return []
    kinds = [next(d.kind for d in cluster.devices if d.node == node) for node in nodes]
    order = ", ".join(
        f"node {node} of the cluster file ({kind})" for node, kind in zip(nodes, kinds, strict=True)
    )
    return [f"start torchrun with --node-rank 0, 1, ... on: {order}"]
