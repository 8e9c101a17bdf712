"""The page in a real browser: silent, without requests, and every view does what it says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipecut.plan.actions import Compute
from pipecut.view.data import page_data
from pipecut.view.page import write_page
from pipecut.view.sources import Sources
from tests.view.browser import headless, opened, settle, show
from tests.view.made_step import made_run, made_step

pytestmark = pytest.mark.browser

HOSTILE = "</script><img src=x onerror=alert(1)>&lt;b&gt;"
# The picture's left margin on a wide page.
LEFT = 132
VIEWS = ["Overview", "Stages", "Timeline", "Memory", "Why"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless() as started:
        yield started


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a plan of four ranks whose modules have a hostile name."""
    file = tmp_path_factory.mktemp("view") / "plan.html"
    write_page(file, page_data(Sources(made_step(modules=[HOSTILE]))))
    return file


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a plan with a run that is slower forward by a quarter."""
    file = tmp_path_factory.mktemp("view") / "run.html"
    write_page(file, page_data(made_run(made_step())))
    return file


def canvas_of(panel: Any) -> Any:
    return panel.locator("canvas.zoom")


def shown(page: Any) -> tuple[float, float]:
    """The part of the step that is shown."""
    part = page.evaluate("pipecut.shown")
    return part["from"], part["to"]


def picture(panel: Any) -> str:
    settle(panel.page)
    return str(canvas_of(panel).evaluate("canvas => canvas.toDataURL()"))


def tip_at(page: Any, x: float, y: float) -> str:
    page.mouse.move(x, y)
    tip = page.locator("#tip")
    return str(tip.inner_text()) if tip.is_visible() else ""


def hover(panel: Any, second: float, step: float, words: str) -> str:
    """The hover text with these words at a second of the step, on whichever lane has it."""
    box = canvas_of(panel).bounding_box()
    x = box["x"] + LEFT + (box["width"] - LEFT) * second / step
    tips = [tip_at(panel.page, x, box["y"] + y) for y in range(26, int(box["height"]), 6)]
    matching = [tip for tip in tips if words in tip]
    assert matching, tips
    return matching[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_fits_its_page_in_silence(
    browser: Any, measured: Path, width: int, scheme: str
) -> None:
    with opened(browser, measured, width, scheme) as page:
        titles = page.get_by_role("tab").all_inner_texts()
        assert [title for title in VIEWS if title in titles] == VIEWS
        for title in titles:
            panel = show(page, title)
            assert panel.is_visible() and len(panel.inner_text()) > 100
            assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth"), title
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == ("rgb(252, 252, 251)" if scheme == "light" else "rgb(19, 20, 22)")


def test_keys_go_from_view_to_view(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        # The address changes first, and the view follows it.
        page.keyboard.press("3")
        page.get_by_role("tab", selected=True, name="Timeline").wait_for()
        page.get_by_role("tab", selected=True).focus()
        page.keyboard.press("ArrowRight")
        page.get_by_role("tab", selected=True, name="Memory").wait_for()
        assert page.get_by_role("tabpanel").count() == 1


def test_hovering_tells_stage_microbatch_modules_and_seconds(browser: Any, plain: Path) -> None:
    folder = made_step()
    timeline = Sources(folder).timeline
    event = next(e for e in timeline.events if e.action == Compute("F", 2, 3))
    with opened(browser, plain) as page:
        panel = show(page, "Timeline")
        middle = (event.start + event.end) / 2
        tip = hover(panel, middle, timeline.step_seconds, "rank 2").split("\n")
        assert tip[:2] == ["rank 2: forward of stage 2, microbatch 3", HOSTILE]
        assert tip[2] == f"1.00 s, from {event.start:.1f} s to {event.end:.1f} s"


def test_wheel_drag_and_keys_zoom_and_pan(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        panel = show(page, "Timeline")
        whole = picture(panel)
        box = canvas_of(panel).bounding_box()
        x = box["x"] + LEFT + (box["width"] - LEFT) / 4
        page.mouse.move(x, box["y"] + 60)
        page.mouse.wheel(0, -300)
        settle(page)
        begin, end = shown(page)
        # What is under the pointer stays there.
        assert end - begin < 0.5 and begin + (end - begin) / 4 == pytest.approx(0.25, abs=0.01)
        zoomed = picture(panel)
        page.mouse.down()
        page.mouse.move(x - 100, box["y"] + 60, steps=4)
        page.mouse.up()
        assert shown(page)[0] > begin and picture(panel) != zoomed != whole
        page.keyboard.press("0")
        assert shown(page) == (0, 1)
        page.keyboard.press("+")
        page.keyboard.press("ArrowRight")
        assert 0.1 < shown(page)[0] and shown(page)[1] - shown(page)[0] == pytest.approx(0.8)
        page.keyboard.press("Home")
        assert shown(page)[0] == 0
        panel.get_by_role("button", name="show the whole step").click()
        page.mouse.move(0, 0)
        assert shown(page) == (0, 1)


def test_keys_go_from_event_to_event_and_lane_to_lane(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        panel = show(page, "Timeline")
        canvas_of(panel).focus()
        said = panel.locator(".details")
        page.keyboard.press("n")
        assert said.inner_text().startswith("rank 0: forward of stage 0, microbatch 0")
        page.keyboard.press("n")
        assert said.inner_text().startswith("rank 0: forward of stage 0, microbatch 1")
        page.keyboard.press("ArrowDown")
        assert said.inner_text().startswith("rank 1: forward of stage 1, microbatch 0")
        page.keyboard.press("Escape")
        assert said.inner_text().startswith("Wheel")


def test_the_critical_path_is_drawn_and_can_be_left_out(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        panel = show(page, "Timeline")
        box = panel.get_by_label("critical path")
        with_path = picture(panel)
        assert box.is_checked()
        box.uncheck()
        without = picture(panel)
        canvas_of(panel).focus()
        page.keyboard.press("c")
        assert box.is_checked() and without != with_path


def test_an_event_is_painted_in_the_colour_of_its_kind(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        panel = show(page, "Timeline")
        panel.get_by_label("critical path").uncheck()
        settle(page)
        colours = canvas_of(panel).evaluate(
            """canvas => {
              const row = canvas.getContext("2d").getImageData(133, 26, canvas.width - 134, 1).data;
              const hex = at => "#" + [0, 1, 2].map(
                i => row[at + i].toString(16).padStart(2, "0")).join("");
              return Array.from({ length: row.length / 4 }, (_, at) => hex(at * 4));
            }"""
        )
        forward, backward = (
            page.evaluate(f"pipecut.colour('{n}')") for n in ("forward", "backward")
        )
        assert colours[0] == forward
        # Rank 0 computes eight of each, backward twice as long, in its step.
        step = Sources(made_step()).timeline.step_seconds
        for colour, seconds in ((forward, 8), (backward, 16)):
            share = colours.count(colour) / len(colours)
            assert share == pytest.approx(seconds / step, abs=0.03)


def test_a_run_stands_under_its_prediction_with_the_difference(
    browser: Any, measured: Path
) -> None:
    sources = made_run(made_step())
    longest = max(span.end for span in sources.spans)
    span = next(s for s in sources.spans if (s.rank, s.kind, s.microbatch) == (1, "F", 5))
    with opened(browser, measured) as page:
        panel = show(page, "Timeline")
        longer = longest / sources.timeline.step_seconds - 1
        assert f"{longer:+.1%} beside the predicted, ranks wait" in panel.inner_text()
        tip = hover(panel, (span.start + span.end) / 2, longest, "rank 1, measured: forward")
        assert "forward of stage 1, microbatch 5" in tip
        assert "1.25 s, from" in tip and "predicted 1.00 s (+25.0%), begins" in tip
        panel.get_by_text("Each rank in numbers").click()
        cells = panel.locator("tbody tr").nth(1).locator("td").all_inner_texts()
        # Eight forwards and backwards of 1 s and 2 s; 1.25 s and 2 s.
        assert cells[:4] == ["1", "24.0 s", "26.0 s", "+8.3%"]


def test_the_memory_of_a_rank_has_parts_that_sum_up(browser: Any, measured: Path) -> None:
    folder = made_step()
    with opened(browser, measured) as page:
        panel = show(page, "Memory")
        rows = panel.locator("tbody tr")
        assert rows.count() == 4
        rows.nth(1).get_by_role("button").click()
        assert panel.locator("h2").first.inner_text().startswith("rank 1, stage 1: ")
        cells = rows.nth(1).locator("td").all_inner_texts()
        peak = folder.plan.stages[1].peak_bytes
        apart = f"{500 / peak - 1:+.1%}".replace("-", "−")
        assert cells[3:] == [f"{peak} B", f"{peak / 10_000:.0%}", "500 B", apart]
        box = canvas_of(panel).bounding_box()
        tip = tip_at(page, box["x"] + box["width"] / 2, box["y"] + box["height"] / 2).split("\n")
        total, *parts = (int(line.split(" B")[0].split()[-1]) for line in tip)
        assert total == sum(parts) > 0
        assert "activations in flight" in " ".join(tip) and "parameters 64 B" in tip


def test_keys_go_from_rank_to_rank_and_zoom_is_shared(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        panel = show(page, "Memory")
        title = panel.locator("h2").first
        before = title.inner_text()
        canvas_of(panel).focus()
        page.keyboard.press("ArrowDown")
        assert title.inner_text() != before
        page.keyboard.press("+")
        zoomed = shown(page)
        show(page, "Timeline")
        assert shown(page) == zoomed != (0, 1)


def test_the_theme_repaints_the_pictures(browser: Any, plain: Path) -> None:
    with opened(browser, plain) as page:
        panel = show(page, "Timeline")
        light = picture(panel)
        page.locator("#theme").click()
        page.locator("#theme").click()
        assert page.locator("#theme").inner_text() == "Theme: dark"
        assert picture(panel) != light


def test_a_single_rank_without_messages_or_memory_has_its_views(
    browser: Any, tmp_path: Path
) -> None:
    write_page(tmp_path / "plan.html", page_data(Sources(made_step(1, passes=None))))
    with opened(browser, tmp_path / "plan.html") as page:
        panel = show(page, "Timeline")
        assert panel.get_by_role("checkbox").count() == 1 and "false" not in panel.inner_text()
        canvas_of(panel).focus()
        page.keyboard.press("n")
        assert panel.locator(".details").inner_text().startswith("rank 0: forward of stage 0")
        panel = show(page, "Memory")
        assert panel.locator("tbody tr").count() == 1
        assert tip_at(page, 700, 300) == ""


def test_many_lanes_scroll_and_are_reached_by_keys(browser: Any, tmp_path: Path) -> None:
    write_page(tmp_path / "plan.html", page_data(made_run(made_step(32, 40))))
    with opened(browser, tmp_path / "plan.html") as page:
        panel = show(page, "Timeline")
        above = picture(panel)
        canvas_of(panel).focus()
        page.keyboard.press("n")
        for _ in range(63):
            page.keyboard.press("ArrowDown")
        said = panel.locator(".details").inner_text()
        assert said.startswith("rank 31, measured: ") and picture(panel) != above
