"""Which modules run as they are, and why, in few lines."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from pipecut.compiler.graph import Graph, OpaqueCall, OpaqueWork
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.trace.opaque.chosen import chosen_modules, opaque_notes
from tests.compiler.chain_graphs import chain, made_operator


def graph_of(**forward_of: str) -> Graph:
    """A graph with calls of opaque modules; `_` stands for a dot in their names."""
    work = OpaqueWork(2, 0.0, 0.0, (), 0)
    operators = []
    for name, forward in forward_of.items():
        call = OpaqueCall(name.replace("_", "."), "{0}", (), "tensor", (True,), False, (work, work))
        operator = made_operator(name, "pipecut.opaque.tensor", "linear_1", opaque=call)
        operators.append(replace(operator, source=forward))
    return replace(chain(2), operators=tuple(operators))


def test_equal_layers_have_one_line() -> None:
    graph = graph_of(layers_0_moe="moe.py:3", layers_1_moe="moe.py:3", head="head.py:9")
    reasons = {"layers.0.moe": "it counts", "layers": "of an attempt before"}
    assert list(opaque_notes(graph, reasons)) == [
        "layers.*.moe runs as it is: it counts",
        "head runs as it is: the job says so, in model.opaque",
    ]


def test_modules_of_several_classes_have_a_line_each() -> None:
    graph = graph_of(mid_0="a.py:1", mid_1="b.py:1", mid_2="a.py:1", mid_3="c.py:1")
    assert list(opaque_notes(graph, {"mid.0": "it counts", "mid.1": "it chooses"})) == [
        "mid.0, mid.2 run as they are: it counts",
        "mid.1 runs as it is: it chooses",
        "mid.3 runs as it is: the job says so, in model.opaque",
    ]


class Own(nn.Module):
    """Of a class that is not torch's."""


def test_a_class_that_cannot_be_traced_in_two_places_is_opaque_in_all(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "model: {factory: 'tests.models.opaque:choosing'}\ninputs: 'tests.models.opaque:rows'\n"
        "batch: {global: 4, microbatch: 2}\n"
    )
    job = read_job(path)
    model = nn.ModuleDict(
        {
            "first": Own(),
            "second": nn.ModuleList([Own(), nn.Identity()]),
            "third": nn.Sequential(nn.Sequential(), Own()),
        }
    )
    once = job.with_opaque("first", "it chooses")
    assert chosen_modules(once, model) == ("first",)
    twice = once.with_opaque("second.0", "it chooses")
    assert chosen_modules(twice, model) == ("first", "second.0", "third.1")
    # Torch's own classes hold modules that differ.
    lists = job.with_opaque("third.0", "its parts cannot").with_opaque("third", "nor can this")
    assert chosen_modules(lists, model) == ("third",)
