"""What goes from rank to rank in a step of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, Compute, Hop, Message, Recv, Reduce, Send
from pipecut.plan.channels import Channel
from pipecut.plan.schema import Plan


@dataclass(frozen=True)
class Traffic:
    """The rank of each stage, and the boundaries (s, to s+1) that are crossed from rank to rank.

    Activations cross the `forward` ones, gradients the `backward` ones.
    """

    pipeline_rank_of: Mapping[int, int]
    forward: frozenset[int]
    backward: frozenset[int]

    @classmethod
    def of(cls, plan: Plan) -> "Traffic":
        """The traffic of one pipeline of a plan."""
        layout = plan.layout
        over = [b for b in plan.boundaries if layout.changes_rank(b.left)]
        forward = frozenset(b.left for b in over if b.tensors)
        backward = frozenset(b.left for b in over if any(t.needs_grad for t in b.tensors))
        return cls(dict(enumerate(layout.pipeline_rank_of)), forward, backward)

    def channel(self, message: Message) -> Channel:
        """The channel that a message takes."""
        ranks = self.pipeline_rank_of
        return Channel(ranks[message.sender], ranks[message.receiver])

    def crosses(self, hop: Hop | Message) -> bool:
        """Whether the plan sends something there from rank to rank."""
        return hop.boundary in (self.forward if hop.direction == "F" else self.backward)

    def message(self, action: Action) -> Message | None:
        """What an action sends or receives. Raises PlanError where the plan sends nothing there."""
        match action:
            case Send(message) | Recv(message):
                if not self.crosses(message):
                    raise PlanError(
                        f"'{action}': the plan sends nothing there from rank to rank; compile again"
                    )
                return message
            case Compute() | Reduce():
                return None
