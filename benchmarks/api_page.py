"""docs/api.md, from the signatures and docstrings of what users import.

python -m benchmarks.api_page            write it
python -m benchmarks.api_page --check    fail where it would change
"""

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

from benchmarks.figures import ROOT
from benchmarks.markdown import markdown_table
from pipecut import errors
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.model.plan_optimizer import PlanOptimizer
from pipecut.plan.folder import PlanFolder
from pipecut.runtime import load
from pipecut.runtime.pipeline import Pipeline

PAGE = ROOT / "docs" / "api.md"
WIDTH = 100
COMMAND = "python -m benchmarks.api_page"
HEAD = f"""# API

<!-- Written by {COMMAND} from signatures and docstrings. -->

    import pipecut

    pipecut.compile("job.yaml", "cluster.yaml", "plan")
    pipe = pipecut.load("plan")                    # on each rank, under torchrun

Of a class the fields are shown, with their defaults.
"""


def sections() -> Iterator[str]:
    """The page, part by part."""
    yield HEAD
    yield "## Compile\n"
    yield entry("pipecut.compile", compile)
    yield entry("pipecut.compiler.Options", Options)
    yield entry("pipecut.compiler.SizeOverrides", SizeOverrides)
    yield entry("pipecut.plan.folder.PlanFolder", PlanFolder)
    yield "## Load\n"
    yield entry("pipecut.load", load)
    yield "## Pipeline\n"
    yield f"{text_of(Pipeline)}\n"
    for name, method in vars(Pipeline).items():
        if not name.startswith("_") and callable(method):
            yield entry(f"Pipeline.{name}", method)
    yield "## The job's optimizer\n"
    yield entry("PlanOptimizer.step", PlanOptimizer.step)
    yield "## Errors\n"
    rows = [
        (f"`pipecut.errors.{name}`", str(error.exit_code), text_of(error, " "))
        for name, error in vars(errors).items()
        if isinstance(error, type) and issubclass(error, errors.PipecutError)
    ]
    yield markdown_table(("error", "exit code", "meaning"), rows)


def entry(name: str, thing: Any) -> str:
    """A heading with the signature, then the docstring."""
    return f"### {name}\n\n{signature_of(name, thing)}\n\n{text_of(thing)}\n"


def signature_of(name: str, thing: Any) -> str:
    """The call as a code block, of a dataclass or a long one with a line for each parameter."""
    signature = inspect.signature(thing)
    parameters = [readable(p) for p in signature.parameters.values() if p.name != "self"]
    end = ""
    if not is_dataclass(thing) and signature.return_annotation is not signature.empty:
        end = " -> " + readable(signature.return_annotation)
    call = f"{name}({', '.join(parameters)}){end}"
    if is_dataclass(thing) or len(call) > WIDTH:
        call = "\n".join(
            [f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){end}"]
        )
    return f"```python\n{call}\n```"


def readable(code: object) -> str:
    """Names without their modules, and functions by their names."""
    text = code if isinstance(code, str) else inspect.formatannotation(code)
    if isinstance(code, inspect.Parameter):
        text = str(code)
    text = re.sub(r"<function (\w+) at \w+>", r"\1", text)
    text = re.sub(r"\b(?:[a-z_]\w*\.)+(\w+)", r"\1", text)
    return re.sub(r": (\w+) = <factory>", r": \1 = \1()", text)


def text_of(thing: Any, newline: str = "\n") -> str:
    """The docstring."""
    return newline.join((inspect.getdoc(thing) or "").splitlines())


def page() -> str:
    """docs/api.md."""
    return "\n".join(sections()).rstrip() + "\n"


def main() -> None:
    """Write the page, or fail where it would change."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"docs/api.md differs from the docstrings: run {COMMAND}")


if __name__ == "__main__":
    main()
