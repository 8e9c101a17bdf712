"""Measure how the code reads: lines, functions, tokens, names; beside another revision or checkout.

`python -m benchmarks.house` prints a table, `--before PATH|REVISION` a second column,
`--list` each line, function and name that a rule forbids. It needs nothing but Python and git.
"""

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.markdown import markdown_table

CODE = ("pipecut", "compiler", "runtime", "specs")
LONGEST_LINE, LONGEST_FUNCTION, MOST_TOKENS, MOST_FILES = 100, 60, 400, 15
# Names that say nothing of what they hold.
PRONOUNS = frozenset(
    "again aside beside each ends every facts found given here it known left made mine more most"
    " one other others own rest room same some such that them there these they this those thing"
    " told what whole whose".split()
)
NO_CODE = frozenset(
    {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENCODING,
        tokenize.ENDMARKER,
    }
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Function:
    """A function or method, from `def` to its end. `tokens` leave out comments and docstrings."""

    name: str
    line: int
    lines: int
    tokens: int


@dataclass(frozen=True)
class Binding:
    """A name that an assignment, a loop, a `with` or a parameter gives to a value."""

    name: str
    line: int


@dataclass(frozen=True)
class SourceFile:
    """The measures of one file. `long_lines` are the numbers of lines wider than LONGEST_LINE."""

    path: Path
    lines: int
    code_lines: int
    tokens: int
    long_lines: tuple[int, ...]
    functions: tuple[Function, ...]
    bindings: tuple[Binding, ...]


@dataclass(frozen=True)
class House:
    """The measured files of a checkout, by path from its root, and the lines of its tests.

    `test_lines` are those of all files under tests/, `test_file_lines` only those of test_*.py.
    """

    files: tuple[SourceFile, ...]
    test_lines: int
    test_file_lines: int

    def functions(self) -> list[tuple[SourceFile, Function]]:
        """Every function with its file."""
        return [(file, function) for file in self.files for function in file.functions]

    def pronouns(self) -> list[tuple[SourceFile, Binding]]:
        """Every binding of a name in PRONOUNS."""
        return [(f, b) for f in self.files for b in f.bindings if b.name in PRONOUNS]

    def folders(self) -> Counter[str]:
        """How many Python files lie side by side in each folder."""
        return Counter(str(file.path.parent) for file in self.files)


def python_files(root: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    """Python files below the folders, in order; no file twice through a symbolic link."""
    for name in folders:
        for path in sorted((root / name).rglob("*.py")):
            # Before Python 3.13 rglob enters linked folders below the first level.
            inside = path.relative_to(root)
            if not any((root / parent).is_symlink() for parent in inside.parents):
                yield path


def measure_file(path: Path, root: Path) -> SourceFile:
    """Raises SyntaxError for a file that is no Python."""
    text = path.read_text()
    tree = ast.parse(text)
    starts = [token.start[0] for token in _code_tokens(text, tree)]
    functions = [
        Function(
            node.name,
            node.lineno,
            node.end_lineno - node.lineno + 1,
            sum(node.lineno <= line <= node.end_lineno for line in starts),
        )
        for node in ast.walk(tree)
        if isinstance(node, Definition) and node.end_lineno is not None
    ]
    lines = text.splitlines()
    return SourceFile(
        path.relative_to(root),
        len(lines),
        len(set(starts)),
        len(starts),
        tuple(n for n, line in enumerate(lines, 1) if len(line) > LONGEST_LINE),
        tuple(functions),
        tuple(_bindings(tree)),
    )


def measure(root: Path, folders: tuple[str, ...] = CODE) -> House:
    """Measure a checkout."""
    tests = {path: len(path.read_text().splitlines()) for path in python_files(root, ("tests",))}
    return House(
        files=tuple(measure_file(path, root) for path in python_files(root, folders)),
        test_lines=sum(tests.values()),
        test_file_lines=sum(n for path, n in tests.items() if path.name.startswith("test_")),
    )


def _code_tokens(text: str, tree: ast.Module) -> Iterator[tokenize.TokenInfo]:
    """Tokens without comments, line ends, indentation and docstrings."""
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(tree)
        if isinstance(node, Definition | ast.ClassDef | ast.Module)
        and ast.get_docstring(node, clean=False) is not None
    }
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and token.start[0] in docstrings
        if token.type not in NO_CODE and not is_docstring:
            yield token


def _bindings(tree: ast.Module) -> list[Binding]:
    bindings = [
        Binding(node.id, node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    bindings += [Binding(n.arg, n.lineno) for n in ast.walk(tree) if isinstance(n, ast.arg)]
    return sorted(bindings, key=lambda binding: binding.line)


def table(house: House) -> dict[str, str]:
    """The rows of the table: what is measured, to its value as text."""
    functions = [function for _, function in house.functions()]
    lines = sum(file.lines for file in house.files)
    long_lines = sum(len(file.long_lines) for file in house.files)
    bindings = sum(len(file.bindings) for file in house.files)
    longest_file = max(house.files, key=lambda file: file.lines)
    longest = max(functions, key=lambda function: function.lines)
    dense = sum(function.tokens > MOST_TOKENS for function in functions)
    tall = sum(function.lines > LONGEST_FUNCTION for function in functions)
    tokens = sum(file.tokens for file in house.files)
    code_lines = sum(file.code_lines for file in house.files)
    crowded = house.folders().most_common(3)
    return {
        "files": str(len(house.files)),
        "lines": f"{lines:,}",
        "median lines of a file": f"{median(file.lines for file in house.files):.0f}",
        "longest file": f"{longest_file.lines} ({longest_file.path})",
        "longest function, lines": f"{longest.lines} ({longest.name})",
        f"functions over {LONGEST_FUNCTION} lines": _share(tall, len(functions)),
        f"functions over {MOST_TOKENS} tokens": _share(dense, len(functions)),
        "tokens per code line": f"{tokens / code_lines:.1f}",
        f"lines over {LONGEST_LINE} columns": _share(long_lines, lines),
        "pronoun bindings": _share(len(house.pronouns()), bindings),
        "test lines per code line": f"{house.test_lines / lines:.2f}",
        "of these in test_*.py": f"{house.test_file_lines / lines:.2f}",
        "folders with most files": ", ".join(f"{name} {count}" for name, count in crowded),
    }


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.1%})"


def offenders(house: House) -> Iterator[str]:
    """file:line and the rule, of every line, function, name and folder that a rule forbids."""
    for file in house.files:
        for line in file.long_lines:
            yield f"{file.path}:{line}: over {LONGEST_LINE} columns"
    for file, function in house.functions():
        if function.lines > LONGEST_FUNCTION:
            yield f"{file.path}:{function.line}: {function.name} has {function.lines} lines"
        if function.tokens > MOST_TOKENS:
            yield f"{file.path}:{function.line}: {function.name} has {function.tokens} tokens"
    for file, binding in house.pronouns():
        yield f"{file.path}:{binding.line}: the name '{binding.name}'"
    for folder, count in house.folders().items():
        if count > MOST_FILES:
            yield f"{folder}: {count} files side by side"


def checkout(place: str, root: Path, empty: Path) -> Path:
    """The folder `place`, or the git revision of that name unpacked into an empty folder."""
    if Path(place).is_dir():
        return Path(place)
    archive = subprocess.run(["git", "archive", place], cwd=root, capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"--before {place}: no folder, and no git revision: {archive.stderr.decode()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(empty, filter="data")
    return empty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", help="a folder or git revision to print beside this checkout")
    parser.add_argument("--list", action="store_true", help="print what the rules forbid")
    options = parser.parse_args()
    root = Path(__file__).resolve().parent.parent
    columns = {"now": measure(root)}
    if options.before:
        with tempfile.TemporaryDirectory() as empty:
            before = measure(checkout(options.before, root, Path(empty)))
        columns = {options.before: before, **columns}
    if options.list:
        print("\n".join(offenders(columns["now"])))
        return
    rows = [table(house) for house in columns.values()]
    lines = [[name, *(row[name] for row in rows)] for name in rows[0]]
    print(markdown_table(["", *columns], lines))


if __name__ == "__main__":
    main()
