"""What the reader of a plan should know of how it came to be."""

from pipecut.compiler.fit import notes_on_reserves
from pipecut.compiler.graphs import Costs, OtherPace
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.search.search import Chosen


def notes_of(job: Job, cluster: Cluster, costs: Costs, choice: Chosen) -> list[str]:
    """Notes for plan.yaml, of a cluster whose ranks may have come to leave more free."""
    spec, sizes = job.spec, choice.sizes
    measured_kinds = costs.measured_kinds(sizes.microbatch)
    measured = f"measured on {', '.join(measured_kinds)}"
    estimated = "roofline estimates; pipecut profile measures them"
    notes = [f"costs: {measured if measured_kinds else estimated}"]
    notes += [_other_pace(pace) for pace in costs.other_paces(sizes.microbatch)]
    if spec.shard_optimizer and sizes.replicas == 1:
        notes.append("shard_optimizer: true divides nothing here, since each stage has one replica")
    if spec.compile == "inductor":
        notes.append("times and memory are those of eager stages")
    if choice.compared:
        notes.append(f"chosen of {choice.compared} candidates: {sizes}")
    return [*notes, *notes_on_reserves(cluster)]


def _other_pace(pace: OtherPace) -> str:
    slower = pace.factor > 1
    times = pace.factor if slower else 1 / pace.factor
    return (
        f"{pace.kind} was measured while this machine was {times:.1f} times as "
        f"{'slow' if slower else 'fast'} as now; pipecut profile measures again"
    )
