"""The actions of a rank that runs forward alone, for any number of microbatches.

All forwards of all ranks are in one order, by the sum of stage and microbatch, and a message stands
right after the forward that makes it, for the rank that sends and for the one that receives. All that
anything needs comes before it, so no ranks wait in a circle, and both ends of a channel have its
messages in one order.
"""

from pipecut.plan.actions import Action, Compute, Message, Recv, Send
from pipecut.plan.schema import Plan


def forward_only(plan: Plan, pipeline_rank: int, microbatches: int) -> list[Action]:
    """Of the rank at a place in the pipeline.

    A receive stands where its message is sent, about one forward ahead of what needs it.
    """
    layout, stages = plan.layout, [stage.index for stage in plan.stages]
    pipeline_rank_of = layout.pipeline_rank_of
    crossing = {b.left for b in plan.boundaries if b.tensors and layout.changes_rank(b.left)}
    placed: list[tuple[tuple[int, int, int], Action]] = []
    for s in stages:
        for m in range(microbatches):
            message = Message("F", s + 1, m)
            if pipeline_rank_of[s] == pipeline_rank:
                placed.append(((s + m, s, 0), Compute("F", s, m)))
                placed += [((s + m, s, 1), Send(message))] if s in crossing else []
            if s in crossing and pipeline_rank_of[s + 1] == pipeline_rank:
                placed.append(((s + m, s, 1), Recv(message)))
    return [action for _, action in sorted(placed, key=lambda entry: entry[0])]
