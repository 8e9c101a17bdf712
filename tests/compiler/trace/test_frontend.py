"""What no plan can be made of is refused by name, with what would do instead."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.trace import trace
from pipecut.errors import PipecutError

HEAD = """
import numpy
import torch
from torch import nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x))).square().mean()

def build():
    return Model()

def inputs(n):
    return {"x": torch.randn(n, 4)}
"""
numbers = iter(range(10**6))


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., Graph]:
    """Trace a model of two layers, of which `code` defines again what is to be odd."""

    def make(code: str, extra: str = "", microbatch: int = 2) -> Graph:
        module = f"odd_{next(numbers)}_of_frontend"
        (tmp_path / f"{module}.py").write_text(HEAD + code)
        job = tmp_path / "job.yaml"
        batch = f"batch: {{global: 8, microbatch: {microbatch}}}\n"
        job.write_text(
            f'model: {{factory: "{module}:build", opaque: never}}\n'
            f'inputs: "{module}:inputs"\n{batch}' + extra.format(module=module)
        )
        return trace(read_job(job))

    return make


def forward(body: str) -> str:
    return f"def forward(self, x):\n    {body}\nModel.forward = forward\n"


def given(entries: str) -> str:
    return (
        f"def inputs(n):\n    x = torch.randn(n, 4)\n    return {{'x': x, {entries}}}\n"
        "Model.forward = lambda s, x, **_: s.b(s.a(x)).mean()\n"
    )


def built(*lines: str) -> str:
    return "\n    ".join(["def build():", "m = Model()", *lines, "return m\n"])


def buffer(value: str, loss: str = "self.a(x).mean()") -> str:
    return built(f"m.register_buffer('t', {value})") + forward(f"return {loss}")


def with_loss(loss: str) -> str:
    return f"def loss(output, batch): return {loss}\n" + forward("return self.a(x)")


LOSS = 'loss: "{module}:loss"\n'
COMPLEX = "torch.view_as_complex(self.a(x).view(-1, 2, 2))"
# The message, and what of the model is odd.
REFUSED = {
    "writes to 'n', a tensor that is no buffer.*register_buffer": (
        built("m.n = torch.zeros(1)")
        + "def counted(self, x):\n    self.n += 1\n    return self.a(x / self.n).mean()\n"
        + "Model.forward = counted\n"
    ),
    "writes to .*, a tensor that is no buffer": (
        "COUNT = torch.zeros(1)\n" + forward("COUNT.add_(1); return (self.a(x) / COUNT).mean()")
    ),
    r"'c' \(BatchNorm1d\) has momentum=None.*such as 0.1": (
        built("m.c = nn.BatchNorm1d(4, momentum=None)")
        + forward("return self.c(self.a(x)).square().mean()")
    ),
    "no gradient.*the last place where a gradient is lost is aten.detach": forward(
        "return self.a(x).detach().mean()"
    ),
    "needs no gradient.*aten.argmax": forward("return self.b(self.a(x)).argmax(-1).float().mean()"),
    "needs no gradient, so nothing would be": forward(
        "with torch.no_grad(): return self.a(x).mean()"
    ),
    "no parameter of the model needs a gradient": (
        "def build(): return Model().requires_grad_(False)"
    ),
    "loss is int64.*compute it in floating point": forward("return self.a(x).argmax(-1).sum()"),
    "loss is complex64.*real part": forward(f"return {COMPLEX}.mean()"),
    r"loss: .*:loss returns a tensor of shape \[batch, 4\].*\.mean\(\)": with_loss("output"),
    r"loss: .*:loss returns a float; .*\.item\(\)": with_loss("1.0"),
    r"returns 'y', which the model's forward does not take \(it takes x\).*loss:": (
        "def inputs(n): return {'x': torch.randn(n, 4), 'y': torch.randn(n)}"
    ),
    "forward needs 'z', which .*:inputs does not return": (
        "Model.forward = lambda self, x, z: x.mean()"
    ),
    r"dimension 1 of 'p'.*follows the batch \(\[3, 2\] for 2 samples, \[3, 3\] for 3\)"
    r".*p.transpose\(0, 1\)": (given("'p': torch.zeros(3, n)")),
    r"dimensions \[0, 1\] of 'p'.*all follow": given("'p': torch.zeros(n, n)"),
    "dimension 0 of 'p'.*neither fixed nor the number": given("'p': torch.zeros(4 * n, 2)"),
    "dimension 1 of 'p'.*neither fixed": given("'p': torch.zeros(n, 7 + n % 5)"),
    "no tensor of .* has the number of samples": "def inputs(n): return {'x': torch.randn(4, 4)}",
    r"'p' of .* is a numpy.ndarray.*torch.from_numpy\(p\)": given("'p': numpy.zeros(n)"),
    "'p' of .* is a set.*under a name of its own": given("'p': {1, 2}"),
    "'n' of .* is 2 for 2 samples and 3 for 3": given("'n': n"),
    "'p' of .* is a sparse_coo tensor.*to_dense": given("'p': x.to_sparse()"),
    "'p' of .* is float8_e5m2fnuz.*float32": given("'p': x.to(torch.float8_e5m2fnuz)"),
    "'p' of .* is on meta": given("'p': x.to('meta')"),
    "has the key 3; .*must be strings": given("3: x"),
    "returned a list; it must return a dict": "def inputs(n): return [torch.randn(n, 4)]",
    r"inputs\(2\) failed at .*of_frontend.py:20: ValueError: not now": (
        "def inputs(n):\n    raise ValueError('not\\nnow')"
    ),
    "buffer 't' is complex128.*complex64": buffer("torch.ones(4, dtype=torch.complex128)"),
    "buffer 't' is float8_e5m2fnuz": buffer("torch.ones(4).to(torch.float8_e5m2fnuz)"),
    "'t' is a sparse_coo tensor.*to_dense": buffer(
        "torch.eye(4).to_sparse()", "self.a(torch.sparse.mm(self.t, x.t()).t()).mean()"
    ),
    # Memory that is shared without being one object.
    "parameters 'a.weight' and 'b.weight' share.*model.b.weight = model.a.weight": built(
        "m.b.weight.data = m.a.weight.data"
    ),
    "parameters 'a.weight' and 'b.weight' share memory": built(
        "m.b.weight.data = torch.from_numpy(m.a.weight.detach().numpy())"
    ),
    "'a.weight' and 'b.weight' share memory without": built(
        "w = numpy.zeros((4, 4), 'float32')",
        "m.a.weight, m.b.weight = (nn.Parameter(torch.from_numpy(w)) for _ in range(2))",
    ),
    "'a.weight' and 'b.weight' share memory": built(
        "big = torch.randn(8, 4)",
        "m.a.weight, m.b.weight = nn.Parameter(big[:4]), nn.Parameter(big[3:7])",
    ),
    "buffer 't' shares memory with parameter 'a.weight'": built(
        "m.register_buffer('t', m.a.weight.data)"
    ),
    "buffer 't' shares memory with parameter 'a.bias'": built(
        "w = torch.randn(4)", "m.register_buffer('t', w)", "m.a.bias = nn.Parameter(w)"
    ),
    "attribute 't' shares memory with parameter 'a.weight'.*keep a copy": built(
        "m.t = m.a.weight.data"
    ),
    "attribute 'a.t' shares memory with parameter 'a.weight'": built(
        "m.a.t = [m.a.weight.detach()]"
    ),
    "buffers 't' and 'u' share memory, and the model writes": built(
        "w = torch.ones(4)", "m.register_buffer('t', w)", "m.register_buffer('u', w[:])"
    )
    + forward("self.u.mul_(0.5); return self.a(x * self.t).mean()"),
    "parameter 'weight' of LazyLinear has no shape yet.*run the model once": built(
        "m.a = nn.LazyLinear(4)"
    ),
    "build failed at .*of_frontend.py:19: ValueError: mine": (
        "def build(): raise ValueError('mine')"
    ),
    "build failed at .*of_frontend.py:19: SystemExit: 3": "def build(): raise SystemExit(3)",
    r"cannot trace the model: SystemExit: 4 \(at .*of_frontend.py:20\)": forward(
        "raise SystemExit(4)"
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_by_name(message: str, traced: Callable[..., Graph]) -> None:
    code = REFUSED[message]
    with pytest.raises(PipecutError, match=message) as caught:
        traced(code, LOSS if "def loss" in code else "")
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_trained_parameters_without_a_gradient_are_noted(traced: Callable[..., Graph]) -> None:
    graph = traced(forward("with torch.no_grad(): x = self.a(x)\n    return self.b(x).mean()"))
    assert [
        note for note in graph.notes if note.endswith("as in the unsplit model: a.weight, a.bias")
    ]


def test_operators_of_a_loss_function_have_its_lines(traced: Callable[..., Graph]) -> None:
    graph = traced(with_loss("output.mean()"), LOSS)
    (mean,) = [operator for operator in graph.operators if operator.name == "mean"]
    line = HEAD.count("\n") + 1
    assert re.fullmatch(rf" \(odd_\d+_of_frontend.py:{line}\)", mean.source)


def test_a_fixed_batch_is_traced_with_the_microbatch_itself(traced: Callable[..., Graph]) -> None:
    graph = traced(
        forward("return torch.stack([self.a(x[i]) for i in range(len(x))]).mean() / len(x)"),
        microbatch=1,
    )
    assert not graph.dynamic and graph.values[graph.batch_inputs[0].value].sizes == (1, 4)


def test_memory_that_only_lies_side_by_side_is_not_shared(traced: Callable[..., Graph]) -> None:
    columns = (
        "big = torch.randn(4, 8); "
        "m.a.weight, m.b.weight = nn.Parameter(big[:, :4]), nn.Parameter(big[:, 4:])"
    )
    frozen = (
        "m.a.bias.data = m.b.bias.data; "
        "m.a.bias.requires_grad_(False); m.b.bias.requires_grad_(False)"
    )
    copied = "m.register_buffer('t', m.a.weight.detach().clone())"
    graph = traced(built(columns, frozen, copied))
    assert len(graph.parameters) == 4
    assert [buffer.names for buffer in graph.buffers] == [("t",)]


CHOOSING = forward("return (self.a(x) * (3 if x.shape[0] == 1 else 2)).mean()")


def test_a_sample_left_alone_is_refused_where_the_model_does_something_else_with_it(
    traced: Callable[..., Graph],
) -> None:
    with pytest.raises(
        PipecutError,
        match=r"of 8 samples in 7s has only one sample.*of_frontend.py:20.*batch.global",
    ):
        traced(CHOOSING, microbatch=7)
    assert traced(CHOOSING, microbatch=2).dynamic
    alone = traced(CHOOSING, microbatch=1)
    assert not alone.dynamic and "with one sample the model does something else" in alone.notes[0]


def test_a_choice_that_makes_no_difference_to_one_sample_leaves_any_size(
    traced: Callable[..., Graph],
) -> None:
    graph = traced(forward("return self.a(x if x.shape[0] > 1 else x).mean()"), microbatch=1)
    assert graph.dynamic and "fixes" not in " ".join(graph.notes)
