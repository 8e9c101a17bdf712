"""Hooks of parameters are kept where each stage would call them as the model does."""

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipecut.compiler.trace.backward.gradient_hooks import (
    changing,
    refuse_parameter_hooks,
    refuse_shared_hooks,
)
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.errors import TraceError
from tests.compiler.chain_graphs import chain

SCALE, MASK, CALLS = 0.1, torch.ones(2), [0]
LOW, HIGH = -1.0, 1.0


def scaled(gradient: torch.Tensor, by: float = 0.5) -> torch.Tensor:
    return torch.clamp(gradient * by * SCALE, LOW, HIGH)


def counted(gradient: torch.Tensor) -> torch.Tensor:
    CALLS[0] += 1
    return gradient * CALLS[0]


def hooked(hook: Callable[..., Any]) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.register_hook(hook)
    return model


@pytest.mark.parametrize(
    "hook", [scaled, functools.partial(scaled, by=2.0), lambda gradient: scaled(gradient)]
)
def test_a_function_of_the_gradient_is_kept_in_an_opaque_module(hook: Callable[..., Any]) -> None:
    with pytest.raises(Untraceable, match=r"'1.weight' has a gradient hook.*\.py:\d+") as raised:
        refuse_parameter_hooks(hooked(hook), [])
    assert raised.value.module == "1"
    assert refuse_parameter_hooks(hooked(hook), ["1"]) == {"1.weight"}


def test_what_a_hook_refers_to_must_stay_as_it_is() -> None:
    calls: list[int] = []
    layer, mask = nn.Linear(2, 2), torch.rand(2)
    for hook in (
        counted,
        lambda g: calls.append(1) or g * len(calls),
        lambda g: g * layer.weight,
        lambda g: g * mask,
        lambda g: counted(g),
        functools.partial(lambda g, into: g, into=calls),
        lambda g: g * MASK,
        lambda g: (lambda: counted(g))(),
        lambda g: g * random.random(),
        lambda g: g * __import__("random").random(),
        lambda g: torch.distributed.all_reduce(g),
        calls.append,
        layer.forward,
    ):
        assert list(changing(hook)), hook
        with pytest.raises(TraceError, match="which refers to .*pipe.step"):
            refuse_parameter_hooks(hooked(hook), ["1"])


def test_a_gradient_in_parts_has_no_hook() -> None:
    tied = hooked(scaled)
    tied[0].weight = tied[1].weight
    with pytest.raises(TraceError, match="is tied"):
        refuse_parameter_hooks(tied, ["0", "1"])
    later = nn.Sequential(nn.Linear(2, 2))
    later[0].weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(TraceError, match="what microbatches have added up"):
        refuse_parameter_hooks(later, ["0"])
    graph = chain(3, tied=True)
    refuse_shared_hooks(graph, frozenset())
    shared = next(p for p in graph.parameters if len(p.names) > 1)
    with pytest.raises(TraceError, match="used at 2 places"):
        refuse_shared_hooks(graph, frozenset(shared.names[:1]))
