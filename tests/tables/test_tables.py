"""Tables say what a person decides by: what each stage has, and why each candidate lost."""

import io
import json
from pathlib import Path

from rich.console import Console

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.search.trial import Sensitivity, Trial
from pipecut.plan.schema import Tied
from pipecut.plan.schema.text import columns_of
from pipecut.quantities import show_bytes, show_seconds
from pipecut.tables.plan import print_plan
from pipecut.tables.plan_json import SHAPE, ShownPlan, ShownStage, shown_plan
from pipecut.tables.search import MOST_SHOWN, print_explained
from tests.plans import made_plan, made_stage

ROOT = Path(__file__).parents[2]


def console() -> Console:
    return Console(file=io.StringIO(), width=200, markup=False)


def written(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def trial(microbatch: int, seconds: float | None, **fields: object) -> Trial:
    sizes = Candidate(2, 1, microbatch, 8 // microbatch, "1f1b")
    made = Trial(sizes, bound=0.5, step_seconds=seconds, bubble=0.25, **fields)  # type: ignore[arg-type]
    return made


def test_a_plan_is_shown_with_what_is_proven_and_predicted() -> None:
    plan = made_plan(2, tied=[Tied(names=["a", "b"], stages=[0, 1])], notes=["mind the gap"])
    out = console()
    print_plan(plan, out)
    text = written(out)
    assert "models:build on made: 1f1b, 4 microbatches of 2" in text
    assert "bottleneck 3 s per microbatch, bound 3 s, proven optimal (none, 0.0 s)" in text
    assert "predicted step 15 s, bubble 20%" in text
    assert "tied: a = b on stages 0, 1" in text and "note: mind the gap" in text


def test_print_says_what_the_table_says() -> None:
    plan = made_plan(2)
    out = console()
    print_plan(plan, out)
    for line in str(plan).splitlines():
        for word in line.split():
            assert word in written(out)


def test_the_object_for_scripts_says_what_the_table_says() -> None:
    stages = [made_stage(0, 2, recompute=True, outside_bytes=7), made_stage(1, 2, peak_bytes=9)]
    plan = made_plan(2, stages=stages, notes=["mind the gap"], replicas=2)
    shown = json.loads(shown_plan(plan).model_dump_json())
    table = {column.title: column.cells for column in columns_of(plan.stages)}
    for cell, stage in enumerate(shown["stages"]):
        assert {title: cells[cell] for title, cells in table.items()} == {
            "stage": str(stage["stage"]),
            "device": stage["device"],
            "modules covered": ", ".join(stage["modules"]),
            "parameters": f"{stage['parameters']:,}",
            "forward": show_seconds(stage["forward_seconds"]),
            "backward": show_seconds(stage["backward_seconds"]),
            "recompute": f"+{show_seconds(s)}" if (s := stage["recompute_seconds"]) else "",
            "peak memory": f"{show_bytes(stage['peak_bytes'])} of "
            f"{show_bytes(stage['device_bytes'])} (0%)",
            "sends": show_bytes(stage["bytes_sent"]),
        }
    title = f"{shown['model']} on {shown['cluster']}: {shown['schedule']}, {shown['microbatches']}"
    assert plan.title.startswith(title) and shown["ranks"] == 4
    assert shown["certificate"] == plan.certificate.model_dump()
    assert shown["prediction"] == {
        "step_seconds": 15.0,
        "bubble": 0.2,
        "flops": 0.0,
        "peak_flops": 0.0,
    }


def test_every_key_for_scripts_is_documented() -> None:
    page = (ROOT / "docs" / "plan-format.md").read_text()
    section = page.split("## What scripts read")[1].split("\n## ")[0]
    for key in (*ShownPlan.model_fields, *ShownStage.model_fields):
        assert f"`{key}`" in section, key
    assert f"of this object, {SHAPE};" in section


def test_ranks_and_recompute_are_shown_only_where_they_say_something() -> None:
    def titles(**fields: object) -> list[str]:
        stages = [made_stage(0, 2), made_stage(1, 2, **fields)]
        return [column.title for column in columns_of(stages)]

    assert "pipeline rank" not in titles() and "recompute" not in titles()
    assert "pipeline rank" in titles(pipeline_rank=0) and "recompute" in titles(recompute=True)
    assert ", 3 replicas" in made_plan(1, replicas=3).title


def test_candidates_are_compared_with_the_best() -> None:
    trials = [
        trial(2, 1.0, recomputing=1),
        trial(1, 1.5),
        trial(4, 0.95),
        trial(8, None, why="memory binds on stage 0"),
    ]
    out = console()
    print_explained(trials, [], out)
    lines = [line for line in written(out).splitlines() if "1f1b" in line]
    assert "chosen" in lines[0] and "1 stage " in lines[0]
    assert "50.0% slower" in lines[1]
    assert "5.0% faster: no more than its prediction may be off" in lines[2]
    assert "memory binds on stage 0" in lines[3]


def test_more_candidates_than_help_are_counted() -> None:
    out = console()
    print_explained([trial(1, 1.0)] * (MOST_SHOWN + 3), [], out)
    assert "and 3 more, none better" in written(out)


def test_limits_say_what_they_cost() -> None:
    limits = [
        Sensitivity("one more device", 0.8),
        Sensitivity("a tenth more memory", 1.0),
        Sensitivity("twice the links", None),
    ]
    out = console()
    print_explained([trial(1, 1.0)], limits, out)
    text = written(out)
    assert "one more device: step 800 ms, 20.0% shorter" in text
    assert "a tenth more memory: step 1 s, no shorter" in text
    assert "twice the links: nothing that fits was found" in text
