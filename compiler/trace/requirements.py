"""What a traced model must have to become a plan.

It needs a loss that trains something, and tensors that a plan can carry.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipecut.compiler.graph import Graph, Operator
from pipecut.compiler.operators.lookup import resolve, rule_of
from pipecut.errors import TraceError
from pipecut.plan.schema import ITEM_BYTES

# What safetensors has no name for.
NOT_STORED = ("complex128",)
# Names in a note before the rest is only counted.
SHOWN = 3


def checked(graph: Graph) -> Graph:
    """The graph, with notes on choices by a value and on trained parameters without a gradient.

    Raises TraceError, by name, for what no plan can carry.
    """
    _refuse_dtypes(graph)
    _refuse_sparse_gradients(graph)
    _refuse_no_gradient(graph)
    notes = (*_of_checks(graph), *_of_data_sizes(graph), *_of_idle(graph))
    return replace(graph, notes=(*graph.notes, *notes)) if notes else graph


def _of_checks(graph: Graph) -> Iterator[str]:
    """A note on choices by a value."""
    if graph.checks:
        texts = dict.fromkeys(str(check.choice) for check in graph.checks)
        yield f"this plan is for batches where {_listed(list(texts))}; each microbatch is checked"


def _of_data_sizes(graph: Graph) -> Iterator[str]:
    """A note on sizes that depend on data."""
    if graph.data_sizes:
        sizes = graph.data_sizes.values()
        places = _listed(list(dict.fromkeys(size.source for size in sizes)))
        endless = _listed(list(dict.fromkeys(s.source for s in sizes if not s.bounded)))
        yield (
            f"sizes depend on data ({places}): times are for those of the example batch where it "
            "tells them, memory is for the most that they can be"
            + (
                f", and for about the example batch where no most is known ({endless})"
                * bool(endless)
            )
        )


def _of_idle(graph: Graph) -> Iterator[str]:
    """A note on trained parameters that get no gradient."""
    idle = _without_gradient(graph)
    if idle:
        names = _listed(idle)
        yield f"no gradient reaches these trained parameters, as in the unsplit model: {names}"


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def _refuse_dtypes(graph: Graph) -> None:
    for parameter in graph.parameters:
        _refuse_dtype(f"parameter '{parameter.names[0]}'", parameter.dtype)
    for buffer in graph.buffers:
        dtype = str(buffer.data.dtype).removeprefix("torch.")
        _refuse_dtype(f"buffer '{buffer.names[0]}'", dtype)
        if dtype in NOT_STORED:
            raise TraceError(
                f"buffer '{buffer.names[0]}' is {dtype}, which safetensors cannot hold; "
                "make it complex64, or keep real and imaginary part as two buffers"
            )
    for operator in graph.operators:
        value = graph.values.get(operator.name)
        if value is not None:
            module = operator.module or "the model"
            result = f"the result of {operator.target} in {module}{operator.source}"
            _refuse_dtype(result, value.dtype)


def _refuse_sparse_gradients(graph: Graph) -> None:
    """No rank could sum a sparse gradient with another stage's, another replica's or a master's."""
    for operator in graph.operators:
        if not rule_of(operator.target).gathers:
            continue
        names = [argument.name for argument in resolve(operator.target)._schema.arguments]
        given = dict(zip(names, operator.args, strict=False)) | dict(operator.kwargs)
        if given.get("sparse") and graph.values[operator.inputs[0]].needs_grad:
            raise TraceError(
                f"{operator.module_class} '{operator.module}'{operator.source} makes sparse "
                "gradients, which cannot be summed over stages, replicas and microbatches as dense "
                "ones are; build it with sparse=False"
            )


def _refuse_dtype(tensor: str, dtype: str) -> None:
    if dtype not in ITEM_BYTES:
        raise TraceError(
            f"{tensor} is {dtype}, which a plan cannot carry; cast it to one of "
            f"{', '.join(ITEM_BYTES)}"
        )


def _refuse_no_gradient(graph: Graph) -> None:
    if graph.values[graph.loss].needs_grad:
        return
    trained = [parameter for parameter in graph.parameters if parameter.trainable]
    if not trained:
        raise TraceError(
            "no parameter of the model needs a gradient, so there is nothing to train; "
            "set requires_grad on some"
        )
    last = _where_gradients_end(graph)
    place = f"{last.target} of {last.module or 'the model'}{last.source}" if last else ""
    raise TraceError(
        "the loss needs no gradient, so nothing would be trained: it depends on trained parameters "
        "only through .detach(), torch.no_grad() or integers, or on none"
        + (f"; the last place where a gradient is lost is {place}" if last else "")
    )


def _where_gradients_end(graph: Graph) -> Operator | None:
    """The last operator before the loss whose inputs need a gradient and whose result does not."""
    needed = {graph.loss}
    for operator in reversed(graph.operators):
        if operator.name in needed:
            if any(
                graph.values[name].needs_grad for name in operator.inputs if name in graph.values
            ):
                return operator
            needed |= set(operator.inputs)
    return None


def _without_gradient(graph: Graph) -> list[str]:
    """Trained parameters to which no gradient comes."""
    return [
        parameter.names[0]
        for parameter in graph.parameters
        if parameter.trainable and not graph.values[parameter.value].needs_grad
    ]
