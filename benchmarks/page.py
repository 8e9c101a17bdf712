"""Open and move the page of a large plan in headless Chromium: milliseconds, and the page's bytes.

python -m benchmarks.page [PLAN]     by default Llama-3-405B on 32 stages with 512 microbatches
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipecut.compiler import Request, compile_plan
from pipecut.view.data import page_data
from pipecut.view.page import write_page
from pipecut.view.sources import read_sources
from tests.view.browser import headless

# The bar for opening the page, and for each frame of a pan or zoom.
MILLISECONDS = 1000.0
# Each is opened so often; the median is shown.
TURNS = 5
VIEWS = ("overview", "stages", "timeline", "memory")
# From the start of the navigation to the end of the first frame that is painted.
OPENED = """globalThis.opened = new Promise((done) => addEventListener("load", () =>
  requestAnimationFrame(() => setTimeout(() => done(performance.now())))));"""
# Wheel events over the picture, and the milliseconds from each to the end of its frame.
MOVES = """async ([view, deltaX, deltaY]) => {
  const canvas = document.querySelector(`#view-${view} canvas.zoom`);
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  const frames = [];
  for (let turn = 0; turn < 30; turn += 1) {
    const begin = performance.now();
    canvas.dispatchEvent(new WheelEvent("wheel", { deltaX, deltaY, cancelable: true, ...at }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    frames.push(performance.now() - begin);
  }
  return frames;
}"""


@dataclass(frozen=True)
class Opened:
    """Milliseconds until a view is painted, and those that the page's thread ran for it."""

    elapsed: float
    busy: float


@dataclass(frozen=True)
class Moved:
    """Milliseconds from events to the ends of their frames, of which a screen shows 60 a second."""

    name: str
    frames: Sequence[float]


def main() -> None:
    """Print a table, and whether the bar is met."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(sys.argv[1]) if len(sys.argv) > 1 else compiled(Path(folder))
        file = Path(folder) / "plan.html"
        begin = time.process_time()
        size = write_page(file, page_data(read_sources(plan)))
        seconds = time.process_time() - begin
        console.print(f"page of {size / 1e6:.2f} MB, written in {seconds:.1f} s of one core")
        with headless() as browser:
            opening = {view: [opened(browser, file, view) for _ in range(TURNS)] for view in VIEWS}
            moves = moved(browser, file)
    table = Table("what", "median, ms", "most, ms", "of its thread, ms")
    for view, times in opening.items():
        elapsed = [turn.elapsed for turn in times]
        busy = statistics.median(turn.busy for turn in times)
        table.add_row(f"open {view}", *medians(elapsed), f"{busy:.0f}")
    for move in moves:
        table.add_row(move.name, *medians(move.frames), "")
    console.print(table)
    # A machine that others use delays single turns of opening, but no frame may take so long.
    opens = max(statistics.median(turn.elapsed for turn in times) for times in opening.values())
    most = max(opens, *(max(move.frames) for move in moves))
    console.print(f"bar ({MILLISECONDS:.0f} ms) met: {most < MILLISECONDS}")


def medians(times: Sequence[float]) -> tuple[str, str]:
    """The median and the largest, as text."""
    return f"{statistics.median(times):.0f}", f"{max(times):.0f}"


def compiled(folder: Path) -> Path:
    """A plan of 512 microbatches, from the example of 64."""
    example = (Path(__file__).parents[1] / "examples" / "llama-405b.yaml").read_text()
    job = folder / "job.yaml"
    job.write_text(example.replace("global: 256", "global: 2048"))
    plan = compile_plan(Request(job, "hgx-h200-x16", folder / "plan")).folder
    assert plan.plan.microbatches == 512
    return plan.path


def opened(browser: Any, file: Path, view: str) -> Opened:
    """Open a view in a browser that has not seen the page."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    page = context.new_page()
    session = context.new_cdp_session(page)
    # Ticks of the thread, which do not count while other programs have the core.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.add_init_script(OPENED)
    page.goto(f"{file.as_uri()}#{view}")
    elapsed = float(page.evaluate("opened"))
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    context.close()
    return Opened(elapsed, 1e3 * metrics["TaskDuration"])


def moved(browser: Any, file: Path) -> list[Moved]:
    """Frames while both pictures are zoomed in and out, and panned."""
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    moves = []
    for view in ("timeline", "memory"):
        page.goto(f"{file.as_uri()}#{view}")
        page.reload()
        moves.append(Moved(f"paint {view}, whole step", page.evaluate(MOVES, [view, 1, 0])))
        moves.append(Moved(f"zoom {view} in", page.evaluate(MOVES, [view, 0, -60])))
        moves.append(Moved(f"pan {view}, zoomed", page.evaluate(MOVES, [view, 20, 0])))
        moves.append(Moved(f"zoom {view} out", page.evaluate(MOVES, [view, 0, 60])))
    return moves


if __name__ == "__main__":
    main()
