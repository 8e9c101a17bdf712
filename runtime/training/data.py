"""The global batches of a training: of the user's iterable, or the job's example inputs."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pipecut.errors import RunError
from pipecut.model.batch.nesting import kind_of, members_of
from pipecut.model.functions import calling, find_function, inputs_of_plan, places_of_data
from pipecut.runtime.batches.flat import flat_batch
from pipecut.runtime.pipeline import Pipeline

# By the names of the plan's inputs.
Batch = dict[str, Any]
# In place of a batch where an iterable ends.
END = object()


def batches(pipe: Pipeline, data: str | None, plan: Path, skipped: int = 0) -> Iterator[Batch]:
    """Global batches without the first ones, of `data` ("module:function") or the example inputs.

    The iterable is made again whenever it ends. Skipped batches are drawn at once.
    """
    if data is None:
        return _examples(pipe, plan, skipped)
    source = _endless(pipe, data)
    for _ in range(skipped):
        next(source)
    return source


def batches_to_resume(
    pipe: Pipeline, data: str | None, plan: Path, skipped: int, first_state: torch.Tensor
) -> Iterator[Batch]:
    """As `batches`, with the random numbers that the training drew before it was stopped.

    Skipped batches begin with `first_state` of the generator, as the training did; later ones go on
    with the state that was restored from the checkpoint.
    """
    restored = torch.get_rng_state()
    torch.set_rng_state(first_state)
    source = batches(pipe, data, plan, skipped)
    if not torch.equal(restored, first_state):
        torch.set_rng_state(restored)
    return source


def batches_once(pipe: Pipeline, data: str, option: str) -> Iterator[Batch]:
    """The batches of `data` ("module:function"), which `option` asks for, from first to last.

    Ranks compare how many there are, where that is known. Raises RunError, UserFileError.
    """
    function = find_function(data, places_of_data(pipe.plan.model), option)
    where = f"rank {pipe.world.rank}: {option} {data}"
    with calling(where, RunError):
        iterable = _checked_iterable(function(), where)
    pipe.same_batches.same_length(iterable)
    count = 0
    for batch in _once(iterable, where):
        count += 1
        yield flat_batch(pipe.plan, batch, where)
    if not count:
        raise RunError(f"{where} gave no batch")


def _examples(pipe: Pipeline, plan: Path, index: int) -> Iterator[Batch]:
    model = pipe.plan.model
    inputs = inputs_of_plan(model)
    where = f"rank {pipe.world.rank}: inputs {model.inputs}"
    while True:
        # Every rank must see the same batch, and what the model draws must not depend on it.
        with torch.random.fork_rng(devices=[]), calling(where, RunError):
            torch.manual_seed(index)
            batch = inputs(pipe.plan.batch.global_size)
        index += 1
        yield flat_batch(pipe.plan, members_of(batch), where)


def takes_shard(function: Callable[..., Any]) -> bool:
    """Whether a function must be given which part of the batches it is to read."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return [p.name for p in parameters if p.default is p.empty][:2] == ["rank", "count"]


def _endless(pipe: Pipeline, data: str) -> Iterator[Batch]:
    """The batches of an iterable again and again; ranks are compared where it ends.

    A function of `rank` and `count` gives those of this replica alone.
    """
    function = find_function(data, places_of_data(pipe.plan.model), "--data")
    where = f"rank {pipe.world.rank}: --data {data}"
    sharded = takes_shard(function)
    shard = pipe.read_shards(sharded)
    drawn = 0
    while True:
        with calling(where, RunError):
            source = function(shard.rank, shard.count) if sharded else function()
            iterable = _checked_iterable(source, where)
        if not drawn:
            pipe.same_batches.same_length(iterable)
        drawn_before = drawn
        for batch in _once(iterable, where):
            drawn += 1
            yield flat_batch(pipe.plan, batch, where)
        if drawn == drawn_before:
            raise RunError(f"{where} gave no batch")
        pipe.same_batches.data_ended(drawn)


def _once(iterable: Iterable[Any], where: str) -> Iterator[dict[Any, Any]]:
    with calling(where, RunError):
        source: Iterator[Any] = iter(iterable)
    while True:
        with calling(where, RunError):
            batch = next(source, END)
        if batch is END:
            return
        if kind_of(batch) in (None, "list", "tuple"):
            kind = type(batch).__name__
            raise RunError(f"{where} gave a {kind}; it must give dictionaries of tensors")
        yield members_of(batch)


def _checked_iterable(source: Any, where: str) -> Iterable[Any]:
    if isinstance(source, Mapping) or not hasattr(source, "__iter__"):
        kind = type(source).__name__
        raise RunError(
            f"{where} gave a {kind}; it must give an iterable of batches, such as a list"
        )
    iterable: Iterable[Any] = source
    return iterable
