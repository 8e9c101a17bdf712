"""Opaque modules run for real, with several batches and in both modes: what they return and take.

The model is built with its first values and runs once for each batch and mode, so that every opaque
module is given what it is given in training.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pipecut.compiler.inputs.job import Job
from pipecut.compiler.trace.batch import ExampleBatch, example_batch
from pipecut.compiler.trace.lengths import other_length
from pipecut.compiler.trace.opaque.calls import CallKey, KnownCall, known_call
from pipecut.compiler.trace.opaque.chosen import is_named
from pipecut.compiler.trace.opaque.hooks import replaced_call
from pipecut.compiler.trace.opaque.in_parts import parameter_bytes, run_in_parts
from pipecut.compiler.trace.opaque.left_behind import Ran, kept, run_twice_if_changed
from pipecut.compiler.trace.opaque.observed import FirstCall, SeenCall, Watched, observe
from pipecut.compiler.trace.opaque.outside import storage_of
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.compiler.trace.watch.randomness import none_seeds
from pipecut.errors import PipecutError, TraceError, UserFileError
from pipecut.model.building.on_meta import build_on_meta
from pipecut.model.functions import calling, find_function
from pipecut.model.opaque.host_random import HostRandom
from pipecut.model.precision import cast_model
from pipecut.model.unsplit import WithLoss
from pipecut.quantities import show_bytes

log = logging.getLogger("pipecut")

# Bytes of parameters up to which a model, or one of its modules, is held to see what its opaque
# modules are given.
MOST_BYTES = 8 * 2**30


def learnt_calls(job: Job, model: WithLoss, paths: Sequence[str]) -> dict[CallKey, KnownCall]:
    """Every call of the modules at these paths. `model` is the job's, without values.

    Raises TraceError for what no plan can carry, UserFileError where the model fails.
    """
    size = parameter_bytes(model)
    try:
        if size <= MOST_BYTES:
            return _learnt(job, _built(job, model), paths)
        real = _built_on_meta(job, model)
        with run_in_parts(real, MOST_BYTES):
            return _learnt(job, real, paths)
    except UserFileError as error:
        if size <= MOST_BYTES:
            raise
        raise TraceError(
            f"'{paths[0]}' is to run as it is, and what it returns is learnt by running the model, "
            f"which with parameters of {show_bytes(size)} runs module by module, each with random "
            f"parameters: {error}; have each module use its own parameters, or compile with fewer "
            f"layers, so that all fit into {show_bytes(MOST_BYTES)}"
        ) from error


def _learnt(job: Job, real: WithLoss, paths: Sequence[str]) -> dict[CallKey, KnownCall]:
    batches = _batches(job)
    seen: dict[CallKey, list[SeenCall]] = defaultdict(list)
    one_length = ""
    first_calls: dict[str, FirstCall] = {}
    for training in (True, False):
        real.train(training)
        try:
            for number, batch in enumerate(batches):
                try:
                    calls = _run(job, real, paths, batch, first_calls)
                except PipecutError as error:
                    if number < 2:
                        raise
                    one_length = f"the model runs with one length only: {error}"
                    break
                for key, call in calls.items():
                    seen[key].append(call)
        except PipecutError:
            if training:
                raise
            # Then there is no eval mode.
            log.debug("the model does not run in eval mode", exc_info=True)
    return {key: known_call(key, calls, one_length) for key, calls in seen.items()}


def _batches(job: Job) -> list[ExampleBatch]:
    """The example batch, one with more samples, and one for each length with a shorter one."""
    samples = max(job.microbatch, 2)
    first = example_batch(job, samples)
    try:
        second = example_batch(job, samples + 1)
    except UserFileError:
        second = example_batch(job, 2 * samples)
    longest = first.lengths.longest
    shorter = ({length: other_length(most)} for length, most in longest.items())
    return [first, second, *(example_batch(job, samples, at) for at in shorter)]


def _built(job: Job, traced: WithLoss) -> WithLoss:
    spec = job.spec.model
    factory = find_function(spec.factory, job.folders, str(job.path))
    with torch.random.fork_rng(devices=[]), calling(spec.factory):
        torch.manual_seed(job.spec.seed)
        model = factory(**spec.args)
    return WithLoss(cast_model(model, job.spec.precision), traced.loss)


def _built_on_meta(job: Job, traced: WithLoss) -> WithLoss:
    """Not the one that is traced: a forward may write to buffers."""
    spec = job.spec.model
    factory = find_function(spec.factory, job.folders, str(job.path))
    with calling(spec.factory):
        model = build_on_meta(lambda: factory(**spec.args), job.spec.seed)
    return WithLoss(cast_model(model, job.spec.precision), traced.loss)


def _run(
    job: Job,
    real: WithLoss,
    paths: Sequence[str],
    batch: ExampleBatch,
    first_calls: dict[str, FirstCall],
) -> dict[CallKey, SeenCall]:
    """The calls of the modules at these paths in a forward of the model."""
    modules = {path: real.model.get_submodule(path) for path in paths}

    def forward() -> Ran:
        return _forward(job, real, modules, batch, first_calls)

    calls = run_twice_if_changed(real, modules, forward).calls
    # Others are there because their likes are.
    asked = (p for p in paths if p in job.opaque or is_named(p, job.opaque_patterns))
    for path in asked:
        if CallKey(path, 0, real.training) not in calls and real.training:
            raise Untraceable(
                f"'{path}' ({type(modules[path]).__name__}) is never called, so it cannot run as "
                "it is; name the module whose forward uses it in model.opaque",
                path,
            )
    return calls


def _forward(
    job: Job,
    real: WithLoss,
    modules: dict[str, nn.Module],
    batch: ExampleBatch,
    first_calls: dict[str, FirstCall],
) -> Ran:
    """One forward of the model, in which these modules are watched."""
    ran = Ran({}, {})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(job.spec.seed)
        # Who draws them outside of opaque modules, the trace finds.
        stack.callback(HostRandom.now().put_back)
        stack.enter_context(none_seeds())
        stack.enter_context(calling(f"{job.spec.model.factory}'s model, run on the example batch,"))
        stack.enter_context(_watched(real, modules, batch, ran, first_calls))
        with torch.no_grad():
            # The loss has no opaque modules, and may look for gradients.
            real.has_loss = False
            real.nesting = batch.nesting
            real({**batch.tensors, **batch.constants})
    return ran


@contextmanager
def _watched(
    real: WithLoss,
    modules: dict[str, nn.Module],
    batch: ExampleBatch,
    ran: Ran,
    first_calls: dict[str, FirstCall],
) -> Iterator[None]:
    """Note every call of these modules, but for those within another one."""
    numbers: Counter[str] = Counter()
    of_batch = frozenset(map(storage_of, batch.tensors.values()))
    own_calls: dict[str, Callable[..., Any]] = {}

    def instead(path: str, module: nn.Module) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            key = CallKey(path, numbers[path], real.training)
            numbers[path] += 1
            of_model = _by_storage(real.model)
            watched = Watched(path, module, own_calls[path], of_model, of_batch, first_calls)
            try:
                ran.calls[key], result = observe(watched, batch.sizes, args, kwargs)
            except TraceError as error:
                raise Untraceable(str(error), path) from error
            ran.results[key] = kept(result)
            return result

        return forward

    with ExitStack() as stack:
        for path, module in modules.items():
            replaced = replaced_call(module, instead(path, module))
            own_calls[path] = stack.enter_context(replaced)
        yield


def _by_storage(model: nn.Module) -> dict[int, str]:
    """The names of parameters and buffers."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return {storage_of(t): name for name, t in tensors if t.layout == torch.strided}
