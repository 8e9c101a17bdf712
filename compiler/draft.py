"""What is decided of a plan before it is written: where operators go, on which devices, when."""

from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.partition.partition import Placed
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.predict.step import Scheduled
from pipecut.compiler.stages.place_evaluation import place_evaluation


@dataclass(frozen=True)
class Draft:
    """The sizes, the placement and its schedule.

    `cluster` has its nodes in the order that suits the placement. `evaluation_refused` is the
    reason why the stages cannot run in eval mode, "" where they can.
    """

    candidate: Candidate
    cluster: Cluster
    placement: Placement
    scheduled: Scheduled
    evaluation_refused: str = ""


def draft_of(graph: Graph, sizes: Candidate, placed: Placed, scheduled: Scheduled) -> Draft:
    """The draft, with the operators of eval mode on the stages that training has."""
    placement = placed.placement
    evaluation = place_evaluation(graph, placement.stages_of, scheduled.cuts)
    scheduled = replace(scheduled, cuts=evaluation.cuts)
    return Draft(sizes, placed.cluster, placement, scheduled, evaluation.refused)
