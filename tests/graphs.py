"""Small graphs, operators and schedules, made by hand."""

from pathlib import Path
from typing import Any

from pipecut.plan.actions import ActionTable, parse_action
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.memory import peak_of
from pipecut.plan.schema import Batch, Plan
from pipecut.plan.schema.graph import GraphParameter, GraphValue, PlacedOperator, PlanGraph
from tests.plans import made_plan

# 1F1B of two stages and two microbatches.
ROWS = (
    "F 0.0, SEND_F 0.0, F 0.1, SEND_F 0.1, RECV_B 0.0, B 0.0, RECV_B 0.1, B 0.1",
    "RECV_F 1.0, RECV_F 1.1, F 1.0, B 1.0, SEND_B 1.0, F 1.1, B 1.1, SEND_B 1.1",
)


def made_actions(*rows: str) -> ActionTable:
    """Actions from their texts, a string of them per rank."""
    return ActionTable(
        tuple(parse_action(text, rank) for text in row.split(", ") if text)
        for rank, row in enumerate(rows)
    )


def made_operator(name: str, inputs: tuple[str, ...], stage: int, **fields: Any) -> PlacedOperator:
    """An operator that saves 10 bytes and takes 20 more while it runs."""
    usual = {
        "target": "aten.mm.default",
        "module": f"layers.{stage}",
        "source": "",
        "forward_seconds": {"slow-core": 1.0},
        "backward_seconds": {"slow-core": 2.0},
        "saved_bytes": 10,
        "transient_bytes": 20,
    }
    return PlacedOperator(**usual | {"name": name, "inputs": inputs, "stage": stage} | fields)


def made_graph(count: int = 2, **fields: Any) -> PlanGraph:
    """A chain: `hidden_i` comes of `hidden_i-1` and the weight of stage i; the last is the loss."""
    names = [f"hidden_{index}" for index in range(count)]
    operators = tuple(
        made_operator(name, (names[index - 1] if index else "x", f"weight_{index}"), index)
        for index, name in enumerate(names)
    )
    parameters = tuple(
        GraphParameter(
            value=f"weight_{index}", names=(f"layers.{index}.weight",), bytes=64, trainable=True
        )
        for index in range(count)
    )
    value = GraphValue(shape=("batch", 4), dtype="float32", bytes=32, needs_grad=True)
    usual = {
        "loss": names[-1],
        "operators": operators,
        "values": dict.fromkeys(names, value),
        "parameters": parameters,
        "buffers": (),
    }
    return PlanGraph(**usual | fields)


def made_folder(**fields: Any) -> PlanFolder:
    """A plan of two stages that passes the checker; nothing lies on disk."""
    batch = Batch(global_size=4, microbatch=2, dynamic=True)
    plan, actions = made_plan(2, batch=batch, **fields), made_actions(*ROWS)
    return PlanFolder(Path("plan"), with_peaks(plan, actions), actions, made_graph())


def with_peaks(plan: Plan, actions: ActionTable) -> Plan:
    """The plan with the peaks that a replay of the actions finds."""
    stages = [
        stage.model_copy(
            update={"peak_bytes": peak_of(plan, actions[stage.pipeline_rank], stage.pipeline_rank)}
        )
        for stage in plan.stages
    ]
    return plan.model_copy(update={"stages": stages})
