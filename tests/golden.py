"""Golden texts: what a value prints, kept under tests/golden and compared line by line."""

import difflib
import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
CHECKOUT = Path(__file__).resolve().parent.parent
REWRITE = "make golden (or PIPECUT_GOLDEN=write python -m pytest and the test's name)"


def check_golden(name: str, text: str) -> None:
    """Raises AssertionError with a diff where tests/golden/`name`.txt is missing or differs.

    With PIPECUT_GOLDEN=write in the environment the file is rewritten instead.
    """
    path = FOLDER / f"{name}.txt"
    # Stage code names the file and line of an operator, wherever the checkout is.
    text = text.replace(f"{CHECKOUT}/", "")
    # Trailing spaces of table columns would not survive an editor.
    text = "\n".join(line.rstrip() for line in text.strip("\n").splitlines()) + "\n"
    if os.environ.get("PIPECUT_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return
    expected = path.read_text() if path.exists() else ""
    if text == expected:
        return
    diff = difflib.unified_diff(
        expected.splitlines(),
        text.splitlines(),
        f"tests/golden/{name}.txt" if path.exists() else "no golden file",
        "this run",
        lineterm="",
    )
    # No exception of pytest's own, so that the diff is printed as it is.
    raise AssertionError("\n".join(["", *diff, f"Rewrite it, then read git diff: {REWRITE}"]))
