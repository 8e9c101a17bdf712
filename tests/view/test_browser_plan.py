"""Stages, Why and Diff in a real browser: they open, price cuts and compare as they say."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.plan.schema.explanation import Explanation, LimitPrice
from pipecut.view.data import page_data
from pipecut.view.page import write_page
from pipecut.view.reading.problem import Block, CutProblem, MovedTensor, Shared, StageDevice
from pipecut.view.sources import Sources
from tests.view.browser import headless, opened, settle, show
from tests.view.made import TRIED, made_sources
from tests.view.made_step import made_run, made_step

pytestmark = pytest.mark.browser

CODE = '@torch.no_grad()\ndef run(self):\n    return "<b>", 1.5  # <i>\n'


def made_block(name: str, stage: int, seconds: float) -> Block:
    layer = name.rpartition(".")[0]
    return Block(name, layer, stage, {"slow-core": seconds}, {"slow-core": seconds / 4}, 100, 10)


def made_problem() -> CutProblem:
    """Four blocks of 1, 2, 3 and 2 s on two stages, and a tensor of 0.5 s after each but the last.

    The last block holds 500 bytes; a stage has 900.
    """
    blocks = tuple(
        made_block(name, stage, seconds)
        for name, stage, seconds in (
            ("h.0.a", 0, 1.0),
            ("h.0.b", 0, 2.0),
            ("h.1.a", 1, 3.0),
            ("h.1.b", 1, 2.0),
        )
    )
    return CutProblem(
        blocks=blocks,
        tensors=tuple(MovedTensor(at, (at + 1,), 40.0, 10.0, 0) for at in range(3)),
        shared=(Shared((3,), 500, {}, {}, 0),),
        devices=tuple(
            StageDevice("slow-core", stage, 900, 2 - stage, 100.0, 0.0) for stage in (0, 1)
        ),
        comm="relay",
        recompute="never",
        pins=(),
        splits=(),
    )


def made_explanation() -> Explanation:
    lost = TRIED.model_copy(update={"chosen": False, "schedule": "gpipe", "step_seconds": 18.0})
    return Explanation(
        candidates=(TRIED, lost), limits=(LimitPrice(limit="one more device", step_seconds=12.0),)
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with headless() as started:
        yield started


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a plan of two stages with its problem, beside a plan with another prediction."""
    made = made_sources()
    sources = replace(
        made,
        problem=made_problem(),
        explanation=made_explanation(),
        other=made_step(ranks=3),
        code={"stages/stage_0.py": CODE, "stages/stage_1.py": "pass\n"},
    )
    path = tmp_path_factory.mktemp("view") / "plan.html"
    write_page(path, page_data(sources))
    return path


def verdict(panel: Any) -> str:
    return str(panel.locator(".verdict").inner_text()).replace("\n", " ")


def test_the_plans_own_cut_costs_what_its_blocks_and_transfers_do(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        panel = show(page, "Why")
        # 3 + 2 s of blocks and 0.5 s of the tensor between; the other stage has 1 + 2 + 0.5 s.
        assert verdict(panel) == "✓ The plan's cut: slowest stage 5.50 s (stage 1)."
        assert panel.locator("table.loads tbody tr").count() == 2


def test_keys_move_a_boundary_and_the_new_bottleneck_is_said(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        panel = show(page, "Why")
        handle = panel.get_by_role("slider", name="boundary after stage 0")
        handle.focus()
        page.keyboard.press("ArrowLeft")
        assert verdict(panel) == (
            "▲ With this cut: slowest stage 7.50 s (stage 1), +36.4% against the plan's 5.50 s."
        )
        assert "stage 0 ends with h.0.a" in str(handle.get_attribute("aria-valuetext"))
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "slowest stage 6.50 s (stage 0)" in verdict(panel)
        page.keyboard.press("Home")
        page.keyboard.press("PageUp")
        # Each stage keeps a block, so a whole layer further is not there.
        assert handle.get_attribute("aria-valuenow") == "3"
        panel.get_by_role("button", name="Back to the plan's cut").click()
        assert verdict(panel).startswith("✓ The plan's cut")


def test_dragging_moves_a_boundary_to_the_nearest_block(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        panel = show(page, "Why")
        box = panel.locator(".blocks").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 3 / 8, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 1.2 / 8, middle, steps=3)
        assert "stage 1 begins with h.0.b" in page.locator("#tip").inner_text()
        page.mouse.up()
        assert "slowest stage 7.50 s" in verdict(panel)
        assert not page.locator("#tip").is_visible()


def test_a_cut_that_does_not_fit_is_refused(browser: Any, tmp_path: Path) -> None:
    problem = made_problem()
    tight = replace(
        problem, devices=(problem.devices[0], replace(problem.devices[1], capacity=720))
    )
    page_file = tmp_path / "plan.html"
    write_page(page_file, page_data(replace(made_sources(), problem=tight)))
    with opened(browser, page_file) as page:
        panel = show(page, "Why")
        # 500 held, 2 x 100 saved, 40 received, 10 for a moment; 100 more once a block comes.
        assert "This cut does not hold: stage 1 needs 750 B of 720 B" in verdict(panel)


def test_the_slowest_stage_is_said_where_a_device_has_several(browser: Any, tmp_path: Path) -> None:
    problem = made_problem()
    together = replace(
        problem, devices=tuple(replace(row, device=0, capacity=9000) for row in problem.devices)
    )
    page_file = tmp_path / "plan.html"
    write_page(page_file, page_data(replace(made_sources(), problem=together)))
    with opened(browser, page_file) as page:
        assert "slowest stage 5.50 s (stage 1)" in verdict(show(page, "Why"))


def test_candidates_and_limits_are_compared(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        text = show(page, "Why").inner_text()
        assert "20.0% slower" in text and "20.0% shorter" in text and "chosen" in text


def test_a_stage_opens_to_layers_operators_and_code(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        panel = show(page, "Stages")
        toggle = panel.get_by_role("button", name="layers.0")
        assert toggle.get_attribute("aria-expanded") == "false"
        toggle.click()
        assert "hidden_0" in panel.locator("tr.operator").inner_text()
        toggle.click()
        assert panel.locator("tr.operator").count() == 0
        code = panel.locator(".code pre").nth(1)
        assert code.inner_text() == CODE
        kinds = {
            kind: code.locator(f".py-{kind}").all_inner_texts()
            for kind in ("decorator", "keyword", "name", "self", "string", "number", "comment")
        }
        assert kinds == {
            "decorator": ["@torch.no_grad"],
            "keyword": ["def", "return"],
            "name": ["run"],
            "self": ["self"],
            "string": ['"<b>"'],
            "number": ["1.5"],
            "comment": ["# <i>"],
        }


def test_keys_go_from_stage_to_stage(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        panel = show(page, "Stages")
        panel.locator("#stage-0").focus()
        page.keyboard.press("ArrowRight")
        settle(page)
        assert panel.locator(".opened").inner_text().startswith("1")
        assert page.evaluate("document.activeElement.id") == "stage-1"
        assert page.evaluate("location.hash") == "#stages/1"


def test_a_run_stands_beside_the_predicted_times_of_a_stage(browser: Any, tmp_path: Path) -> None:
    page_file = tmp_path / "plan.html"
    write_page(page_file, page_data(made_run(made_step())))
    with opened(browser, page_file) as page:
        rows = show(page, "Stages").locator("tbody tr").all_inner_texts()
        assert [row.split("\t") for row in rows][:2] == [
            ["forward", "1.000", "1.250"],
            ["backward", "2.000", "2.000"],
        ]


def test_another_plan_is_compared(browser: Any, file: Path) -> None:
    with opened(browser, file) as page:
        text = show(page, "Diff").inner_text()
        assert "3 stages, 1f1b" in text and "predicted step" in text
        assert page.locator("#view-diff .strips .run").count() >= 2


def test_without_another_plan_there_is_no_diff(browser: Any, tmp_path: Path) -> None:
    page_file = tmp_path / "plan.html"
    write_page(page_file, page_data(Sources(made_step())))
    with opened(browser, page_file) as page:
        assert "Diff" not in page.get_by_role("tab").all_inner_texts()
