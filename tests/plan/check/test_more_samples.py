"""What a plan says of more samples is checked against its graph."""

import json

import pytest

from pipecut.errors import PlanError
from pipecut.plan.check.more_samples import more_samples_fit
from pipecut.plan.schema import Batch, LengthRange, MoreSamples
from pipecut.plan.schema.graph import PlanGraph
from tests.plans import GRAPH_DATA, made_plan

LENGTHS = {"length": LengthRange(shortest=2, longest=9)}


def check(samples: int, lengths: dict[str, int]) -> None:
    more = MoreSamples(samples=samples, lengths=lengths)
    batch = Batch(global_size=8, microbatch=2, dynamic=True, lengths=LENGTHS, more_samples=more)
    fields = {"dtype": "float32", "bytes": 8, "needs_grad": False}
    values = {
        "flag": {"shape": ["batch"], **fields},
        "padded": {"shape": ["batch", "1 + length"], **fields},
    }
    graph = PlanGraph.model_validate_json(json.dumps({**GRAPH_DATA, "values": values}))
    more_samples_fit(made_plan(1, batch=batch), graph)


def test_what_takes_no_more_passes() -> None:
    check(4, {"length": 4})
    check(5, {"length": 3})


@pytest.mark.parametrize(
    ("samples", "lengths", "message"),
    [
        (4, {"length": 5}, "'padded' has 24 numbers .* and 20 in the largest"),
        (6, {"length": 4}, "'padded' has 30 numbers"),
        (4, {}, "not those of the batch"),
        (4, {"length": 4, "other_length": 4}, "not those of the batch"),
    ],
)
def test_what_takes_more_is_refused(samples: int, lengths: dict[str, int], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check(samples, lengths)
