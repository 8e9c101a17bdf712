"""A schedule from elsewhere is lowered and proven, or refused with words and a picture."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.exchange.fitting import ImportOptions
from pipecut.compiler.exchange.imported import with_schedule
from pipecut.compiler.exchange.torch_csv import TorchSchedule, csv_of, parse_csv, read_csv
from pipecut.compiler.schedules.registry import pipeline_ranks_of
from pipecut.errors import PlanError, UserFileError
from pipecut.plan.check.check import check
from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Batch
from tests.compiler.exchange.torch_schedules import SEVERAL, single_csv, torchs_csv
from tests.compiler.schedules.test_lower import lowered
from tests.graphs import made_graph
from tests.plans import made_plan, made_stage

SOURCE = Path("x.csv")


def folder_for(schedule: str, ranks: int, microbatches: int, **stage: Any) -> PlanFolder:
    """A chain of equal stages on so many ranks, compiled for a schedule."""
    per_rank = 2 if schedule in ("interleaved", "v-shaped") else 1
    count = ranks * per_rank
    homes = pipeline_ranks_of(schedule, count, per_rank)
    split = {"weight_seconds": 1.0} if schedule in ("zb-h1", "v-shaped") else {}
    stages = [
        made_stage(s, count, pipeline_rank=home, **{**split, **stage})
        for s, home in enumerate(homes)
    ]
    batch = Batch(global_size=2 * microbatches, microbatch=2, dynamic=True)
    plan = made_plan(count, stages=stages, batch=batch, schedule=schedule)
    return PlanFolder(Path("plan"), plan, lowered(schedule, ranks, microbatches), made_graph(count))


def imported(
    folder: PlanFolder, text: str | TorchSchedule, options: ImportOptions | None = None
) -> PlanFolder:
    schedule = parse_csv(text, str(SOURCE)) if isinstance(text, str) else text
    return with_schedule(folder, schedule, SOURCE, options or ImportOptions())


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb-h1", "v-shaped"])
def test_what_a_plan_exports_it_takes_back(name: str, messages: bool) -> None:
    folder = folder_for(name, 3, 5)
    again = imported(folder, csv_of(folder.actions, messages))
    assert again.actions == folder.actions
    assert again.plan.schedule == f"{name} (replaced by x.csv)"
    assert imported(again, csv_of(folder.actions)).plan.schedule == again.plan.schedule


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", SEVERAL)
def test_every_schedule_of_torch_passes(name: str, ranks: int, tmp_path: Path) -> None:
    schedule = read_csv(torchs_csv(name, ranks, 8, tmp_path / "x.csv", messages=False))
    folder = folder_for("v-shaped" if SEVERAL[name] else "interleaved", ranks, 8)
    # No schedule of pipecut's has both stages in turns and split backwards.
    whole = name == "ScheduleInterleavedZeroBubble"
    result = imported(folder, schedule, ImportOptions(whole_backward=whole))
    assert check(result)[2] == f"{ranks * 2 * 8 * (3 if SEVERAL[name] else 2)} forward and " + (
        "backward actions, each once"
    )


@pytest.mark.parametrize("new_messages", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_torchs_own_messages_pass(name: str, new_messages: bool, tmp_path: Path) -> None:
    schedule = read_csv(torchs_csv(name, 4, 8, tmp_path / "x.csv", messages=True))
    folder = folder_for("v-shaped" if SEVERAL[name] else "interleaved", 4, 8)
    assert check(imported(folder, schedule, ImportOptions(new_messages, whole_backward=True)))


def test_gpipe_of_torch_passes_and_the_1f1b_order_that_torch_keeps_is_refused(
    tmp_path: Path,
) -> None:
    gpipe = read_csv(single_csv("ScheduleGPipe", 3, 6, tmp_path / "x.csv"))
    assert check(imported(folder_for("1f1b", 3, 6), gpipe))
    # In torch 2.13 the last rank of it counts microbatches from 1.
    one_f_one_b = read_csv(single_csv("Schedule1F1B", 3, 6, tmp_path / "x.csv"))
    with pytest.raises(UserFileError, match="x.csv: has 7 microbatches, and the plan 6; compile"):
        imported(folder_for("1f1b", 3, 6), one_f_one_b)


def test_seconds_and_memory_are_those_of_the_new_schedule() -> None:
    folder = folder_for("1f1b", 2, 4)
    gpipe = imported(folder, csv_of(lowered("gpipe", 2, 4))).plan
    one_f_one_b = imported(folder, csv_of(folder.actions)).plan
    # 64 of the weight, as much of its gradient, 20 of the operator; 10 saved for each of 4 or 2.
    assert gpipe.stages[0].memory_bytes == 148 + 4 * 10
    assert one_f_one_b.stages[0].memory_bytes == 148 + 2 * 10
    assert gpipe.prediction.step_seconds == pytest.approx(1 + 4 * 3 + 2, abs=1e-6)


def test_a_circle_is_shown_in_words_and_as_a_picture() -> None:
    # Rank 1 waits for the second forward of rank 0, which waits for the first backward of rank 1.
    with pytest.raises(PlanError) as raised:
        imported(folder_for("1f1b", 2, 2), "0F0,0B0,0F1,0B1\n1F0,1F1,1B0,1B1\n")
    words, _, picture = str(raised.value).partition("\n\n")
    assert words == (
        "x.csv: the schedule deadlocks: rank 0 at 0B0 waits for 1B0 of rank 1; rank 1 at 1F1 waits "
        "for 0F1 of rank 0; change the order of what they compute"
    )
    assert picture.splitlines() == ["rank 0   0F0 .   >0B0", "rank 1   .   1F0 >1F1"]


def test_messages_that_deadlock_are_shown_and_ordered_anew_where_asked() -> None:
    folder = folder_for("1f1b", 2, 1)
    crossed = "0F0,0RECV_B0,0SEND_F0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n"
    with pytest.raises(PlanError, match=r"deadlocks.*order .* with --new-messages\)") as raised:
        imported(folder, crossed)
    assert str(raised.value).splitlines()[-2:] == [
        "rank 0   0F0 .   .   . 0B0",
        "rank 1   .   1F0 1B0",
    ]
    assert check(imported(folder, crossed, ImportOptions(new_messages=True)))


def test_what_does_not_fit_is_shown_as_bars() -> None:
    folder = folder_for("1f1b", 2, 4, capacity_bytes=230, device_bytes=430)
    with pytest.raises(PlanError, match="needs 316 bytes of 230") as raised:
        imported(folder, csv_of(lowered("gpipe", 2, 4)))
    picture = str(raised.value).partition("\n\n")[2].splitlines()
    assert picture[1].startswith("rank 1  |####") and "!!!" in picture[1]
    assert picture[1].endswith("of 430 B; holds at most 4 of stage 1")


@pytest.mark.parametrize(
    ("schedule", "text", "message"),
    [
        ("1f1b", "0F0,0B0", r"has 1 row, and the plan 2 ranks .*; compile with --stages 1"),
        (
            "1f1b",
            csv_of(lowered("v-shaped", 2, 2)),
            "x.csv:1: stage 3 is on rank 0, and the plan has no such stage; compile with "
            "--stages 4 --schedule v-shaped",
        ),
        (
            "v-shaped",
            csv_of(lowered("interleaved", 2, 2)),
            "stage 2 is on rank 0, and the plan has it on rank 1; compile with --stages 4 "
            "--schedule interleaved --stages-per-rank 2",
        ),
        ("1f1b", csv_of(lowered("1f1b", 2, 4)), "has 4 microbatches, and the plan 2; compile wi"),
        ("1f1b", "0F0,0F1,0B0,0B1\n1F0,1F1,1B0", "x.csv:2: 1B1 is there 0 times"),
        ("1f1b", "0F0,0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1", "x.csv:1: 0F0 is there 2 times"),
        (
            "1f1b",
            "0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1B0,1F1,1B1",
            "0W0 comes later than its I.*with --whole-backward",
        ),
    ],
)
def test_a_schedule_of_other_sizes_is_refused(schedule: str, text: str, message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        imported(folder_for(schedule, 2, 2), text)


def test_backwards_are_put_into_parts_or_joined_as_the_stages_were_costed() -> None:
    whole = "0F0,0B0\n1F0,1B0\n"
    parts = "0F0,0I0,0W0\n1F0,1I0,1W0\n"
    assert csv_of(imported(folder_for("zb-h1", 2, 1), whole).actions) == parts
    assert csv_of(imported(folder_for("1f1b", 2, 1), parts).actions) == whole
    later = "0F0,0F1,0I0,0I1,0W0,0W1\n1F0,1I0,1F1,1I1,1W0,1W1\n"
    joined = imported(folder_for("1f1b", 2, 2), later, ImportOptions(whole_backward=True))
    assert csv_of(joined.actions) == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


def test_parts_keep_the_messages_of_the_file() -> None:
    text = "0F0,0SEND_F0,0RECV_B0,0B0\n1RECV_F0,1F0,1B0,1SEND_B0\n"
    result = imported(folder_for("zb-h1", 2, 1), text)
    assert [list(map(str, row)) for row in result.actions] == [
        ["F 0.0", "SEND_F 0.0", "RECV_B 0.0", "I 0.0", "W 0.0"],
        ["RECV_F 1.0", "F 1.0", "I 1.0", "W 1.0", "SEND_B 1.0"],
    ]
