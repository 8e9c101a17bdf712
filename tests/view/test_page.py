"""The page is one file that asks for nothing, and no name of a model becomes markup."""

import base64
import hashlib
import json
import re
from pathlib import Path

from pipecut.view.data import page_data
from pipecut.view.page import SCRIPTS, STYLES, asset, page, write_page
from tests.plans import made_stage
from tests.view.made import made_sources

# What a page may take besides its data.
MOST_BYTES = 400 * 1024
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'<!--"


def text_of_page(cluster: str = "made") -> str:
    return page(page_data(made_sources(cluster=cluster)))


def data_in(text: str) -> str:
    """What stands in the data's script element, as an HTML parser ends it."""
    start = text.index('id="data">') + len('id="data">')
    return text[start : text.lower().index("</script", start)]


def test_the_data_of_a_page_is_its_value() -> None:
    data = json.loads(data_in(text_of_page()))
    assert data["title"] == "models:build on made"
    assert [stage["index"] for stage in data["plan"]["stages"]] == [0, 1]
    assert data["overview"]["proof"]["bound"] == 3.0


def test_hostile_names_stay_data() -> None:
    text = text_of_page(HOSTILE)
    assert json.loads(data_in(text))["plan"]["cluster"] == HOSTILE
    assert "<img" not in text and "<!--" not in text
    assert text.lower().count("</script") == len(SCRIPTS) + 1


def test_hostile_modules_stay_data() -> None:
    stages = [made_stage(index, 2, modules=[HOSTILE]) for index in range(2)]
    text = page(page_data(made_sources(stages=stages)))
    assert json.loads(data_in(text))["plan"]["stages"][1]["modules"] == [HOSTILE]
    assert "<img" not in text


def test_the_policy_allows_what_is_inline_and_nothing_else() -> None:
    text = text_of_page()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy[1].split("; "))
    assert rules["default-src"] == "'none'" and "unsafe" not in policy[1]
    for kind, tag in (("script-src", "script"), ("style-src", "style")):
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes = {
            f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
            for code in inline
        }
        assert inline and set(rules[kind].split()) == hashes
    assert set(rules) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = text_of_page()
    assert not re.search(r"<(link|img|iframe|object|embed)\b|\bsrc=|@import|url\(", text)
    assert not re.search(r"\bfetch\(|XMLHttpRequest|WebSocket|import\(", text)


def test_a_page_is_small_besides_its_data() -> None:
    text = text_of_page()
    assert len(text.encode()) - len(data_in(text).encode()) < MOST_BYTES


def test_assets_set_no_style_that_the_policy_forbids() -> None:
    for name in SCRIPTS:
        assert not re.search(r"innerHTML|insertAdjacentHTML|setAttribute\(.style", asset(name)), (
            name
        )
    assert all("\r" not in asset(name) for name in (*SCRIPTS, *STYLES))


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    size = write_page(tmp_path / "new" / "plan.html", page_data(made_sources()))
    assert size == (tmp_path / "new" / "plan.html").stat().st_size > 10_000
