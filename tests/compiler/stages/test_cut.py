"""A placement is cut into what each stage holds, receives and sends."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler.graph import Output
from pipecut.compiler.stages.cut import batch_inputs_of, cut
from pipecut.text_table import ranges
from tests.compiler.chain_graphs import (
    chain,
    made_buffer,
    made_operator,
    made_parameter,
    made_value,
)


def on(*stages: int) -> list[tuple[int]]:
    """A placement with each operator on one stage."""
    return [(stage,) for stage in stages]


def test_a_value_crosses_every_boundary_up_to_its_last_user() -> None:
    graph = chain(3)
    skip = made_operator("skip", "aten.add.Tensor", "linear_0", "linear_2")
    operators = (*graph.operators[:3], skip, graph.operators[3])
    graph = replace(graph, operators=operators, values={**graph.values, "skip": made_value("skip")})
    first, second, third = cut(graph, on(0, 1, 2, 2, 2), 3)
    assert first.receives == () and first.sends == ("linear_0",)
    assert second.receives == ("linear_0",) and second.sends == ("linear_0", "linear_1")
    assert third.receives == ("linear_0", "linear_1") and third.sends == ()


def test_stages_hold_the_parameters_of_their_operators() -> None:
    first, second = cut(chain(3, tied=True), on(0, 0, 1, 1), 2)
    assert [p.value for p in first.parameters] == ["weight_0", "weight_1"]
    assert [p.value for p in second.parameters] == ["weight_0"]


def test_what_nobody_uses_is_held_by_the_first_stage() -> None:
    graph = replace(
        chain(2),
        parameters=(*chain(2).parameters, made_parameter("unused", "unused.weight")),
        buffers=(made_buffer("idle", "idle"),),
    )
    first, second = cut(graph, on(0, 1, 1), 2)
    assert "unused" in first.held and "idle" in first.held
    assert not {"unused", "idle"} & second.held


def test_what_every_user_makes_for_itself_does_not_cross() -> None:
    graph = chain(2)
    first, second = cut(graph, [(0, 1), (1,), (1,)], 2)
    assert first.operators == (0,) and second.operators == (0, 1, 2)
    assert first.sends == () and second.receives == ()
    # Both make it, so both take the batch.
    assert first.batch_inputs == second.batch_inputs == ("x",)


def test_the_loss_reaches_the_last_stage() -> None:
    first, second = cut(chain(1), on(0, 0), 2)
    assert first.sends == ("loss",) == second.receives


def test_an_output_is_handed_out_where_it_is_first_made() -> None:
    graph = replace(chain(2), outputs=(Output("hidden", "linear_0"), Output("scores", "linear_1")))
    first, second = cut(graph, on(0, 1, 1), 2)
    assert [output.name for output in first.outputs] == ["hidden"]
    assert [output.name for output in second.outputs] == ["scores"]


def test_a_part_that_sees_no_batch_size_gets_an_input_to_read_it_off() -> None:
    graph = chain(1)
    assert batch_inputs_of(graph, (), set()) == ("x",)
    assert batch_inputs_of(graph, ("linear_0",), set()) == ()
    assert batch_inputs_of(replace(graph, dynamic=False), (), set()) == ()


def test_a_cut_prints_what_the_stage_has() -> None:
    stage = cut(chain(2, tied=True), on(0, 1, 1), 2)[1]
    assert str(stage).splitlines() == [
        "stage 1",
        "  operators   1-2",
        "  receives    linear_0",
        "  parameters  layers.0.weight = layers.1.weight",
    ]
    assert str(replace(stage, evaluation=stage)).splitlines()[4:6] == [
        "  in eval mode",
        "    operators   1-2",
    ]


@given(st.lists(st.integers(0, 3), min_size=4, max_size=4).map(sorted).filter(lambda s: s[0] == 0))
def test_every_operator_finds_its_inputs_on_its_stage(stages: list[int]) -> None:
    graph = chain(3, tied=True)
    for stage in cut(graph, on(*stages), 4):
        made = {graph.operators[index].name for index in stage.operators}
        available = made | stage.held | set(stage.receives) | set(stage.batch_inputs)
        for index in stage.operators:
            assert set(graph.operators[index].inputs) <= available
        assert set(stage.sends) <= available


@given(st.sets(st.integers(0, 30)))
def test_ranges_say_every_number_once(numbers: set[int]) -> None:
    said: list[int] = []
    for text in ranges(sorted(numbers)):
        first, _, last = text.partition("-")
        said += range(int(first), int(last or first) + 1)
    assert said == sorted(numbers)
