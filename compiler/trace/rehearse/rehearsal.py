"""After a trace: the model's forward twice on fake tensors, which must do the same both times.

What a trace holds is one forward. Where the second one computes something else, or Python state
moves on, a plan would keep what belongs to one call. Gradients are on, as in training and unlike
in a trace, so that the parameters that autograd reaches are known as well.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pipecut.compiler.graph import Graph
from pipecut.compiler.trace.export import Exported, surroundings
from pipecut.compiler.trace.rehearse.moving import refuse_moving
from pipecut.compiler.trace.rehearse.python_state import PythonState, put_back_after
from pipecut.compiler.trace.rehearse.recording import OtherCall, Recording
from pipecut.compiler.trace.rehearse.stand_ins import stand_ins
from pipecut.errors import PipecutError, TraceError

log = logging.getLogger("pipecut")

REMEDY = (
    "and a plan holds one forward only; keep it in a buffer of the module (register_buffer), "
    "written in place, or change it between steps in a loop of your own"
)


def rehearse(exported: Exported, graph: Graph) -> str:
    """Run forward twice; the reason where that cannot be, or "". `graph` is that of training.

    Raises TraceError, by file and line, where the two differ, and where a parameter gets a
    gradient in the model and none in the graph.
    """
    model = exported.model
    modes = [p.fake_mode for p in model.parameters() if isinstance(p, FakeTensor)]
    inside, model.inside = model.inside, nullcontext
    try:
        with put_back_after(model.model, model.loss) as state:
            loss = _forward_twice(exported, modes[0], state)
        _refuse_lost_gradients(model.model, loss, graph, exported)
    except PipecutError:
        raise
    except (Exception, SystemExit) as error:
        log.debug("no rehearsal", exc_info=True)
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    finally:
        model.inside = inside
    return ""


def _forward_twice(exported: Exported, mode: FakeTensorMode, state: PythonState) -> torch.Tensor:
    """The first forward's loss. Raises TraceError."""
    model = exported.model
    with _on_fakes(exported, mode) as batch:
        given = [*model.parameters(), *model.buffers(), *batch.values()]
        with Recording(given) as first:
            loss = _loss_of(model(batch))
        after_first = PythonState.of(model.model, model.loss)
        _refuse_other_modules(state, after_first)
        state.put_back_buffers()
        try:
            with Recording(given, first) as second:
                model(batch)
            second.end()
        except OtherCall as other:
            raise TraceError(
                f"with inputs of the same sizes the model's second forward does something else: "
                f"{other.now} {other.place}, where the first does {other.before}, {REMEDY}"
            ) from None
        refuse_moving(after_first, REMEDY, model.model, model.loss)
    return loss


@contextmanager
def _on_fakes(exported: Exported, mode: FakeTensorMode) -> Iterator[dict[str, torch.Tensor]]:
    """The batch as fake tensors, within what surrounds a trace, with gradients on."""
    model, tensors = exported.model, exported.batch.tensors
    # What torch.compile would make is not what is traced, and takes seconds.
    plain = torch.compiler.set_stance("force_eager")
    with plain, surroundings(model), stand_ins(model.model, exported.stamped):
        with mode, torch.enable_grad():
            yield {
                placeholder: mode.from_tensor(tensors[name], static_shapes=True)
                for placeholder, name in model.names.items()
            }


def _loss_of(result: Any) -> torch.Tensor:
    (loss,) = result["loss"]
    assert isinstance(loss, torch.Tensor)
    return loss


def _refuse_other_modules(before: PythonState, after: PythonState) -> None:
    """Raises TraceError where a forward puts another module in place of one."""
    for path in after.change_from(before):
        name, _, kind = path.rpartition(" ")
        if kind in ("(module)", "(parameter)"):
            raise TraceError(f"the model's forward replaces its {kind[1:-1]} '{name}', {REMEDY}")


def _refuse_lost_gradients(
    model: nn.Module, loss: torch.Tensor, graph: Graph, exported: Exported
) -> None:
    """Raises TraceError for a parameter that autograd reaches in the model and not in the graph."""
    reached = _reached(loss)
    counterparts = exported.stamped.counterparts(n for n, _ in model.named_parameters())
    by_name = dict(model.named_parameters(remove_duplicate=False))
    for parameter in graph.parameters:
        if not parameter.trainable or graph.values[parameter.value].needs_grad:
            continue
        for name in parameter.names:
            run = counterparts.get(name, name)
            if id(by_name.get(run)) in reached:
                raise TraceError(
                    f"the parameter '{name}' gets a gradient in the model and none in its trace; "
                    "use it by torch's operators on the parameter itself, not on .data or a copy "
                    "that was kept"
                )


def _reached(loss: torch.Tensor) -> set[int]:
    """The leaves, by identity, that a backward would reach."""
    leaves: set[int] = set()
    seen: set[Any] = set()
    # As torch itself reads it: the attribute is watched while a model is traced.
    grad_fn: Any = torch._C.TensorBase.grad_fn
    waiting = [grad_fn.__get__(loss)]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves.add(id(variable))
        waiting += [following for following, _ in node.next_functions]
    return leaves
