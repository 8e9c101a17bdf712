"""What the parts of a plan.yaml must say of each other, so that the checker may rely on it."""

from collections.abc import Iterator

from pipecut.plan.schema import Plan, Tensor, evaluate, name_within

# Files beside the stages that every plan has.
SCHEDULE, GRAPH, PARAMETERS = "schedule.yaml", "graph.json", "parameters.json"
# And one that a plan need not have: see plan/part/meetings_file.py.
MEETINGS = "meetings.json"


def contradiction_in(plan: Plan) -> str | None:
    """The first thing that a plan says of itself and that cannot be; None where there is none."""
    return next((what for holds, what in _rules(plan) if not holds), None)


def _rules(plan: Plan) -> Iterator[tuple[bool, str]]:
    """What must hold, and what is wrong where it does not."""
    count = len(plan.stages)
    numbered = [stage.index for stage in plan.stages] == list(range(count))
    yield count > 0 and numbered, "stages are not numbered from 0"
    ranks = {stage.pipeline_rank for stage in plan.stages}
    yield ranks == set(range(len(ranks))), "pipeline ranks are not numbered from 0"
    lefts = [boundary.left for boundary in plan.boundaries]
    yield lefts == list(range(count - 1)), "boundaries are not those between the stages"
    evaluation = plan.evaluation
    sizes = len(evaluation.stages), len(evaluation.boundaries)
    yield (
        not evaluation.stages or sizes == (count, count - 1),
        "evaluation has other stages or boundaries",
    )
    users = {stage for tied in plan.tied for stage in tied.stages}
    yield users <= set(range(count)), "a tied parameter is on a stage that is not there"
    yield (
        all(tied.names and tied.stages for tied in plan.tied),
        "a tied parameter has no name, or no stage",
    )
    within = [name_within(name, key) for name, each in plan.nesting.items() for key in each.keys]
    named = {*plan.nesting, *plan.constants, *(tensor.name for tensor in plan.inputs)}
    yield set(within) <= named, "a container of nesting has what is no input and no constant"
    yield len(set(within)) == len(within), "two containers of nesting have one name within them"
    held = [tensor for stage in plan.stages for tensor in (*stage.parameters, *stage.buffers)]
    yield all(tensor.names for tensor in held), "a parameter or buffer has no name"
    hashed = set(plan.hashes)
    yield {stage.file for stage in plan.stages} <= hashed, "a stage's file has no hash"
    missing = [name for name in (SCHEDULE, GRAPH, PARAMETERS) if name not in hashed]
    yield not missing, f"{' and '.join(missing)} without a hash"


def check_dimensions(plan: Plan) -> None:
    """Raises PlanError where a tensor's dimension cannot be evaluated for the microbatch."""
    for tensor in _tensors(plan):
        for dimension in tensor.shape:
            evaluate(dimension, plan.batch.largest)


def _tensors(plan: Plan) -> Iterator[Tensor]:
    """Those of the batch, over boundaries and of outputs, in training and in eval mode."""
    yield from plan.inputs
    for mode in (plan, plan.in_evaluation()):
        for boundary in mode.boundaries:
            yield from boundary.tensors
        for stage in mode.stages:
            yield from stage.outputs
