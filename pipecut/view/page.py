"""One self-contained HTML file: the data as JSON, scripts and styles in it, and no request leaves.

The policy allows the page's own scripts and styles by their hashes, and nothing else. Names of a
model or a plan are data: they are never part of the markup.
"""

import base64
import hashlib
import html
import json
from dataclasses import fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipecut.view.data import PageData
from pipecut.writable import writable_file

# In the order in which they run: shell.js has what the views build upon.
SCRIPTS = (
    "shell.js",
    "quantities.js",
    "parts.js",
    "highlight.js",
    "columns.js",
    "zoom.js",
    "lanes.js",
    "steps.js",
    "step_picture.js",
    "alive.js",
    "memory_picture.js",
    "overview.js",
    "stages.js",
    "timeline.js",
    "memory.js",
    "cut.js",
    "why.js",
    "diff.js",
    "start.js",
)
STYLES = ("page.css", "stages.css", "canvas.css", "why.css", "diff.css")
# Of a number that is no integer: more than the page shows, fewer than JSON would take.
DIGITS = 9


def page(data: PageData) -> str:
    """The page as text."""
    scripts, styles = [asset(name) for name in SCRIPTS], [asset(name) for name in STYLES]
    parts = {
        "policy": policy(scripts, styles),
        "title": html.escape(data.title),
        "styles": "\n".join(f"<style>{style}</style>" for style in styles),
        "data": as_json(data),
        "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
    }
    head, *rest = asset("page.html").split("{{")
    return head + "".join(
        parts[name] + tail for name, _, tail in (piece.partition("}}") for piece in rest)
    )


def write_page(path: Path, data: PageData) -> int:
    """Write the page, and return its bytes. Raises UserFileError where it cannot be written."""
    writable_file(path, "-o")
    text = page(data).encode("utf-8", "replace")
    path.write_bytes(text)
    return len(text)


def policy(scripts: list[str], styles: list[str]) -> str:
    """The Content-Security-Policy: nothing from elsewhere, and inline only what has these hashes.

    Scripts may still set single properties of an element's style, which no policy forbids.
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def as_json(data: PageData) -> str:
    """The data as JSON that no HTML parser reads as markup."""
    text = json.dumps(_rounded(_plain(data)), separators=(",", ":"))
    # Within a script element only these can end it, or begin a comment.
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def asset(name: str) -> str:
    """The text of a file that comes with pipecut."""
    return (files("pipecut.view") / "assets" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _plain(value: Any) -> Any:
    """Frozen values as dictionaries, whether they are dataclasses or of the plan's schema."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
