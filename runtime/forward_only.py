"""The actions of a rank that runs forward alone, for any number of microbatches.

A rank takes its stages' microbatches in the order in which the first could have passed through all stages before: by the sum of
stage and microbatch. All that anything needs comes before it in that order on every rank, so none waits in a circle.
"""

from pipecut.runtime.plan import Action, Plan


def forward_only(plan: Plan, position: int, microbatches: int) -> list[Action]:
    """Of the rank at a place in the pipeline; receives are posted one forward ahead."""
    own = [stage.index for stage in plan.stages if stage.rank == position]
    crossing = {b.left for b in plan.boundaries if b.tensors and plan.over_link(b.left)}
    order = sorted(((s, m) for s in own for m in range(microbatches)), key=lambda one: (sum(one), one[0]))
    receives = [[Action("RECV_F", s, m)] if s - 1 in crossing else [] for s, m in order]
    actions = [*receives[0]] if receives else []
    for (s, m), ahead in zip(order, [*receives[1:], []], strict=True):
        actions += [*ahead, Action("F", s, m)]
        actions += [Action("SEND_F", s, m)] if s in crossing else []
    return actions
