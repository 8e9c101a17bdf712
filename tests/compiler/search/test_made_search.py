"""The search on hand-made costs: a chain of equal layers, on equal cores."""

from dataclasses import replace
from typing import Any

import pytest

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.compiler.search.candidates import SEARCHED, candidates, smallest_microbatch
from pipecut.compiler.search.search import Chosen, choose, search
from pipecut.compiler.search.sensitivity import (
    faster_links,
    more_memory,
    one_more_device,
    sensitivities,
)
from pipecut.compiler.search.sizes import SearchSpace
from pipecut.compiler.search.trial import Sensitivity, Setting, Trial, attempt, bounded, lower_bound
from pipecut.errors import InfeasibleError, UserFileError
from tests.compiler.chain_graphs import chain
from tests.costs import MadeEstimates, made_cluster, made_device, made_job

OPEN = SearchSpace(4, 8, AUTO, 1, 2, "1f1b")


def setting(layers: int = 8, devices: int = 4, memory: int = 2**30, **keys: Any) -> Setting:
    cluster = made_cluster([made_device(memory=memory)] * devices)
    # Long enough that what crosses a cut takes no time beside it.
    return Setting(made_job(**keys), cluster, MadeEstimates(chain(layers), 1.0))


def silent(_: str) -> None:
    pass


def test_more_stages_make_a_shorter_step() -> None:
    choice = choose(OPEN, setting(), silent)
    assert choice.sizes.stages == 4
    assert choice.compared == len(choice.trials) == len(candidates(OPEN))
    steps = {trial.candidate.stages: trial.step_seconds for trial in choice.trials}
    assert steps[4] == min(step for step in steps.values() if step is not None)


def test_no_step_is_below_its_bound_and_the_sum_of_work_is_reached_on_one_stage() -> None:
    # 9 operators of 1 second forward and backward per sample: 36 a microbatch of 2, of which 4.
    alone = bounded(setting(), Candidate(1, 1, 2, 4, "1f1b"))
    assert alone.bound == pytest.approx(4 * 36)
    assert attempt(alone, setting()).step_seconds == pytest.approx(4 * 36)
    for trial in search(OPEN, setting(), silent):
        assert trial.step_seconds is None or trial.step_seconds >= trial.bound * (1 - 1e-9)


@pytest.mark.parametrize(
    ("stages", "microbatches", "schedule", "bound"),
    # W / (1 - (1 - 1/m)^p), or the work of all over the ranks where nothing need be idle.
    [(2, 1, "1f1b", 36), (2, 2, "gpipe", 36 / 0.75), (2, 4, "zb-h1", 36 * 4 / 2)],
)
def test_the_bound_is_that_of_the_formula(
    stages: int, microbatches: int, schedule: str, bound: float
) -> None:
    candidate = Candidate(stages, 1, 2, microbatches, schedule)
    assert lower_bound(setting(), candidate) == pytest.approx(bound)


def test_candidates_above_the_best_step_are_not_tried() -> None:
    said: list[str] = []
    space = replace(OPEN, microbatch=AUTO, schedule=AUTO)
    trials = search(space, setting(), said.append)
    skipped = [trial for trial in trials if trial.why.startswith("at best")]
    assert skipped and all(t.bound >= (trials[0].step_seconds or 0) for t in skipped)
    tried = [text for text in said if text.startswith("trying")]
    others = len(trials) - len(candidates(space))
    assert len(tried) == len(trials) - len(skipped)
    assert {t.candidate.schedule for t in trials} - {*SEARCHED} and (
        others == len(SCHEDULES) - len(SEARCHED)
    )


def test_a_fixed_space_is_chosen_without_trying_it() -> None:
    fixed = replace(OPEN, stages=3)
    assert choose(fixed, setting(memory=1), silent).trials == ()
    explained = choose(fixed, setting(), silent, explain=True)
    assert len(explained.trials) == 1 and explained.compared == 0
    assert len(explained.sensitivities) == 3


def test_nothing_that_fits_says_why_for_the_first() -> None:
    with pytest.raises(
        InfeasibleError, match=r"none of 3 candidates fits: .* parameters by themselves"
    ):
        choose(OPEN, setting(memory=10), silent)


def test_trials_print_what_became_of_them() -> None:
    sizes = Candidate(1, 1, 2, 4, "1f1b")
    sizes_text = "1 stage x 1 replica, 4 microbatches of 2, 1f1b"
    assert str(Trial(sizes, 0.5)) == f"{sizes_text}: at best 500 ms, not tried"
    assert str(Trial(sizes, 0.5, why="memory")) == f"{sizes_text}: memory"
    placed = Trial(sizes, 0.5, 0.75, 0.25, why="placed")
    assert str(placed) == f"{sizes_text}: step 750 ms, bubble 25%, placed"
    choice = Chosen(sizes, (placed,), (Sensitivity("more", 0.5), Sensitivity("less", None)))
    assert str(choice).splitlines() == [
        f"chosen: {sizes_text}",
        str(placed),
        "more: step 500 ms",
        "less: nothing that fits was found",
    ]


def test_a_space_without_candidates_says_what_to_change() -> None:
    with pytest.raises(UserFileError, match="no microbatch and number of replicas divide .* of 8"):
        search(replace(OPEN, replicas=3), setting(), silent)


def test_what_the_rules_refuse_is_not_placed() -> None:
    costs = MadeEstimates(chain(4), unmeasured=("core",))
    refused = replace(setting(), costs=costs)
    trial = attempt(bounded(refused, Candidate(2, 1, 2, 4, "1f1b")), refused)
    assert trial.step_seconds is None and not trial.short_of_memory
    assert trial.why == "no measurements on core for a microbatch of 2"


def test_another_schedule_keeps_the_ranks_of_the_best() -> None:
    trials = search(replace(OPEN, schedule=AUTO, stages=AUTO), setting(), silent)
    v_shaped = next(t.candidate for t in trials if t.candidate.schedule == "v-shaped")
    assert (v_shaped.ranks, v_shaped.stages) == (4, 8)


def test_compiled_stages_keep_schedules_that_split_backward_out() -> None:
    trials = search(replace(OPEN, schedule=AUTO), setting(compile="inductor"), silent)
    split = [trial for trial in trials if trial.candidate.schedule in ("zb-h1", "v-shaped")]
    assert len(split) == 2
    assert all("splits the backward" in trial.why for trial in split)


def test_limits_are_relaxed_one_at_a_time() -> None:
    cluster = made_cluster([made_device(memory=100)] * 3)
    assert {device.memory for device in more_memory(cluster).devices} == {110}
    assert faster_links(cluster).link(0, 1).bandwidth == 2 * cluster.link(0, 1).bandwidth
    assert len(one_more_device(cluster, 2).devices) == 3
    limits = sensitivities(OPEN, search(OPEN, setting(), silent), setting(), silent)
    more, memory, links = (limit.step_seconds for limit in limits)
    best = search(OPEN, setting(), silent)[0].step_seconds
    assert more is not None and best is not None and more < best
    assert memory == pytest.approx(best) and links == pytest.approx(best)


def test_the_first_microbatch_to_trace_is_the_smallest_that_may_be_chosen() -> None:
    assert smallest_microbatch(OPEN) == 2
    assert smallest_microbatch(replace(OPEN, microbatch=AUTO)) == 1
    assert smallest_microbatch(replace(OPEN, microbatch=AUTO, replicas=3)) == 1


def test_a_candidate_prints_its_sizes() -> None:
    assert str(Candidate(16, 4, 2, 32, "1f1b")) == (
        "16 stages x 4 replicas, 32 microbatches of 2, 1f1b"
    )
    assert "8 stages on 4 ranks x 1" in str(Candidate(8, 1, 2, 4, "v-shaped", 2))
