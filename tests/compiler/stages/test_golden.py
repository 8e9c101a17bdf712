"""The cuts of three models, and the code of their stages, as they were read by eye."""

import re
from pathlib import Path

import pytest

from pipecut.compiler.stages.source import ALLOCATE, GROUP, PUT, write_stage
from tests.compiler.drafts import drafted
from tests.golden import check_golden
from tests.models.golden import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_cuts_and_stage_code_are_as_read(name: str, tmp_path: Path) -> None:
    model = drafted(tmp_path, name)
    graph, cuts = model.costed.graph, model.draft.scheduled.cuts
    check_golden(f"cut/{name}", "\n\n".join(map(str, cuts)))
    for cut in cuts:
        code = write_stage(graph, cut, len(cuts))
        # Lines of torch's own code move with its version.
        code = re.sub(r"(torch/[\w/]+\.py):\d+", r"\1:...", code)
        # The same in every stage.
        for tool in (GROUP, PUT, ALLOCATE):
            code = code.replace(tool, "")
        check_golden(f"emit/{name}_stage_{cut.index}", code)
