"""What a plan cannot combine."""

import re

import pytest

from pipecut.plan.rules import Combination, conflict_of


@pytest.mark.parametrize(
    ("asked", "why", "key"),
    [
        (
            Combination(replicas=2, writes_buffers=True),
            "data_parallel 2: the model changes buffers in its forward, .* would drift apart",
            "data_parallel",
        ),
        (
            Combination(compiled=True, split="zb-h1"),
            "zb-h1 splits the backward of a stage, which compiled stages do not allow",
            "compile",
        ),
        (
            Combination(compiled=True, draws="dropout of layers.0"),
            "dropout of layers.0 draws random numbers, and compiled code draws other numbers",
            "compile",
        ),
    ],
)
def test_a_conflict_names_the_key_that_asks_for_it(asked: Combination, why: str, key: str) -> None:
    conflict = conflict_of(asked)
    assert conflict is not None and conflict.key == key and conflict.remedy.startswith("use ")
    assert re.match(why, conflict.why)


@pytest.mark.parametrize(
    "asked",
    [
        Combination(),
        Combination(replicas=4),
        Combination(writes_buffers=True),
        Combination(split="v-shaped", draws="dropout", replicas=2),
        Combination(compiled=True, replicas=2),
    ],
)
def test_what_can_be_combined_has_no_conflict(asked: Combination) -> None:
    assert conflict_of(asked) is None
