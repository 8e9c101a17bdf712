"""The code blocks of a page, and the commands in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INDENT = "    "
# What a command in a page begins with.
PROGRAMS = ("pipecut", "torchrun", "python", "pip", "make", "hf", "export")
# A file that the paragraph before a block names.
NAMED = re.compile(r"`([\w.-]+\.(?:py|yaml))`")


@dataclass(frozen=True)
class Block:
    """Indented lines of a page, without their indent, from a line on.

    `paragraph` is the text right before them.
    """

    line: int
    text: str
    paragraph: str

    @property
    def is_shell(self) -> bool:
        """Whether it is typed into a shell."""
        return self.text.split()[0] in PROGRAMS

    @property
    def file(self) -> str | None:
        """The file that it is the text of, where the paragraph before names one last."""
        named = NAMED.findall(self.paragraph)
        last = self.paragraph.rstrip()
        return named[-1] if named and not self.is_shell and last.endswith(":") else None

    def commands(self) -> Iterator[str]:
        """Its commands, each on one line, as typed."""
        for command in self.text.replace("\\\n", " ").splitlines():
            if command.strip():
                yield " ".join(command.split())


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order. A list's text, which is indented by two, is none."""
    found: list[Block] = []
    paragraph: list[str] = []
    code: list[str] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate([*lines, "#"], 1):
        if line.startswith(INDENT) or (code and not line.strip()):
            code.append(line.removeprefix(INDENT))
            continue
        if code:
            text = "\n".join(code).rstrip()
            found.append(Block(number - len(code), text + "\n", "\n".join(paragraph)))
            code, paragraph = [], []
        if line.strip():
            paragraph.append(line)
        elif paragraph and not lines[number : number + 1][0].startswith(INDENT):
            paragraph = []
    return found
