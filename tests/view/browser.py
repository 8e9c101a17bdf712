"""A page in headless Chromium, which fails where its console speaks or a request leaves it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# A path here goes before what is on PATH; .ci/run asks that a missing browser fails, not skips.
CHROMIUM, REQUIRED = "CHROMIUM", "PIPECUT_BROWSER"
# A page that takes longer to do what is asked does not do it.
MILLISECONDS = 10_000
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The path of a Chromium on this machine."""
    return os.environ.get(CHROMIUM) or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def headless() -> Iterator[Any]:
    """A browser of playwright, closed at the end. Skips the test where there is none."""
    missing = None
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright is not installed: pip install -e '.[dev]'"
    path = chromium()
    if path is None:
        missing = f"no Chromium: apt-get install chromium, or set {CHROMIUM} to its path"
    if missing is not None:
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Any]:
    """The page of a file, watched while it is open."""
    heard: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: heard.append(f"request: {request.url}"))
    page.goto(file.as_uri())
    # The page itself is the one request.
    assert heard.pop(0) == f"request: {file.as_uri()}"
    yield page
    settle(page)
    context.close()
    assert not heard


def settle(page: Any) -> None:
    """Wait until what was asked for is painted."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")


def show(page: Any, title: str) -> Any:
    """Open a view by its tab; its panel."""
    page.get_by_role("tab", name=title).click()
    panel = page.get_by_role("tabpanel", name=title)
    panel.wait_for()
    settle(page)
    return panel
