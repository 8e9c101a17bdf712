"""Two plans side by side: figures, what moved, and what each has alone."""

from dataclasses import replace
from typing import Any

from pipecut.plan.folder import PlanFolder
from pipecut.plan.schema import Prediction
from pipecut.view.diff import Choice, Figure, Move, Segment, choices_of, diff_of, figures_of
from tests.graphs import made_folder, made_graph, made_operator
from tests.plans import made_plan


def chain(*stages: int, **fields: Any) -> PlanFolder:
    """A plan of operators a, b, ... on these stages; each takes 3 s, in a layer of its own."""
    operators = tuple(
        made_operator("abcd"[index], (), stage, module=f"h.{index}.mlp")
        for index, stage in enumerate(stages)
    )
    return replace(made_folder(**fields), graph=made_graph(operators=operators))


def test_there_is_nothing_to_compare_with_nothing() -> None:
    assert diff_of(made_folder(), None) is None


def test_layers_that_are_on_another_stage_have_moved() -> None:
    diff = diff_of(chain(0, 0, 1, 1), chain(0, 1, 1, 1))
    assert diff is not None
    assert diff.moves == (Move(0, 1, ("h.1",), 1, 3.0),)
    assert diff.segments == (
        Segment(0, 0, 1, 3.0, "h.0.mlp: a", "h.0.mlp: a"),
        Segment(0, 1, 1, 3.0, "h.1.mlp: b", "h.1.mlp: b"),
        Segment(1, 1, 2, 6.0, "h.2.mlp: c", "h.3.mlp: d"),
    )
    assert (diff.here, diff.there) == (0, 0)


def test_operators_that_a_plan_has_alone_are_counted() -> None:
    diff = diff_of(chain(0, 0, 1), chain(0, 1, 1, 1))
    assert diff is not None and (diff.here, diff.there) == (0, 1)
    other = replace(chain(0), graph=made_graph())
    apart = diff_of(chain(0, 0), other)
    assert apart is not None and (apart.here, apart.there) == (2, 2)
    assert apart.segments == apart.moves == ()


def test_equal_plans_moved_nothing() -> None:
    diff = diff_of(chain(0, 1), chain(0, 1))
    assert diff is not None and not diff.moves and not diff.choices
    assert all(figure.this == figure.other for figure in diff.figures)


def test_figures_and_choices_that_differ() -> None:
    plan = made_plan(2)
    other = made_plan(3, prediction=Prediction(step_seconds=12.0, bubble=0.4), schedule="gpipe")
    figures = {figure.name: figure for figure in figures_of(plan, other)}
    assert figures["predicted step"] == Figure("predicted step", "seconds", 15.0, 12.0, True)
    assert figures["seconds per sample"].this == 15.0 / 8
    assert (figures["stages"].this, figures["stages"].other) == (2, 3)
    assert (figures["sent per microbatch"].this, figures["sent per microbatch"].other) == (32, 64)
    assert choices_of(plan, other) == (Choice("schedule", "1f1b", "gpipe"),)
