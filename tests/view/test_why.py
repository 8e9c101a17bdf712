"""What binds, in sentences, and what a compile compared."""

from pathlib import Path

import pytest

from pipecut.errors import PlanError
from pipecut.plan.folder import file_hash, read_plan, write_plan
from pipecut.plan.schema import Plan
from pipecut.plan.schema.explanation import EXPLANATION, Explanation, LimitPrice
from pipecut.view.sources import Sources, read_explanation
from pipecut.view.why import binding, why_of
from tests.plans import made_plan, made_stage, write_made_plan
from tests.view.made import TRIED, made_sources

EXPLAINED = Explanation(
    candidates=(TRIED,), limits=(LimitPrice(limit="10% more memory", step_seconds=None),)
)


def reasons(plan: Plan) -> dict[str, str]:
    return {reason.subject: reason.text for reason in binding(plan)}


def test_the_slowest_stage_and_the_balance_are_said() -> None:
    stages = [made_stage(0, 2), made_stage(1, 2, load_seconds=4.0)]
    texts = reasons(made_plan(2, stages=stages))
    assert texts["slowest stage"] == (
        "Stage 1 is the slowest: 4 s for a microbatch, 1 s forward, 2 s backward, 1 s transfers."
    )
    assert texts["balance"].startswith("The mean stage takes 3.5 s, 88% of the slowest.")
    assert texts["step"].startswith("Of 15 s the busiest rank, 0, computes for 12 s (80%).")


def test_stages_of_a_rank_compute_together() -> None:
    stages = [made_stage(0, 2), made_stage(1, 2, pipeline_rank=0)]
    assert "rank, 0, computes for 24 s" in reasons(made_plan(2, stages=stages))["step"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peak_bytes": 9500}, "Binds on stage 0: more than 90%"),
        ({"peak_bytes": 500}, "Does not bind: stage 0, the fullest, takes 500 B of 9.8 KiB."),
        ({"recompute": True}, "Activations of stage 0 do not fit"),
    ],
)
def test_memory_binds_or_not(fields: dict[str, object], words: str) -> None:
    stages = [made_stage(0, 2, **fields), made_stage(1, 2)]
    assert words in reasons(made_plan(2, stages=stages))["memory"]


def test_a_second_forward_is_part_of_the_slowest_stage() -> None:
    stages = [made_stage(0, 2, recompute=True, load_seconds=4.0), made_stage(1, 2)]
    text = reasons(made_plan(2, stages=stages))["slowest stage"]
    assert text.endswith("1 s forward, 2 s backward, 1 s for a second forward.")


def test_one_stage_has_nothing_to_balance() -> None:
    stage = made_stage(load_seconds=3.0 + 1e-15)
    texts = reasons(made_plan(1, stages=[stage]))
    assert list(texts) == ["one stage", "memory"]
    assert texts["one stage"] == "It takes 3 s for a microbatch, 1 s forward, 2 s backward."


def test_what_was_compared_is_shown() -> None:
    why = why_of(Sources(made_sources().folder, explanation=EXPLAINED))
    assert (why.candidates, why.limits) == (EXPLAINED.candidates, EXPLAINED.limits)
    assert why_of(made_sources()).candidates == ()


def with_explanation(folder: Path, text: str) -> Path:
    write_made_plan(folder)
    (folder / EXPLANATION).write_text(text)
    plan = read_plan(folder).plan
    hashes = plan.hashes | {EXPLANATION: file_hash(folder / EXPLANATION)}
    write_plan(folder, plan.model_copy(update={"hashes": hashes}))
    return folder


def test_an_explanation_is_read_where_the_plan_has_one(tmp_path: Path) -> None:
    assert read_explanation(read_plan(write_made_plan(tmp_path))) is None
    path = with_explanation(tmp_path, EXPLAINED.model_dump_json())
    assert read_explanation(read_plan(path)) == EXPLAINED


def test_a_broken_explanation_is_refused(tmp_path: Path) -> None:
    folder = read_plan(with_explanation(tmp_path, '{"candidates": 3, "limits": []}'))
    with pytest.raises(PlanError, match=r"explain.json: candidates: .*compile again"):
        read_explanation(folder)
