"""Python state that moves on from one forward to the next, though a plan holds one forward only."""

import re
from typing import Any

from torch import nn

from pipecut.compiler.trace.rehearse.own_code import is_own, line_that_reads, modules_of
from pipecut.compiler.trace.rehearse.python_state import PythonState
from pipecut.errors import TraceError


def refuse_moving(after_first: PythonState, remedy: str, model: nn.Module, *functions: Any) -> None:
    """Raises TraceError where later forwards on the same sizes changed what the first one had left.

    What is only written, as for a log, may change. `functions` are others than the model's own
    that forward calls.
    """
    modules = [m for m in modules_of(model, *functions) if is_own(m)]
    for path in PythonState.of(model, *functions).change_from(after_first):
        names = re.findall(r"\w+", re.sub(r" \(.*", "", path))
        is_container = path.endswith((")", "]"))
        lines = [line_that_reads(name, modules) for name in names[::-1][: 2 if is_container else 1]]
        line = next(filter(None, lines), "")
        if line:
            raise TraceError(
                f"'{path}' changes from one forward to the next ({line} reads it), {remedy}"
            )
