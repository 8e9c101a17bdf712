"""What is decided of a plan before it is written down: where operators go, on which devices, in what order."""

from dataclasses import dataclass

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.partition.placement import Placement
from pipecut.compiler.predict.step import Scheduled


@dataclass(frozen=True)
class Draft:
    """The sizes, the placement and its schedule; `cluster` has its nodes in the order that suits the placement.

    `evaluation_refused` is the reason why the stages cannot run in eval mode, "" where they can.
    """

    candidate: Candidate
    cluster: Cluster
    placement: Placement
    scheduled: Scheduled
    evaluation_refused: str = ""
