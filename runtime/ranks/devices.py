"""Which device of its machine a rank takes, and whether it is the one that the plan was made for.

Everything here is a function of values: the plan, the environment, and what the driver says of the devices.
"""

import re
from collections.abc import Mapping, Sequence

from pipecut.device.local import LocalDevice, is_available
from pipecut.device.types import DeviceType, common_type, type_of
from pipecut.errors import RunError
from pipecut.plan.schema import Plan

# A driver's figure may fall short of the data sheet's by this part, and by what other processes' contexts take.
MEMORY_SHORT = 0.03


def device_type_of(plan: Plan, wanted: str | None) -> DeviceType:
    """The type of all ranks' devices: the wanted one, or the plan's.

    Raises RunError for a plan of several types, which one backend cannot serve.
    """
    planned = common_type(stage.device_type for stage in plan.stages)
    if wanted is not None:
        return type_of(wanted)
    if planned is None:
        raise RunError(
            "the plan has stages on CPUs and on GPUs; between them nothing can be sent. Compile for a cluster "
            "of one type of device, or try this plan on CPU ranks with --device cpu"
        )
    return planned


def refuse_without_gpu(plan: Plan, wanted: str | None) -> None:
    """Raises RunError, once and before any rank starts, where a plan for GPUs is to run on a machine that has none."""
    kind = device_type_of(plan, wanted)
    if not is_available(kind):
        kinds = ", ".join(dict.fromkeys(stage.device for stage in plan.stages))
        asked = f"--device {kind.name} asks for GPUs" if wanted else f"the plan is for {kinds}"
        raise RunError(
            f"{asked}, but this machine has no GPU; compile with --cluster auto, or try the plan on CPU ranks with --device cpu"
        )


def local_index(environment: Mapping[str, str], visible: int) -> int:
    """Which of the visible GPUs is this process's own, counted among them.

    Where a scheduler shows each process its own GPU alone (Slurm with --gpus-per-task=1, Ray), that is number 0,
    whatever LOCAL_RANK says. Raises RunError where there are fewer than the processes of this machine need.
    """
    local = int(environment.get("LOCAL_RANK", "0"))
    if local < visible:
        return local
    if shows_one(environment) and visible == 1:
        return 0
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    limit = f", CUDA_VISIBLE_DEVICES={shown} shows" if shown is not None else " has"
    raise RunError(
        f"rank {environment.get('RANK', '0')}: needs GPU {local} of this machine, which{limit} {visible}; start as many "
        "processes on each machine as it has GPUs (torchrun --nproc-per-node)"
    )


def shows_one(environment: Mapping[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES shows this process a single device."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", "")
    return len([part for part in shown.split(",") if part.strip()]) == 1


def refuse_shared(devices: Sequence[str]) -> None:
    """Raises RunError where two ranks have the same device, given the host and identity of each rank's."""
    for rank, device in enumerate(devices):
        first = devices.index(device)
        if first != rank:
            raise RunError(
                f"ranks {first} and {rank} both have the GPU {device}; give each process its own, or show all of "
                "them to every process (unset CUDA_VISIBLE_DEVICES)"
            )


def visible_devices(plan: Plan, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """For each rank of a plan of one machine, CUDA_VISIBLE_DEVICES with the devices that the plan was made for.

    After a device was lost, `source.devices` leaves a gap that LOCAL_RANK knows nothing of. All ranks see the same
    list, in the order of the plan, so that LOCAL_RANK counts in it and transfers between GPUs stay possible. Nothing
    is set where the plan is for the first devices in their order, is for CPUs, or does not say what it is for. The
    user's own CUDA_VISIBLE_DEVICES says which devices the plan's numbers are of. Raises RunError where it lists too few.
    """
    source = plan.source
    nothing: list[dict[str, str]] = [{} for _ in range(plan.ranks)]
    variable = device_type_of(plan, None).visible
    if source is None or variable is None:
        return nothing
    wanted = list(source.devices)[: plan.ranks]
    if len(wanted) < plan.ranks or wanted == list(range(plan.ranks)):
        return nothing
    shown = environment.get("CUDA_VISIBLE_DEVICES")
    names = [part.strip() for part in shown.split(",")] if shown else None
    if names is not None and max(wanted) >= len(names):
        raise RunError(
            f"the plan is for devices {_numbers(wanted)} of {source.available}, but CUDA_VISIBLE_DEVICES={shown} "
            f"shows {len(names)}; show all that the plan counts, or compile again"
        )
    listed = [names[device] if names is not None else str(device) for device in wanted]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(listed)} for _ in range(plan.ranks)]


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def refuse_lost(plan: Plan, environment: Mapping[str, str]) -> None:
    """Refuse a plan that leaves out lost devices where nothing says which of a host's devices remain."""
    lost = plan.source.lost if plan.source is not None else []
    if lost and "CUDA_VISIBLE_DEVICES" not in environment:
        raise RunError(
            f"the plan leaves out device {_numbers(lost)} of its cluster; show each host's processes the devices that "
            "remain (CUDA_VISIBLE_DEVICES, for torchrun), or use pipecut run on one machine"
        )


def refuse_other_device(plan: Plan, rank: int, device: LocalDevice) -> None:
    """Compare a rank's device with the plan's: its kind, by what the driver calls it, and its memory.

    Raises RunError where it is another kind, or smaller than the plan needs.
    """
    stage = plan.stages_on(rank)[0]
    names = plan.source.names.get(stage.device, []) if plan.source is not None else []
    if names and not any(_same_name(name, device.name) for name in names):
        raise RunError(
            f"rank {rank}: its device is a '{device.name}', the plan has a {stage.device} there ('{names[0]}'). {ORDER}"
        )
    needed = stage.device_bytes
    if needed and device.memory < needed * (1 - MEMORY_SHORT):
        raise RunError(
            f"rank {rank}: its device '{device.name}' has {device.memory / 2**30:.1f} GiB, the plan counts on "
            f"{needed / 2**30:.1f} GiB of a {stage.device}. {ORDER}"
        )


ORDER = (
    "Ranks count hosts in the order that torchrun gives them: fix it with --rdzv-backend static and --node-rank, or "
    "with a rank file (PIPECUT_HOSTS); or compile for the devices that are there"
)


def _same_name(known: str, name: str) -> bool:
    """Whether two names of a driver are the same but for case, spaces and the vendor's."""
    plain = [re.sub(r"[\s_-]+", " ", text).strip().lower() for text in (known, name)]
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
    """What to tell where ranks that the plan puts on one node run on several hosts, or the other way about.

    The result is the same, but the plan's times and links are of its own nodes.
    """
    nodes = list(plan.source.nodes) if plan.source is not None else []
    for left in range(len(hosts) - 1 if len(nodes) >= len(hosts) else 0):
        together, planned = hosts[left] == hosts[left + 1], nodes[left] == nodes[left + 1]
        if together != planned:
            where = "one node" if planned else "two nodes"
            seen = (
                f"on host {hosts[left]}" if together else f"on {hosts[left]} and {hosts[left + 1]}"
            )
            return (
                f"ranks {left} and {left + 1} run {seen}, the plan has them on {where}, so that its times do not "
                f"hold; start on each host as many ranks as the plan has on its node: {_per_node(nodes)}"
            )
    return None


def _per_node(nodes: Sequence[int]) -> str:
    counts = {node: list(nodes).count(node) for node in nodes}
    return ", ".join(f"{count} on the {_ordinal(at)}" for at, count in enumerate(counts.values()))


def _ordinal(index: int) -> str:
    names = ("first", "second", "third")
    return names[index] if index < len(names) else f"{index + 1}th"
