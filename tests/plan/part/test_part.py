"""What each rank proves of its part is what the whole proof says, and nothing forged passes."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.errors import PlanError
from pipecut.plan.actions import Action
from pipecut.plan.channels import Channel, channels
from pipecut.plan.check.check import check
from pipecut.plan.edit.sealing import schedule_text
from pipecut.plan.folder import (
    GRAPH,
    PARAMETERS,
    SCHEDULE,
    PlanFolder,
    file_hash,
    read_plan,
    seal,
    write_plan,
    write_seal,
)
from pipecut.plan.part.check import check_part
from pipecut.plan.part.meetings_file import MEETINGS, write_meetings
from pipecut.plan.part.numbers import numbers_of_messages
from pipecut.plan.part.read import read_part
from pipecut.plan.replay.deadlock import Rows, check_order, check_steps
from pipecut.plan.replay.meetings import (
    Numbered,
    check_meetings,
    exchanges_of,
    meetings_of,
)
from pipecut.plan.replay.row_rules import RowRules
from pipecut.plan.replay.traffic import Traffic
from tests.chain import chain_actions
from tests.graphs import ROWS, made_actions, made_folder, made_graph
from tests.plans import made_plan, made_stage


def whole(traffic: Traffic, rows: Rows, opened: list[Channel]) -> bool:
    """What stepping all ranks together says."""
    try:
        check_order(traffic, rows)
        check_steps(traffic, rows, opened)
        check_steps(traffic, rows, opened, occupied=True)
    except PlanError:
        return False
    return True


def parts(traffic: Traffic, rows: Rows, numbers: list[list[int]], opened: list[Channel]) -> bool:
    """What the ranks say, each of its row and of its messages' other sides."""
    numbered = [
        Numbered(rank, exchanges_of(traffic, rank, row), numbers[rank])
        for rank, row in enumerate(rows)
    ]
    try:
        for mine in numbered:
            peers = sorted({exchange.peer for exchange in mine.exchanges})
            check_meetings(mine, [numbered[peer] for peer in peers])
    except PlanError:
        return False
    return all(RowRules(traffic, r, opened).follow(row) is None for r, row in enumerate(rows))


@st.composite
def schedules(draw: Any) -> tuple[Traffic, list[list[Action]], list[Channel]]:
    """A schedule of some ranks in which up to three actions stand elsewhere in their rows."""
    name = draw(st.sampled_from(tuple(SCHEDULES)))
    ranks, per_rank = draw(st.integers(2, 4)), SCHEDULES[name].stages_per_rank or 2
    if per_rank > 2:
        per_rank = 2
    count = ranks * per_rank
    places = [*range(ranks), *reversed(range(ranks))] if SCHEDULES[name].returns else None
    stages = [
        made_stage(s, count, pipeline_rank=places[s] if places else s % ranks) for s in range(count)
    ]
    plan = made_plan(count, schedule=name, stages=stages)
    rows = [list(row) for row in chain_actions(plan)]
    for _ in range(draw(st.integers(0, 3))):
        row = rows[draw(st.integers(0, ranks - 1))]
        action = row.pop(draw(st.integers(0, len(row) - 1)))
        row.insert(draw(st.integers(0, len(row))), action)
    return Traffic.of(plan), rows, channels(plan)


@given(schedules())
@settings(deadline=None, max_examples=40)
def test_all_parts_pass_where_the_whole_passes_and_nowhere_else(
    case: tuple[Traffic, list[list[Action]], list[Channel]],
) -> None:
    traffic, rows, opened = case
    numbers = meetings_of([exchanges_of(traffic, rank, row) for rank, row in enumerate(rows)])
    passes = numbers is not None and parts(traffic, rows, numbers, opened)
    assert passes == whole(traffic, rows, opened)


@given(schedules(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_no_numbers_at_all_make_parts_pass_where_the_whole_does_not(
    case: tuple[Traffic, list[list[Action]], list[Channel]], draw: Any
) -> None:
    traffic, rows, opened = case
    exchanges = [exchanges_of(traffic, rank, row) for rank, row in enumerate(rows)]
    # Each message has one number, as a forger would choose it: about when it is in either row.
    about = {
        exchange.message: index + draw.choice((0, 0.25))
        for row in exchanges
        for index, exchange in enumerate(row)
    }
    order = {message: number for number, message in enumerate(sorted(about, key=about.__getitem__))}
    numbers = [[order[exchange.message] for exchange in row] for row in exchanges]
    if parts(traffic, rows, numbers, opened):
        assert whole(traffic, rows, opened)


def written(path: Path, folder: PlanFolder | None = None, **fields: Any) -> Path:
    """The hand-made plan of two stages on disk, its messages numbered."""
    folder = folder or made_folder(**fields)
    (path / "stages").mkdir(exist_ok=True)
    for stage in folder.plan.stages:
        (path / stage.file).write_text(f"class Stage{stage.index}: ...\n")
    (path / SCHEDULE).write_text(schedule_text(folder.actions))
    (path / GRAPH).write_text(made_graph().model_dump_json(exclude_unset=True))
    files = [SCHEDULE, GRAPH, *(stage.file for stage in folder.plan.stages)]
    hashes = {name: file_hash(path / name) for name in files}
    hashes |= write_meetings(path, folder.plan, folder.actions)
    write_plan(path, folder.plan.model_copy(update={"hashes": hashes}))
    return path


def rehash(path: Path, name: str, text: str) -> None:
    """Forge: change a file, and seal the plan without a check."""
    (path / name).write_text(text)
    write_plan(path, seal(path).plan)


def load(path: Path, rank: int) -> None:
    check_part(read_part(path, rank))


def test_every_rank_reads_its_own_row_and_its_peers_and_proves_them(tmp_path: Path) -> None:
    written(tmp_path)
    assert len(check(read_plan(tmp_path))) == 8
    for rank in (0, 1):
        part = read_part(tmp_path, rank)
        assert part.actions == made_actions(*ROWS)[rank]
        assert part.peers == [1 - rank]
        check_part(part)


def test_a_rank_leaves_out_rows_of_ranks_that_it_exchanges_nothing_with(tmp_path: Path) -> None:
    plan = made_plan(4)
    rows = chain_actions(plan)
    for file, text in (
        (SCHEDULE, schedule_text(rows)),
        (GRAPH, made_graph(4).model_dump_json(exclude_unset=True)),
    ):
        (tmp_path / file).write_text(text)
    (tmp_path / "stages").mkdir()
    for stage in plan.stages:
        (tmp_path / stage.file).write_text("")
    files = [SCHEDULE, GRAPH, *(stage.file for stage in plan.stages)]
    hashes = {name: file_hash(tmp_path / name) for name in files}
    hashes |= write_meetings(tmp_path, plan, rows)
    write_plan(tmp_path, plan.model_copy(update={"hashes": hashes}))
    assert sorted(read_part(tmp_path, 1).rows) == [0, 1, 2]
    assert sorted(read_part(tmp_path, 3).rows) == [2, 3]


def test_a_plan_without_numbers_is_proven_whole_by_each_rank(tmp_path: Path) -> None:
    written(tmp_path)
    plan = read_plan(tmp_path).plan
    hashes = {name: text for name, text in plan.hashes.items() if name != MEETINGS}
    write_plan(tmp_path, plan.model_copy(update={"hashes": hashes}))
    part = read_part(tmp_path, 1)
    assert len(part.rows) == 2 and not part.numbered
    check_part(part)


@pytest.mark.parametrize(
    "name", [SCHEDULE, GRAPH, MEETINGS, PARAMETERS, "plan.yaml", "stages/stage_0.py"]
)
def test_a_file_that_was_edited_is_refused_by_every_rank(tmp_path: Path, name: str) -> None:
    written(tmp_path)
    (tmp_path / name).write_text((tmp_path / name).read_text() + " ")
    for rank in (0, 1):
        if name == "plan.yaml":
            # A space changes nothing that it says; another number does.
            text = (tmp_path / name).read_text()
            (tmp_path / name).write_text(text.replace("slow-core", "slow-core2"))
        with pytest.raises(PlanError, match="was edited after the plan was written"):
            read_part(tmp_path, rank)


def test_numbers_that_do_not_rise_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    assert (tmp_path / MEETINGS).read_text() == '{"ranks": [\n[1,2,3,4],\n[1,2,3,4]\n]}\n'
    rehash(tmp_path, MEETINGS, '{"ranks": [\n[2,1,3,4],\n[2,1,3,4]\n]}\n')
    for rank in (0, 1):
        with pytest.raises(PlanError, match=r"numbers of its messages do not rise"):
            load(tmp_path, rank)


def test_numbers_of_another_schedule_are_refused(tmp_path: Path) -> None:
    written(tmp_path)
    rehash(tmp_path, MEETINGS, '{"ranks": [\n[1,2,3,4],\n[1,2,3,5]\n]}\n')
    for rank in (0, 1):
        with pytest.raises(PlanError, match="would wait for each other; pipecut check says"):
            load(tmp_path, rank)
    rehash(tmp_path, MEETINGS, '{"ranks": [\n[1,2,3],\n[1,2,3]\n]}\n')
    with pytest.raises(PlanError, match="one for each"):
        load(tmp_path, 0)


@pytest.mark.parametrize("text", ["", "{}", '{"ranks": [\n[1,true,3,4],\n["a"]\n]}\n', "[" * 9999])
def test_a_file_of_no_numbers_is_refused_in_words(tmp_path: Path, text: str) -> None:
    written(tmp_path)
    rehash(tmp_path, MEETINGS, text)
    with pytest.raises(PlanError, match=r"meetings\.json: no list of numbers for rank 0"):
        load(tmp_path, 0)


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (0, ("SEND_F 0.0, F 0.1, SEND_F 0.1", "F 0.1, SEND_F 0.1, SEND_F 0.0")),
        (1, ("RECV_F 1.0, RECV_F 1.1", "RECV_F 1.1, RECV_F 1.0")),
        (1, ("RECV_F 1.1, ", "")),
    ],
)
def test_a_forged_row_is_refused_by_its_rank_and_by_its_peer(
    tmp_path: Path, row: int, wrong: tuple[str, str]
) -> None:
    written(tmp_path)
    rows = list(ROWS)
    assert wrong[0] in rows[row]
    rows[row] = rows[row].replace(*wrong)
    rehash(tmp_path, SCHEDULE, schedule_text(made_actions(*rows)))
    for rank in (0, 1):
        with pytest.raises(PlanError):
            load(tmp_path, rank)


def test_a_compute_before_its_message_is_refused_by_its_rank(tmp_path: Path) -> None:
    written(tmp_path)
    early = ROWS[1].replace("RECV_F 1.0, RECV_F 1.1, F 1.0", "F 1.0, RECV_F 1.0, RECV_F 1.1")
    rehash(tmp_path, SCHEDULE, schedule_text(made_actions(ROWS[0], early)))
    with pytest.raises(PlanError, match=r"rank 1: 'F 1\.0' comes before what it needs"):
        load(tmp_path, 1)
    # Nothing in it is rank 0's to see; rank 1 keeps all ranks from their first step.
    load(tmp_path, 0)


def test_a_schedule_of_too_few_ranks_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    rehash(tmp_path, SCHEDULE, schedule_text(made_actions(ROWS[0])))
    for rank in (0, 1):
        with pytest.raises(PlanError, match="schedule.yaml has 1 ranks, the plan 2"):
            load(tmp_path, rank)


def test_an_edited_schedule_is_numbered_anew_by_its_seal(tmp_path: Path) -> None:
    folder = made_folder()
    late = ROWS[1].replace("RECV_F 1.0, RECV_F 1.1, F 1.0", "RECV_F 1.0, F 1.0, RECV_F 1.1")
    written(tmp_path, folder)
    (tmp_path / SCHEDULE).write_text(schedule_text(made_actions(ROWS[0], late)))
    sealed = seal(tmp_path)
    write_seal(sealed)
    for rank in (0, 1):
        part = read_part(tmp_path, rank)
        assert part.numbered
        check_part(part)


def test_a_schedule_in_another_yaml_style_reads_the_same(tmp_path: Path) -> None:
    written(tmp_path)
    lines = "".join(
        "  -\n" + "".join(f"    - {text}\n" for text in row.split(", ")) for row in ROWS
    )
    rehash(tmp_path, SCHEDULE, f"ranks:\n{lines}")
    assert read_plan(tmp_path).actions == made_actions(*ROWS)
    load(tmp_path, 1)


def test_numbers_are_compared_with_the_schedule_for_all_ranks_at_once(tmp_path: Path) -> None:
    assert numbers_of_messages(made_folder()) == []
    written(tmp_path)
    (line,) = numbers_of_messages(read_plan(tmp_path))
    assert line.startswith("4 messages have their numbers in meetings.json")
    rehash(tmp_path, MEETINGS, '{"ranks": [\n[1,2,3,4],\n[1,2,3,5]\n]}\n')
    with pytest.raises(PlanError, match="would wait for each other"):
        numbers_of_messages(read_plan(tmp_path))
