"""Layers of a model while it is traced: some are traced, those proven equal to them are stamped.

A forward is taken to depend on nothing but its arguments, its modules, and what these refer to. So
two calls do the same if their arguments have one form, their modules one structure, and all plain
attributes that the first one read are the same: to do otherwise, code would have to read something
that differs. In place of such a call the trace has a marker, and the graph gets the operators of
the traced one. The last of each kind is traced as well, and compared when the graph is there.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

from pipecut.compiler.trace.modes.mode_reads import ModeReads
from pipecut.compiler.trace.stamp.call_form import Call, NoForm, call_of, results_of
from pipecut.compiler.trace.stamp.code_noted import CodeNoted
from pipecut.compiler.trace.stamp.kind import Asked, Kind, Traced
from pipecut.compiler.trace.stamp.layers import EqualLayers, Layer, equal_layers
from pipecut.compiler.trace.stamp.markers import BEGIN, BODY, END, OUT, results_like
from pipecut.compiler.trace.stamp.node_names import NodeNames
from pipecut.compiler.trace.stamp.reached import Reached
from pipecut.compiler.trace.stamp.reads import DifferingReads
from pipecut.compiler.trace.stamp.side_effects import Surroundings
from pipecut.compiler.trace.stamp.stamped import NotEqualAfterAll, Stamped, Template

Forward = Callable[..., Any]


class Stamping:
    """One trace of a model. `reads` counts its dropouts."""

    def __init__(self, model: nn.Module, reads: ModeReads) -> None:
        self._modules = dict(model.named_modules())
        self._mode_reads = reads
        self._sets = tuple(equal_layers(model))
        self._layers = {
            id(vars(layer.module)): (equal, layer) for equal in self._sets for layer in equal.layers
        }
        self._reads, self._names = DifferingReads(self._sets), NodeNames()
        self._kinds: list[Kind] = []
        self._inside = False
        self._called: set[str] = set()
        self._paths: dict[int, str] = {}
        self._made: dict[int, tuple[torch.Tensor, ...]] = {}
        self._template_of: dict[int, int] = {}

    @property
    def has_stamped(self) -> bool:
        """Whether any layer was stamped."""
        return bool(self._template_of)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a trace."""
        classes = {type(layer.module) for equal in self._sets for layer in equal.layers}
        with ExitStack() as stack:
            stack.enter_context(results_like(self._result_like))
            stack.enter_context(self._reads.watched())
            stack.enter_context(self._names.watched())
            for cls in classes:
                forward = self._instead_of(cls.forward)
                stack.enter_context(mock.patch.object(cls, "forward", forward))
            yield

    def stamped(self) -> Stamped:
        """What was stamped. Raises NotEqualAfterAll where a kind's proof is lacking."""
        proof_of = {}
        for kind in self._kinds:
            if not kind.stamped:
                continue
            name = kind.equal.class_name
            if kind.broken or kind.second is None or kind.last is None:
                raise NotEqualAfterAll(
                    f"{name}: {kind.broken or 'the last one is called otherwise'}"
                )
            proof_of[kind.last.number] = proof_of[kind.first.number] = kind.second.number
        summary, templates = tuple(self._summary()), tuple(self._templates())
        return Stamped(self._paths, self._template_of, proof_of, summary, templates)

    def _templates(self) -> Iterator[Template]:
        for kind in self._kinds:
            if kind.stamped and kind.second is not None:
                asked = kind.second.asked
                # Not as a forward reads it, which is watched.
                modules = tuple(vars(m)["training"] for m in asked.layer.module.modules())
                yield Template(
                    kind.second.number,
                    asked.layer.module,
                    asked.form,
                    kind.second.results,
                    modules,
                    f"{len(kind.equal.layers)} layers of {kind.equal.class_name}",
                )

    def _summary(self) -> Iterator[str]:
        for equal in self._sets:
            stamped = sum(kind.stamped for kind in self._kinds if kind.equal is equal)
            if stamped:
                traced = len(equal.layers) - stamped
                yield (
                    f"{len(equal.layers)} layers of {equal.class_name}: "
                    f"{traced} traced, {stamped} stamped"
                )

    def _result_like(self, call: int, position: int) -> torch.Tensor:
        return self._made[call][position]

    def _instead_of(self, original: Forward) -> Forward:
        # Not named forward: torch records the frames of that name.
        @functools.wraps(original)
        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            place = self._layers.get(id(vars(module)))
            if place is None or self._inside:
                return original(module, *args, **kwargs)
            return self._call(*place, functools.partial(original, module), args, kwargs)

        return called

    def _call(
        self, equal: EqualLayers, layer: Layer, original: Forward, args: Any, kwargs: Any
    ) -> Any:
        try:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                call = call_of(args, kwargs)
        except NoForm:
            return original(*args, **kwargs)
        asked = Asked(layer, call.form, layer.structure(), layer.attributes())
        if asked.structure is None or not call.tensors:
            return original(*args, **kwargs)
        if layer.path in self._called and self.has_stamped:
            raise NotEqualAfterAll(f"'{layer.path}' is called twice")
        self._called.add(layer.path)
        kind = next((k for k in self._kinds if k.equal is equal and k.takes(asked)), None)
        if kind is not None:
            kind.check_surroundings()
        if kind is None or (not kind.broken and kind.is_traced(layer)):
            return self._traced(equal, kind, asked, call, original, args, kwargs)
        if kind.broken:
            return original(*args, **kwargs)
        return self._stamp(kind, layer, call)

    def _traced(
        self,
        equal: EqualLayers,
        kind: Kind | None,
        asked: Asked,
        call: Call,
        original: Forward,
        args: Any,
        kwargs: Any,
    ) -> Any:
        """Trace a layer between two markers, and watch what it does."""
        number = len(self._paths)
        before, dropouts = Surroundings.of(self._modules), self._mode_reads.dropouts
        code = CodeNoted()
        self._inside, self._paths[number] = True, asked.layer.path
        _mark(BEGIN, call.tensors, number)
        try:
            with self._reads.noted() as reads, self._names.noted() as nodes:
                with code.watched() if kind is None else nullcontext():
                    result = original(*args, **kwargs)
        finally:
            self._inside = False
        try:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                results, made = results_of(call, result)
        except NoForm:
            _mark(END, call.tensors, number)
            return result
        _mark(END, made, number)
        nodes.finish()
        self._made[number] = made
        change = before.change(self._modules)
        if not call.is_untouched(args, kwargs):
            change = "its arguments"
        dropouts = self._mode_reads.dropouts - dropouts
        traced = Traced(number, asked, frozenset(reads), nodes.wanted, dropouts, results, change)
        if kind is None:
            reached = Reached(asked.layer, code, self._modules.values())
            self._kinds.append(Kind(equal, traced, reached))
        else:
            kind.add(traced)
        return result

    def _stamp(self, kind: Kind, layer: Layer, call: Call) -> Any:
        """A marker in place of a layer that does what the kind's second one did."""
        template = kind.second
        assert template is not None
        number = len(self._paths)
        self._paths[number] = layer.path
        self._made[number] = self._made[template.number]
        self._template_of[number] = template.number
        kind.stamped += 1
        self._mode_reads.dropouts += template.dropouts
        _mark(BEGIN, call.tensors, number)
        self._names.stand_for(template.nodes, number)
        body = _mark(BODY, call.tensors, number)
        made = [OUT(body, number, i) for i in range(len(self._made[number]))]
        return template.results.filled(call.tensors, made)


def _mark(marker: Any, tensors: Sequence[torch.Tensor], number: int) -> Any:
    def forward() -> Any:
        """Of this name, so that torch records a frame for the layer, as it does for any module."""
        return marker(list(tensors), number)

    return forward()
