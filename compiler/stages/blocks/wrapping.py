"""Lines of code that are too long, on several."""

WIDTH = 100
OPEN, CLOSE = "([{", ")]}"


def wrapped(line: str) -> list[str]:
    """A line with what stands in its last outer brackets on lines of its own, where it is long."""
    if len(line) <= WIDTH or line.lstrip().startswith(("#", '"')):
        return [line]
    brackets = _outer_brackets(line)
    if brackets is None:
        return [line]
    begin, end = brackets
    indent = line[: len(line) - len(line.lstrip())]
    head, inner, tail = line[: begin + 1], line[begin + 1 : end], line[end:]
    together = f"{indent}    {inner}"
    if len(together) <= WIDTH:
        return [head, together, indent + tail]
    parts = [part for part in _at_commas(inner) if part]
    if len(parts) == 1 and " for " in inner:
        return [line]
    # A comma behind a single part would make a tuple of a group or an index.
    comma = "," if len(parts) > 1 or inner.endswith(",") or _takes_comma(line, begin) else ""
    rows = [f"{indent}    {parts[0]}{comma}"]
    for part in parts[1:]:
        if len(rows[-1]) + len(part) + 2 <= WIDTH:
            rows[-1] += f" {part},"
        else:
            rows.append(f"{indent}    {part},")
    return [head, *(inner for row in rows for inner in wrapped(row)), indent + tail]


def _outer_brackets(line: str) -> tuple[int, int] | None:
    """Where the longest pair of brackets begins and ends that stands in no other."""
    pairs: list[tuple[int, int]] = []
    depth = begin = 0
    for at, char in _outside_strings(line):
        if char in OPEN:
            begin = begin if depth else at
            depth += 1
        elif char in CLOSE:
            depth -= 1
            if not depth:
                pairs.append((begin, at))
    return max(pairs, key=lambda pair: pair[1] - pair[0], default=None)


def _takes_comma(line: str, begin: int) -> bool:
    """Whether a bracket is that of a call, or of a list or dictionary."""
    follows_value = begin > 0 and (line[begin - 1].isalnum() or line[begin - 1] in "_)]")
    return follows_value == (line[begin] == "(")


def _at_commas(inner: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for at, char in _outside_strings(inner):
        depth += (char in OPEN) - (char in CLOSE)
        if char == "," and not depth:
            parts.append(inner[start:at].strip())
            start = at + 1
    return [*parts, inner[start:].strip()]


def _outside_strings(text: str) -> list[tuple[int, str]]:
    """Characters that stand in no string, with their positions."""
    found, quote, at = [], "", 0
    while at < len(text):
        char = text[at]
        if quote:
            at += char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            found.append((at, char))
        at += 1
    return found
