"""Models that do what a trace does not see: each is compiled exactly, or refused by name.

All take x [n, 8] and labels [n]; `unseen(kind)` makes one. What a kind keeps in Python is in this
file, in its class, in its closure, or in an object that it holds.
"""

import contextvars
import copy
import dataclasses
import functools
import itertools
import os
import random
import threading
import time
import types
import uuid
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

WIDTH = 8
Tensor = torch.Tensor


class Base(nn.Module):
    """A layer, something odd, a layer and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def odd(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        hidden = torch.tanh(self.b(self.odd(torch.tanh(self.a(x)))))
        return F.cross_entropy(self.h(hidden), labels)


KINDS: dict[str, Callable[[], nn.Module]] = {}


def kind(cls: Any) -> Any:
    KINDS[cls.__name__] = cls
    return cls


def unseen(name: str) -> nn.Module:
    return KINDS[name]()


def rows(count: int) -> dict[str, Tensor]:
    return {"x": torch.randn(count, WIDTH), "labels": torch.randint(WIDTH, (count,))}


# Globals.
CALLS = 0
COUNTS = {"calls": 0}
NESTED = {"a": [{"calls": 0}]}
SCALES = [1.0]
BUFFER: list[Tensor] = []
TENSOR = torch.ones(WIDTH)
CACHE: dict[Any, Tensor] = {}
HISTORY: deque[float] = deque(maxlen=4)
GROUPS: defaultdict[str, int] = defaultdict(int)
NUMBERS = numpy.zeros(2)
LOCAL = threading.local()
VARIABLE = contextvars.ContextVar("unseen", default=0)
TICKS = itertools.count(1)


@dataclasses.dataclass
class Settings:
    """No module, but a module holds it."""

    calls: int = 0
    scale: float = 1.0
    parts: list[Any] = dataclasses.field(default_factory=list)


SETTINGS = Settings()


@kind
class GlobalCounter(Base):
    def odd(self, h: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        return h * CALLS


@kind
class GlobalWarmUp(Base):
    def odd(self, h: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        return h * (0.1 if CALLS < 100 else 1.0)


@kind
class GlobalDict(Base):
    def odd(self, h: Tensor) -> Tensor:
        COUNTS["calls"] += 1
        return h / COUNTS["calls"]


@kind
class GlobalNested(Base):
    def odd(self, h: Tensor) -> Tensor:
        NESTED["a"][0]["calls"] += 1
        return h / NESTED["a"][0]["calls"]


@kind
class GlobalList(Base):
    def odd(self, h: Tensor) -> Tensor:
        SCALES.append(SCALES[-1] * 0.9)
        return h * SCALES[-1]


@kind
class GlobalDeque(Base):
    def odd(self, h: Tensor) -> Tensor:
        HISTORY.append(len(HISTORY) + 1.0)
        return h * HISTORY[0]


@kind
class GlobalDefaultDict(Base):
    def odd(self, h: Tensor) -> Tensor:
        GROUPS["x"] += 1
        return h * GROUPS["x"]


@kind
class GlobalArray(Base):
    def odd(self, h: Tensor) -> Tensor:
        NUMBERS[0] += 1
        return h * float(NUMBERS[0])


@kind
class GlobalObject(Base):
    def odd(self, h: Tensor) -> Tensor:
        SETTINGS.calls += 1
        return h * SETTINGS.calls


@kind
class GlobalTensorWritten(Base):
    def odd(self, h: Tensor) -> Tensor:
        TENSOR.mul_(0.9)
        return h * TENSOR


@kind
class GlobalTensorReplaced(Base):
    def odd(self, h: Tensor) -> Tensor:
        global TENSOR
        TENSOR = TENSOR * 0.9
        return h * TENSOR


@kind
class GlobalIterator(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * next(TICKS)


@kind
class GlobalThreadLocal(Base):
    def odd(self, h: Tensor) -> Tensor:
        LOCAL.calls = getattr(LOCAL, "calls", 0) + 1
        return h * LOCAL.calls


@kind
class GlobalContextVariable(Base):
    def odd(self, h: Tensor) -> Tensor:
        VARIABLE.set(VARIABLE.get() + 1)
        return h * VARIABLE.get()


@kind
class ClassCounter(Base):
    calls = 0

    def odd(self, h: Tensor) -> Tensor:
        type(self).calls += 1
        return h * self.calls


@kind
class ClassList(Base):
    seen: list[int] = []

    def odd(self, h: Tensor) -> Tensor:
        self.seen.append(1)
        return h * len(self.seen)


@kind
class BaseClassCounter(ClassCounter):
    def odd(self, h: Tensor) -> Tensor:
        ClassCounter.calls += 1
        return h * ClassCounter.calls


@kind
class AttributeCounter(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def odd(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h * self.calls


@kind
class AttributeOfTorchModule(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.calls = 0

    def odd(self, h: Tensor) -> Tensor:
        self.a.calls += 1
        return h * self.a.calls


@kind
class NestedContainer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.state = {"outer": [{"calls": 0}]}

    def odd(self, h: Tensor) -> Tensor:
        self.state["outer"][0]["calls"] += 1
        return h * self.state["outer"][0]["calls"]


@kind
class ObjectOfModule(Base):
    def __init__(self) -> None:
        super().__init__()
        self.settings = Settings()

    def odd(self, h: Tensor) -> Tensor:
        self.settings.calls += 1
        return h * self.settings.calls


@kind
class ObjectInObject(Base):
    def __init__(self) -> None:
        super().__init__()
        self.settings = types.SimpleNamespace(inner=Settings(parts=[0]))

    def odd(self, h: Tensor) -> Tensor:
        self.settings.inner.parts[0] += 1
        return h * self.settings.inner.parts[0]


class Slotted:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


@kind
class ObjectWithSlots(Base):
    def __init__(self) -> None:
        super().__init__()
        self.state = Slotted()

    def odd(self, h: Tensor) -> Tensor:
        self.state.calls += 1
        return h * self.state.calls


@kind
class ClosureCounter(Base):
    def __init__(self) -> None:
        super().__init__()
        calls = 0

        def count() -> int:
            nonlocal calls
            calls += 1
            return calls

        self.count = count

    def odd(self, h: Tensor) -> Tensor:
        return h * self.count()


@kind
class ClosureGenerator(Base):
    def __init__(self) -> None:
        super().__init__()

        def numbers() -> Iterator[float]:
            scale = 1.0
            while True:
                yield scale
                scale *= 0.9

        self.numbers = numbers()

    def odd(self, h: Tensor) -> Tensor:
        return h * next(self.numbers)


@kind
class CallableObject(Base):
    class Counting:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, h: Tensor) -> Tensor:
            self.calls += 1
            return h * self.calls

    def __init__(self) -> None:
        super().__init__()
        self.apply_to = self.Counting()

    def odd(self, h: Tensor) -> Tensor:
        return self.apply_to(h)


def _counted(cache: dict[str, int] = {}) -> int:  # noqa: B006
    cache["calls"] = cache.get("calls", 0) + 1
    return cache["calls"]


@kind
class DefaultArgument(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * _counted()


def _with_attribute() -> int:
    _with_attribute.calls = getattr(_with_attribute, "calls", 0) + 1  # type: ignore[attr-defined]
    return int(_with_attribute.calls)  # type: ignore[attr-defined]


@kind
class FunctionAttribute(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * _with_attribute()


@functools.lru_cache
def _first_number(key: int) -> float:
    return random.Random(time.time_ns()).random() + 1


@kind
class CachedImpure(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * _first_number(3)


@functools.lru_cache
def _table(width: int) -> Tensor:
    return torch.arange(width).float() / width


@kind
class CachedTable(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h + _table(h.shape[1])


@kind
class GlobalCacheByShape(Base):
    def odd(self, h: Tensor) -> Tensor:
        if h.shape[1] not in CACHE:
            CACHE[h.shape[1]] = torch.arange(h.shape[1]).float()
        return h + CACHE[h.shape[1]]


@kind
class CacheOfWeight(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept: Tensor | None = None

    def odd(self, h: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = self.b.weight.detach() * 2
        return h @ self.kept


@kind
class GlobalCacheOfWeight(Base):
    def odd(self, h: Tensor) -> Tensor:
        if "weight" not in CACHE:
            CACHE["weight"] = self.b.weight.detach() * 2
        return h @ CACHE["weight"]


@kind
class GlobalListOfBatch(Base):
    def odd(self, h: Tensor) -> Tensor:
        BUFFER.append(h.detach().mean())
        return h + BUFFER[0]


@kind
class Clock(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * (1 + time.time() % 1)


@kind
class Entropy(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * (1 + os.urandom(1)[0] / 256)


@kind
class Unique(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * (1 + uuid.uuid4().int % 7)


@kind
class PythonRandom(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * random.random()


@kind
class OwnRandom(Base):
    def __init__(self) -> None:
        super().__init__()
        self.random = random.Random(3)

    def odd(self, h: Tensor) -> Tensor:
        return h * self.random.random()


@kind
class SystemRandom(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * random.SystemRandom().random()


@kind
class NumpyRandom(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * float(numpy.random.rand())


@kind
class NumpyGenerator(Base):
    def __init__(self) -> None:
        super().__init__()
        self.generator = numpy.random.default_rng(0)

    def odd(self, h: Tensor) -> Tensor:
        return h * self.generator.random()


@kind
class HookIfGradient(Base):
    def odd(self, h: Tensor) -> Tensor:
        if h.requires_grad:
            h.register_hook(lambda g: g * 0.1)
        return h


@kind
class OnlyWithGradients(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * 2 if torch.is_grad_enabled() else h


@kind
class OnlyIfGradient(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * 2 if h.requires_grad else h


@kind
class OnlyIfLeaf(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * 2 if not h.is_leaf else h


@kind
class OnlyWhenEager(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h if torch.compiler.is_compiling() else h * 2


@kind
class OnlyIfPlainTensor(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * 2 if type(h) is torch.Tensor else h


@kind
class MomentumTeacher(Base):
    def __init__(self) -> None:
        super().__init__()
        self.t = copy.deepcopy(self.a).requires_grad_(False)

    def odd(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            for old, new in zip(self.t.parameters(), self.a.parameters(), strict=True):
                old.mul_(0.9).add_(new, alpha=0.1)
            return h + self.t(h)


@kind
class WeightsWritten(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.b.weight.data.clamp_(-0.1, 0.1)
        return h


@kind
class AssignedBuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ema", torch.zeros(WIDTH))

    def odd(self, h: Tensor) -> Tensor:
        self.ema = self.ema * 0.9 + h.detach().mean(0) * 0.1
        return h + self.ema


@torch.library.custom_op("tests_unseen::counted", mutates_args=())
def counted(x: Tensor) -> Tensor:
    GROUPS["operator"] += 1
    return x * GROUPS["operator"]


counted.register_fake(torch.empty_like)
counted.register_autograd(lambda _, gradient: gradient)


@kind
class OperatorCounts(Base):
    """Neither a trace nor fake tensors see what the kernel does."""

    def odd(self, h: Tensor) -> Tensor:
        return torch.ops.tests_unseen.counted(h)  # type: ignore[no-any-return]


@kind
class BufferReadAfterWrite(Base):
    """What is read is saved for backward; the next microbatch writes to it before that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(WIDTH))
        self.norm = nn.BatchNorm1d(WIDTH)

    def odd(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean.lerp_(h.abs().mean(0), 0.1)
        once = self.norm(h / self.mean)
        self.norm.eval()
        twice = self.norm(once)
        self.norm.train()
        return once + twice


@kind
class GradientRead(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h if self.b.weight.grad is None else 2 * h


@kind
class GradientDropped(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.b.zero_grad()
        return h


@kind
class GradientAssigned(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.b.weight.grad = None
        return h


@kind
class FrozenMeanwhile(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.b.weight.requires_grad_(False)
        frozen = self.b(h)
        self.b.weight.requires_grad_(True)
        return frozen  # type: ignore[no-any-return]


@kind
class FrozenByForward(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.b.requires_grad_(False)
        return h


@kind
class FrozenAlready(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.requires_grad_(False)

    def odd(self, h: Tensor) -> Tensor:
        self.a.requires_grad_(False)
        return h


@kind
class ParameterReplaced(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.h.weight = self.b.weight
        return h


class Doubling(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.ops.aten.tanh.default else result


@kind
class DispatchMode(Base):
    def odd(self, h: Tensor) -> Tensor:
        with Doubling():
            return torch.tanh(h)


@kind
class OtherDtype(Base):
    """Fails in half precision, on tensors with values alone."""

    def odd(self, h: Tensor) -> Tensor:
        return self.b(h.float())  # type: ignore[no-any-return]


@kind
class QueueBuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("q", torch.randn(16, WIDTH))
        self.register_buffer("p", torch.zeros(1, dtype=torch.long))

    def odd(self, h: Tensor) -> Tensor:
        out = h + h @ self.q.clone().T @ self.q.clone() * 0.01
        with torch.no_grad():
            at = int(self.p)
            self.q[at : at + h.shape[0]] = h.detach()
            self.p[0] = (at + h.shape[0]) % 16
        return out


@kind
class PlainTensorWritten(Base):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(WIDTH)

    def odd(self, h: Tensor) -> Tensor:
        self.total += h.detach().mean(0)
        return h + self.total


@kind
class AutocastInside(Base):
    def odd(self, h: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.b(h)
        return y.float()


@kind
class DefaultDtype(Base):
    def odd(self, h: Tensor) -> Tensor:
        y = h * torch.ones(1).sum()
        torch.set_default_dtype(torch.float64)
        return y * torch.ones(1).to(y.dtype)


@kind
class FloatOfTensor(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h / (1 + float(h.detach().abs().max()))


@kind
class LoggedLoss(Base):
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        loss = super().forward(x, labels)
        self.last_loss = loss.detach()
        return loss


@kind
class NumpyInside(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h + torch.from_numpy(numpy.sort(h.detach().numpy(), axis=1))


@kind
class OtherAtSecondCall(Base):
    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def odd(self, h: Tensor) -> Tensor:
        if not self.ready:
            self.ready = True
            return h
        return h * 2


@kind
class ModuleReplaced(Base):
    def odd(self, h: Tensor) -> Tensor:
        y = self.b(h)
        self.b = self.a
        return y


@kind
class MethodReplaced(Base):
    def odd(self, h: Tensor) -> Tensor:
        self.odd = lambda h: h * 3  # type: ignore[method-assign]
        return h


@kind
class MethodOfInstance(Base):
    def __init__(self) -> None:
        super().__init__()
        plain = self.b.forward
        self.b.forward = lambda h: plain(h) * 2  # type: ignore[method-assign]


@kind
class ForwardHook(Base):
    def __init__(self) -> None:
        super().__init__()
        calls = [0]

        def count(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            calls[0] += 1
            return output * calls[0]

        self.a.register_forward_hook(count)


@kind
class ParameterHook(Base):
    def __init__(self) -> None:
        super().__init__()
        self.a.weight.register_hook(lambda g: g * 0.1)


@kind
class WeakReference(Base):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Settings()
        self.weak = weakref.ref(self.kept)

    def odd(self, h: Tensor) -> Tensor:
        settings = self.weak()
        assert settings is not None
        settings.scale *= 0.9
        return h * settings.scale


@kind
class WeakKeys(Base):
    seen: "weakref.WeakKeyDictionary[nn.Module, int]" = weakref.WeakKeyDictionary()

    def odd(self, h: Tensor) -> Tensor:
        self.seen[self] = self.seen.get(self, 0) + 1
        return h * self.seen[self]


@kind
class OrderOfDict(Base):
    def __init__(self) -> None:
        super().__init__()
        self.order = OrderedDict(a=1.0, b=2.0)

    def odd(self, h: Tensor) -> Tensor:
        self.order.move_to_end(next(iter(self.order)))
        return h * next(iter(self.order.values()))


@kind
class Environment(Base):
    def odd(self, h: Tensor) -> Tensor:
        count = int(os.environ.get("PIPECUT_UNSEEN", "0")) + 1
        os.environ["PIPECUT_UNSEEN"] = str(count)
        return h * count


@kind
class OnTorchItself(Base):
    def odd(self, h: Tensor) -> Tensor:
        nn.Linear.calls = getattr(nn.Linear, "calls", 0) + 1  # type: ignore[attr-defined]
        return h * nn.Linear.calls  # type: ignore[attr-defined]


@kind
class DetachedOutsideOfTrace(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * nn.Parameter(self.b.weight.detach().mean(0)).data


@kind
class Straight(Base):
    """A reentrant backward that a trace could lose."""

    def odd(self, h: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(  # type: ignore[no-any-return]
            lambda y: torch.tanh(self.b(y)), h, use_reentrant=True
        )


@kind
class IdentityOfTensor(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * (1 + id(h) % 3)


@kind
class HashOfObject(Base):
    def odd(self, h: Tensor) -> Tensor:
        return h * (1 + hash(object()) % 5)


# Of a model that is too large to run as a whole, layers that are compared by themselves.
WORDS = 50


class Layer(nn.Module):
    """Dropout, a buffer, a mask; `odd` ones do something else where no trace looks."""

    def __init__(self, odd: str) -> None:
        super().__init__()
        self.odd = odd
        self.norm, self.inside = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("table", torch.linspace(0.5, 1.5, WIDTH))

    def forward(
        self, x: Tensor, unused: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        assert mask is not None
        y = self.inside(self.norm(x)) * self.table
        if self.odd == "value" and type(x) is torch.Tensor:
            y = y * 1.5
        if self.odd == "gradient" and type(x) is torch.Tensor:
            y = y + (self.inside.bias - self.inside.bias.detach())
        y = F.dropout(F.gelu(y.masked_fill(mask, 0.0)), 0.1, self.training)
        return x + y, y.mean()


class Layered(nn.Module):
    """Layers that are stamped, with a mask of the batch."""

    def __init__(self, odd: str) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer(odd) for _ in range(6))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor, labels: Tensor) -> Tensor:
        x, extra = self.table(words), torch.zeros(())
        mask = (words == 0)[:, :, None]
        for layer in self.layers:
            x, mean = layer(x, words.float(), mask=mask)
            extra = extra + mean
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten()) + extra


def layered(odd: str = "") -> nn.Module:
    return Layered(odd)


def words(count: int, length: int = 12) -> dict[str, Tensor]:
    return {name: torch.randint(WORDS, (count, length)) for name in ("words", "labels")}
