"""Expressions within expressions: `self.up(x).view(...)` where the model writes it so."""

import ast
import re
from dataclasses import dataclass

# A longer line has its parts in lines of their own.
WIDTH = 92
TOKEN = re.compile(r"_nested_(\d+)_")


@dataclass(frozen=True)
class Nested:
    """A call that no line has yet: its value, its code, and the `with` statements around it."""

    value: str
    code: str
    contexts: tuple[str, ...]


class Waiting:
    """Calls in their order, that wait for the line that uses them."""

    def __init__(self) -> None:
        self.calls: list[Nested] = []

    def token(self, value: str) -> str | None:
        """What stands for a waiting call's value in code that uses it."""
        at = next((at for at, call in enumerate(self.calls) if call.value == value), None)
        return None if at is None else f"_nested_{at}_"

    def nest(self, code: str, contexts: tuple[str, ...], before: int = 0) -> str | None:
        """The code with the waiting calls that it uses; None where their order would change.

        `before` is the width of what stands before it.
        What it uses must be the last ones, each once and in order, under the same statements.
        """
        used = [int(number) for number in TOKEN.findall(code)]
        count = len(self.calls)
        if used != list(range(count - len(used), count)):
            return None
        if any(self.calls[at].contexts != contexts for at in used):
            return None
        nested = TOKEN.sub(self._inserted, code)
        if used and before + len(nested) > WIDTH:
            return None
        del self.calls[count - len(used) :]
        return nested

    def _inserted(self, match: re.Match[str]) -> str:
        code = self.calls[int(match[1])].code
        before, after = match.string[: match.start()].rstrip(), match.string[match.end() :]
        argument = (not before or before[-1] in "(,[=") and (not after or after[0] in "),]")
        atoms = ast.Name, ast.Constant, ast.Attribute, ast.Call, ast.Subscript
        atom = isinstance(ast.parse(code, mode="eval").body, atoms)
        return code if argument or atom else f"({code})"
