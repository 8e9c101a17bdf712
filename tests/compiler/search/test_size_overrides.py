"""Sizes over the job's own: what is no size is refused where it is given."""

from typing import Any

import pytest

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.search.sizes import SizeOverrides
from pipecut.errors import UserFileError


def test_auto_is_written_in_three_ways() -> None:
    sizes = SizeOverrides(stages="auto", replicas=0, microbatch=AUTO, schedule="auto")  # type: ignore[arg-type]
    assert {sizes.stages, sizes.replicas, sizes.microbatch, sizes.schedule} == {AUTO}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stages": -1}, "stages -1: must be a number from 1, or auto"),
        ({"stages": "x"}, "stages 'x': must be a number"),
        ({"microbatches": 0}, "microbatches 0"),
        ({"stages_per_rank": 1.5}, "stages_per_rank 1.5"),
        ({"schedule": "chimera"}, "schedule 'chimera': must be gpipe, .* or auto"),
        ({"microbatch": 2, "microbatches": 4}, "microbatch or microbatches, not both"),
    ],
)
def test_what_is_no_size_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        SizeOverrides(**wrong)
