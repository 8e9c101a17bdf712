"""Opaque modules while their model is traced: an operator stands for each call."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from pipecut.compiler.trace.following import UnprovenChoice
from pipecut.compiler.trace.opaque.argument_code import argument_code
from pipecut.compiler.trace.opaque.calls import CallKey, KnownCall
from pipecut.compiler.trace.opaque.hooks import replaced_call
from pipecut.compiler.trace.opaque.observed import held_by
from pipecut.compiler.trace.opaque.operators import TENSOR, TENSORS, results_of_calls
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.model.unsplit import WithLoss


class StandingIn:
    """The opaque modules of one model by their paths. `known` has every call of them."""

    def __init__(
        self, modules: Mapping[str, nn.Module], known: Mapping[CallKey, KnownCall]
    ) -> None:
        self.paths = tuple(modules)
        self._modules = modules
        self.calls = tuple(known.values())
        self._number_of = {call.key: number for number, call in enumerate(self.calls)}
        self._sizes: dict[str, Any] = {}
        self._so_far: Counter[str] = Counter()

    def class_of(self, path: str) -> type:
        """The class of an opaque module."""
        return type(self._modules[path])

    def has_recurrent_dropout(self, path: str) -> bool:
        """Whether an opaque module has recurrent layers with dropout between them."""
        layers = (m for m in self._modules[path].modules() if isinstance(m, nn.RNNBase))
        return any(layer.dropout > 0 and layer.num_layers > 1 for layer in layers)

    @contextmanager
    def in_place(self, model: WithLoss) -> Iterator[None]:
        """Around a trace of the model."""
        if not self.paths:
            yield
            return
        with ExitStack() as stack:
            stack.enter_context(results_of_calls(self._results))
            stack.enter_context(mock.patch.object(model, "begin", self._begin))
            for path in self.paths:
                module = model.model.get_submodule(path)
                forward = self._instead_of(path, module, model)
                stack.enter_context(replaced_call(module, forward))
            yield

    def _begin(self, sizes: Mapping[str, Any]) -> None:
        """A forward begins on a batch of such sizes."""
        self._sizes = dict(sizes)
        self._so_far.clear()

    def _results(self, call: int, sizes: Sequence[Any]) -> list[torch.Tensor]:
        of_batch = dict(zip(self._sizes, sizes, strict=True))
        return [tensor.made(of_batch) for tensor in self.calls[call].tensors]

    def _instead_of(self, path: str, module: Any, model: WithLoss) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            """Of this name, so that torch records a frame for the module."""
            key = CallKey(path, self._so_far[path], vars(model)["training"])
            self._so_far[path] += 1
            return self._called(key, module, args, kwargs)

        return forward

    def _called(self, key: CallKey, module: Any, args: Any, kwargs: Any) -> Any:
        what = f"the module '{key.path}'"
        if key not in self._number_of:
            raise Untraceable(
                f"{what} is called more often while it is traced than when it runs", key.path
            )
        number = self._number_of[key]
        known = self.calls[number]
        code = argument_code(args, kwargs, what)
        if code.code != known.arguments:
            raise Untraceable(
                f"{what} is called with ({code.code}) while it is traced and with "
                f"({known.arguments}) when it runs; make the module around it opaque",
                key.path,
            )
        if known.one_length and any(
            isinstance(size, torch.SymInt) for name, size in self._sizes.items() if name != "batch"
        ):
            raise UnprovenChoice(known.one_length)
        tensors = [leaf for leaf in code.leaves if isinstance(leaf, torch.Tensor)]
        numbers = [leaf for leaf in code.leaves if not isinstance(leaf, torch.Tensor)]
        operator = TENSOR if known.form == "tensor" else TENSORS
        sizes = list(self._sizes.values())
        made = operator(tensors, held_by(module), numbers, number, sizes)
        return known.result([made] if operator is TENSOR else made, self._sizes)
