"""A problem that was read from a file, and what the file calls its operators."""

from dataclasses import dataclass
from typing import Any

from pipecut.compiler.partition.problem import Problem


@dataclass(frozen=True)
class NamedProblem:
    """`names` has a node's id, or an operator's name, for each operator index.

    `estimated` says for which devices costs were estimated, where the file has none.
    """

    problem: Problem
    names: list[Any]
    estimated: str = ""
