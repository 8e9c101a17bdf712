"""Batches of the user's iterable come again and again; what is none is refused by its name."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipecut.errors import RunError
from pipecut.runtime.ranks.agree.meeting import Meeting
from pipecut.runtime.ranks.agree.same_batches import SameBatches, Shard
from pipecut.runtime.training.data import batches, batches_to_resume
from tests.chain import chain_worlds
from tests.plans import made_plan

SOURCES = "tests.models.sources"


def pipe() -> Any:
    """What the data needs of a pipeline of one rank."""
    plan = made_plan(1)
    model = plan.model.model_copy(update={"inputs": f"{SOURCES}:inputs"})
    (world,) = chain_worlds(plan)
    same_batches = SameBatches(Meeting(0, 1), world.status)
    plan = plan.model_copy(update={"model": model})
    read = SimpleNamespace(sharded=False)

    def read_shards(sharded: bool) -> Shard:
        read.sharded = sharded
        return Shard(1, 2)

    return SimpleNamespace(
        plan=plan, world=world, same_batches=same_batches, read_shards=read_shards, read=read
    )


def source(name: str | None, skipped: int = 0) -> Any:
    return batches(pipe(), name and f"{SOURCES}:{name}", Path("plan"), skipped)


def test_an_iterable_is_made_again_when_it_ends() -> None:
    torch.manual_seed(0)
    random = source("pair")
    drawn = [next(random)["x"] for _ in range(5)]
    assert len({float(x.sum()) for x in drawn}) == 5, "each pass draws anew"
    endless = source("ones")
    assert all(torch.equal(next(endless)["x"], torch.ones(8, 4)) for _ in range(3))


def test_a_function_of_rank_and_count_gives_the_part_of_the_replica() -> None:
    asked = pipe()
    part = next(batches(asked, f"{SOURCES}:sharded", Path("plan")))["x"]
    assert asked.read.sharded and torch.equal(part, torch.arange(16.0, 32.0).view(4, 4))
    next(batches(asked, f"{SOURCES}:ones", Path("plan")))
    assert not asked.read.sharded


def test_skipped_batches_are_drawn_and_left_out() -> None:
    torch.manual_seed(0)
    everything = source("pair")
    expected = [next(everything)["x"] for _ in range(4)][3]
    torch.manual_seed(0)
    assert torch.equal(next(source("pair", skipped=3))["x"], expected)


def test_example_inputs_depend_on_their_number_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    examples = source(None)
    drawn = [next(examples)["x"] for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), state), "what the model draws does not depend on it"
    assert torch.equal(next(source(None, skipped=2))["x"], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_a_resumed_training_draws_what_it_drew_before() -> None:
    torch.manual_seed(0)
    first = torch.get_rng_state()
    whole = source("pair")
    expected = [next(whole)["x"] for _ in range(2)][1]
    torch.manual_seed(9)
    restored = torch.get_rng_state()
    resumed = batches_to_resume(pipe(), f"{SOURCES}:pair", Path("plan"), 1, first)
    assert torch.equal(torch.get_rng_state(), restored)
    assert torch.equal(next(resumed)["x"], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", "gave a int; it must give an iterable of batches, such as a list"),
        ("mapping", "gave a dict; it must give an iterable of batches"),
        ("nothing", "gave no batch"),
        ("lists", "gave a list; it must give dictionaries of tensors"),
        ("arrays", "input 'x' is a ndarray"),
        ("leaving", r"failed at .*sources.py:\d+: SystemExit: 3"),
    ],
)
def test_what_gives_no_batches_is_refused(name: str, message: str) -> None:
    with pytest.raises(RunError, match=f"^rank 0: --data {SOURCES}:{name}:? {message}"):
        next(source(name))


def test_an_error_of_the_users_code_names_its_line() -> None:
    failing = source("failing")
    next(failing)
    with pytest.raises(RunError, match=r"failed at .*sources.py:\d+: KeyError: 'no file of"):
        next(failing)
