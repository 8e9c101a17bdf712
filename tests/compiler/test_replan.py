"""What a plan becomes on the devices that remain."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler import replan as module
from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.replan import folder_without, replan, sizes_for
from pipecut.compiler.request import Request
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.errors import InfeasibleError, UserFileError
from pipecut.plan.schema import Plan, Source
from tests.plans import made_plan, made_stage

SOURCE = Source(job="/jobs/job.yaml", cluster="lab", available=4, devices=[0, 2, 3], lost=[1])


@pytest.mark.parametrize(
    ("plan", "remaining", "stages", "replicas"),
    [
        (made_plan(3), 3, 3, 1),
        (made_plan(3), 2, 2, 1),
        (made_plan(3), 1, 1, 1),
        (made_plan(2, replicas=2), 4, 2, 2),
        (made_plan(2, replicas=2), 3, AUTO, AUTO),
        (
            # Two ranks with two stages each.
            made_plan(4, stages=[made_stage(s, 4, pipeline_rank=s % 2) for s in range(4)]),
            1,
            2,
            1,
        ),
    ],
)
def test_a_rank_less_is_a_stage_less_or_a_search(
    plan: Plan, remaining: int, stages: Any, replicas: Any
) -> None:
    sizes = sizes_for(plan, remaining)
    per_rank = len(plan.stages) // plan.layout.pipeline_ranks
    assert sizes == SizeOverrides(stages, replicas, 2, None, "1f1b", per_rank)


@pytest.mark.parametrize(
    ("name", "expected"), [("plan", "plan-without-1-4"), ("plan-without-1", "plan-without-1-4")]
)
def test_the_new_plan_stands_beside_the_old_one(name: str, expected: str) -> None:
    assert folder_without(Path("runs") / name, (1, 4)) == Path("runs") / expected


@pytest.fixture
def requests(monkeypatch: Any) -> list[Request]:
    """Requests to compile; the plan that is read has what `plan.yaml` would say."""
    made: list[Request] = []
    monkeypatch.setattr(module, "compile_plan", lambda request, _: made.append(request))
    return made


def reading(monkeypatch: Any, **fields: Any) -> None:
    plan = made_plan(3, **fields)
    monkeypatch.setattr(module, "plan_in", lambda _: plan)


def test_the_job_is_compiled_again_without_the_lost_device(
    requests: list[Request], monkeypatch: Any
) -> None:
    reading(monkeypatch, source=SOURCE)
    target = replan(Path("plan"), 2)
    (request,) = requests
    assert (request.job, request.cluster) == (Path("/jobs/job.yaml"), "lab")
    assert request.output == target == Path("plan-without-1-3")
    assert request.options.lost == (1, 3) and request.options.sizes.stages == 2


def test_a_schedule_and_a_cut_made_for_all_devices_are_not_kept(
    requests: list[Request], monkeypatch: Any
) -> None:
    layout = "layout Et|ttL: bottleneck 2 ms per microbatch, 0.0% above the best cut's 2 ms"
    schedule = "zb-h1 (replaced by x.csv)"
    reading(monkeypatch, source=SOURCE, schedule=schedule, notes=["costs", layout])
    said: list[str] = []
    replan(Path("plan"), 1, said.append)
    begin = "not kept for the devices that remain: "
    assert said == [f"{begin}schedule {schedule}", f"{begin}{layout}"]
    (request,) = requests
    assert request.options.sizes.schedule == "zb-h1" and request.options.layout == ""


def test_the_last_device_cannot_be_lost(requests: list[Request], monkeypatch: Any) -> None:
    reading(monkeypatch, source=SOURCE.model_copy(update={"available": 2}))
    with pytest.raises(InfeasibleError, match="rank 0 was on the last device of lab; none remains"):
        replan(Path("plan"), 0)


def test_a_plan_of_unknown_source_is_refused(requests: list[Request], monkeypatch: Any) -> None:
    reading(monkeypatch)
    with pytest.raises(UserFileError, match="does not say which job it is of"):
        replan(Path("plan"), 0)
    assert not requests
