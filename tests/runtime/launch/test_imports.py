"""The launcher starts ranks within a fraction of a second, since it does not import torch."""

import subprocess
import sys

CODE = """
import sys
import pipecut.runtime.launch.restart
import pipecut.runtime.ranks.devices
print([name for name in ("torch", "numpy", "networkx") if name in sys.modules])
"""


def test_the_launcher_imports_nothing_slow() -> None:
    result = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
