"""Seconds and memory of compiling Llama-3-70B's configuration for two HGX-H100 nodes, and the certificate."""

import resource
import tempfile
import time
from pathlib import Path

from pipecut.compiler import Options, Sizes, compile


def main() -> None:
    """Print one line."""
    job = Path(__file__).parent.parent / "examples" / "llama-70b.yaml"
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        plan = compile(job, "hgx-h100-x2", Path(folder) / "plan", Options(Sizes(stages=16)), print).plan
        seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    c = plan.certificate
    print(f"llama-70b on 16 h100-sxm: {seconds:.1f} s, peak {peak:.2f} GB")
    print(f"bottleneck {c.objective:.6f} s, bound {c.bound:.6f} s, gap {c.gap:.2%}, proven {c.proven}, {c.solver}")


if __name__ == "__main__":
    main()
