"""Draw the pictures of README and docs/view.md: python -m benchmarks.page_pictures demo-plan.html.

Each view of a page as headless Chromium paints it, 1,280 pixels wide.
"""

import sys
from pathlib import Path

from tests.view.browser import headless, opened, settle

DOCS = Path(__file__).parents[1] / "docs"
# The pixels of a picture from the top, by view; the first is README's.
HEIGHTS = {"overview": 800, "stages": 760, "timeline": 500, "memory": 700, "why": 820}


def main() -> None:
    """One argument, the page."""
    file = Path(sys.argv[1]).resolve()
    with headless() as browser, opened(browser, file) as page:
        for view, height in HEIGHTS.items():
            page.evaluate(f"pipecut.go('{view}')")
            page.set_viewport_size({"width": 1280, "height": height})
            settle(page)
            target = DOCS / ("view.png" if view == "overview" else f"view-{view}.png")
            page.screenshot(path=target)
            print(f"wrote {target}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
