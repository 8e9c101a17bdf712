"""Faults of a run on two hosts under torchrun: each host is a network namespace of this machine.

python -m benchmarks.faults.hosts [kill] [stop] [lost]          (as root, on Linux)

For each fault: who was named after how many seconds, when the training continued, and how torchrun
ended on each host.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from pipecut.compiler import Options, SizeOverrides, compile

STEPS, PORT, LIMIT = 400, 29400, 240.0
HOSTS = {"pipecut-a": "10.77.0.1", "pipecut-b": "10.77.0.2"}
FIRST, SECOND = HOSTS
INTERFACES = {FIRST: "pipecut-va", SECOND: "pipecut-vb"}


def ip(*words: str) -> None:
    """Run `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two network namespaces with a cable between them."""
    for host in HOSTS:
        with suppress(subprocess.CalledProcessError):
            ip("netns", "del", host)
        ip("netns", "add", host)
    first, second = INTERFACES.values()
    ip(
        "link",
        "add",
        first,
        "netns",
        FIRST,
        "type",
        "veth",
        "peer",
        "name",
        second,
        "netns",
        SECOND,
    )
    for host, address in HOSTS.items():
        ip("-n", host, "addr", "add", f"{address}/24", "dev", INTERFACES[host])
        ip("-n", host, "link", "set", INTERFACES[host], "up")
        ip("-n", host, "link", "set", "lo", "up")
    try:
        yield
    finally:
        for host in HOSTS:
            ip("netns", "del", host)


@dataclass
class Host:
    """torchrun of one host, and its output."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text(errors="replace")

    def ranks(self) -> list[int]:
        """Pids of its ranks."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = children.read_text().split() if children.exists() else []
        return [int(pid) for pid in pids if b"pipecut.runtime" in _command(int(pid))]


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def start(host: str, plan: Path, checkpoints: Path, log: Path) -> Host:
    """torchrun with one rank on a host."""
    # torchrun of this interpreter: the environment's folder of commands need not be on PATH.
    run = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    run += ["--max-restarts", "3"]
    run += [
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        f"{HOSTS[FIRST]}:{PORT}",
        "--rdzv-id",
        checkpoints.name,
    ]
    # The names of the namespaces resolve nowhere: torchrun has to know which has the rendezvous.
    run += ["--rdzv-conf", f"is_host={int(host == FIRST)}"]
    run += ["--local-addr", HOSTS[host], "-m", "pipecut.runtime", str(plan), "--steps", str(STEPS)]
    run += ["--data", "tests.models.core:slow_vectors", "--device", "cpu"]
    run += ["--checkpoints", str(checkpoints), "--checkpoint-every", "5"]
    environment = {
        **os.environ,
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "GLOO_SOCKET_IFNAME": INTERFACES[host],
        "OMP_NUM_THREADS": "1",
    }
    inside = ["unshare", "--uts", "sh", "-c", f'hostname {host}; exec "$@"', "sh", *run]
    with log.open("ab") as file:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, *inside], stdout=file, stderr=file, env=environment
        )
    return Host(host, process, log)


def wait_for(pattern: str, host: Host, begin: int = 0) -> float:
    """Seconds until a host's output, from character `begin`, matches; inf where it never does."""
    start_time = time.monotonic()
    while time.monotonic() - start_time < LIMIT:
        if re.search(pattern, host.output[begin:]):
            return time.monotonic() - start_time
        if host.process.poll() is not None:
            break
        time.sleep(0.1)
    return float("inf")


def fault(kind: str, plan: Path, scratch: Path, console: Console) -> bool:
    """Whether a fault was named within a minute and the training continued to its end."""
    hosts = [start(name, plan, scratch / kind, scratch / f"{kind}-{name}.log") for name in HOSTS]
    # Both run under one name of the rendezvous.
    first, second = hosts
    if wait_for(r"step +\d", first) == float("inf"):
        for host in hosts:
            host.process.kill()
            host.process.wait(LIMIT)
        console.print(f"{kind}: did not begin\n{first.output[-4000:]}", markup=False)
        return False
    time.sleep(3)
    length, begin = len(first.output), time.monotonic()
    if kind == "lost":
        ip("-n", SECOND, "link", "set", INTERFACES[SECOND], "down")
        os.kill(second.process.pid, signal.SIGKILL)
    else:
        (pid,) = second.ranks()
        os.kill(pid, signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    named = wait_for(
        r"rank \d on host pipecut-b has been silent|on host pipecut-b: rank", first, length
    )
    if kind == "lost":
        ip("-n", SECOND, "link", "set", INTERFACES[SECOND], "up")
        second = start(SECOND, plan, scratch / kind, scratch / f"{kind}-again.log")
    wait_for("going on after step", first, length)
    back = time.monotonic() - begin
    codes = [
        host.process.wait(LIMIT) if host.process.poll() is None else host.process.returncode
        for host in (first, second)
    ]
    said = next(
        (line for line in first.output[length:].splitlines() if "on host pipecut-b" in line),
        "nothing",
    )
    console.print(
        f"{kind}: named after {named:.0f} s, went on after {back:.0f} s, exit codes {codes}"
    )
    console.print(f"  {said}")
    if any(codes) or named > 60:
        console.print(first.output[-6000:], markup=False)
        console.print(second.output[-3000:], markup=False)
    return not any(codes) and named <= 60


def main(kinds: Sequence[str]) -> int:
    """Print a line per fault."""
    console = Console(width=160)
    if os.geteuid() or sys.platform != "linux":
        console.print("skipped: network namespaces need root on Linux")
        return 0
    with tempfile.TemporaryDirectory() as folder, two_hosts():
        scratch = Path(folder)
        job = scratch / "job.yaml"
        job.write_text(
            'model: {factory: "tests.models.core:mlp"}\n'
            'inputs: "tests.models.core:vectors"\n'
            "batch: {global: 8, microbatch: 2}\n"
        )
        compile(job, "auto", scratch / "plan", Options(SizeOverrides(stages=2)))
        passed = [fault(kind, scratch / "plan", scratch, console) for kind in kinds]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["kill", "stop", "lost"]))
