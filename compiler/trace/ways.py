"""Ways to run a model while it is traced, the one closest to training first.

At first no way knows the example batch, so that a plan serves any. Where a value is asked for that
only the batch tells, the ways are tried again with it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from pipecut.compiler.trace.batch import ExampleBatch
from pipecut.compiler.trace.watch.choices import Choices
from pipecut.compiler.trace.watch.eager_paths import eager_paths
from pipecut.compiler.trace.watch.known_values import Given
from pipecut.compiler.trace.watch.read_number import ReadNumber
from pipecut.compiler.trace.watch.value_reads import Counting, ValueReads
from pipecut.model.unsplit import WithLoss

Enter = Callable[[ValueReads], AbstractContextManager[Any]]


def _answered(reads: ValueReads) -> AbstractContextManager[Any]:
    return reads


def _alone(reads: ValueReads) -> AbstractContextManager[Any]:
    return Counting(reads.choices)


# In torch's own words, where a function of C++ takes no other numbers than Python's.
NOT_PLAIN = ReadNumber.__name__
ENTERS: tuple[Enter, ...] = (eager_paths, _answered, _alone)


@dataclass
class Way:
    """One way: `around` goes around a forward. `error` is why it failed, for who tries to set."""

    enter: Enter
    model: WithLoss
    given: Given | None = None
    plain: bool = False
    choices: Choices = field(default_factory=Choices)
    error: BaseException | None = None

    @contextmanager
    def around(self, batch: dict[str, Any]) -> Iterator[None]:
        """Around a forward of a batch, by the user's names."""
        self.choices.begin()
        reads = ValueReads(self.choices, self.given, self.plain)
        if self.given is not None:
            reads.values.note_given(batch, self.given.batch)
            reads.values.note_given(dict(self.model.named_buffers()), self.given.buffers)
        sizes = self.choices.of_sizes.answering() if self.given is not None else nullcontext()
        with self.enter(reads), sizes:
            yield

    @property
    def lacked_a_value(self) -> bool:
        """Whether it failed, and asked for a value that nothing told."""
        if self.error is None:
            return False
        by_torch = isinstance(self.error, GuardOnDataDependentSymNode)
        return by_torch or bool(self.choices.unanswered)


def ways(
    model: WithLoss, batch: ExampleBatch, by_example: bool, first: Enter = ENTERS[0]
) -> Iterator[Way]:
    """Ways to try until one succeeds; with `by_example` those alone that know the batch.

    `first` is tried before others: what traced the model in training mode.
    """
    enters = sorted(ENTERS, key=lambda enter: enter is not first)
    # Those to which a value would be no help.
    failed: set[Enter] = set()
    if not by_example:
        for enter in enters:
            way = Way(enter, model)
            yield way
            by_example |= way.lacked_a_value
            failed |= set() if way.lacked_a_value else {enter}
    if by_example:
        given = Given(batch.tensors, _real_buffers(model))
        for enter in enters:
            # The last one of all answers nothing.
            if enter in failed or enter is ENTERS[-1]:
                continue
            way = Way(enter, model, given)
            yield way
            if NOT_PLAIN in str(way.error):
                yield Way(enter, model, given, plain=True)


def _real_buffers(model: WithLoss) -> dict[str, torch.Tensor]:
    return {name: buffer for name, buffer in model.named_buffers() if not buffer.is_meta}
