"""What an exported program returns: the loss, and outputs that can be handed out per sample."""

from collections.abc import Container
from dataclasses import dataclass

from torch.utils._pytree import tree_unflatten

from pipecut.compiler.graph import Output
from pipecut.compiler.trace.export import Exported
from pipecut.compiler.trace.lower.names import Names
from pipecut.compiler.trace.lower.values import Values
from pipecut.errors import TraceError

RETURNED = ("USER_OUTPUT", "LOSS_OUTPUT")
NOT_COMPUTED = "it is no result of the model but what it was given, or holds"
NO_SAMPLES = (
    "not exactly one of its dimensions is that of the samples; return one result per sample"
)


@dataclass(frozen=True)
class Results:
    """The loss's value, "" where there is none; outputs; and why some cannot be handed out."""

    loss: str
    outputs: tuple[Output, ...]
    left_out: dict[str, str]


def read_results(
    exported: Exported, values: Values, names: Names, computed: Container[str]
) -> Results:
    """Raises TraceError where the loss depends on nothing.

    `computed` has the names of all operators.
    """
    specs = exported.program.graph_signature.output_specs
    returned = [names.value(str(s.arg.name)) for s in specs if s.kind.name in RETURNED]
    result = tree_unflatten(returned, exported.program.call_spec.out_spec)
    loss = result["loss"][0] if result["loss"] else ""
    if loss and loss not in computed:
        raise TraceError("the traced model has no loss: its result does not depend on its inputs")
    left_out, outputs = dict(exported.left_out), []
    for name, value in result["others"].items():
        if value not in computed:
            left_out[name] = NOT_COMPUTED
        elif not _has_samples(value, values):
            left_out[name] = NO_SAMPLES
        if name not in left_out:
            outputs.append(Output(name, value))
    return Results(loss, tuple(outputs), left_out)


def _has_samples(name: str, values: Values) -> bool:
    """Whether one dimension is that of the samples, and no other depends on their number.

    Others may be lengths, but no sizes that follow from them: those do not tell the samples' own.
    """
    shape = values.by_name[name].shape if name in values.by_name else ()
    lengths = values.dimensions.names.values()
    following = [size for size in shape if isinstance(size, str) and size not in lengths]
    if not values.dimensions.dynamic:
        return shape[:1] == (values.dimensions.microbatch,) and not following
    return following == ["batch"]
