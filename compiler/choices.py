"""What a model chose by a tensor's value while it was traced, and what checks it in a run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A condition, as the model's source has it, and the answer that the trace went on with.

    `source` is its file:line. `only_raises` says that the model raises an error otherwise,
    `from_values` that the answer was read off the values of the example batch and of buffers, in
    place of what is usual.
    """

    words: str
    source: str
    answer: bool
    only_raises: bool = False
    from_values: bool = False

    def __str__(self) -> str:
        """`labels.max() >= 10 is False (model.py:7)`."""
        return f"{self.words} is {self.answer} ({self.source})"


@dataclass(frozen=True)
class Check:
    """`value` is a boolean of the graph, which is the choice's answer or the graph is wrong."""

    value: str
    choice: Choice

    def __str__(self) -> str:
        """`labels.max() >= 10 is False (model.py:7): ge_1`."""
        return f"{self.choice}: {self.value}"
