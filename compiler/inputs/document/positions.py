"""Where in a YAML file each key and value stands."""

from pathlib import Path

import yaml

from pipecut.errors import UserFileError

# Keys and list positions from the top of a file.
Location = tuple[str | int, ...]
# Line and column of each location, from 1.
Positions = dict[Location, tuple[int, int]]
# The last part of a location that is the key itself, not its value.
KEY = "<key>"
# Where a file begins: the position of what it has not.
TOP = (1, 1)


def position_of(path: Path, *location: str | int) -> tuple[int, int]:
    """Line and column of a value in a file that was read.

    Where the file has no such value, the position of what would be around it; 1, 1 at the top, or
    where the file is gone.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError:
        return TOP
    return nearest(positions_in(root, path), location)


def location_of(path: Path, *location: str | int) -> str:
    """`file:line:column` of a value, as messages begin."""
    line, column = position_of(path, *location)
    return f"{path}:{line}:{column}"


def nearest(positions: Positions, location: Location) -> tuple[int, int]:
    """The position of a location, or of the innermost thing around it that the file has."""
    for depth in range(len(location), 0, -1):
        if location[:depth] in positions:
            return positions[location[:depth]]
    return TOP


def positions_in(root: yaml.Node | None, path: Path) -> Positions:
    """Positions of everything under a node. Raises UserFileError for a key that is given twice."""
    positions: Positions = {}
    if root is not None:
        _collect(root, (), positions, path)
    return positions


def _collect(node: yaml.Node, location: Location, positions: Positions, path: Path) -> None:
    positions[location] = node.start_mark.line + 1, node.start_mark.column + 1
    if isinstance(node, yaml.MappingNode):
        _collect_keys(node, location, positions, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect(value, (*location, index), positions, path)


def _collect_keys(
    node: yaml.MappingNode, location: Location, positions: Positions, path: Path
) -> None:
    names: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        line, column = key.start_mark.line + 1, key.start_mark.column + 1
        if name in names:
            raise UserFileError(f"{path}:{line}:{column}: key '{name}' is given twice; keep one")
        names.add(name)
        _collect(value, (*location, name), positions, path)
        positions[(*location, name, KEY)] = line, column
