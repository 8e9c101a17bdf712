"""Names of the user's model and batch as they may stand in Python source."""

import builtins
import json
import keyword
import re

# What a stage file's forward uses itself; keywords and builtins are left alone beside them.
RESERVED = {"self", "batch", "device", "outputs", "torch", "F", "math", "nn"}


def identifier(text: str) -> str:
    """The closest Python identifier in ASCII that means nothing else in a stage file."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII) or "_"
    name = f"_{name}" if name[0].isdigit() else name
    taken = name in RESERVED or is_length(name)
    illegal = keyword.iskeyword(name) or taken or hasattr(builtins, name)
    return f"{name}_" if illegal else name


def is_length(name: str) -> bool:
    """Whether an inputs function may call a length so: `length`, `target_length`."""
    return name == "length" or (name.endswith("_length") and name.isidentifier())


def quoted(text: str) -> str:
    """The text as a string literal, in double quotes where nothing in it is invisible."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)


def member(name: str) -> str:
    """Access to a part of a module: `.weight`, `[0]`, or a quoted name that is no attribute's."""
    # Python changes names with two leading underscores in a class, and letters outside ASCII to
    # their common form.
    if (
        name.isidentifier()
        and name.isascii()
        and not keyword.iskeyword(name)
        and not name.startswith("__")
    ):
        return f".{name}"
    return f"[{name if is_number(name) else quoted(name)}]"


def is_number(name: str) -> bool:
    """Whether a name is that of an integer, as members of a list have it: `3`, but not `03`."""
    return name.isascii() and name.isdigit() and str(int(name)) == name


def in_docstring(text: str) -> str:
    """The text on one line, unable to end a docstring."""
    return in_comment(text).replace("\\", "\\\\").replace('"', '\\"')


def in_comment(text: str) -> str:
    """The text on one line, with escapes for what is invisible."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
