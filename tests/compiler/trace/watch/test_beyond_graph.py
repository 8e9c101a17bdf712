"""What a traced graph would leave out is refused by name."""

from pathlib import Path

import pytest
from torch import nn
from torch.nn.modules.module import register_module_full_backward_hook

from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.compiler.trace.watch.beyond_graph import refuse_hooks
from pipecut.errors import TraceError

JOB = """
model: {{factory: "tests.models.modes:beyond", args: {{how: {how}}}, opaque: never}}
inputs: "tests.models.modes:rows"
batch: {{global: 8, microbatch: 2}}
"""
REFUSED = {
    "local function": r"modes.*Local, a torch.autograd.Function, \(.*modes.py:\d+\) which.*"
    "cannot import: it is defined within a function; define it at the top of a module",
    "given a module": r"_Straight, .*modes.py:\d+\) with a Linear, and stage code can give it",
    "writing": r"_Straight, a torch.autograd.Function, writes to what it is given \(.*\).*clone",
    "returning": "_Straight, a torch.autograd.Function, returns a int, .*dense tensors only",
    "drawing": r"draws random numbers in its backward \(.*modes.py:\d+\).*save_for_backward",
    "counting": r"_Straight, .*without values: .* at .*modes.py:\d+: .*under model.opaque",
    "data": r"writes to its parameter 'between.1.inner.bias' \(.*modes.py:\d+\)",
    "assigned data": r"assigns to the .data of a tensor \(.*modes.py:\d+\)",
    "packed": r"packs what backward needs with .*lambda.* \(.*modes.py:\d+\).*recompute",
    "sparse": r"Embedding 'between.1.table' \(.*\) makes sparse gradients.*sparse=False",
    "node hook": r"reads grad_fn \(.*modes.py:\d+\)",
    "scripted": "module 'between.1.inner' is TorchScript.*replace it with the plain module",
    "state": "seeds torch's random numbers, or sets their state",
    "fork": "seeds torch's random numbers, or sets their state",
    "late hook": r"registers .*lambda.* \(.*modes.py:\d+\) as a hook for a gradient",
    "hook": r"registers .*lambda.* \(.*modes.py:\d+\) as a hook for a gradient",
    "parameter hook": r"parameter 'between.1.inner.weight' has a gradient hook.*modes.py:\d+",
    "module hook": r"module 'between.1.inner' \(Linear\) has a backward hook.*modes.py:\d+",
    "average": r"writes to its parameter 'between.1.inner.bias' \(.*modes.py:\d+\)",
    "norm": "writes to its parameter 'between.1.table.weight'",
}


ALWAYS_ON = """
model: {{factory: "tests.models.modes:hidden", args: {{kind: {kind}}}}}
inputs: "tests.models.modes:rows"
batch: {{global: 8, microbatch: 2}}
"""


@pytest.mark.parametrize("kind", ["FreshDropout", "TracedTwice"])
def test_a_dropout_that_is_always_on_stays_on_in_eval_mode(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(ALWAYS_ON.format(kind=kind))
    graph = trace(read_job(path))
    assert not graph.refused
    drops = [o for o in (graph.evaluation or graph).operators if "dropout" in o.target]
    assert [o.args[2] for o in drops if not o.modes] == [True]


@pytest.mark.parametrize("how", sorted(REFUSED))
def test_what_the_graph_would_leave_out_is_refused(how: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(how=how))
    with pytest.raises(TraceError, match=REFUSED[how]):
        trace(read_job(path))


def test_hooks_of_all_modules_are_refused() -> None:
    handle = register_module_full_backward_hook(lambda module, into, out: None)
    try:
        with pytest.raises(TraceError, match=r"lambda.*test_beyond_graph.py:\d+.* of all modules"):
            refuse_hooks(nn.Linear(2, 2))
    finally:
        handle.remove()


def test_data_that_is_only_read_is_the_tensor_detached(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(how="read data"))
    graph = trace(read_job(path))
    assert [o.target for o in graph.operators].count("aten.detach.default") == 1
