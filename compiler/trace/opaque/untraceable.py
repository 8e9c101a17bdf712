"""A module that cannot be traced, and the wider one that is made opaque for it."""

import re
from collections.abc import Iterator, Sequence

from torch import nn

from pipecut.compiler.inputs.job import Job
from pipecut.errors import TraceError

NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
# How torch.export names the module in which it met a constant that it cannot hold.
NAMED = re.compile(r"model attribute: model\.([\w.]+)\.\w+\.")


class Untraceable(TraceError):
    """The module at a path cannot be in a graph; `reason` says why in a few words.

    Whoever raises it lets the module run as it is, where that can be.
    """

    def __init__(self, message: str, module: str, reason: str = "") -> None:
        super().__init__(message)
        self.module = module
        self.reason = reason or message.partition(";")[0].partition(", and a plan")[0]


class NotEvenOpaque(TraceError):
    """What no module may do, be it traced or run as it is."""


def located(error: TraceError, model: nn.Module) -> TraceError:
    """The error with the module of a model in whose code it arose, where there is one."""
    path = failing_module(error, model)
    return error if path is None else _untraceable_at(path, error)


def untraceable_in(error: TraceError, model: nn.Module, modules: Sequence[nn.Module]) -> TraceError:
    """The error with the first of these modules that is one of a model's."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = (paths[id(module)] for module in modules if id(module) in paths)
    path = next(found, None)
    return error if path is None else _untraceable_at(path, error)


def _untraceable_at(path: str, error: TraceError) -> TraceError:
    if isinstance(error, Untraceable | NotEvenOpaque):
        return error
    untraceable = Untraceable(str(error), path)
    untraceable.__cause__ = error
    return untraceable


def failing_module(error: BaseException, model: nn.Module) -> str | None:
    """The path of the innermost module in whose code an error arose first."""
    # By identity: a user's class may compare as it likes.
    paths = {id(module): path for path, module in model.named_modules()}
    innermost = None
    for cause in _causes(error):
        frame = cause.__traceback__
        while frame is not None:
            code = frame.tb_frame.f_code
            owner = frame.tb_frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
            innermost = paths.get(id(owner), innermost)
            frame = frame.tb_next
        named = NAMED.search(str(cause))
        if innermost is None and named is not None and named[1] in paths.values():
            innermost = named[1]
    return innermost


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it comes from, the first cause last."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def make_opaque(job: Job, error: Untraceable) -> Job | None:
    """The job in which the module that cannot be traced is opaque, or the one around it.

    None where only the whole model is left, or where the job forbids it.
    """
    if job.spec.model.opaque == "never":
        return None
    path = error.module
    # Not by `masked`: in a list of modules of several classes each has its own turn.
    while path in job.opaque:
        path = path.rpartition(".")[0]
    return job.with_opaque(path, error.reason) if path else None


def masked(path: str) -> str:
    """A path with a star for each number: equal layers have one."""
    return NUMBER.sub("*", path)
