"""Nothing but lowering reads torch's fx graphs."""

from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_lowering_is_the_only_reader_of_fx() -> None:
    readers = {
        path.parent.relative_to(ROOT).as_posix()
        for folder in ("compiler", "pipecut", "runtime")
        for path in (ROOT / folder).rglob("*.py")
        if "from torch import fx" in path.read_text() or "torch.fx.Node" in path.read_text()
    }
    assert readers == {"compiler/trace/lower"}
