"""A stage's code is plain torch that a person can read, in the model's own modules."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipecut.compiler.compare.compare import compare
from pipecut.compiler.graph import Graph, Literal, Output, Ref, Sym
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.stages.blocks.wrapping import wrapped
from pipecut.compiler.stages.build import build
from pipecut.compiler.stages.cut import cut
from pipecut.compiler.stages.source import write_stage
from pipecut.compiler.trace.trace import trace
from tests.compiler.chain_graphs import chain, made_buffer, made_operator, made_value


def stage_class(graph: Graph, *stages: int, stage: int = 0) -> list[str]:
    """The lines of a stage's own class, without indent and empty lines."""
    cuts = cut(graph, [(placed,) for placed in stages], max(stages) + 1)
    code = write_stage(graph, cuts[stage], len(cuts))
    lines = code[code.index(f"class Stage{stage}(") :].splitlines()
    return [line.removeprefix("    ").removeprefix("    ") for line in lines if line]


def forward(graph: Graph, *stages: int, stage: int = 0) -> list[str]:
    """The lines of its forward."""
    lines = stage_class(graph, *stages, stage=stage)
    return lines[next(at for at, line in enumerate(lines) if line.startswith("def forward")) :]


def test_layers_that_are_alike_are_made_and_called_in_a_loop() -> None:
    assert stage_class(chain(3), 0, 0, 1, 1) == [
        "class Stage0(nn.Module):",
        "def __init__(self, device=None):",
        "super().__init__()",
        'with torch.device("meta"):',
        "    self.layers = Group({i: nn.Linear(4, 4, bias=False) for i in range(0, 2)})",
        "allocate(self, device, torch.float32)",
        "def forward(self, features):",
        "linear = features",
        "for layer in self.layers:",
        "    linear = layer(linear)",
        "return (linear,)",
    ]


def test_layers_that_give_nothing_are_called_in_a_loop() -> None:
    """As batch norms are, whose counters are on another stage than what they count."""
    graph = chain(1)
    counts = [
        made_operator(
            f"count_{layer}",
            "aten.add_.Tensor",
            f"counter_{layer}",
            f"counter_{layer}",
            module=f"norms.{layer}",
            writes=(f"counter_{layer}",),
        )
        for layer in range(2)
    ]
    buffers = tuple(made_buffer(f"counter_{n}", f"norms.{n}.counter") for n in range(2))
    made = [buffer.value for buffer in buffers] + [operator.name for operator in counts]
    values = {name: made_value(name, needs_grad=False, shape=(4,)) for name in made}
    graph = replace(
        graph,
        operators=(*graph.operators[:1], *counts, *graph.operators[1:]),
        values={**graph.values, **values},
        buffers=buffers,
    )
    lines = forward(graph, 0, 1, 1, 1, stage=1)
    at = lines.index("for layer in self.norms:")
    assert lines[at + 1] == "    layer()"


def test_a_model_that_is_a_list_of_layers_is_one_in_its_stage(tmp_path: Path) -> None:
    (tmp_path / "listed.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(): return nn.Sequential(*(nn.Linear(3, 3) for _ in range(3)))\n"
        "def inputs(count): return {'input': torch.ones(count, 3)}\n"
        "def loss(output, batch): return output.sum()\n"
    )
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: {factory: 'listed:build'}\ninputs: 'listed:inputs'\nloss: 'listed:loss'\n"
        "batch: {global: 4, microbatch: 2}\n"
    )
    graph = trace(read_job(job).with_microbatch(2))
    lines = stage_class(graph, *[0] * len(graph.operators))
    assert lines[0] == "class Stage0(Group):"
    assert "    super().__init__({i: nn.Linear(3, 3) for i in range(0, 3)})" in lines
    assert "for layer in self:" in lines
    (whole,) = cut(graph, [(0,)] * len(graph.operators), 1)
    module = build(graph, whole, 1, torch.device("cpu"), {})
    assert set(module.state_dict()) == {f"{n}.{p}" for n in range(3) for p in ("weight", "bias")}


PAIRS = """
import torch
from torch import nn

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(3, 3), nn.Linear(3, 3)
    def forward(self, left, right):
        right, left = self.left(left), self.right(right)
        right = right + left.mean()
        left = left * 2
        return right, left

class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Pair() for _ in range(3))
    def forward(self, left, right):
        for layer in self.layers:
            left, right = layer(left, right)
        return left - right

build = Pairs
def inputs(count): return {'left': torch.randn(count, 3), 'right': torch.randn(count, 3)}
def loss(output, batch): return output.square().sum()
"""


def test_a_loop_whose_variables_change_places_computes_what_the_model_does(tmp_path: Path) -> None:
    (tmp_path / "pairs.py").write_text(PAIRS)
    job = tmp_path / "job.yaml"
    job.write_text(
        "model: {factory: 'pairs:build'}\ninputs: 'pairs:inputs'\nloss: 'pairs:loss'\n"
        "batch: {global: 4, microbatch: 2}\n"
    )
    read = read_job(job).with_microbatch(2)
    graph = trace(read)
    lines = stage_class(graph, *[0] * len(graph.operators))
    assert "right, left = left, right" in lines
    assert compare(read, graph).compared


def test_a_stage_of_many_equal_layers_is_as_long_as_one_of_two() -> None:
    few, many = chain(2), chain(20)
    lines = [stage_class(graph, *[0] * len(graph.operators)) for graph in (few, many)]
    assert len(lines[0]) == len(lines[1])


def test_the_last_stage_returns_the_loss() -> None:
    assert forward(chain(2), 0, 1, 1, stage=1) == [
        "def forward(self, linear):",
        "# model.py:1",
        "return (self.layers[1](linear).sum(),)",
    ]


def test_a_tied_parameter_has_all_its_names() -> None:
    lines = stage_class(chain(3, tied=True), 0, 0, 0, 0)
    assert 'put(self, self.layers[0].weight, "layers.2.weight")' in lines


def test_outputs_are_handed_out_where_they_are_asked_for() -> None:
    graph = replace(chain(2), outputs=(Output("hidden", "linear_0"), Output("same", "linear_0")))
    lines = forward(graph, 0, 0, 0)
    assert lines[0] == "def forward(self, features, outputs=None):"
    at = lines.index("if outputs is not None:")
    assert lines[at + 1] == "    outputs |= {'hidden': linear, 'same': linear}"


def test_a_with_statement_stands_around_a_whole_call() -> None:
    graph = chain(2)
    context = ("torch.autocast(device.type)",)
    operators = [replace(o, contexts=context) for o in graph.operators[:2]]
    assert forward(replace(graph, operators=(*operators, graph.operators[2])), 0, 0, 0) == [
        "def forward(self, features):",
        "# model.py:1",
        "device = features.device",
        "with torch.autocast(device.type):",
        "    linear = self.layers[1](self.layers[0](features))",
        "return (linear.sum(),)",
    ]


def test_what_depends_on_the_batch_reads_it_off_an_input() -> None:
    graph = chain(1)
    view = made_operator("view", "aten.view.default", "linear_0")
    view = replace(view, args=(Ref("linear_0"), (Sym("4*batch"),)))
    values = {**graph.values, "view": made_value("view", shape=(8,))}
    lines = forward(
        replace(graph, operators=(graph.operators[0], view), values=values, loss="view"), 0, 0
    )
    assert lines[-2:] == [
        "batch = features.size(0)",
        "return (self.layers[0](features).view([4*batch]),)",
    ]


def test_a_device_argument_is_the_stages_own() -> None:
    graph = chain(1)
    table = made_operator("table", "aten.arange.default")
    table = replace(table, args=(4,), kwargs=(("device", Literal("device")),))
    lines = forward(replace(graph, operators=(table, *graph.operators)), 0, 0, 0)
    assert "device = features.device" in lines
    assert "torch.arange(4, device=device)" in lines


def test_an_input_that_the_model_writes_is_copied_first() -> None:
    graph = chain(1)
    doubled = made_operator("doubled", "aten.relu_.default", "x", writes=("x",), aliases=("x",))
    linear = replace(
        graph.operators[0], args=(Ref("doubled"), Ref("weight_0")), inputs=("doubled", "weight_0")
    )
    values = {**graph.values, "doubled": made_value("doubled")}
    operators = (doubled, linear, graph.operators[1])
    lines = forward(replace(graph, operators=operators, values=values), 0, 0, 0)
    assert "features = features.clone()" in lines[:4]


def test_a_stage_that_does_something_else_in_eval_mode_has_two_forwards() -> None:
    graph = chain(1)
    (training,) = cut(graph, [(0,), (0,)], 1)
    relu = made_operator("relu", "aten.relu.default", "linear_0")
    evaluation = replace(
        graph,
        operators=(graph.operators[0], relu),
        values={**graph.values, "relu": made_value("relu")},
        loss="relu",
    )
    (other,) = cut(evaluation, [(0,), (0,)], 1)
    both = replace(training, evaluation=other)
    code = write_stage(replace(graph, evaluation=evaluation), both, 1)
    assert "return self.forward_in_training(*given, **wanted)" in code
    assert "def forward_in_evaluation(self, features):" in code
    same = write_stage(replace(graph, evaluation=graph), replace(training, evaluation=training), 1)
    assert "forward_in_training" not in same


def test_a_built_stage_computes_what_its_operators_say() -> None:
    graph = chain(2)
    cuts = cut(graph, [(0,), (1,), (1,)], 2)
    first, second = (build(graph, stage, 2, torch.device("cpu"), {}) for stage in cuts)
    for module in (first, second):
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, 0.5)
    batch = torch.ones(2, 4)
    (hidden,) = first(batch)
    (loss,) = second(hidden)
    assert torch.equal(hidden, torch.full((2, 4), 2.0)) and loss.item() == 8 * 4.0
    assert list(first.state_dict()) == ["layers.0.weight"]
    assert list(second.state_dict()) == ["layers.1.weight"]


LONG = "a" * 60


@pytest.mark.parametrize(
    "line",
    [
        f'put(self, buffers["{LONG}.{LONG}"], "{LONG}")',
        f"x = table[{LONG} + {LONG}]",
        f"x = table[{LONG}, {LONG}]",
        f"x = ({LONG} + {LONG}) * 2",
        f"x = ({LONG}{LONG},)",
        f"x = [{LONG}{LONG}]",
        f"x = call({LONG} + {LONG})",
        f"x = call({LONG}, [{LONG}, {LONG}], name={LONG})",
        f"x = {{1: call({LONG} + {LONG})}}",
    ],
)
def test_a_long_line_means_the_same_on_several(line: str) -> None:
    lines = wrapped(line)
    assert len(lines) > 1
    assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(ast.parse(line))
