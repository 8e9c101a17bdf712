"""explain.json has what a search compared."""

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.emit.explanation import explanation_of
from pipecut.compiler.search.search import Chosen
from pipecut.compiler.search.trial import Sensitivity, Trial

SIZES = Candidate(2, 1, 2, 4, "1f1b")


def test_nothing_compared_is_nothing_to_explain() -> None:
    assert explanation_of(Chosen(SIZES)) is None


def test_candidates_and_limits_are_kept_in_order() -> None:
    placed = Trial(SIZES, 0.5, 0.75, 0.25, recomputing=1, why="placed")
    lost = Trial(Candidate(4, 1, 2, 4, "gpipe"), 0.9, why="cannot beat 900 ms")
    limits = (Sensitivity("one more device", 0.5), Sensitivity("10% more memory", None))
    explanation = explanation_of(Chosen(SIZES, (placed, lost), limits))
    assert explanation is not None
    first, second = explanation.candidates
    assert (first.chosen, first.step_seconds, first.bubble, first.recomputing) == (
        True,
        0.75,
        0.25,
        1,
    )
    assert (second.chosen, second.step_seconds, second.why) == (False, None, "cannot beat 900 ms")
    assert [(row.limit, row.step_seconds) for row in explanation.limits] == [
        ("one more device", 0.5),
        ("10% more memory", None),
    ]
