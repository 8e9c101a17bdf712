"""What a trace does not see is compiled exactly, or refused by name: tests/models/unseen.py."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipecut.compiler.compare.compare import compare
from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.trace.trace import trace
from pipecut.errors import TraceError
from tests.models.unseen import KINDS

JOB = """
model: {{factory: "tests.models.unseen:unseen", args: {{name: {name}}}}}
inputs: "tests.models.unseen:rows"
batch: {{global: 8, microbatch: 2}}
"""
EXACT = {
    "AssignedBuffer",
    "AutocastInside",
    "BufferReadAfterWrite",
    "CachedTable",
    "DetachedOutsideOfTrace",
    "FrozenAlready",
    "GlobalCacheByShape",
    "LoggedLoss",
    "MethodOfInstance",
    "OnlyIfGradient",
    "OnlyIfLeaf",
    "OnlyWhenEager",
    "OnlyWithGradients",
    "OtherDtype",
    "ParameterHook",
    "Straight",
}
# Those of which a fast run of the tests tries one of each sort.
QUICK = {
    "AssignedBuffer",
    "Clock",
    "GlobalCacheByShape",
    "GlobalCacheOfWeight",
    "GlobalWarmUp",
    "ModuleReplaced",
    "NestedContainer",
    "OnlyIfGradient",
    "OnlyIfPlainTensor",
}


@pytest.fixture
def job(tmp_path: Path) -> Callable[[str], Job]:
    def write(name: str) -> Job:
        path = tmp_path / "job.yaml"
        path.write_text(JOB.format(name=name))
        return read_job(path)

    return write


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in sorted(KINDS)],
)
def test_it_is_exact_or_refused_with_its_line(name: str, job: Callable[[str], Job]) -> None:
    if name in EXACT:
        assert compare(job(name), trace(job(name))).compared
        return
    with pytest.raises(TraceError) as raised:
        compare(job(name), trace(job(name)))
    assert ";" in str(raised.value)


def test_the_first_operator_that_differs_is_named_with_its_line(job: Callable[[str], Job]) -> None:
    asked = job("OnlyIfPlainTensor")
    graph = trace(asked)
    with pytest.raises(TraceError, match=r"aten.mul.Tensor.*unseen.py:\d+.*--trust-trace"):
        compare(asked, graph)
    trusted = compare(asked, graph, trust=True)
    assert not trusted.compared and "--trust-trace" in str(trusted)


def test_a_model_that_fails_in_its_precision_is_refused(
    job: Callable[[str], Job], tmp_path: Path
) -> None:
    path = job("OtherDtype").path
    path.write_text(f"{path.read_text()}precision: bf16\n")
    graph = trace(read_job(path))
    with pytest.raises(TraceError, match=r"fails .* in bf16 at .*unseen.py:\d+, and so would"):
        compare(read_job(path), graph)
    assert not compare(read_job(path), graph, trust=True).compared


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GlobalCounter", r"second forward does something else: mul\(.*, 2\) .*unseen.py:\d+"),
        ("GlobalWarmUp", r"'tests.models.unseen.CALLS' changes .*unseen.py:\d+ reads it"),
        ("GlobalCacheOfWeight", r"a tensor \[8, 8\] that the forward before made"),
        ("ModuleReplaced", "replaces its module 'b'"),
        ("ParameterReplaced", "replaces its parameter 'h.weight'"),
        ("GradientRead", r"reads the gradient of a parameter \(.*unseen.py:\d+\)"),
        ("GradientAssigned", "assigns the gradient of a parameter"),
        ("GradientDropped", "drops the gradient of a parameter"),
        ("FrozenMeanwhile", "turns a parameter's gradient on or off"),
        ("FrozenByForward", "calls Module.requires_grad_"),
    ],
)
@pytest.mark.slow
def test_what_changes_between_forwards_is_named(
    name: str, message: str, job: Callable[[str], Job]
) -> None:
    with pytest.raises(TraceError, match=message):
        trace(job(name))
