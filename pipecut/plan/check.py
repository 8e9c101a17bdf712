"""The independent checker: proves a plan before its first step, knowing neither solver nor schedule generator.

What messages must stand is in deadlock.py.
"""

from collections import defaultdict
from collections.abc import Sequence

from pipecut.errors import PlanError
from pipecut.plan.actions import Action, Compute, Op, Reduce, splits_backward
from pipecut.plan.channels import channels, groups_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.forward_only import forward_only
from pipecut.plan.replay.deadlock import Rows, Traffic, check_opening, check_order, check_steps
from pipecut.plan.replay.memory import STATES, outside_bytes, peak_of
from pipecut.plan.rules import Combination, conflict_of
from pipecut.plan.schema import HALF, Plan
from pipecut.plan.schema.graph import EvaluationGraph, PlanGraph


def check(folder: PlanFolder) -> list[str]:
    """What was proven, a line each. Raises PlanError with the first thing that does not hold."""
    plan, graph = folder.plan, folder.graph
    _known(plan, graph)
    return [
        _placed(plan, graph),
        _flows(plan, graph),
        _computes_everything(plan, folder.actions),
        _ordered(plan, folder.actions),
        _no_deadlock(plan, folder.actions),
        _memory_fits(plan, graph, folder.actions),
        _evaluates(plan, graph),
    ]


def _known(plan: Plan, graph: PlanGraph) -> None:
    """What the plan names, the graph has."""
    parameters = {entry.names[0] for entry in graph.parameters}
    if plan.optimizer not in STATES:
        raise PlanError(f"the optimizer '{plan.optimizer}' is none of {', '.join(STATES)}")
    for stage in plan.stages:
        unknown = [h.names[0] for h in stage.parameters if h.names[0] not in parameters]
        unknown += [name for name in (*stage.receives, *stage.sends) if name not in graph.values]
        unknown += [
            name
            for name in stage.batch_inputs
            if name not in {tensor.name for tensor in plan.inputs}
        ]
        if unknown:
            raise PlanError(
                f"stage {stage.index} has '{unknown[0]}', which the graph does not; compile again"
            )
    for tied in plan.tied:
        if any(
            tied.names[0] not in {h.names[0] for h in plan.stages[s].parameters}
            for s in tied.stages
        ):
            raise PlanError(
                f"tied parameter {tied.names[0]} is not on all of the stages {tied.stages}; compile again"
            )


def _placed(plan: Plan, graph: PlanGraph) -> str:
    count = len(plan.stages)
    for operator in graph.operators:
        on = operator.placed_on
        if any(not 0 <= stage < count for stage in on):
            raise PlanError(f"operator {operator.name} ({operator.module}) is on no stage")
    held = [{n for h in (*s.parameters, *s.buffers) for n in h.names} for s in plan.stages]
    stages_using: dict[str, set[int]] = defaultdict(set)
    for operator in graph.operators:
        for name in operator.inputs:
            stages_using[name].update(operator.placed_on)
    tied = {name: set(t.stages) for t in plan.tied for name in t.names}
    trained = {parameter.value for parameter in graph.parameters if parameter.trainable}
    for entry in (*graph.parameters, *graph.buffers):
        name = entry.names[0]
        holders = {s for s in range(count) if name in held[s]}
        if not holders:
            raise PlanError(f"parameter or buffer {name} is on no stage")
        missing = stages_using[entry.value] - holders
        if missing:
            raise PlanError(f"stage {min(missing)} uses {name} but does not hold it")
        if entry.value in trained and len(holders) > 1 and tied.get(name) != holders:
            raise PlanError(
                f"{name} is on stages {sorted(holders)} but its gradients are not summed over them"
            )
    return f"{len(graph.operators)} operators, {len(graph.parameters)} parameters, {len(graph.buffers)} buffers placed"


def _flows(plan: Plan, graph: PlanGraph | EvaluationGraph) -> str:
    """Values go forward only, and over every boundary between where they are made and used."""
    made = {operator.name: operator.placed_on for operator in graph.operators}
    over = {b.left: {t.name for t in b.tensors} for b in plan.boundaries}
    for operator in graph.operators:
        for name, stage in (
            (name, stage) for name in operator.inputs for stage in operator.placed_on
        ):
            # Where the stage does not make it, it comes from the first that does.
            source = min(made.get(name, [stage]))
            if stage in made.get(name, [stage]):
                continue
            if source > stage:
                raise PlanError(
                    f"{operator.name} on stage {stage} uses {name} of later stage {source}"
                )
            for left in range(source, stage):
                if name not in over.get(left, set()):
                    raise PlanError(
                        f"{name} is needed on stage {stage} but does not cross {left} -> {left + 1}"
                    )
    for left, names in over.items():
        if set(plan.stages[left].sends) != names or set(plan.stages[left + 1].receives) != names:
            raise PlanError(
                f"stages {left} and {left + 1} disagree about what crosses between them"
            )
    tensors = {t.name for b in plan.boundaries for t in b.tensors}
    return f"the stage graph is acyclic; {len(tensors)} tensors cross {len(over)} boundaries"


def _possible(plan: Plan, actions: Rows) -> None:
    """The rules that the compiler asks of a request, asked of the plan."""
    evaluated = plan.in_evaluation().stages
    conflict = conflict_of(
        Combination(
            replicas=plan.replicas,
            writes_buffers=any(held.written for s in plan.stages for held in s.buffers),
            compiled=plan.compile == "inductor",
            split=plan.schedule if any(map(splits_backward, actions)) else "",
            draws="the model" if any(s.dropouts for s in (*plan.stages, *evaluated)) else "",
        )
    )
    if conflict is not None:
        raise PlanError(f"{conflict.why}; compile again")


def _computes_everything(plan: Plan, actions: tuple[tuple[Action, ...], ...]) -> str:
    _possible(plan, actions)
    ranks = plan.layout.pipeline_ranks
    if len(actions) != ranks:
        raise PlanError(f"schedule.yaml has {len(actions)} ranks, the plan {ranks}")
    total = sum(_computes_once(plan, s.index, actions[s.pipeline_rank]) for s in plan.stages)
    if (plan.tied or plan.replicas > 1) and any(row.count(Reduce()) != 1 for row in actions):
        raise PlanError("tied parameters and replicas need one REDUCE on every rank")
    if any(Reduce() in row[:-1] for row in actions):
        raise PlanError(
            "REDUCE is the last of a rank's actions: gradients that come later would not be summed; compile again"
        )
    return f"{total} forward and backward actions, each once"


def _computes_once(plan: Plan, stage: int, row: Sequence[Action]) -> int:
    """Count the computes of a stage: each microbatch's forward and backward once."""
    microbatches_of: dict[Op, list[int]] = defaultdict(list)
    for action in row:
        if isinstance(action, Compute) and action.stage == stage:
            microbatches_of[action.op].append(action.microbatch)
    split = "W" in microbatches_of
    wanted: tuple[Op, ...] = ("F", "I", "W") if split else ("F", "B")
    for op in wanted:
        done = microbatches_of[op]
        # Counted first: a plan may name more microbatches than a list of them has room for.
        if len(done) != plan.microbatches or sorted(done) != list(range(plan.microbatches)):
            raise PlanError(
                f"stage {stage}: {op} does not run once for each of {plan.microbatches} microbatches"
            )
    if set(microbatches_of) - set(wanted):
        raise PlanError(f"stage {stage}: some backwards are split and some are not")
    return len(wanted) * plan.microbatches


def _ordered(plan: Plan, actions: Rows) -> str:
    messages = check_order(Traffic.of(plan), actions)
    return (
        f"every one of {messages} sends meets its receive, in one order on both ends of its channel"
    )


def _no_deadlock(plan: Plan, actions: Rows) -> str:
    """Of a step, and of forward alone, which evaluates. Channels are opened before, all of them, and that cannot deadlock."""
    groups = groups_of(plan)
    check_opening(
        {r: [group.ranks for group in groups if r in group.ranks] for r in range(plan.ranks)}
    )
    opened, evaluated = channels(plan), plan.in_evaluation()
    alone = [
        [forward_only(evaluated, p, count) for p in range(len(actions))]
        for count in (1, plan.microbatches)
    ]
    for rows in (actions, *alone):
        traffic = Traffic.of(plan if rows is actions else evaluated)
        check_order(traffic, rows)
        for occupied in (False, True):
            check_steps(traffic, rows, opened, occupied)
    return f"{len(groups)} groups open one after the other; no deadlock under rendezvous, nor where messages occupy their ranks"


def _evaluates(plan: Plan, graph: PlanGraph) -> str:
    """In eval mode, too, every stage has what it uses, and values go forward alone."""
    if plan.evaluation.refused:
        return f"the plan only trains: {plan.evaluation.refused}"
    evaluated, operators = plan.in_evaluation(), "the same operators"
    if plan.evaluation.stages:
        evaluation = graph.evaluation
        if evaluation is None:
            raise PlanError(
                "the plan has stages of eval mode, but the graph no operators of it; compile again"
            )
        _held_in_evaluation(plan, graph, evaluation)
        _flows(evaluated, evaluation)
        _makes_outputs(evaluated, evaluation)
        operators = f"{len(evaluation.operators)} operators of its own"
    outputs = sum(len(stage.outputs) for stage in evaluated.stages)
    return f"eval mode runs {operators} and gives {outputs} outputs"


def _makes_outputs(plan: Plan, graph: EvaluationGraph) -> None:
    stage_of = {operator.name: operator.stage for operator in graph.operators}
    for stage in plan.stages:
        for tensor in stage.outputs:
            value = graph.outputs.get(tensor.name, "")
            if stage_of.get(value) != stage.index:
                raise PlanError(
                    f"stage {stage.index} does not make the output '{tensor.name}'; compile again"
                )


def _held_in_evaluation(plan: Plan, graph: PlanGraph, own: EvaluationGraph) -> None:
    held = [{name for h in (*s.parameters, *s.buffers) for name in h.names} for s in plan.stages]
    names = {entry.value: entry.names[0] for entry in (*graph.parameters, *own.buffers)}
    given = {tensor.name for tensor in plan.inputs}
    for stage in plan.evaluation.stages:
        unknown = [name for name in stage.batch_inputs if name not in given]
        if unknown:
            raise PlanError(
                f"eval mode takes '{unknown[0]}', which is no input of the plan; compile again"
            )
    for operator in own.operators:
        if not 0 <= operator.stage < len(plan.stages):
            raise PlanError(f"operator {operator.name} of eval mode is on no stage")
        lacking = [
            names[n] for n in operator.inputs if n in names and names[n] not in held[operator.stage]
        ]
        if lacking:
            raise PlanError(
                f"in eval mode stage {operator.stage} uses {lacking[0]} but does not hold it"
            )
    last = {operator.name: operator.stage for operator in own.operators}.get(own.loss)
    if plan.evaluation.loss and last is None:
        raise PlanError("no operator of eval mode makes the loss; compile again")
    if plan.evaluation.loss and any(
        own.loss not in stage.sends for stage in plan.evaluation.stages[last or 0 : -1]
    ):
        raise PlanError("the loss of eval mode does not reach the last stage; compile again")


def _memory_fits(plan: Plan, graph: PlanGraph, actions: tuple[tuple[Action, ...], ...]) -> str:
    states = STATES[plan.optimizer]
    worst = 0.0
    together: dict[int, tuple[float, float]] = {}
    sizes = {entry.names[0]: entry.bytes for entry in graph.parameters}
    for stage in plan.stages:
        fixed = 0.0
        for h in stage.parameters:
            # Weight, gradient and states; of half precision the last two, and a master, are float32.
            size, wide, stepped = sizes[h.names[0]], 2 if h.dtype in HALF else 1, 1.0
            if plan.shard_optimizer and h.shape and h.shape[0] >= plan.replicas:
                # The replica that has most of it.
                stepped = -(-h.shape[0] // plan.replicas) / h.shape[0]
            fixed += (
                size * (1 + wide * (1 + stepped * (states + wide - 1))) if h.trainable else size
            )
        own = [o for o in graph.operators if stage.index in o.placed_on]
        received = sum(graph.values[name].bytes for name in stage.receives)
        saved = sum(o.saved_bytes for o in own)
        transient = max((o.transient_bytes for o in own), default=0)
        live = peak = 0
        for action in actions[stage.pipeline_rank]:
            match action:
                case Compute("F", stage.index):
                    live += 1
                    peak = max(peak, live)
                case Compute("B" | "W", stage.index):
                    live -= 1
        # A stage that recomputes saves one microbatch at a time.
        need = (
            fixed
            + (min(1, peak) if stage.recompute else peak) * saved
            + peak * received
            + transient
        )
        if need > stage.capacity_bytes:
            raise PlanError(
                f"rank {stage.pipeline_rank}, stage {stage.index}: needs {need} bytes of {stage.capacity_bytes}"
            )
        if need > stage.memory_bytes:
            raise PlanError(
                f"stage {stage.index}: the plan says {stage.memory_bytes} bytes, the schedule needs {need}"
            )
        before, largest = together.get(stage.pipeline_rank, (0.0, 0.0))
        together[stage.pipeline_rank] = before + need - transient, max(largest, transient)
        on_rank = sum(together[stage.pipeline_rank])
        if on_rank > stage.capacity_bytes:
            raise PlanError(
                f"rank {stage.pipeline_rank}: its stages need {on_rank:.0f} bytes of {stage.capacity_bytes}"
            )
        worst = max(worst, on_rank / max(stage.capacity_bytes, 1))
    for pipeline_rank in range(len(actions)):
        peak = peak_of(plan, actions[pipeline_rank], pipeline_rank)
        stage = next(s for s in plan.stages if s.pipeline_rank == pipeline_rank)
        if peak != stage.peak_bytes:
            raise PlanError(
                f"rank {pipeline_rank}: the plan says {stage.peak_bytes} bytes at the peak, its passes take {peak}"
            )
        outside = outside_bytes(plan, pipeline_rank)
        if outside > stage.outside_bytes:
            raise PlanError(
                f"rank {pipeline_rank}: the plan says that context and communicators take {stage.outside_bytes} bytes, "
                f"they take {outside}; compile again"
            )
        if peak + stage.outside_bytes > stage.device_bytes:
            raise PlanError(
                f"rank {pipeline_rank}: a step takes {peak} bytes at its peak, beside {stage.outside_bytes} of context and "
                f"communicators, and {stage.device} has {stage.device_bytes}; "
                "set a larger reserve in the cluster file, or a smaller microbatch"
            )
    return f"memory fits on every rank at every moment (at most {worst:.0%} of capacity)"
