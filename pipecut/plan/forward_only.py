"""The actions of a rank that runs only forward, for any number of microbatches.

All forwards of all ranks are in one order, by the sum of stage and microbatch, and a message stands
right after the forward that makes it, for the rank that sends and for the one that receives. All
that anything needs comes before it, so no ranks wait in a circle, and both sides of a channel have
its messages in one order.
"""

from pipecut.plan.actions import Action, Compute, Message, Recv, Send
from pipecut.plan.schema import Plan

# When an action stands in the order: stage + microbatch, the stage, computes before messages.
Key = tuple[int, int, int]


def forward_only(plan: Plan, pipeline_rank: int, microbatches: int) -> list[Action]:
    """What a pipeline rank does.

    A receive stands where its message is sent, about one forward ahead of what needs it.
    """
    layout = plan.layout
    crossing = {b.left for b in plan.boundaries if b.tensors and layout.changes_rank(b.left)}
    keyed: list[tuple[Key, Action]] = []
    for stage, home in enumerate(layout.pipeline_rank_of):
        sends, next_home = stage in crossing, layout.pipeline_rank_of[stage + 1 : stage + 2]
        if pipeline_rank not in (home, *(next_home if sends else ())):
            continue
        for microbatch in range(microbatches):
            when, message = stage + microbatch, Message("F", stage + 1, microbatch)
            if home == pipeline_rank:
                keyed.append(((when, stage, 0), Compute("F", stage, microbatch)))
            if not sends:
                continue
            side: Action = Send(message) if home == pipeline_rank else Recv(message)
            keyed.append(((when, stage, 1), side))
    return [action for _, action in sorted(keyed, key=lambda entry: entry[0])]
