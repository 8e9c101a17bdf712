"""The facts of a plan as plan.yaml has them, and the prediction among them."""

from collections.abc import Sequence
from typing import Any

import torch

import pipecut
from pipecut.compiler.candidate import Candidate
from pipecut.compiler.costs.loss_terms import terms_of
from pipecut.compiler.costs.roofline import CostedGraph
from pipecut.compiler.graph import Buffer, Graph, Parameter, Value
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.partition.coarsen import OptimizerSpec, fixed_bytes
from pipecut.compiler.partition.problem import Placement, StageBytes
from pipecut.compiler.predict.step import Scheduled, stage_seconds
from pipecut.compiler.stages.cut import Cut, modules_covered
from pipecut.plan.schema import VERSION
from pipecut.plan.sources import source_hashes


def manifest(
    job: Job,
    cluster: Cluster,
    costed: CostedGraph,
    placement: Placement,
    scheduled: Scheduled,
    candidate: Candidate,
    notes: list[str],
    refused: str,
) -> dict[str, Any]:
    """plan.yaml without hashes and seal. `refused` is why the model cannot run in eval mode, "" where it can."""
    spec, graph, stage_devices, cuts = (
        job.spec,
        costed.graph,
        placement.problem.stage_devices,
        scheduled.cuts,
    )
    seconds = stage_seconds(costed, stage_devices, cuts)
    how = OptimizerSpec.of(spec, candidate.replicas)
    evaluated = graph.evaluation or graph
    needed = _ancestors(evaluated)
    types = [cluster.devices[rank * candidate.replicas].type for rank in scheduled.pipeline_rank_of]
    stages = [
        {
            **_stage(costed, placement, one, types[one.index], how, seconds),
            "pipeline_rank": scheduled.pipeline_rank_of[one.index],
            "dropouts": [number for i in one.operators for number in graph.operators[i].draws],
            "weight_seconds": scheduled.weights[one.index],
            "reduce_seconds": scheduled.reductions[one.index],
            "device_bytes": stage_devices[one.index].capacity
            + cluster.reserve_of(scheduled.pipeline_rank_of[one.index]),
        }
        for one in cuts
    ]
    boundaries = [
        {
            "left": one.index,
            "tensors": [_tensor(graph, name) for name in one.sends],
            "bandwidth": stage_devices[one.index].bandwidth,
            "latency": stage_devices[one.index].latency,
        }
        for one in cuts[:-1]
    ]
    certificate = placement.certificate
    evaluation = _evaluation(graph, cuts, refused)
    return {
        "version": VERSION,
        "pipecut": pipecut.__version__,
        "torch": str(torch.__version__),
        "cluster": cluster.name,
        "model": {
            "factory": spec.model.factory,
            "args": spec.model.args,
            "inputs": spec.inputs,
            "loss": spec.loss,
            "folders": [str(folder) for folder in job.folders],
            "precision": spec.precision,
            "seed": spec.seed,
            "default_dtype": graph.default_dtype,
            "weights": str((job.folder / spec.weights).resolve()) if spec.weights else None,
            "sources": source_hashes((spec.model.factory, spec.loss), job.folders),
        },
        "batch": {
            "global_size": spec.batch.global_,
            "microbatch": spec.batch.microbatch,
            "dynamic": graph.dynamic,
            "terms": terms_of(graph, spec.batch.microbatch).model_dump()
            if spec.reduction == "tokens"
            else None,
        },
        "optimizer": spec.optimizer,
        "shard_optimizer": spec.shard_optimizer,
        "compile": spec.compile,
        "replicas": candidate.replicas,
        "schedule": candidate.schedule,
        "inputs": [
            {
                **_tensor(graph, value),
                "name": name,
                "optional": value not in needed,
                "whole": name in graph.whole,
            }
            for value, name in graph.batch_inputs
        ],
        "constants": dict(graph.constants),
        "stages": stages,
        "boundaries": boundaries,
        **({"evaluation": evaluation} if evaluation else {}),
        "tied": [
            {
                "names": list(one.parameter.names),
                "stages": list(one.stages),
                "reduce_seconds": one.seconds,
            }
            for one in scheduled.ties
        ],
        "prediction": {"step_seconds": scheduled.step_seconds, "bubble": scheduled.bubble},
        "certificate": {
            "objective": certificate.objective,
            "bound": certificate.bound,
            "gap": certificate.gap,
            "proven": certificate.proven,
            "solver": certificate.solver,
            "seconds": certificate.seconds,
        },
        "notes": [*graph.notes, *notes, *_node_order(cluster, candidate.devices)],
    }


def _evaluation(graph: Graph, cuts: Sequence[Cut], refused: str) -> dict[str, Any]:
    """What is to be known of eval mode; nothing where it is training's own operators."""
    facts: dict[str, Any] = {"refused": refused} if refused else {}
    facts |= {"left_out": dict(graph.left_out)} if graph.left_out else {}
    own, placed = graph.evaluation, [one.evaluation for one in cuts if one.evaluation is not None]
    if own is None or not placed:
        return facts
    given = dict(own.batch_inputs)
    stages = [
        {
            "operators": len(one.operators),
            "receives": list(one.receives),
            "batch_inputs": [given[name] for name in one.batch_inputs],
            "sends": list(one.sends),
            "outputs": [{**_tensor(own, value), "name": name} for name, value in one.outputs],
            "dropouts": [number for i in one.operators for number in own.operators[i].draws],
        }
        for one in placed
    ]
    tensors = [
        [{**_tensor(own, name), "needs_grad": False} for name in one.sends] for one in placed[:-1]
    ]
    return {
        **facts,
        "loss": bool(own.loss),
        "dynamic": own.dynamic,
        "stages": stages,
        "boundaries": tensors,
    }


def _node_order(cluster: Cluster, ranks: int) -> list[str]:
    """What must be known to start the ranks when the nodes are not used in the cluster file's order."""
    nodes = list(dict.fromkeys(device.node for device in cluster.devices[:ranks]))
    if nodes == sorted(nodes):
        return []
    kinds = [next(d.kind for d in cluster.devices if d.node == node) for node in nodes]
    order = ", ".join(
        f"node {node} of the cluster file ({kind})" for node, kind in zip(nodes, kinds, strict=True)
    )
    return [f"start torchrun with --node-rank 0, 1, ... on: {order}"]


def _tensor(graph: Graph, name: str) -> dict[str, Any]:
    value = graph.values[name]
    facts = {
        "name": name,
        "shape": list(value.shape),
        "dtype": value.dtype,
        "needs_grad": value.needs_grad,
    }
    order = _memory_order(value)
    return {**facts, "order": order} if order else facts


def _memory_order(value: Value) -> list[int]:
    """Dimensions from the outermost in memory to the innermost; empty for their own order, or where some overlap."""
    if any(
        stride == 0 for size, stride in zip(value.sizes, value.strides, strict=False) if size > 1
    ):
        return []
    order = sorted(range(len(value.strides)), key=lambda d: -value.strides[d])
    return order if order != sorted(order) else []


def _stage(
    costed: CostedGraph,
    placement: Placement,
    one: Cut,
    device_type: str,
    how: OptimizerSpec,
    seconds: tuple[list[float], list[float]],
) -> dict[str, Any]:
    graph, index = costed.graph, one.index
    slot = placement.problem.stage_devices[index]
    forward, backward = seconds
    saved = sum(
        costed.saved.get(graph.operators[i].name, 0) + costed.costs[i].saved_own_bytes
        for i in one.operators
    )
    received = sum(graph.values[name].bytes for name in one.receives)
    transient = max((costed.costs[i].transient_bytes for i in one.operators), default=0)
    fixed = sum(fixed_bytes(p, how) for p in one.parameters)
    used = StageBytes(fixed, saved, received, transient)
    sizes = [p.bytes // max(getattr(torch, p.dtype).itemsize, 1) for p in one.parameters]
    given = dict(graph.batch_inputs)
    written = {
        costed.storage.get(name, name) for i in one.operators for name in graph.operators[i].writes
    }
    if graph.evaluation is not None and one.evaluation is not None:
        roots, own = graph.evaluation.roots(), graph.evaluation.operators
        written |= {
            roots.get(name, name) for i in one.evaluation.operators for name in own[i].writes
        }
    return {
        "index": index,
        "device": slot.kind,
        "device_type": device_type,
        "file": f"stages/stage_{index}.py",
        "modules": modules_covered([graph.operators[i] for i in one.operators]),
        "operators": len(one.operators),
        "receives": list(one.receives),
        "batch_inputs": [given[name] for name in one.batch_inputs],
        "sends": list(one.sends),
        "outputs": [{**_tensor(graph, value), "name": name} for name, value in one.outputs],
        "parameters": [_held(p, written) for p in one.parameters],
        "buffers": [_held(b, written) for b in one.buffers],
        "parameter_count": sum(sizes),
        "forward_seconds": forward[index],
        "backward_seconds": backward[index],
        "load_seconds": placement.loads[index],
        "recompute": placement.recompute[index],
        "memory_bytes": round(used.peak(slot, placement.recompute[index])),
        "capacity_bytes": slot.capacity,
        # Posted ahead: what it receives. Beside it what it sends, and the gradient of that.
        "buffer_bytes": received
        + sum(graph.values[n].bytes * (1 + graph.values[n].needs_grad) for n in one.sends),
        "bytes_sent": sum(graph.values[n].bytes for n in one.sends)
        + sum(graph.values[n].bytes for n in one.receives if graph.values[n].needs_grad),
    }


def _ancestors(graph: Graph) -> set[str]:
    """All values that what the model gives beside its loss is made of; where it gives nothing else, all."""
    needed = {value for _, value in graph.outputs} or {graph.loss}
    for operator in reversed(graph.operators):
        if operator.name in needed:
            needed |= set(operator.inputs)
    return needed


def _held(item: Parameter | Buffer, written: set[str]) -> dict[str, Any]:
    if isinstance(item, Parameter):
        return {
            "names": list(item.names),
            "shape": list(item.shape),
            "dtype": item.dtype,
            "trainable": item.trainable,
        }
    dtype = str(item.data.dtype).removeprefix("torch.")
    facts = {
        "names": list(item.names),
        "shape": list(item.data.shape),
        "dtype": dtype,
        "persistent": item.persistent,
    }
    return {**facts, "written": True} if item.value in written else facts
