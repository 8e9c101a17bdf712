"""Which device of its machine a rank takes, and whether the plan was made for such a device.

All are functions of values: the plan, the environment, and what the driver says of the devices.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from pipecut.device.local import LocalDevice, is_available
from pipecut.device.types import (
    DEVICE_TYPES,
    TYPE_NAMES,
    DeviceType,
    common_type,
    type_of,
)
from pipecut.errors import RunError
from pipecut.plan.schema import Plan

# A driver reports up to this share less memory than the data sheet, and less other contexts.
MEMORY_SHORT = 0.03


def device_type_of(plan: Plan, wanted: str | None) -> DeviceType:
    """The type of all ranks' devices: the wanted one, or the plan's.

    Raises RunError for a type that is none, and for a plan of several types, which one backend
    cannot serve.
    """
    if wanted is not None and wanted not in DEVICE_TYPES:
        raise RunError(f"device {wanted!r}: must be {TYPE_NAMES}")
    planned = common_type(stage.device_type for stage in plan.stages)
    if wanted is not None:
        return type_of(wanted)
    if planned is None:
        raise RunError(
            "the plan has stages on CPUs and on GPUs, which cannot send to each other. Compile for "
            "a cluster of one type of device, or try this plan on CPU ranks with --device cpu"
        )
    return planned


def refuse_without_gpu(plan: Plan, wanted: str | None) -> None:
    """Raises RunError, before any rank starts, for a plan for GPUs on a machine without one."""
    kind = device_type_of(plan, wanted)
    if not is_available(kind):
        kinds = ", ".join(dict.fromkeys(stage.device for stage in plan.stages))
        asked = f"--device {kind.name} asks for GPUs" if wanted else f"the plan is for {kinds}"
        raise RunError(
            f"{asked}, but this machine has no GPU; compile with --cluster auto, or try the plan "
            "on CPU ranks with --device cpu"
        )


def local_index(kind: DeviceType, environment: Mapping[str, str], visible: int) -> int:
    """The index of this process's device among the `visible` ones of its type.

    Where a scheduler shows each process only its own GPU (Slurm with --gpus-per-task=1, Ray), that
    is 0, whatever LOCAL_RANK is. Raises RunError where there are fewer GPUs than processes.
    """
    local = int(environment.get("LOCAL_RANK", "0"))
    if local < visible:
        return local
    if shows_one(kind, environment) and visible == 1:
        return 0
    shown = environment.get(kind.visible) if kind.visible is not None else None
    limit = f", {kind.visible}={shown} shows" if shown is not None else " has"
    raise RunError(
        f"rank {environment.get('RANK', '0')}: needs GPU {local} of this machine, which{limit} "
        f"{visible}; start as many processes on each machine as it has GPUs (torchrun "
        "--nproc-per-node)"
    )


def shows_one(kind: DeviceType, environment: Mapping[str, str]) -> bool:
    """Whether the type's variable shows this process a single device."""
    shown = environment.get(kind.visible, "") if kind.visible is not None else ""
    return len([part for part in shown.split(",") if part.strip()]) == 1


def refuse_shared(kind: DeviceType, devices: Sequence[str]) -> None:
    """Raises RunError where two ranks have the same device, given each rank's device and host."""
    unset = f" (unset {kind.visible})" if kind.visible is not None else ""
    for rank, device in enumerate(devices):
        first = devices.index(device)
        if first != rank:
            raise RunError(
                f"ranks {first} and {rank} both have the GPU {device}; give each process its own, "
                f"or show all of them to every process{unset}"
            )


def visible_devices(plan: Plan, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """For each rank of a plan of one machine, the variable that shows it the plan's own devices.

    After a device was lost, `source.devices` leaves a gap, which LOCAL_RANK does not. All ranks see
    the same list, in the order of the plan, so that LOCAL_RANK counts in it and GPUs can still
    reach each other. Nothing is set where the plan is for the first devices in their order, is for
    CPUs, or does not say. The plan's numbers count in the user's own list of visible devices, where
    the variable is set. Raises RunError where that lists too few.
    """
    source = plan.source
    nothing: list[dict[str, str]] = [{} for _ in range(plan.ranks)]
    variable = device_type_of(plan, None).visible
    if source is None or variable is None:
        return nothing
    wanted = list(source.devices)[: plan.ranks]
    if len(wanted) < plan.ranks or wanted == list(range(plan.ranks)):
        return nothing
    shown = environment.get(variable)
    names = [part.strip() for part in shown.split(",")] if shown else None
    if names is not None and max(wanted) >= len(names):
        raise RunError(
            f"the plan is for devices {_numbers(wanted)} of {source.available}, but "
            f"{variable}={shown} shows {len(names)}; show all that the plan counts, or "
            "compile again"
        )
    listed = [names[device] if names is not None else str(device) for device in wanted]
    return [{variable: ",".join(listed)} for _ in range(plan.ranks)]


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def refuse_lost(plan: Plan, environment: Mapping[str, str]) -> None:
    """Raises RunError for a plan without lost devices where nothing says which devices remain."""
    lost = plan.source.lost if plan.source is not None else []
    variable = device_type_of(plan, None).visible
    if lost and variable is not None and variable not in environment:
        raise RunError(
            f"the plan leaves out device {_numbers(lost)} of its cluster; show each host's "
            f"processes the devices that remain ({variable}, for torchrun), or use "
            "pipecut run on one machine"
        )


def refuse_other_device(plan: Plan, rank: int, device: LocalDevice) -> None:
    """Raises RunError where a rank's device is of another kind than the plan's, or too small.

    The driver's name tells the kind.
    """
    stage = plan.stages_on(rank)[0]
    names = plan.source.names.get(stage.device, []) if plan.source is not None else []
    if names and not any(_same_name(name, device.name) for name in names):
        raise RunError(
            f"rank {rank}: its device is a '{device.name}', the plan has a {stage.device} there "
            f"('{names[0]}'). {ORDER}"
        )
    needed = stage.device_bytes
    if needed and device.memory < needed * (1 - MEMORY_SHORT):
        raise RunError(
            f"rank {rank}: its device '{device.name}' has {device.memory / 2**30:.1f} GiB, the "
            f"plan counts on {needed / 2**30:.1f} GiB of a {stage.device}. {ORDER}"
        )


ORDER = (
    "Ranks count hosts in the order that torchrun gives them: fix it with --rdzv-backend static "
    "and --node-rank, or with a rank file (PIPECUT_HOSTS); or compile for the devices in use"
)


def _same_name(planned: str, name: str) -> bool:
    """Whether two names of a driver are the same but for case, spaces and vendor."""
    plain = [re.sub(r"[\s_-]+", " ", text).strip().lower() for text in (planned, name)]
    return plain[0].removeprefix("nvidia ") == plain[1].removeprefix("nvidia ")


def ranks_by_host(hosts: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """The new rank of each process, given its host and the hosts in the wanted order.

    Processes of one host keep their order. Raises RunError where a host is missing or not wanted.
    """
    unknown = sorted(set(hosts) - set(wanted))
    absent = [host for host in wanted if host not in hosts]
    if unknown or absent:
        problems = [f"{', '.join(unknown)} not listed"] if unknown else []
        problems += [f"{', '.join(absent)} listed but not there"] if absent else []
        raise RunError(f"PIPECUT_HOSTS does not fit the hosts of this run: {'; '.join(problems)}")
    order = sorted(range(len(hosts)), key=lambda process: (wanted.index(hosts[process]), process))
    ranks = [0] * len(hosts)
    for rank, process in enumerate(order):
        ranks[process] = rank
    return ranks


def split_nodes(plan: Plan, hosts: Sequence[str]) -> str | None:
    """A warning where ranks of one planned node run on two hosts, or of two nodes on one host.

    The result is the same, but the plan's times and links are those of its own nodes.
    """
    nodes = list(plan.source.nodes) if plan.source is not None else []
    if len(nodes) < len(hosts):
        return None
    for rank, (host, next_host) in enumerate(pairwise(hosts)):
        together, planned = host == next_host, nodes[rank] == nodes[rank + 1]
        if together != planned:
            actual = f"on host {host}" if together else f"on {host} and {next_host}"
            return (
                f"ranks {rank} and {rank + 1} run {actual}, the plan has them on "
                f"{'one node' if planned else 'two nodes'}, so that its times do not hold; start "
                f"on each host as many ranks as the plan has on its node: {_per_node(nodes)}"
            )
    return None


def _per_node(nodes: Sequence[int]) -> str:
    counts = {node: list(nodes).count(node) for node in nodes}
    return ", ".join(f"{count} on the {_ordinal(i)}" for i, count in enumerate(counts.values()))


def _ordinal(index: int) -> str:
    names = ("first", "second", "third")
    return names[index] if index < len(names) else f"{index + 1}th"
