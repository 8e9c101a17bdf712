"""Stamped layers in a rehearsal: results like those of the layer that was traced in their place."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn

from pipecut.compiler.trace.stamp.call_form import Call, NoForm, ResultForm, call_of, results_of
from pipecut.compiler.trace.stamp.stamped import Stamped


@dataclass(frozen=True)
class _Results:
    """What a layer returned."""

    form: ResultForm
    made: tuple[torch.Tensor, ...]


@contextmanager
def stand_ins(model: nn.Module, stamped: Stamped) -> Iterator[None]:
    """Around a forward: layers that were stamped are not run."""
    template_of = {
        stamped.paths[call]: stamped.paths[template]
        for call, template in stamped.template_of.items()
    }
    if not template_of:
        yield
        return
    modules = dict(model.named_modules())
    paths = {id(modules[p]): p for p in {*template_of, *template_of.values()} if p in modules}
    results: dict[str, _Results] = {}

    def instead_of(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def called(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            path = paths.get(id(module), "")
            call = _call(args, kwargs) if path else None
            template = results.get(template_of.get(path, ""))
            if call is not None and template is not None:
                return template.form.filled(call.tensors, template.made)
            result = original(module, *args, **kwargs)
            if call is not None:
                try:
                    results[path] = _Results(*results_of(call, result))
                except NoForm:
                    results.pop(path, None)
            return result

        return called

    with ExitStack() as stack:
        for cls in {type(modules[path]) for path in paths.values()}:
            stack.enter_context(mock.patch.object(cls, "forward", instead_of(cls.forward)))
        yield


def _call(args: Any, kwargs: Any) -> Call | None:
    try:
        with torch._C.DisableTorchFunction():
            return call_of(args, kwargs)
    except NoForm:
        return None
