"""Short microbatches with more samples take no more memory than the largest one."""

from math import prod

from pipecut.errors import PlanError
from pipecut.plan.schema import Plan, evaluate
from pipecut.plan.schema.graph import PlanGraph


def more_samples_fit(plan: Plan, graph: PlanGraph) -> None:
    """No tensor of the graph whose size follows a length is larger. Raises PlanError."""
    more, batch = plan.batch.more_samples, plan.batch
    if more is None:
        return
    if more.lengths.keys() != batch.lengths.keys():
        raise PlanError("more_samples: its lengths are not those of the batch; compile again")
    sizes = {"batch": more.samples, **more.lengths}
    for name, value in graph.values.items():
        if not any(isinstance(size, str) and size != "batch" for size in value.shape):
            continue
        elements = prod(evaluate(size, sizes) for size in value.shape)
        largest = prod(evaluate(size, batch.largest) for size in value.shape)
        if elements > largest:
            raise PlanError(
                f"more_samples: '{name}' has {elements} numbers in a microbatch of {sizes}, and "
                f"{largest} in the largest, for which memory is planned; compile again"
            )
