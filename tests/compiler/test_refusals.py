"""Each rule refuses what it is for, before a search and of a candidate alike."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.graph import Graph, OpaqueCall, OpaqueWork
from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.refusals import (
    Proposal,
    parameters_too_large,
    refusal_of_sizes,
    refuse_impossible,
    writes_buffers,
)
from pipecut.compiler.search.sizes import SearchSpace
from pipecut.errors import UserFileError
from tests.compiler.chain_graphs import chain, made_buffer, made_operator
from tests.costs import MadeEstimates, made_cluster, made_device, made_job

OPEN = SearchSpace(4, 8, AUTO, AUTO, AUTO, AUTO)


def proposal(
    graph: Graph,
    sizes: SearchSpace | Candidate = OPEN,
    unmeasured: tuple[str, ...] = (),
    device: str = "cpu",
    **keys: Any,
) -> Proposal:
    cluster = made_cluster([made_device(type=device)] * 4)
    return Proposal.of(made_job(**keys), graph, cluster, MadeEstimates(graph, 1, unmeasured), sizes)


def refused(asked: Proposal) -> str:
    with pytest.raises(UserFileError) as caught:
        refuse_impossible(asked)
    return str(caught.value)


def writing() -> Graph:
    """A chain whose last operator writes to a view of a buffer."""
    graph = chain(2)
    view = made_operator("view", "aten.view.default", "statistics", aliases=("statistics",))
    write = made_operator("written", "aten.add_.Tensor", "view", "linear_1", writes=("view",))
    return replace(
        graph,
        operators=(*graph.operators, view, write),
        buffers=(made_buffer("statistics", "norm.statistics"),),
    )


def drawing(target: str = "aten.dropout.default") -> Graph:
    graph = chain(2)
    draw = made_operator("dropped", target, "linear_1", module="layers.1", draws=(0,))
    return replace(graph, operators=(*graph.operators, draw))


def test_nothing_is_refused_of_a_plain_chain() -> None:
    refuse_impossible(proposal(chain(2)))
    assert refusal_of_sizes(proposal(chain(2), Candidate(2, 2, 2, 2, "zb-h1"))) is None


def test_replicas_of_written_buffers_are_refused_once_they_are_asked_for() -> None:
    refuse_impossible(proposal(writing()))
    asked = proposal(writing(), Candidate(2, 2, 2, 2, "1f1b"))
    assert "replicas would drift apart" in refused(asked)
    refusal = refusal_of_sizes(asked)
    assert refusal is not None and refusal.why.startswith("data_parallel 2: ")


def test_written_buffers_are_found_through_views() -> None:
    assert writes_buffers(writing()) and not writes_buffers(chain(2))


@pytest.mark.parametrize("schedule", ["zb-h1", "v-shaped"])
def test_compiled_stages_refuse_schedules_that_split_backward(schedule: str) -> None:
    refuse_impossible(proposal(chain(2), replace(OPEN, schedule="1f1b"), compile="inductor"))
    asked = proposal(chain(2), replace(OPEN, schedule=schedule), compile="inductor")
    assert f"{schedule} splits the backward" in refused(asked)


def test_compiled_stages_refuse_operators_that_draw() -> None:
    refuse_impossible(proposal(drawing()))
    message = refused(proposal(drawing(), compile="inductor"))
    assert "dropout of layers.1 (model.py:1) draws random numbers" in message
    assert message.startswith("job.yaml:1:1: ") and "use compile: eager" in message


def test_draws_of_eval_mode_alone_are_refused_too() -> None:
    graph = replace(chain(2), evaluation=drawing())
    assert "draws random numbers" in refused(proposal(graph, compile="inductor"))


def test_dropout_within_a_recurrent_layer_is_refused_on_a_gpu() -> None:
    graph = drawing("aten.lstm.input")
    refuse_impossible(proposal(graph))
    assert "put nn.Dropout between single layers" in refused(proposal(graph, device="cuda"))


def test_devices_without_measurements_are_refused_where_these_are_required() -> None:
    # Before the search only where the microbatch is known.
    refuse_impossible(proposal(chain(2), OPEN, unmeasured=("core",)))
    asked = proposal(chain(2), replace(OPEN, microbatch=2), unmeasured=("core",))
    message = refused(asked)
    assert message.startswith("--costs profile: no measurements on core for a microbatch of 2")
    assert message.endswith("run pipecut profile job.yaml there")


def test_patterns_that_match_no_module_are_refused_before_the_search() -> None:
    keys = {"placement": {"never_cut": ["decoder.*"]}}
    message = refused(proposal(chain(2), OPEN, **keys))
    assert "placement: 'decoder.*' matches no module; the model's begin with layers" in message


def test_a_stage_that_is_not_there_is_refused_once_the_stages_are_known() -> None:
    keys = {"placement": {"on_stage": {"layers.1": 5}}}
    refuse_impossible(proposal(chain(2), OPEN, **keys))
    refusal = refusal_of_sizes(proposal(chain(2), Candidate(2, 1, 2, 4, "1f1b"), **keys))
    assert refusal is not None
    assert refusal.why == "'layers.1' is put on stage 5, but the stages are 0 to 1"


def test_weights_that_lack_a_parameter_are_refused(tmp_path: Path) -> None:
    save_file({"layers.0.weight": torch.zeros(4, 4)}, str(tmp_path / "model.safetensors"))
    spec = made_job(weights="model.safetensors").spec
    asked = replace(proposal(chain(2)), job=Job(tmp_path / "job.yaml", spec))
    assert "layers.1.weight" in refused(asked) and "weights: " in refused(asked)
    complete = {f"layers.{layer}.weight": torch.zeros(4, 4) for layer in range(2)}
    save_file(complete, str(tmp_path / "model.safetensors"))
    refuse_impossible(asked)


def test_parameters_that_cannot_fit_spare_the_search_a_placement() -> None:
    # A weight of 64 bytes, its gradient and two states: 256 bytes a layer.
    graph, spec = chain(4), made_job(optimizer="adamw").spec
    cluster = made_cluster([made_device(memory=600)] * 4, reserve=100)
    assert parameters_too_large(graph, cluster, spec, Candidate(3, 1, 2, 4, "1f1b")) is None
    why = parameters_too_large(graph, cluster, spec, Candidate(2, 2, 2, 2, "1f1b"))
    assert why == "memory: parameters by themselves need 1.0 KiB of 1000 B"


def named_chain(*shapes: tuple[int, ...]) -> Graph:
    """A chain whose parameters have these shapes."""
    graph = chain(len(shapes))
    parameters = zip(graph.parameters, shapes, strict=True)
    return replace(graph, parameters=tuple(replace(p, shape=shape) for p, shape in parameters))


def test_patterns_of_no_decay_match_a_parameter() -> None:
    names = [parameter.names[0] for parameter in chain(2).parameters]
    keys = {"name": "adamw", "no_decay": [names[0], "*.norm.*"]}
    message = refused(proposal(chain(2), optimizer=keys))
    assert "optimizer.no_decay: '*.norm.*' matches no parameter" in message and names[1] in message
    refuse_impossible(proposal(chain(2), optimizer={**keys, "no_decay": names}))


def test_an_optimizer_of_matrices_gets_nothing_else() -> None:
    refuse_impossible(proposal(named_chain((2, 2), (2, 2)), optimizer={"name": "muon"}))
    message = refused(proposal(named_chain((2, 2), (4,)), optimizer={"name": "muon"}))
    assert "muon steps matrices only, and " in message and "is [4]; use another" in message


def test_what_is_padded_is_an_input() -> None:
    name = chain(2).batch_inputs[0].name
    batch = {"global": 8, "microbatch": 2}
    refuse_impossible(proposal(chain(2), batch={**batch, "pad": {name: 0.0}}))
    message = refused(proposal(chain(2), batch={**batch, "pad": {name: 0.0, "labls": -100.0}}))
    assert "batch: pad has 'labls', which " in message and f"it returns {name}" in message


@pytest.mark.parametrize(
    ("dtype", "value", "fits"),
    [
        ("int64", -100.0, True),
        ("int64", 0.5, False),
        ("uint8", -1.0, False),
        ("uint8", 256.0, False),
        ("bool", 1.0, True),
        ("bool", 2.0, False),
        ("bfloat16", 0.3, True),
        ("int32", float("inf"), False),
    ],
)
def test_what_is_padded_with_is_a_value_of_the_input(dtype: str, value: float, fits: bool) -> None:
    graph = chain(2)
    name, at = graph.batch_inputs[0].name, graph.batch_inputs[0].value
    values = {**graph.values, at: replace(graph.values[at], dtype=dtype)}
    asked = proposal(
        replace(graph, values=values), batch={"global": 8, "microbatch": 2, "pad": {name: value}}
    )
    if fits:
        refuse_impossible(asked)
    else:
        assert f"which no {dtype} is; write one that is" in refused(asked)


def test_whole_parameters_are_not_divided_over_replicas() -> None:
    keys = {"optimizer": {"name": "adafactor"}, "shard_optimizer": True}
    refuse_impossible(proposal(chain(2), Candidate(2, 1, 2, 2, "1f1b"), **keys))
    asked = proposal(chain(2), Candidate(2, 2, 2, 2, "1f1b"), **keys)
    assert "adafactor steps each element by all elements" in refused(asked)
    assert "use shard_optimizer: false" in refused(asked)
    elementwise = {**keys, "optimizer": {"name": "rmsprop"}}
    refuse_impossible(proposal(chain(2), Candidate(2, 2, 2, 2, "1f1b"), **elementwise))


def test_recurrent_dropout_in_an_opaque_module_is_refused_on_a_gpu() -> None:
    graph = chain(2)
    work = OpaqueWork(2, 0.0, 0.0, (), 0)
    call = OpaqueCall("rnn", "{0}", (), "tensor", (True,), True, (work, work))
    opaque = made_operator("rnn", "pipecut.opaque.tensor", "linear_1", draws=(0,), opaque=call)
    graph = replace(graph, operators=(*graph.operators, opaque))
    refuse_impossible(proposal(graph))
    assert "a GPU cuDNN drops by a state of its own" in refused(proposal(graph, device="cuda"))
