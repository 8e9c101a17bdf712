"""Answers a model that chooses by a size that depends on data while it is traced.

The answer is the one that all sizes from two on have. A run checks it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import sympy
import torch

from pipecut.compiler.trace.lower.dimensions import follows_data
from pipecut.compiler.trace.watch.raising import condition_at
from pipecut.compiler.trace.watch.reading_frame import place_of, reading_frame, within

# What sizes are tried as: where these differ in their answer, there is none.
USUALLY = (2, 3, 5, 8, 1000)


@dataclass(frozen=True)
class AskedSize:
    """A condition on sizes, in the trace's symbols, with the answer that the trace went on with.

    `words` are those of the model's source, `place` its file:line.
    """

    expression: Any
    answer: bool
    words: str
    place: str

    @property
    def held(self) -> Any:
        """The condition that the trace takes for granted."""
        return self.expression if self.answer else sympy.Not(self.expression)


@dataclass
class AskedSizes:
    """The conditions of one trace."""

    made: list[AskedSize] = field(default_factory=list)

    def begin(self) -> None:
        """A trace begins, maybe once more."""
        self.made.clear()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Around a forward that is traced."""
        answer_of: Callable[[torch.SymBool], bool] = torch.SymBool.__bool__

        def answer(asked: torch.SymBool) -> bool:
            answer = self._answer(asked)
            if answer is None:
                return answer_of(asked)
            frame = reading_frame()
            words = f"{condition_at(frame).words or 'a size'}{within(frame)}"
            self.made.append(AskedSize(asked.node.expr, answer, words, place_of(frame)))
            # From here on the trace takes it for granted.
            check: Any = torch._check
            check(asked if answer else _not(asked))
            return answer

        with mock.patch.object(torch.SymBool, "__bool__", answer):
            yield

    def _answer(self, asked: torch.SymBool) -> bool | None:
        """The answer; None where the trace itself has one, or sizes differ in theirs."""
        expression: Any = getattr(asked.node, "expr", None)
        symbols = getattr(expression, "free_symbols", ())
        if not any(map(follows_data, symbols)):
            return None
        environment: Any = asked.node.shape_env
        if environment._maybe_evaluate_static(expression) is not None:
            return None
        hints = environment.backed_var_to_val
        answers = set()
        for usual in USUALLY:
            sizes = {symbol: hints.get(symbol, usual) for symbol in symbols}
            answers.add(bool(expression.subs(sizes)))
        return answers.pop() if len(answers) == 1 else None


def _not(asked: torch.SymBool) -> torch.SymBool:
    symbolic: Any = torch.SymBool
    return symbolic(asked.node.sym_not())  # type: ignore[no-any-return]
