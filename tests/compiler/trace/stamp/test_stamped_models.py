"""Where layers are stamped, the graph is name for name that of the model traced whole."""

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.graph import Graph
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace import trace as tracing
from pipecut.compiler.trace.trace import trace

# A first layer, whose input needs no gradient, is of a kind of its own. Of each other kind two
# layers and the last one are traced.
HEAD = """
import torch
import torch.nn.functional as F
from torch import nn

class Layer(nn.Module):
    def __init__(self, number=0):
        super().__init__()
        self.number = number
        self.norm, self.a, self.b = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(4, 4)

    def forward(self, x):
        first, second = self.a(self.norm(x)).chunk(2, -1)
        return x + F.dropout(self.b(first * torch.tanh(second)), 0.1, self.training)

class Model(nn.Module):
    layer = Layer

    def __init__(self, layers=7):
        super().__init__()
        self.layers = nn.ModuleList(self.layer(number) for number in range(layers))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()

def build():
    return Model()

def inputs(n):
    return {"x": torch.randn(n, 3, 4)}
"""
numbers = iter(range(10**6))


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Graph]:
    """Trace a model with and without stamping; the graphs must be equal."""

    def make(code: str, head: str = HEAD, microbatch: int = 2) -> Graph:
        module = f"layers_{next(numbers)}_of_stamp"
        (tmp_path / f"{module}.py").write_text(head + code)
        path = tmp_path / "job.yaml"
        path.write_text(
            f'model: {{factory: "{module}:build"}}\ninputs: "{module}:inputs"\n'
            f"batch: {{global: 8, microbatch: {microbatch}}}\n"
        )
        job = read_job(path)
        # Some of these models are refused after their trace, since they count their forwards.
        monkeypatch.setattr(tracing, "rehearse", lambda *_: "")
        stamped = trace(job)
        export, evaluation = tracing.export, tracing.export_evaluation
        with monkeypatch.context() as patch:
            patch.setattr(tracing, "export", lambda j, why, _, *more: export(j, why, True, *more))
            patch.setattr(
                tracing,
                "export_evaluation",
                lambda j, e, d, whole=False, *more: evaluation(j, e, d, True, *more),
            )
            whole = trace(job)
        assert not whole.stamped
        compare(stamped, whole)
        return stamped

    return make


def compare(stamped: Graph, whole: Graph) -> None:
    """Every field but buffers' data, which are compared by value."""
    for ours, theirs in zip(stamped.operators, whole.operators, strict=True):
        assert ours == theirs
    for field in fields(Graph):
        first, second = getattr(stamped, field.name), getattr(whole, field.name)
        if field.name == "buffers":
            assert list(map(plain, first)) == list(map(plain, second))
        elif field.name == "evaluation" and first is not None:
            compare(first, second)
        elif field.name not in ("stamped", "layers"):
            assert first == second, field.name
    assert list(stamped.values) == list(whole.values)


def plain(buffer: Any) -> Any:
    return replace(buffer, data=buffer.data.tolist())


def layer(body: str, before: str = "pass") -> str:
    """A layer whose forward is a body, of a model that is made anew."""
    return (
        "class Other(Layer):\n    def __init__(self, number):\n"
        f"        super().__init__(number)\n        {before}\n"
        f"    def forward(self, x):\n        {body}\n"
        "Model.layer = Other\n"
    )


def model(body: str) -> str:
    """A model whose forward is a body of a loop's statements."""
    return f"def forward(self, x):\n    {body}\nModel.forward = forward\n"


STAMPED = {
    "layers that differ in nothing": ("", 3),
    "one by one, by index": (
        model("for i in range(len(self.layers)): x = self.layers[i](x)\n    return x.mean()"),
        3,
    ),
    "a choice by a value in each": (
        layer("y = self.b(x)\n        return x + y if torch.isfinite(y).all() else x"),
        3,
    ),
    "a number that no forward reads": (layer("return x + self.b(x)"), 3),
    "a number that is read where there is a cache": (
        layer("return x + self.b(x) if x.dim() == 3 else x + self.number"),
        3,
    ),
    "layers that take turns": (
        layer("return x + self.b(x) if self.turn else self.b(x)", "self.turn = number % 2 == 0")
        + "def build(): return Model(12)\n",
        5,
    ),
    "a buffer of each": (
        layer(
            "return x + self.b(x) * self.scale",
            "self.register_buffer('scale', torch.full((4,), float(number)))",
        ),
        3,
    ),
    "a mask that all are given": (
        "class Other(Layer):\n    def forward(self, x, mask=None, flag=True):\n"
        "        return x + self.b(x) * mask, mask\nModel.layer = Other\n"
        + model(
            "mask = (torch.arange(3) > 0).unsqueeze(-1).to(x.dtype)\n"
            "    for layer in self.layers: x, mask = layer(x, mask=mask)\n    return x.mean()"
        ),
        3,
    ),
    "hidden states of all": (
        model(
            "seen = []\n    for layer in self.layers: x = layer(x); seen.append(x)\n"
            "    return torch.stack(seen).mean()"
        ),
        3,
    ),
    "two inputs and two outputs": (
        "class Other(Layer):\n    def forward(self, x, y):\n"
        "        return {'x': x + self.b(y), 'y': torch.relu(y - x)}\nModel.layer = Other\n"
        + model(
            "y = x\n    for layer in self.layers:\n        out = layer(x, y)\n"
            "        x, y = out['x'], out['y']\n    return (x * y).mean()"
        ),
        2,
    ),
    "a tensor tied in all": (
        "def build():\n    m = Model()\n    for l in m.layers: l.a.weight = m.layers[0].a.weight\n"
        "    return m\n",
        3,
    ),
    "written within": (layer("y = self.b(x)\n        y.add_(1)\n        return x + y.relu_()"), 3),
    "settings that differ": (
        model(
            "for i, layer in enumerate(self.layers):\n"
            "        with torch.set_grad_enabled(i % 2 == 0): x = layer(x)\n    return x.mean()"
        ),
        1,
    ),
    "layers without gradients": (
        "def build():\n    m = Model()\n    m.layers[:6].requires_grad_(False)\n    return m\n",
        3,
    ),
    "dropout drawn in each": (layer("return x + self.b(x + torch.rand_like(x))"), 3),
    "another mode of two": (
        layer("return x + (self.b(x) if self.training else self.a(x)[..., :4])"),
        3,
    ),
}
WHOLE = {
    "a number that is read": layer("return x + self.b(x) / (self.number + 1)"),
    "a rate that differs": layer(
        "return x + F.dropout(self.b(x), self.rate, self.training)", "self.rate = number / 10"
    ),
    "a loop that numbers its calls": (
        "class Other(Layer):\n    def forward(self, x, number): return self.b(x) * number\n"
        "Model.layer = Other\n"
        + model("for i, layer in enumerate(self.layers): x = layer(x, i + 1)\n    return x.mean()")
    ),
    "one layer, called often": (
        "def build():\n    m = Model(1)\n    m.layers = nn.ModuleList(6 * [m.layers[0]])\n"
        "    return m\n"
    ),
    "two rounds": model(
        "for layer in (*self.layers, *self.layers): x = layer(x)\n    return x.mean()"
    ),
    "layers left out": model("for layer in self.layers[:6]: x = layer(x)\n    return x.mean()"),
    "a count in a global": "COUNT = 0\n"
    + layer(
        "global COUNT\n        COUNT += 1\n        return self.b(x) * (2 if COUNT % 7 == 5 else 1)"
    ),
    "a count in the class": layer(
        "Other.count += 1\n        return self.b(x) * (2 if Other.count % 7 == 5 else 1)",
        "Other.count = 0",
    ),
    "a list that grows": "LOG = []\n" + layer("LOG.append(0)\n        return x + self.b(x)"),
    "an argument that collects": (
        "class Other(Layer):\n    def forward(self, x, notes):\n"
        "        notes['x'] = x\n        return x + self.b(x)\nModel.layer = Other\n"
        + model(
            "notes = {'x': x}\n    for layer in self.layers: x = layer(x, notes)\n"
            "    return (x + notes['x']).mean()"
        )
    ),
    "an argument that is written": layer("x.mul_(2)\n        return x + self.b(x)"),
    "a hook within": (
        "def build():\n    m = Model()\n    for i, l in enumerate(m.layers):\n"
        "        l.b.register_forward_hook(lambda b, _, out, i=i: out * i)\n    return m\n"
    ),
    "a forward of its own": (
        "def build():\n    m = Model()\n    for i, l in enumerate(m.layers):\n"
        "        l.forward = lambda x, l=l, i=i: Layer.forward(l, x) * i\n    return m\n"
    ),
    "a middle one in eval mode": (
        "class Other(Layer):\n    def train(self, mode=True): return super().train(mode and "
        "self.number != 3)\nModel.layer = Other\ndef build(): return Model(5)\n"
    ),
    "settings that each has": layer(
        "with torch.no_grad(): y = self.b(x)\n        return x + self.a(y)[..., :4]"
    ),
    "results of another class": (
        "class Other(Layer):\n    def forward(self, x):\n"
        "        return type('Result', (), {'x': x + self.b(x)})\nModel.layer = Other\n"
        + model("for layer in self.layers: x = layer(x).x\n    return x.mean()")
    ),
    "a constant to branch on": (
        "class Other(Layer):\n    def forward(self, x, limit):\n"
        "        return self.b(x) if bool((limit > 3).all()) else self.b(-x)\nModel.layer = Other\n"
        + model(
            "for i, layer in enumerate(self.layers): x = layer(x, torch.full((1,), float(i)))\n"
            "    return x.mean()"
        )
    ),
    "an attribute that is read past the module": layer(
        "return x + self.b(x) * (2 if vars(self)['number'] == 3 else 1)"
    ),
    "a global that changes between layers": "NOW = 0\n"
    + layer("return x + self.b(x) * (2 if NOW == 3 else 1)")
    + model(
        "global NOW\n    for NOW, layer in enumerate(self.layers): x = layer(x)\n"
        "    NOW = 0\n    return x.mean()"
    ),
    "an object of all that changes between layers": "class Now: pass\nnow = Now()\n"
    + layer("return x + self.b(x) * (2 if self.now.number == 3 else 1)", "self.now = now")
    + model(
        "for now.number, layer in enumerate(self.layers): x = layer(x)\n"
        "    del now.number\n    return x.mean()"
    ),
    "an array of numbers": "import numpy\nNOW = numpy.zeros(1)\n"
    + layer("return x + self.b(x) * (2 if NOW[0] == 3 else 1)")
    + model(
        "for NOW[0], layer in enumerate(self.layers): x = layer(x)\n"
        "    NOW[0] = 0\n    return x.mean()"
    ),
    "another function in torch's place": layer("return x + F.gelu(self.b(x))")
    + model(
        "gelu = F.gelu\n    for i, layer in enumerate(self.layers):\n"
        "        F.gelu = F.relu if i == 3 else gelu\n        x = layer(x)\n"
        "    F.gelu = gelu\n    return x.mean()"
    ),
    "a context variable": "from contextvars import ContextVar\nNOW = ContextVar('now')\n"
    + layer("return x + self.b(x) * (2 if NOW.get() == 3 else 1)")
    + model(
        "for i, layer in enumerate(self.layers):\n        NOW.set(i)\n        x = layer(x)\n"
        "    return x.mean()"
    ),
    "a table of layers": "from weakref import WeakKeyDictionary\nSCALES = WeakKeyDictionary()\n"
    + layer("return x + self.b(x) * SCALES[self]", "SCALES[self] = 2 if number == 3 else 1"),
    "a layer that knows the model": layer(
        "return x + self.b(x) * (2 if self is self.model[0].layers[3] else 1)"
    )
    + "def build():\n    m = Model()\n    for l in m.layers: l.model = [m]\n    return m\n",
    "a part that is called from outside": model(
        "for layer in self.layers: x = layer(x)\n    return self.layers[3].b(x).mean()"
    ),
    "few layers": "def build(): return Model(3)\n",
    "a constant made in each": layer("return x + self.b(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])"),
}


QUICK = (
    *("layers that take turns", "a mask that all are given", "dropout drawn in each"),
    *(
        "a number that is read",
        "a count in a global",
        "a hook within",
        "an argument that is written",
        "an object of all that changes between layers",
        "a table of layers",
    ),
)


def cases(names: Iterable[str]) -> list[Any]:
    """Cases of a test; most are slow."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=() if name in QUICK else slow) for name in names]


@pytest.mark.parametrize("name", cases(STAMPED))
def test_equal_layers_are_stamped(name: str, both: Callable[..., Graph]) -> None:
    code, stamped = STAMPED[name]
    (summary,) = both(code).stamped
    assert summary.endswith(f" {stamped} stamped")


@pytest.mark.parametrize("name", cases(WHOLE))
def test_other_layers_are_traced(name: str, both: Callable[..., Graph]) -> None:
    assert not both(WHOLE[name]).stamped


FAMILIES = {
    # Class, configuration beside the sizes, kinds of layers that are stamped.
    "LlamaForCausalLM": ("LlamaConfig", "", 1),
    "GPT2LMHeadModel": ("GPT2Config", "n_layer=6, n_head=2, n_embd=16", 1),
    "GPT2LMHeadModel of inverse layer index": (
        "GPT2Config",
        "n_layer=6, n_head=2, n_embd=16, scale_attn_by_inverse_layer_idx=True",
        0,
    ),
    "T5ForConditionalGeneration": (
        "T5Config",
        "d_model=16, d_kv=8, d_ff=16, num_layers=6, num_decoder_layers=6, num_heads=2,"
        "decoder_start_token_id=0",
        2,
    ),
    "MixtralForCausalLM": ("MixtralConfig", "experts_implementation='grouped_mm'", 1),
    # Every second layer has a window.
    "Gemma2ForCausalLM": ("Gemma2Config", "head_dim=8, sliding_window=4, num_hidden_layers=10", 1),
    "AlbertForMaskedLM": ("AlbertConfig", "embedding_size=16", 0),
    "BertForMaskedLM": ("BertConfig", "", 1),
}
SIZES = {
    "num_hidden_layers": 6,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
}
FAMILY = """
import torch
import transformers

def build():
    sizes = {{**{sizes}, **dict({options}), "vocab_size": 32, "use_cache": False}}
    config = transformers.{config}(**sizes)
    return transformers.{model}(config)

def inputs(n):
    ids = torch.randint(0, 32, (n, 8))
    return {{"input_ids": ids, "labels": ids}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_published_models(name: str, both: Callable[..., Graph]) -> None:
    config, options, kinds = FAMILIES[name]
    sizes = {} if "n_layer" in options or "d_model" in options else SIZES
    code = FAMILY.format(config=config, sizes=sizes, options=options, model=name.split()[0])
    assert len(both(code, head="").stamped) == kinds


def test_what_stamping_itself_reads_asks_for_no_trace_in_eval_mode(
    both: Callable[..., Graph], monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluation(*_: Any) -> None:
        raise AssertionError("only dropout differs, whose flag is known")

    monkeypatch.setattr(tracing, "export_evaluation", evaluation)
    assert both("").stamped == ("7 layers of Layer: 4 traced, 3 stamped",)
