"""Messages for a model that torch.export cannot trace: the user's line, and a remedy."""

import re

from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.modules.batchnorm import _BatchNorm

from pipecut.errors import TraceError
from pipecut.model.functions import user_frame
from pipecut.model.unsplit import WithLoss

# How torch.export says that Python asks for a size that depends on data as a number of its own.
SIZE_AS_NUMBER = {"extract specialized integer", "Size-like symbols: u"}
PHRASES = re.compile("|".join(SIZE_AS_NUMBER))
# How torch.export says that a value came about without operators that it saw.
LOST_FROM_GRAPH = "fake tensor in the exported program constant's list"


def explained(error: BaseException, model: WithLoss) -> TraceError:
    """The error of a trace in words for the model's author."""
    frame = user_frame(error)
    at = f" (at {frame})" if frame else ""
    explanation = TraceError(f"torch.export cannot trace the model: {first_line(error)}{at}")
    if isinstance(error, GuardOnDataDependentSymNode):
        remedy = "write the choice with torch.where, or take it out of forward"
        if SIZE_AS_NUMBER <= set(PHRASES.findall(str(error))):
            remedy = "write rows.shape[0] for len(rows), and no loop over a size"
        explanation = cumulative_batch_norm(model, at) or TraceError(
            f"the model chooses what to do by a tensor's value{at}, and a plan holds one way "
            f"only; {remedy}"
        )
    elif LOST_FROM_GRAPH in str(error):
        explanation = TraceError(
            f"the model's forward computes something that a traced graph cannot hold{at}, as "
            "torch.autograd.grad does, which gives the gradient of a part; put that part into a "
            "module of its own, and name it under model.opaque: it then runs as it is"
        )
    explanation.__cause__ = error
    return explanation


def cumulative_batch_norm(model: WithLoss, at: str) -> TraceError | None:
    """The error of a batch norm whose running statistics are means over all batches so far.

    None where the model has no such one. `at` says where it was asked for their number.
    """
    for name, module in model.model.named_modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            if module.momentum is None:
                return TraceError(
                    f"'{name}' ({type(module).__name__}) has momentum=None, "
                    f"which weights each batch by the number of batches so far{at}, "
                    "and a plan holds numbers only; give it a momentum, such as 0.1"
                )
    return None


def first_line(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
