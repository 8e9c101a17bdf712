"""An edited plan: its memory and seconds follow its actions, and what cannot run is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.errors import PlanError
from pipecut.plan.check.check import check
from pipecut.plan.edit.rescheduled import with_actions
from pipecut.plan.edit.sealing import edited, refuse_other_code
from pipecut.plan.folder import SCHEDULE, PlanFolder, read_plan, write_seal
from pipecut.plan.part.meetings_file import MEETINGS
from tests.graphs import ROWS, made_actions, made_folder
from tests.plans import write_made_plan

# Both microbatches forward before the first backward: stage 1 holds two where 1F1B holds one.
GPIPE = (
    "F 0.0, SEND_F 0.0, F 0.1, SEND_F 0.1, RECV_B 0.0, B 0.0, RECV_B 0.1, B 0.1",
    "RECV_F 1.0, F 1.0, RECV_F 1.1, F 1.1, B 1.0, SEND_B 1.0, B 1.1, SEND_B 1.1",
)


def with_stages(folder: PlanFolder, **fields: Any) -> PlanFolder:
    stages = [stage.model_copy(update=fields) for stage in folder.plan.stages]
    return replace(folder, plan=folder.plan.model_copy(update={"stages": stages}))


def test_memory_and_seconds_follow_the_actions() -> None:
    folder = with_stages(made_folder(), memory_bytes=190)
    with pytest.raises(PlanError, match="plan says 190 bytes, the schedule needs 232; .* seal"):
        check(replace(folder, actions=made_actions(*GPIPE)))
    gpipe = with_actions(folder, made_actions(*GPIPE))
    assert check(gpipe)
    # 64 of the weight, as much of its gradient, 20 of the operator; 10 saved and 32 received each.
    assert gpipe.plan.stages[1].memory_bytes == 64 + 64 + 20 + 2 * (10 + 32)
    # F F B B of 1 and 2 s behind one forward, and messages of 32 ns.
    assert gpipe.plan.prediction.step_seconds == pytest.approx(1 + 2 + 4 + 2, abs=1e-6)
    again = with_actions(gpipe, made_actions(*ROWS)).plan
    assert again.stages[1].memory_bytes == 64 + 64 + 20 + 10 + 32
    # What the folder was made with.
    assert [s.peak_bytes for s in again.stages] == [s.peak_bytes for s in folder.plan.stages]


def test_what_needs_more_than_there_is_says_what_to_edit() -> None:
    small = with_stages(made_folder(), capacity_bytes=64 + 64 + 20 + 10 + 32)
    with pytest.raises(PlanError, match="needs 232 bytes of 190; let fewer forwards of the sch"):
        check(with_actions(small, made_actions(*GPIPE)))


def test_another_kind_of_backward_is_refused() -> None:
    split = made_actions(
        ROWS[0].replace(", B 0.0", ", I 0.0, W 0.0"), ROWS[1].replace(", B 1.0", ", I 1.0, W 1.0")
    )
    with pytest.raises(PlanError, match="were costed for whole ones .B.: write B in their place"):
        with_actions(made_folder(), split)
    costed = with_stages(made_folder(), weight_seconds=1.0)
    with pytest.raises(PlanError, match="costed for split ones: write I and, later, W"):
        with_actions(costed, made_actions(*ROWS))


def test_stage_code_that_is_no_python_is_refused(tmp_path: Path) -> None:
    folder = write_made_plan(tmp_path)
    file = folder / "stages" / "stage_0.py"
    file.write_text("class Stage0:\n    def forward(self:\n")
    with pytest.raises(PlanError, match=r"stage_0.py:2:16: .* never closed; fix the code of this"):
        edited(folder)
    file.write_bytes(b"x = '\xff'")
    with pytest.raises(PlanError, match="stage_0.py.*; fix the code"):
        refuse_other_code(file, "Stage0")
    file.write_bytes(b"\0")
    with pytest.raises(PlanError, match="null bytes; fix the code"):
        refuse_other_code(file, "Stage0")
    for code in ("", "class Stage1: ...\n", "if False:\n    class Stage0: ...\n"):
        file.write_text(code)
        with pytest.raises(PlanError, match="stage_0.py: has no class Stage0; write the module"):
            edited(folder)


def test_messages_are_numbered_anew_where_their_file_is_not_there(tmp_path: Path) -> None:
    folder = write_made_plan(tmp_path)
    (folder / MEETINGS).unlink(missing_ok=True)
    plan = edited(folder)
    assert MEETINGS not in plan.plan.hashes
    write_seal(plan)
    assert (folder / MEETINGS).is_file() and read_plan(folder).plan.hashes[MEETINGS]


def test_a_plan_with_its_own_schedule_is_not_predicted_anew(tmp_path: Path) -> None:
    folder = write_made_plan(tmp_path)
    file = folder / "stages" / "stage_0.py"
    file.write_text("class Stage0: pass\n")
    assert edited(folder).plan.stages[0].memory_bytes == 1000


def test_an_edited_schedule_that_leaves_something_out_is_refused(tmp_path: Path) -> None:
    folder = write_made_plan(tmp_path)
    (folder / SCHEDULE).write_text("ranks:\n  - [F 0.0]\n")
    with pytest.raises(PlanError, match="F does not run once for each of 4 microbatches"):
        edited(folder)
