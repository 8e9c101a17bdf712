"""What is decided of a plan before it is written: where operators go, on which devices, when."""

from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.partition.partition import Placed
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.predict.step import Scheduled
from pipecut.compiler.stages.place_evaluation import place_evaluation
from pipecut.compiler.stages.source import write_stage


@dataclass(frozen=True)
class Draft:
    """The sizes, the placement and its schedule.

    `cluster` has its nodes in the order that suits the placement. `evaluation_refused` is the
    reason why the stages cannot run in eval mode, "" where they can. `code` has the source of each
    stage: the replay runs it, and the plan has it.
    """

    candidate: Candidate
    cluster: Cluster
    placement: Placement
    scheduled: Scheduled
    code: tuple[str, ...]
    evaluation_refused: str = ""


def draft_of(graph: Graph, sizes: Candidate, placed: Placed, scheduled: Scheduled) -> Draft:
    """The draft: operators of eval mode are on the stages that training has; each has its code."""
    placement = placed.placement
    evaluation = place_evaluation(graph, placement.stages_of, scheduled.cuts)
    scheduled = replace(scheduled, cuts=evaluation.cuts)
    code = tuple(write_stage(graph, cut, len(evaluation.cuts)) for cut in evaluation.cuts)
    return Draft(sizes, placed.cluster, placement, scheduled, code, evaluation.refused)
