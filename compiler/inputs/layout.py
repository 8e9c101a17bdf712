"""Megatron's layout string: which layers each stage has, such as `Et*3|(tt|)*29,m|L`.

`E` is the embedding, `t` a layer, `L` the head with the loss; `|` ends a stage, `*3` repeats what
is before it, a letter or a group in parentheses. Commas and spaces say nothing. Stages are counted
as under the interleaved schedule: the first of every rank, then the second ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

EMBEDDING, LAYER, HEAD = "E", "t", "L"
# In place of a job's own layout: none.
NO_LAYOUT = ""
# Characters of a layout once all is written out.
MOST_CHARACTERS = 100_000


@dataclass(frozen=True)
class Layout:
    """The letters of each stage. Prints as a string with runs shortened."""

    stages: tuple[str, ...]

    @property
    def layers(self) -> int:
        """Layers of all stages."""
        return sum(stage.count(LAYER) for stage in self.stages)

    @property
    def stage_of_layer(self) -> list[int]:
        """The stage of each layer."""
        return [index for index, stage in enumerate(self.stages) for _ in range(stage.count(LAYER))]

    def stage_with(self, letter: str) -> int:
        """The stage that has the embedding, or the head."""
        return next(index for index, stage in enumerate(self.stages) if letter in stage)

    def __str__(self) -> str:
        parts = []
        last = len(self.stages) - 1
        for stage, run in groupby(range(last + 1), key=lambda index: self.stages[index]):
            indices = list(run)
            text = _shortened(stage)
            # The bar behind the last stage is left out.
            count = len(indices) - (indices[-1] == last)
            parts.append(f"({text}|)*{count}" if count > 2 else f"{text}|" * count)
            parts.append(text if indices[-1] == last else "")
        return "".join(parts)


def _shortened(stage: str) -> str:
    runs = [(letter, len(list(run))) for letter, run in groupby(stage)]
    return "".join(f"{letter}*{count}" if count > 3 else letter * count for letter, count in runs)


def parse_layout(text: str) -> Layout:
    """The layout that a string stands for. Raises ValueError that says what is wrong with it."""
    plain = text.replace(",", "").replace(" ", "")
    written, end = _items(plain, 0, "")
    if end < len(plain):
        raise ValueError(f"{text!r}: ')' without a '(' before it")
    stages = tuple(written.split("|"))
    for problem in _problems(stages):
        raise ValueError(f"{text!r}: {problem}")
    return Layout(stages)


def checked_layout(text: str) -> str:
    """The string itself. Raises ValueError where it is no layout."""
    parse_layout(text)
    return text


def _items(text: str, at: int, close: str) -> tuple[str, int]:
    """What stands from a position to `close`, written out, and the position behind that."""
    parts: list[str] = []
    while at < len(text) and text[at] != ")":
        if text[at] == "(":
            part, at = _items(text, at + 1, ")")
        else:
            part, at = text[at], at + 1
        times, at = _times(text, at)
        if sum(map(len, parts)) + len(part) * times > MOST_CHARACTERS:
            raise ValueError(f"{text!r} stands for more than {MOST_CHARACTERS:,} letters")
        parts.append(part * times)
    if close and at == len(text):
        raise ValueError(f"{text!r}: '(' without a ')' behind it")
    return "".join(parts), at + len(close)


def _times(text: str, at: int) -> tuple[int, int]:
    """The number behind a `*`, 1 without one, and the position behind it."""
    if not text.startswith("*", at):
        return 1, at
    end = at + 1
    while end < len(text) and text[end].isdecimal():
        end += 1
    digits = text[at + 1 : end].lstrip("0")
    if end == at + 1:
        raise ValueError(f"{text!r}: '*' needs a number behind it, such as t*3")
    if len(digits) > len(str(MOST_CHARACTERS)):
        raise ValueError(f"{text!r} stands for more than {MOST_CHARACTERS:,} letters")
    return int(digits or "0"), end


def _problems(stages: Sequence[str]) -> Iterator[str]:
    letters = "".join(stages)
    if "m" in letters:
        yield "'m', a layer that predicts more tokens, is not told from others; leave it out"
    for letter in letters:
        if letter not in (EMBEDDING, LAYER, HEAD):
            yield f"'{letter}' is none of E (embedding), t (layer), L (head and loss)"
    if "" in stages:
        yield f"stage {stages.index('')} has nothing; give each stage a letter"
    if letters.count(EMBEDDING) != 1 or not letters.startswith(EMBEDDING):
        yield "it must begin with the one E, the embedding"
    if letters.count(HEAD) != 1 or not letters.endswith(HEAD):
        yield "it must end with the one L, the head and the loss"
    if LAYER not in letters:
        yield "it has no layer, t"
