"""What a rank's memory consists of, and that its parts are those of the replay."""

from pipecut.plan.replay.memory import memory_curve
from pipecut.plan.schema import Plan
from pipecut.view.memory import Alive, RankMemory, alive_of, memory_of
from pipecut.view.sources import Sources
from tests.plans import PASSES
from tests.view.columns import numbers
from tests.view.made import made_sources
from tests.view.made_step import made_run, made_step


def totals(rank: RankMemory, alive: tuple[Alive, ...]) -> list[int]:
    """Bytes of all tensors in each of a rank's events."""
    assert rank.curve is not None
    parts = [alive[position] for position in numbers(rank.curve)]
    return [
        rank.standing.total + part.gradients + part.activations + part.transients for part in parts
    ]


def test_the_fullest_event_has_the_peak_that_the_plan_promises() -> None:
    for schedule in ("1f1b", "gpipe", "zb-h1"):
        view = memory_of(Sources(made_step(schedule=schedule)))
        for rank in view.ranks:
            assert max(totals(rank, view.alive)) == rank.peak > 0


def test_a_curve_has_a_state_for_each_event_and_one_after() -> None:
    folder = made_step(microbatches=8)
    view = memory_of(Sources(folder))
    # Forward and backward of eight microbatches, and the sum of gradients.
    assert [len(numbers(rank.curve)) for rank in view.ranks if rank.curve] == [8 + 8 + 1 + 1] * 4


def test_what_is_alive_has_parts() -> None:
    sources = made_sources()
    curve = memory_curve(sources.plan, sources.folder.actions[0], 0)
    assert curve is not None
    first, second, backward, *_, after = alive_of(curve)
    assert first == Alive(0, 0, PASSES.forward_peak)
    assert second.activations == PASSES.kept and second.gradients == 0
    assert backward.transients > 0 and backward.gradients == 0
    assert after == Alive(PASSES.gradients, 0, 0)


def test_a_rank_of_an_unknown_curve_has_its_bound() -> None:
    folder = made_step()
    stages = [
        stage.model_copy(update={"passes": None}) if stage.index == 1 else stage
        for stage in folder.plan.stages
    ]
    plan: Plan = folder.plan.model_copy(update={"stages": stages})
    view = memory_of(Sources(type(folder)(folder.path, plan, folder.actions, folder.graph)))
    assert [rank.curve is None for rank in view.ranks] == [False, True, False, False]
    assert view.ranks[1].peak == folder.plan.stages[1].peak_bytes


def test_a_run_says_its_peaks() -> None:
    folder = made_step()
    assert [rank.measured for rank in memory_of(made_run(folder)).ranks] == [(500,)] * 4
    assert memory_of(Sources(folder)).ranks[0].measured == ()
