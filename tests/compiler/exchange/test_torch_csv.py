"""torch's schedule CSVs are read, and what is written is read by torch."""

from pathlib import Path

import pytest

from pipecut.compiler.exchange.torch_csv import csv_of, parse_csv, read_csv
from pipecut.errors import UserFileError
from tests.compiler.exchange.torch_schedules import SEVERAL, load_in_torch, torchs_csv
from tests.compiler.schedules.test_lower import lowered
from tests.graphs import made_actions

ROWS = (
    "F 0.0, SEND_F 0.0, RECV_B 0.0, I 0.0, W 0.0, REDUCE",
    "RECV_F 1.0, F 1.0, I 1.0, SEND_B 1.0, W 1.0, REDUCE",
)
MESSAGES = "0F0,0SEND_F0,0RECV_B0,0I0,0W0\n1RECV_F0,1F0,1I0,1SEND_B0,1W0\n"


def test_actions_are_written_as_torch_writes_them() -> None:
    assert csv_of(made_actions(*ROWS)) == "0F0,0I0,0W0\n1F0,1I0,1W0\n"
    assert csv_of(made_actions(*ROWS), messages=True) == MESSAGES


def test_what_was_written_is_read() -> None:
    schedule = parse_csv(MESSAGES, "x.csv")
    assert schedule.has_messages and csv_of(schedule.rows, messages=True) == MESSAGES
    assert not parse_csv(csv_of(schedule.rows), "x.csv").has_messages


def test_pauses_overlaps_and_what_a_plan_has_no_place_for() -> None:
    text = "0UNSHARD,0F0, ,(0F1;0B0)OVERLAP_F_B,0REDUCE_GRAD,0RESHARD\n\n"
    schedule = parse_csv(text, "x.csv")
    assert [list(map(str, row)) for row in schedule.rows] == [["F 0.0", "F 0.1", "B 0.0"]]
    assert list(schedule.notes()) == [
        "left out 1 UNSHARD: a stage's parameters are whole on its rank",
        "left out 1 REDUCE_GRAD: the plan's own sums come at the end",
        "left out 1 RESHARD: a stage's parameters are whole on its rank",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0,0G1", "x.csv:1: cell 2: '0G1' is no action; write it like 2F0"),
        ("0F0\n0F", "x.csv:2: cell 1: '0F' is no action"),
        ("(0F0;x)OVERLAP_F_B", "x.csv:1: cell 1: 'x' is no action"),
        ("\n ,\n", "x.csv:1: no action; give a row per rank"),
    ],
)
def test_what_is_no_action_is_named(text: str, message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        parse_csv(text, "x.csv")


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zb-h1", "v-shaped"])
def test_torch_reads_and_simulates_every_schedule(
    name: str, messages: bool, tmp_path: Path
) -> None:
    rows = lowered(name, 4, 8)
    stages = 1 + max(int(str(a).split()[1].split(".")[0]) for row in rows for a in row)
    path = tmp_path / "schedule.csv"
    path.write_text(csv_of(rows, messages))
    reader = load_in_torch(path, 4, stages, 8, messages)
    computes = [[str(a) for a in row if a.is_compute_op] for row in _in_order(reader)]
    assert computes == [line.split(",") for line in csv_of(rows).splitlines()]


def _in_order(reader):  # type: ignore[no-untyped-def]
    return [reader.pipeline_order_with_comms[rank] for rank in range(4)]


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("name", SEVERAL)
def test_every_csv_of_torch_is_read(name: str, messages: bool, tmp_path: Path) -> None:
    schedule = read_csv(torchs_csv(name, 2, 8, tmp_path / "x.csv", messages))
    assert schedule.has_messages == messages
    # Forwards and backwards of 8 microbatches on two stages of each rank.
    for row in schedule.computes:
        assert sum(c.op == "F" for c in row) == 16
        assert sum(c.op in "BI" for c in row) == 16
