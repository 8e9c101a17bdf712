"""The rules of the house: who may import whom, sizes of folders, lines and functions."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx
import pytest

from benchmarks import house

ROOT = Path(__file__).resolve().parent.parent
OTHER_CODE = ("benchmarks", "examples", "tests")


@cache
def measured() -> house.House:
    """The code under pipecut, compiler and runtime."""
    return house.measure(ROOT)


@cache
def modules() -> dict[str, Path]:
    """Dotted name of each module, as it is imported, to its file."""
    files = {}
    for path in house.python_files(ROOT, house.CODE):
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts if parts[0] == "pipecut" else ("pipecut", *parts)
        files[".".join(parts).removesuffix(".__init__")] = path
    return files


def imported(module: str) -> Iterator[str]:
    """Modules of the house that a module imports anywhere, within functions as well."""
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules() else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """Who imports whom, within the house."""
    return frozenset(
        (module, other)
        for module in modules()
        for other in imported(module)
        if other in modules() and other != module
    )


def room(module: str) -> str:
    """The folder of a module, with its subfolders; a file beside the rooms is a room by itself."""
    parts = module.split(".")
    is_folder = modules()[module].name == "__init__.py"
    depth = 3 if parts[:2] in (["pipecut", "compiler"], ["pipecut", "runtime"]) else 2
    if len(parts) >= depth and (is_folder or len(parts) > depth):
        return ".".join(parts[:depth])
    return module


def within(module: str, *folders: str) -> bool:
    """Whether a module is one of the folders' or in it."""
    return any(f"{module}.".startswith(f"pipecut.{folder}.") for folder in folders)


def test_the_compiler_runs_a_runtime_only_in_its_dry_run() -> None:
    wrong = [
        arrow
        for arrow in arrows()
        if within(arrow[0], "compiler")
        and within(arrow[1], "runtime")
        and not within(arrow[0], "compiler.predict")
    ]
    assert not wrong


def test_runtime_plan_model_and_onnx_do_without_the_compiler() -> None:
    lower = ("runtime", "plan", "model", "onnx")
    assert not [a for a in arrows() if within(a[0], *lower) and within(a[1], "compiler")]


def test_plan_and_model_do_without_runtime_and_calibrate() -> None:
    upper = ("runtime", "calibrate", "onnx")
    assert not [a for a in arrows() if within(a[0], "plan", "model") and within(a[1], *upper)]


def test_the_page_of_a_plan_needs_the_plan_alone() -> None:
    others = ("compiler", "runtime", "calibrate", "model", "device")
    assert not [a for a in arrows() if within(a[0], "view") and within(a[1], *others)]


def test_no_module_imports_itself_through_others() -> None:
    """Imports within functions and under TYPE_CHECKING count: they tie files together, too."""
    assert not list(nx.simple_cycles(nx.DiGraph(arrows())))


def test_no_room_imports_itself_through_others() -> None:
    reasons = defaultdict(list)
    for module, other in arrows():
        if room(module) != room(other):
            reasons[room(module), room(other)].append(f"{module} imports {other}")
    circles = [c for c in nx.strongly_connected_components(nx.DiGraph(list(reasons))) if len(c) > 1]
    assert not [
        why for pair, why in reasons.items() for circle in circles if circle.issuperset(pair)
    ]


def test_no_folder_is_crowded() -> None:
    folders = house.measure(ROOT, (*house.CODE, *OTHER_CODE)).folders()
    assert not {name: count for name, count in folders.items() if count > house.MOST_FILES}


def test_no_line_is_wide() -> None:
    wide = [(file.path, file.long_lines) for file in measured().files if file.long_lines]
    assert not wide


def test_no_function_is_long() -> None:
    assert not [
        f"{file.path}:{function.line}: {function.name} has {function.lines} lines"
        for file, function in measured().functions()
        if function.lines > house.LONGEST_FUNCTION
    ]


def test_no_function_is_dense() -> None:
    assert not [
        f"{file.path}:{function.line}: {function.name} has {function.tokens} tokens"
        for file, function in measured().functions()
        if function.tokens > house.MOST_TOKENS
    ]


SMALL = '''"""Two lines
of text."""


def add(found: int) -> int:
    """Not counted."""
    # Nor this.
    one = found + 1
    return one
'''


def test_measures_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "small.py"
    path.write_text(SMALL + f"name = {'1' * 100}\n")
    measures = house.measure_file(path, tmp_path)
    (add,) = measures.functions
    assert (add.name, add.line, add.lines) == ("add", 5, 5)
    # def add ( found : int ) -> int : | one = found + 1 | return one
    assert add.tokens == 10 + 5 + 2 and measures.tokens == add.tokens + 3
    assert measures.code_lines == 4 and measures.long_lines == (10,)
    assert {binding.name for binding in measures.bindings} == {"found", "one", "name"}


def test_linked_folders_are_counted_once(tmp_path: Path) -> None:
    (tmp_path / "compiler").mkdir()
    (tmp_path / "pipecut").mkdir()
    (tmp_path / "compiler" / "small.py").write_text(SMALL)
    (tmp_path / "pipecut" / "compiler").symlink_to("../compiler")
    small = house.measure(tmp_path)
    assert [str(file.path) for file in small.files] == ["compiler/small.py"]
    assert list(house.offenders(small)) == [
        "compiler/small.py:5: the name 'found'",
        "compiler/small.py:8: the name 'one'",
    ]


@pytest.mark.parametrize("revision", ["no-such-revision"])
def test_an_unknown_revision_is_refused(revision: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no folder, and no git revision"):
        house.checkout(revision, ROOT, tmp_path)
