"""Search for the shortest step: Llama-3-70B's configuration on 64 GPUs, every size open.

The prices of the limits (what more devices, memory or bandwidth would give) are included.
"""

import tempfile
import time
from pathlib import Path

from rich.console import Console

from pipecut.compiler import AUTO, Options, Request, SizeOverrides, compile_plan
from pipecut.tables.search import print_explained

# The bar, for the whole compile.
SECONDS = 120.0


def main() -> None:
    """Print the candidates and whether the bar is met."""
    job = Path(__file__).parents[2] / "examples" / "llama-70b.yaml"
    options = Options(
        SizeOverrides(stages=AUTO, replicas=AUTO, microbatch=AUTO, schedule=AUTO), explain=True
    )
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        compiled = compile_plan(Request(job, "hgx-h100-x8", Path(folder) / "plan", options))
        seconds = time.perf_counter() - begin
    console = Console(width=150)
    print_explained(compiled.trials, compiled.sensitivities, console)
    console.print(
        f"{len(compiled.trials)} candidates, whole compile {seconds:.0f} s;"
        f" bar ({SECONDS:.0f} s) met: {seconds < SECONDS}"
    )


if __name__ == "__main__":
    main()
