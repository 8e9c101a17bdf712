"""What is seen of a call of an opaque module when it runs for real."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipecut.compiler.graph import OpaqueWork
from pipecut.compiler.trace.opaque.argument_code import ArgumentCode, argument_code
from pipecut.compiler.trace.opaque.outside import Outside, refuse_moved, storage_of
from pipecut.compiler.trace.rehearse.last_alone import FirstState
from pipecut.compiler.trace.rehearse.moving import refuse_moving
from pipecut.compiler.trace.rehearse.python_state import PythonState
from pipecut.compiler.trace.watch.randomness import may_seed
from pipecut.errors import TraceError
from pipecut.model.draws import CountDraws
from pipecut.model.opaque.assigned_buffers import buffers_of, keep_in_place
from pipecut.model.opaque.host_random import HostRandom
from pipecut.model.opaque.nested import Leaf, leaves_in, tensors_in, with_leaves

DRAWS_IN_BACKWARD = (
    "a backward of the model draws random numbers, which no plan can seed; draw them in forward "
    "and keep them with ctx.save_for_backward"
)
ORDER_OF_ITS_OWN = (
    "and a plan runs forwards in an order of its own, some of them twice; keep it in a buffer of "
    "the module (register_buffer), written in place"
)
# How often other values are tried, whose sizes of results would show that they depend on data.
TRIES = 3


@dataclass(frozen=True)
class SeenTensor:
    """A tensor of a result.

    `order` lists its dimensions from the outermost in memory to the innermost; `shares` are the
    positions of the operator's inputs whose memory it has.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]
    dtype: torch.dtype
    needs_grad: bool
    shares: tuple[int, ...]


@dataclass(frozen=True)
class SeenCall:
    """One call: its arguments as code, what it returned, what it wrote to, what it took.

    `sizes` are those of the batch that the model was given: `batch`, and lengths by name.
    `places` says of each place in the code whether it is a tensor's, `numbers` are the others.
    `template` is the result with the position of each tensor, from 0, in place of it. `written`
    are positions among what the module is given and what it holds.
    """

    sizes: Mapping[str, int]
    arguments: str
    imports: tuple[str, ...]
    places: tuple[bool, ...]
    numbers: tuple[int, ...]
    template: Any
    tensors: tuple[SeenTensor, ...]
    written: tuple[int, ...]
    work: OpaqueWork


@dataclass(frozen=True)
class Position(Leaf):
    """Where a tensor of a result stands among all of them."""

    number: int


def held_by(module: nn.Module) -> list[torch.Tensor]:
    """All parameters and buffers of a module, each once."""
    tensors = [*module.parameters(), *module.buffers()]
    return list({id(tensor): tensor for tensor in tensors}.values())


@dataclass(frozen=True)
class Watched:
    """A module at its path, its own forward, and all of the model's tensors by storage.

    `of_batch` are the storages of the batch, whose tensors need no gradients; `first_calls` those
    calls that left something in Python, with which calls of other sizes are compared.
    """

    path: str
    module: nn.Module
    forward: Callable[..., Any]
    of_model: Mapping[int, str]
    of_batch: frozenset[int] = frozenset()
    first_calls: "dict[str, FirstCall]" = field(default_factory=dict)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """A forward, after which buffers that it assigned are the tensors that they were."""
        buffers, drawn = buffers_of(self.module), HostRandom.now()
        result = self.forward(*args, **kwargs)
        keep_in_place(self.module, buffers)
        # A plan seeds them for each call.
        drawn.put_back()
        return result


@dataclass(frozen=True)
class FirstCall:
    """A module's first state, and what it was given then."""

    state: FirstState
    call: Callable[[], Any]


def observe(
    watched: Watched, sizes: Mapping[str, int], args: Any, kwargs: Any
) -> tuple[SeenCall, Any]:
    """Run a module, forward and, where it trains, backward. Returns its result without gradients.

    `sizes` are those of the batch that the model was given: `batch`, and lengths by name.
    Raises TraceError for what no plan can carry.
    """
    module = watched.module
    what = f"the module '{watched.path}' ({type(module).__name__})"
    code = argument_code(args, kwargs, what)
    _refuse_dependent(watched, code, args, kwargs)
    leaves, given = _copies(code, module.training, watched.of_batch)
    own_args, own_kwargs = _with_copies(code, given, args, kwargs)
    held = held_by(module)
    inputs = [*given, *held]
    outside = Outside(inputs, watched.of_model)

    def call() -> Any:
        with outside:
            return watched.run(*own_args, **own_kwargs)

    with _refused_effects(what, watched, inputs, (own_args, own_kwargs)) as written:
        result, work = _run(call, inputs, leaves, sizes["batch"], module.training)
    tensors = tensors_in(result)
    _refuse_not_dense(what, tensors)
    numbering = iter(range(len(tensors)))
    template = with_leaves(
        result, lambda leaf: Position(next(numbering)) if isinstance(leaf, torch.Tensor) else leaf
    )
    after_first, kept = PythonState.of(module), outside.kept()
    outside.refuse_others(what)
    _refuse_other_sizes(what, watched.run, code, tensors, args, kwargs)
    refuse_moving(after_first, ORDER_OF_ITS_OWN, module)
    refuse_moved(what, kept)
    seen = SeenCall(
        sizes,
        code.code,
        tuple(sorted(code.imports)),
        tuple(isinstance(leaf, torch.Tensor) for leaf in code.leaves),
        tuple(leaf for leaf in code.leaves if not isinstance(leaf, torch.Tensor)),
        template,
        tuple(_seen(tensor, inputs) for tensor in tensors),
        tuple(written),
        work,
    )
    detached = with_leaves(
        result, lambda leaf: leaf.detach() if isinstance(leaf, torch.Tensor) else leaf
    )
    return seen, detached


@contextmanager
def _refused_effects(
    what: str, watched: Watched, inputs: Sequence[torch.Tensor], given: Any
) -> Iterator[list[int]]:
    """Around a call on `inputs`, in `given` and held: which of them it writes to, afterwards.

    Raises TraceError where it assigns a buffer, writes a parameter or changes a container.
    """
    leaves, buffers = list(leaves_in(given)), buffers_of(watched.module)
    versions = [tensor._version for tensor in inputs]
    written: list[int] = []
    yield written
    _refuse_other_contents(what, leaves, list(leaves_in(given)))
    _refuse_assigned(what, buffers, buffers_of(watched.module))
    written += [at for at, t in enumerate(inputs) if t._version != versions[at]]
    if any(isinstance(inputs[at], nn.Parameter) for at in written):
        raise TraceError(
            f"{what} writes to a parameter, which a plan does not carry on; write to it "
            "between steps in a loop of your own"
        )


def _refuse_other_sizes(
    what: str,
    forward: Callable[..., Any],
    code: ArgumentCode,
    tensors: Sequence[torch.Tensor],
    args: Any,
    kwargs: Any,
) -> None:
    """Raises TraceError where values of the same sizes make results of other sizes.

    The first try has the values themselves: the module may do something else when called again.
    """
    generator = torch.Generator().manual_seed(0)
    given = [leaf for leaf in code.leaves if isinstance(leaf, torch.Tensor)]
    for number in range(1 + TRIES):
        others = [_other_values(t, generator) if number else t.detach().clone() for t in given]
        try:
            with torch.no_grad():
                other_args, other_kwargs = _with_copies(code, others, args, kwargs)
                result = forward(*other_args, **other_kwargs)
        except Exception:
            # Such values cannot be: nothing is known.
            continue
        for tensor, other in zip(tensors, tensors_in(result), strict=False):
            if tensor.shape != other.shape:
                raise TraceError(
                    f"{what} cannot run as it is within a plan: it returned {list(tensor.shape)} "
                    f"for some values and {list(other.shape)} for others; make the module around "
                    "it opaque, with model.opaque"
                )


def _refuse_dependent(watched: Watched, code: ArgumentCode, args: Any, kwargs: Any) -> None:
    """Raises TraceError where what a call leaves or returns depends on calls before it.

    A call is compared with other values of the same sizes, and with the module's first call where
    that had other sizes.
    """
    given = [leaf.detach().clone() for leaf in code.leaves if isinstance(leaf, torch.Tensor)]

    def call_with(values: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Any]:
        def call() -> Any:
            own_args, own_kwargs = _with_copies(code, list(map(values, given)), args, kwargs)
            return watched.run(*own_args, **own_kwargs)

        return call

    call, known = call_with(torch.clone), watched.first_calls.get(watched.path)
    state = known.state if known else FirstState(watched.path, watched.module)
    left = _compared(state, call, [call_with(partial(_of_half, upper=up)) for up in (False, True)])
    if not left:
        left = _compared(state, call, [call_with(_other_samples)])
    if not left or (known and not _compared(state, call, [known.call])):
        # The call may fail itself, which is reported where it is observed.
        if any(_compared(state, call, [call])):
            raise TraceError(
                f"'{watched.path}' keeps something from one forward to the next, and fails with "
                "other values, so what that depends on is not known; keep it in a buffer "
                "(register_buffer), or let it run with any values"
            )
    if any(left) and not known:
        watched.first_calls[watched.path] = FirstCall(state, call)


def _compared(
    state: FirstState, call: Callable[[], Any], others: Sequence[Callable[[], Any]]
) -> list[bool]:
    """Of each other call that can be: whether it or the call leaves anything."""
    left: list[bool] = []
    for other in others:
        try:
            left.append(state.refuse_dependent(call, other))
        except TraceError:
            raise
        except Exception:
            # Such values cannot be.
            continue
    return left


def _other_samples(tensor: torch.Tensor) -> torch.Tensor:
    """Samples in another order, with which a module that checks its values may run."""
    return tensor.flip(0) if tensor.dim() else tensor.clone()


def _of_half(tensor: torch.Tensor, upper: bool) -> torch.Tensor:
    """Values of the lower or upper half of those that the tensor has; floats another size too."""
    flat = tensor.flatten()
    if len(flat) < 2 or tensor.dtype.is_complex:
        half = flat
    else:
        ordered = flat.sort().values
        half = ordered[len(flat) // 2 :] if upper else ordered[: (len(flat) + 1) // 2]
    generator = torch.Generator().manual_seed(1 + upper)
    drawn = half[torch.randint(max(len(half), 1), flat.shape, generator=generator)]
    drawn = drawn.view(tensor.shape)
    return drawn * (8 if upper else 0.125) if drawn.is_floating_point() else drawn.clone()


def _other_values(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Values that the tensor has, in other places, floats with the opposite sign."""
    flat = tensor.detach().flatten()
    if not len(flat):
        return tensor
    drawn = flat[torch.randint(len(flat), flat.shape, generator=generator)].view(tensor.shape)
    return -drawn if drawn.is_floating_point() or drawn.is_complex() else drawn


def _copies(
    code: ArgumentCode, training: bool, of_batch: Container[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Leaves that need gradients, and what the module is given: copies that it may write to."""
    leaves, given = [], []
    for tensor in code.leaves:
        if not isinstance(tensor, torch.Tensor):
            continue
        own = tensor.detach().clone()
        computed = tensor.layout != torch.strided or storage_of(tensor) not in of_batch
        if training and computed and (own.is_floating_point() or own.is_complex()):
            leaves.append(own.requires_grad_())
            with torch.enable_grad():
                own = own.clone()
        given.append(own)
    return leaves, given


def _with_copies(code: ArgumentCode, given: Sequence[torch.Tensor], args: Any, kwargs: Any) -> Any:
    tensors = [leaf for leaf in code.leaves if isinstance(leaf, torch.Tensor)]
    copy_of = {id(tensor): copy for tensor, copy in zip(tensors, given, strict=True)}
    return with_leaves((args, kwargs), lambda leaf: copy_of.get(id(leaf), leaf))


def _run(
    call: Callable[[], Any],
    inputs: Sequence[torch.Tensor],
    leaves: Sequence[torch.Tensor],
    samples: int,
    training: bool,
) -> tuple[Any, OpaqueWork]:
    saved: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(tensor)
        return tensor

    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.set_grad_enabled(training):
        try:
            with forward, saving if training else nullcontext():
                result = call()
        except RuntimeError as error:
            # Not under torch.func: then what is kept is not known.
            if "saved tensor hooks" not in str(error):
                raise
            saved.clear()
            result = call()
        sources = [*leaves, *(t for t in inputs if isinstance(t, nn.Parameter))]
        before = HostRandom.now()
        with backward, CountDraws() as counting:
            _gradients(result, sources)
        if before.who_drew or (counting.count and not _draws_again(call, sources)):
            raise TraceError(DRAWS_IN_BACKWARD)
    storages = [tensor.untyped_storage()._cdata for tensor in inputs]
    kept = {
        tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes()
        for tensor in saved
        if tensor.layout == torch.strided
    }
    work = OpaqueWork(
        samples,
        float(forward.get_total_flops()),
        float(backward.get_total_flops()),
        tuple(at for at, storage in enumerate(storages) if storage in kept),
        sum(size for storage, size in kept.items() if storage not in storages),
    )
    return result, work


def _gradients(result: Any, sources: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Run backward; the gradients of leaves and parameters."""
    wanted = [tensor for tensor in tensors_in(result) if tensor.requires_grad]
    if wanted:
        with may_seed():
            torch.autograd.backward(wanted, [torch.ones_like(tensor) for tensor in wanted])
    gradients = [source.grad for source in sources]
    for source in sources:
        source.grad = None
    return gradients


def _draws_again(call: Callable[[], Any], sources: Sequence[torch.Tensor]) -> bool:
    """Whether backward draws only what its forward drew, as torch.utils.checkpoint does."""
    generator, made = torch.default_generator, []
    for seed in (1, 2):
        generator.manual_seed(0)
        result = call()
        generator.manual_seed(seed)
        made.append(_gradients(result, sources))
    return all(
        first is second or (first is not None and second is not None and torch.equal(first, second))
        for first, second in zip(*made, strict=True)
    )


def _seen(tensor: torch.Tensor, inputs: Sequence[torch.Tensor]) -> SeenTensor:
    strides = tensor.stride()
    # Of two dimensions with one stride, the later one is the inner one.
    order = tuple(sorted(range(tensor.dim()), key=lambda d: (-strides[d], d)))
    storage = tensor.untyped_storage()._cdata
    shares = (at for at, t in enumerate(inputs) if t.untyped_storage()._cdata == storage)
    return SeenTensor(tuple(tensor.shape), order, tensor.dtype, tensor.requires_grad, tuple(shares))


def _refuse_assigned(
    what: str, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> None:
    for place, buffer in before.items():
        if after.get(place) is not buffer:
            raise TraceError(
                f"{what} assigns its buffer '{place}' a tensor of another shape or dtype, and a "
                "plan's buffers keep theirs; assign one that is like it"
            )


def _refuse_other_contents(what: str, before: Sequence[Any], after: Sequence[Any]) -> None:
    if len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True)):
        raise TraceError(
            f"{what} changes a list, dict or object that it is given, which no stage's code passes "
            "on; return what it adds, or make the module around it opaque"
        )


def _refuse_not_dense(what: str, tensors: Sequence[torch.Tensor]) -> None:
    if any(tensor.layout != torch.strided or tensor.is_nested for tensor in tensors):
        raise TraceError(f"{what} returns a tensor that is not dense, which no plan can carry")


def plain_leaves(template: Any) -> list[Any]:
    """What a result has beside tensors."""
    return [leaf for leaf in leaves_in(template) if not isinstance(leaf, Position)]
