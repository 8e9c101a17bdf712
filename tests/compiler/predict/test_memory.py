"""Stages are run on fake tensors: what a microbatch takes is what a rank allocates."""

from dataclasses import replace

import pytest

import pipecut.compiler.predict.memory as memory
from pipecut.compiler.graph import Graph
from pipecut.compiler.predict.dry_run import Microbatch, _memory
from pipecut.compiler.predict.known_calls import KnownCalls
from pipecut.compiler.stages.cut import Cut, cut
from pipecut.compiler.stages.source import write_stage
from pipecut.plan.schema import Boundary, Plan, StageMemory
from tests.compiler.chain_graphs import chain
from tests.plans import made_plan, made_stage, made_tensor

# Bytes of a microbatch's 2 x 4 float32 numbers, and of a weight's 4 x 4.
VALUE, WEIGHT = 32, 64


def plan_for(cuts: tuple[Cut, ...], **fields: object) -> Plan:
    """A plan whose stages and boundaries are those of a chain's cuts."""
    stages = [
        made_stage(
            cut.index,
            len(cuts),
            receives=list(cut.receives),
            sends=list(cut.sends),
            batch_inputs=["features"] if cut.batch_inputs else [],
            **fields,
        )
        for cut in cuts
    ]
    boundaries = [
        Boundary(
            left=cut.index,
            tensors=[made_tensor(name) for name in cut.sends],
            bandwidth=1e9,
            latency=0.0,
        )
        for cut in cuts[:-1]
    ]
    inputs = [made_tensor("features", needs_grad=False)]
    return made_plan(len(cuts), stages=stages, boundaries=boundaries, inputs=inputs)


def code_of(graph: Graph, cuts: tuple[Cut, ...]) -> list[str]:
    return [write_stage(graph, cut, len(cuts)) for cut in cuts]


def passes(graph: Graph, stages: list[int], **fields: object) -> list[StageMemory]:
    cuts = cut(graph, [(stage,) for stage in stages], max(stages) + 1)
    found = memory.passes_of(plan_for(cuts, **fields), graph, cuts, code_of(graph, cuts))
    return [stage for stage in found if stage is not None]


def test_a_stage_keeps_what_backward_needs() -> None:
    first, second = passes(chain(3), [0, 0, 1, 1])
    # Between its two layers the first stage keeps one activation; what it sends has left.
    assert first.saved == VALUE and first.kept == 2 * VALUE
    assert first.gradients == 2 * WEIGHT and second.gradients == WEIGHT


def test_the_first_backward_also_allocates_gradients() -> None:
    (stage,) = passes(chain(2), [0, 0, 0])
    assert stage.first_backward_peak > stage.backward_peak
    assert stage.gradients == 2 * WEIGHT


def test_a_stage_that_recomputes_keeps_nothing_until_its_backward() -> None:
    (plain, _), (again, _) = (
        passes(chain(3), [0, 0, 1, 1], recompute=recompute) for recompute in (False, True)
    )
    assert again.saved == 0 < plain.saved
    # Running forward again, and letting its result go before backward, costs no more than that.
    assert again.backward_peak <= plain.backward_peak + VALUE


def test_stages_that_are_alike_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[int] = []
    stage_memory = memory.stage_memory

    def recording(
        plan: Plan, graph: Graph, cut: Cut, code: str, split_backward: bool, known: KnownCalls
    ) -> StageMemory:
        run.append(cut.index)
        return stage_memory(plan, graph, cut, code, split_backward, known)

    monkeypatch.setattr(memory, "stage_memory", recording)
    first, second, third, last = passes(chain(4), [0, 1, 2, 3, 3])
    # The first takes the batch, the last makes the loss; those between are alike.
    assert run == [0, 1, 3] and second == third


def test_an_operator_without_a_fake_kernel_leaves_its_stage_unknown() -> None:
    graph = chain(2)
    unknown = replace(graph.operators[0], target="aten.no_such_operator.default")
    graph = replace(graph, operators=(unknown, *graph.operators[1:]))
    cuts = cut(graph, [(0,), (1,), (1,)], 2)
    found = memory.passes_of(plan_for(cuts), graph, cuts, code_of(graph, cuts))
    assert [memory is None for memory in found] == [True, False]


def test_what_a_split_backward_puts_off_is_told_from_gradients() -> None:
    first = Microbatch(30, 20, 10, 90, after_backward=70, weights_peak=25, after_weights=100)
    second = Microbatch(30, 20, 10, 40, after_backward=20, weights_peak=15, after_weights=0)
    split = _memory(first, second, split_backward=True)
    # 20 bytes wait for the gradients of weights; 50 more came with the first backward, and of the
    # 100 that are alive in the end the other 50 came with the first gradients of weights.
    assert (split.weights_kept, split.gradients, split.weights_gradients) == (20, 50, 50)
    whole = _memory(first, second, split_backward=False)
    assert (whole.weights_kept, whole.gradients, whole.weights_gradients) == (0, 70, 0)
