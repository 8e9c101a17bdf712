"""A layout pins layers, embedding and head; a placement that cuts between them has one."""

from dataclasses import replace

import pytest

from pipecut.compiler.graph import Graph, Parameter
from pipecut.compiler.inputs.layout import NO_LAYOUT, parse_layout
from pipecut.compiler.partition.constraints import placement_rules
from pipecut.compiler.partition.layouts import anatomy, layout_of, pins_of
from pipecut.compiler.search.sizes import SizeOverrides, resolve_sizes
from pipecut.errors import UserFileError
from tests.compiler.partition.coarsen.graphs import Sketch
from tests.costs import made_job

MODULES = ("wte", "drop", "h.0.mlp", "h.0.mlp", "h.1.mlp", "h.2", "ln_f", "lm_head")
WEIGHTS = {"w"}


def model(*modules: str) -> Graph:
    """A chain of operators in modules; the first and the last two take a parameter, w."""
    sketch = Sketch()
    names = [f"op{index}" for index in range(len(modules))]
    for index, name in enumerate(names):
        sketch.add(name, names[index - 1] if index else "x")
    graph = sketch.costed().graph
    parametric = {0, len(modules) - 2, len(modules) - 1}
    operators = tuple(
        replace(
            operator,
            module=module,
            inputs=(*operator.inputs, "w") if index in parametric else operator.inputs,
        )
        for index, (operator, module) in enumerate(zip(graph.operators, modules, strict=True))
    )
    weight = Parameter("w", ("weight",), (4,), "float32", 16, True)
    return replace(graph, operators=operators, parameters=(weight,))


def test_layers_embedding_and_head_are_found() -> None:
    parts = anatomy(model(*MODULES).operators, WEIGHTS)
    assert parts.prefix == "h" and parts.layers == ((2, 3), (4,), (5,))
    assert parts.embedding == (0, 1) and parts.head == (6, 7)


def test_what_neither_has_a_parameter_nor_follows_one_is_left_to_the_partitioner() -> None:
    operators = model("positions", *MODULES).operators
    shifted = (replace(operators[0], inputs=("x",)), *operators[1:])
    parameters = {"v"}
    with_weight = (shifted[0], replace(shifted[1], inputs=("op0", "v")), *shifted[2:])
    assert anatomy(with_weight, parameters).embedding == (1, 2)


def test_every_operator_of_a_layer_is_pinned() -> None:
    pins = pins_of(parse_layout("Et|tt|L"), model(*MODULES).operators, WEIGHTS)
    assert [stage for _, stage in pins] == [0, 0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("text", ["E|tttL", "Et|tt|L", "Ettt|L", "E|t|t|t|L"])
def test_a_placement_by_a_layout_has_it(text: str) -> None:
    operators = model(*MODULES).operators
    layout = parse_layout(text)
    placed = [{stage} for _, stage in pins_of(layout, operators, WEIGHTS)]
    assert layout_of(operators, WEIGHTS, placed, len(layout.stages)) == layout


def test_what_several_stages_compute_is_no_cut() -> None:
    placed = [{0}, {0, 1}, {0}, {0, 1}, {1}, {1}, {1}, {1}]
    assert str(layout_of(model(*MODULES).operators, WEIGHTS, placed, 2)) == "Et|ttL"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([0, 0, 0, 1, 1, 1, 1, 1], "h.0 is cut between stages 0, 1"),
        ([0, 0, 0, 0, 0, 0, 0, 1], "the head is cut between stages 0, 1"),
        ([0, 1, 1, 1, 1, 1, 1, 1], "the embedding is cut between stages 0, 1"),
        ([0, 0, 0, 0, 2, 2, 2, 2], "stage 1 has no whole layer, embedding or head"),
    ],
)
def test_other_placements_have_none(stages: list[int], message: str) -> None:
    placed = [{stage} for stage in stages]
    with pytest.raises(UserFileError, match=message):
        layout_of(model(*MODULES).operators, WEIGHTS, placed, 1 + max(stages))


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (("a", "b", "c"), "with one list of layers; this has none"),
        (("e.0", "e.1", "d.0", "d.1"), "with one list of layers; this has several: d, e"),
        (("h.0", "h.2", "c"), "some layers of h have no operator"),
    ],
)
def test_models_without_one_list_of_layers_are_refused(
    modules: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserFileError, match=message):
        anatomy(model(*modules).operators, WEIGHTS)


def test_a_job_with_a_layout_is_placed_by_it() -> None:
    job, graph = made_job(placement={"layout": "Et|ttL"}), model(*MODULES)
    stages = [0, 0, 0, 0, 1, 1, 1, 1]
    assert placement_rules(job, graph, 2).pins == tuple(enumerate(stages))
    with pytest.raises(UserFileError, match="layout Et.ttL: it has 2 stages, and 3 are asked for"):
        placement_rules(job, graph, 3)
    with pytest.raises(UserFileError, match=r"^job.yaml.* layout Et.tL: it has 2 layers, and"):
        placement_rules(made_job(placement={"layout": "Et|tL"}), graph, 2)
    message = r"^--layout Et.tL: it has 2 layers, and the model has 3, h.0 to 2; write a t for each"
    with pytest.raises(UserFileError, match=message):
        placement_rules(made_job().with_layout("Et|tL"), graph, 2)


def test_what_no_parameter_has_a_part_in_may_be_anywhere() -> None:
    """As a view of rotary tables within each layer, which goes where the table is."""
    graph = model(*MODULES)
    table, view = graph.operators[1], graph.operators[2]
    operators = (
        graph.operators[0],
        replace(table, inputs=()),
        replace(view, inputs=(table.name,)),
        replace(graph.operators[3], inputs=(view.name, graph.operators[0].name)),
        *graph.operators[4:],
    )
    parts = anatomy(operators, WEIGHTS)
    assert parts.embedding == (0,) and parts.layers[0] == (3,)


def test_a_view_goes_with_what_it_shows() -> None:
    """As the cast to float32 at the begin of a layer, which in float32 is its input."""
    operators = list(model(*MODULES).operators)
    operators[4] = replace(operators[4], target="aten.to.dtype")
    operators[5] = replace(operators[5], module="h.1.mlp")
    parts = anatomy([*operators[:6], replace(operators[6], module="h.2"), operators[7]], WEIGHTS)
    assert parts.layers == ((2, 3), (5,), (6,)) and parts.head == (7,)


def test_a_layout_says_how_many_stages_there_are() -> None:
    job = made_job(placement={"layout": "Et|ttL"})
    assert resolve_sizes(job.spec, job.path, 4, SizeOverrides()).stages == 2
    assert resolve_sizes(job.spec, job.path, 4, SizeOverrides(stages="auto")).stages == 2  # type: ignore[arg-type]
    with pytest.raises(UserFileError, match="3 stages asked for, and the layout Et.ttL has 2"):
        resolve_sizes(job.spec, job.path, 4, SizeOverrides(stages=3))


def test_a_layout_of_the_command_line_stands_over_the_jobs() -> None:
    job = made_job(placement={"layout": "Et|ttL"}).with_layout("Ett|tL")
    assert job.spec.layout == parse_layout("Ett|tL")
    assert job.with_layout(NO_LAYOUT).spec.layout is None
    with pytest.raises(UserFileError, match="--layout 'E': it must end with the one L"):
        job.with_layout("E")
