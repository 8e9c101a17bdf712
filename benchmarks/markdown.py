"""Tables of Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of cells below a line of columns."""
    lines = [columns, *rows]
    head, *others = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([head, "|---" * len(columns) + "|", *others])


def in_a_cell(text: str) -> str:
    """A text of one line, in which nothing ends the cell or begins HTML."""
    return " ".join(text.replace("|", " ").replace("<", "&lt;").split())
