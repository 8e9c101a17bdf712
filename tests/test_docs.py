"""Pages are true: links lead somewhere, quoted messages exist, generated pages are fresh."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from benchmarks import api_page, house

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s#]+)(?:#([^)\s]*))?\)")
NAMED = re.compile(r"`([\w-]+/[\w./-]*(?:/|\.py|\.md|\.yaml|\.json))`")
# Where a path may begin; a page on the code leaves the first folder out.
BASES = ("", "compiler", "runtime", "pipecut", "docs")
# Folders that a run writes.
WRITTEN = ("plan/plan", "stages/stage", "checkpoints/", "demo-plan/")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [(target, anchor) for target, anchor in LINK.findall(text) if "://" not in target]
    assert not [target for target, _ in links if not (page.parent / target).exists()]
    for target, anchor in links:
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{target} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = [name for name in NAMED.findall(text) if not name.startswith(WRITTEN)]
    assert not [n for n in names if not any((ROOT / base / n).exists() for base in BASES)]


@cache
def texts() -> list[str]:
    """Every string of the code, with a space for what an f-string puts in."""
    strings = []
    for path in house.python_files(ROOT, house.CODE):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (p.value if isinstance(p, ast.Constant) else " " for p in node.values)
                strings.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(node.value)
    return strings


def quoted() -> list[str]:
    """The messages of docs/troubleshooting.md: the first cell of each row."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]*)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("message", quoted())
def test_quoted_messages_are_in_the_code(message: str) -> None:
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")))
    assert any(pattern.search(text) for text in texts())


def test_the_api_page_is_fresh() -> None:
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), f"run {api_page.COMMAND}"


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {
        path.parent.relative_to(ROOT)
        for path in house.python_files(ROOT, ("pipecut", "compiler", "runtime"))
    }
    # Drawers of a room are named in its row, those of plan/schema and inputs/document in none.
    missing = [str(r) for r in rooms if len(r.parts) <= 2 and f"`{r}/`" not in text]
    assert not missing


def test_files_to_read_first_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+/)`[^|]*\|[^|]*\| `([\w./]+)` \|$", text, re.MULTILINE)
    assert len(rows) > 25
    assert not [f"{room}{file}" for room, file in rows if not (ROOT / room / file).exists()]


def test_files_that_must_change_exist() -> None:
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    table = text.partition("## Ten changes, counted")[2]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| (\d+) of (\d+) \|$", table, re.MULTILINE)
    assert len(rows) == 10
    guessed = needed = 0
    for change, cell, bold, total in rows:
        files = cell.split(", ")
        assert (len(re.findall(r"\*\*", cell)) // 2, len(files)) == (int(bold), int(total)), change
        existing = [f.strip("* ") for f in files if not f.endswith("(new)")]
        assert not [f for f in existing if not (ROOT / f).exists()], change
        guessed, needed = guessed + int(bold), needed + int(total)
    assert f"{guessed} of {needed}, {guessed / needed:.0%}" in text
    assert guessed / needed >= 0.7
