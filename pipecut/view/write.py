"""Write the page of a plan."""

from pathlib import Path

from pipecut.view.data import page_data
from pipecut.view.page import page
from pipecut.view.sources import Sources
from pipecut.writable import writable_file


def write_page(path: Path, sources: Sources) -> int:
    """Write the page, and return its bytes. Raises UserFileError where it cannot be written."""
    writable_file(path, "-o")
    text = page(page_data(sources)).encode("utf-8", "replace")
    path.write_bytes(text)
    return len(text)
