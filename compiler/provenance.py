"""Where a plan is from: what `pipecut.compiler.replan` needs to compile it again."""

from collections.abc import Collection
from pathlib import Path

from pipecut.compiler.draft import Draft
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import JobSpec
from pipecut.compiler.request import Request
from pipecut.compiler.search.sizes import usable_devices
from pipecut.plan.schema import Source


def source_of(request: Request, spec: JobSpec, machine: Cluster, draft: Draft) -> Source:
    """The request's files, and the device of each rank.

    `machine` is the whole cluster; that of the draft may have its nodes in another order, and lack
    devices.
    """
    options = request.options
    cluster = Path(request.cluster)
    ordered, ranks = draft.cluster, draft.candidate.devices
    used = ordered.devices[:ranks]
    return Source(
        job=str(request.job.resolve()),
        cluster=str(cluster.resolve()) if cluster.exists() else request.cluster,
        available=usable_devices(machine, spec, options.sizes),
        devices=device_positions(machine, ordered, options.lost)[:ranks],
        lost=list(options.lost),
        nodes=[device.node for device in used],
        names={device.kind: list(device.names) for device in ordered.devices},
    )


def device_positions(cluster: Cluster, ordered: Cluster, lost: Collection[int]) -> list[int]:
    """The place in a cluster of each device of `ordered`, which lacks the lost ones."""
    left = [index for index in range(len(cluster.devices)) if index not in lost]
    of_node = {
        node: iter([index for index in left if cluster.devices[index].node == node])
        for node in {device.node for device in ordered.devices}
    }
    return [next(of_node[device.node]) for device in ordered.devices]
