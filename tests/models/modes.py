"""Models that differ in eval mode, or return more than their loss is made of."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 16


def rows(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH), "target": torch.randn(microbatch, WIDTH)}


def sequences(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, 6, WIDTH), "target": torch.randn(microbatch, 6, WIDTH)}


class Layers(nn.Module):
    """Linear layers with something between them; returns the last layer's result and the loss."""

    def __init__(self, *between: nn.Module) -> None:
        super().__init__()
        self.between = nn.ModuleList(between)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(len(between) + 1))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer, between in zip(self.layers, self.between, strict=False):
            x = between(torch.tanh(layer(x)))
        x = self.layers[-1](x)
        return {"loss": F.mse_loss(x, target), "prediction": x}


def alpha_dropout() -> nn.Module:
    return Layers(nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.AlphaDropout(0.3))


def in_place_dropout() -> nn.Module:
    in_place = nn.Sequential(nn.LeakyReLU(), nn.Dropout(0.5, inplace=True))
    return Layers(in_place, nn.Dropout(0.3), nn.Dropout(0.0))


def leaky_noise() -> nn.Module:
    in_place = nn.Sequential(nn.LeakyReLU(), nn.RReLU(0.1, 0.5, inplace=True))
    return Layers(nn.RReLU(0.1, 0.9), in_place)


class OverFeatures(nn.Module):
    """Applies a layer of images or sequences to rows, as channels of one each."""

    def __init__(self, layer: nn.Module, dimensions: int) -> None:
        super().__init__()
        self.layer, self.dimensions = layer, dimensions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (
            x.shape[0],
            4,
            *(2,) * (self.dimensions - 1),
            WIDTH // 4 // 2 ** (self.dimensions - 1),
        )
        return self.layer(x.reshape(shape)).reshape(x.shape)


def channel_dropout() -> nn.Module:
    return Layers(
        OverFeatures(nn.Dropout1d(0.5), 1),
        OverFeatures(nn.Dropout2d(0.5), 2),
        OverFeatures(nn.Dropout3d(0.5), 3),
    )


def running_norms() -> nn.Module:
    instance = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    batch = [
        nn.BatchNorm1d(WIDTH),
        nn.BatchNorm1d(WIDTH, track_running_stats=False),
        nn.BatchNorm1d(WIDTH, momentum=0.3),
    ]
    return Layers(OverFeatures(instance, 1), *batch)


def tracked_norms() -> nn.Module:
    instance = nn.InstanceNorm1d(4, affine=True, track_running_stats=True)
    return Layers(
        OverFeatures(instance, 1), nn.BatchNorm1d(WIDTH, momentum=0.3), nn.AlphaDropout(0.2)
    )


class Depth(nn.Module):
    """A block that training leaves out for some samples, as stochastic depth does."""

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.inner, self.keep = nn.Linear(WIDTH, WIDTH), keep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.inner(x)
        if self.training:
            kept = (torch.rand(x.shape[0], 1) < self.keep).to(x.dtype)
            return x + inner * kept / self.keep
        return x + inner


def stochastic_depth() -> nn.Module:
    return Layers(Depth(0.9), Depth(0.5), Depth(0.7))


class ByMode(nn.Module):
    """Scales by a number that depends on the mode; adds noise in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * (0.5 if self.training else 2.0)
        if self.training:
            x = x + 0.1 * x.roll(1, -1)
        return x


def choosing() -> nn.Module:
    return Layers(ByMode(), nn.Identity(), ByMode())


def spectral() -> nn.Module:
    norm = nn.utils.parametrizations.spectral_norm
    return Layers(
        norm(nn.Linear(WIDTH, WIDTH)),
        nn.utils.spectral_norm(nn.Linear(WIDTH, WIDTH)),
        nn.Dropout(0.2),
    )


class AlwaysFrozen(nn.BatchNorm1d):
    """Stays in eval mode whatever the mode of the model."""

    def train(self, mode: bool = True) -> "AlwaysFrozen":
        return super().train(False)


def frozen_norm() -> nn.Module:
    return Layers(AlwaysFrozen(WIDTH), nn.Dropout(0.5), nn.BatchNorm1d(WIDTH))


class Lstm(nn.Module):
    """Two layers with dropout between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        self.core = nn.LSTM(WIDTH, WIDTH, num_layers=2, dropout=0.5, batch_first=True)
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.last(self.core(torch.tanh(self.first(x)))[0])
        return {"loss": F.mse_loss(x, target), "prediction": x}


def lstm() -> nn.Module:
    return Lstm()


class EncoderLayers(nn.Module):
    """torch's own transformer layers, which have a path of their own in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 32, dropout=0.3, batch_first=True)
        self.core = nn.TransformerEncoder(layer, 3)
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.last(self.core(x))
        return {"loss": F.mse_loss(x, target), "prediction": x}


def encoder_layers() -> nn.Module:
    return EncoderLayers()


class Heads(nn.Module):
    """A head that only training uses, beside a head that only eval mode uses."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.beside, self.only_asked = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        for layer in self.layers:
            x = torch.relu(layer(x))
        loss = F.mse_loss(x, target)
        if self.training:
            return {"loss": loss + F.mse_loss(self.beside(x), target)}
        return {"loss": loss, "asked": self.only_asked(x)}


def heads() -> nn.Module:
    return Heads()


class NoLossInEval(Layers):
    """Returns its loss in training, its prediction otherwise."""

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> Any:
        result = super().forward(x, target)
        return result["loss"] if self.training else result["prediction"]


def no_loss_in_eval() -> nn.Module:
    return NoLossInEval(nn.Dropout(0.5), nn.Identity())


@dataclass
class Record:
    """A result that is no dictionary."""

    loss: torch.Tensor
    classes: torch.Tensor
    states: tuple[torch.Tensor, ...]
    none: None = None


Pair = namedtuple("Pair", "first second")


class Returning(nn.Module):
    """Returns what `how` says; the loss is made of little of it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> Any:
        states = []
        for layer in self.layers:
            x = self.dropout(torch.tanh(layer(x)))
            states.append(x)
        loss = F.mse_loss(x, target)
        kinds: dict[str, Any] = {
            "tuple": (loss, x, (states[0], states[1])),
            "nested": {
                "loss": loss,
                "hidden_states": tuple(states),
                "by_name": {"probabilities": x.softmax(-1), "pair": Pair(states[0] + 1, states[2])},
                "classes": x.argmax(-1),
                "positive": x > 0,
                "turned": x.t(),
                "wave": torch.fft.rfft(x),
                "short": x.round().to(torch.int16),
                "none": None,
                "scale": 0.5,
                "mean": x.mean(),
                "given": target,
                "weight": self.layers[0].weight,
                "kind": nn.Identity(),
            },
            "record": Record(loss, x.argmax(-1), tuple(states)),
        }
        return kinds[self.how]


def returning(how: str) -> nn.Module:
    return Returning(how)


class TensorOnly(Layers):
    """Returns one tensor; the job names the loss."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def tensor_only() -> nn.Module:
    return TensorOnly(nn.Identity(), nn.Identity())


def only_x(microbatch: int) -> dict[str, torch.Tensor]:
    return {"x": torch.randn(microbatch, WIDTH)}


def to_itself(output: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return F.mse_loss(output, batch["x"])


class Remembering(nn.Module):
    """Its forward leaves something behind, as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = nn.Linear(WIDTH, WIDTH), how
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.register_buffer("other", torch.ones(WIDTH))
        self.calls, self.cached, self.log = 0, None, []
        self.beside: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.inner(x))
        if self.how == "assigned":
            old = self.mean
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return x * self.mean + old
        if self.how == "swapped":
            self.mean, self.other = self.other + x.detach().mean(0), self.mean
            return x * self.mean
        if self.how == "reshaped":
            self.mean = x.detach()
        if self.how == "counted":
            self.calls += 1
            return x / self.calls
        if self.how == "logged":
            self.log.append(x)
            return x * len(self.log)
        if self.how == "recurrent":
            before = self.cached
            self.cached = x.detach()
            return x if before is None else x + before
        if self.how == "mask":
            if self.cached is None:
                self.cached = torch.arange(WIDTH) % 2
            return x * self.cached
        self.beside = x * 2
        return x + self.beside


def remembering(how: str) -> nn.Module:
    return Layers(nn.Identity(), Remembering(how), nn.Identity(), Remembering("none"))


class Switching(nn.Module):
    """Keeps a number that depends on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.5

    def train(self, mode: bool = True) -> "Switching":
        self.scale = 0.5 if mode else 2.0
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


class FreshDropout(nn.Module):
    """Creates its dropout in forward, so that it drops in both modes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.Dropout(0.5)(x)


class TracedTwice(nn.Module):
    """Assigns a buffer, which needs a second trace, beside a dropout that is always on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return F.dropout(self.dropout(x) + self.mean, 0.5)


class Inference(nn.Module):
    """Computes a part without gradients, not by no_grad."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            y = x * 2
        return x + y.clone()


HIDDEN = {kind.__name__: kind for kind in (FreshDropout, TracedTwice)}


def switching_inference() -> nn.Module:
    return Layers(Switching(), Inference())


def hidden(kind: str) -> nn.Module:
    return Layers(nn.Identity(), HIDDEN[kind]())


class _Straight(torch.autograd.Function):
    """Rounds, as `how` says."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, how: Any = None) -> Any:
        ctx.how = how
        if how == "counting":
            return x * int(x.sum() > 0)
        if how == "writing":
            ctx.mark_dirty(x.mul_(2))
            return x
        return (x.round(), 3) if how == "returning" else x.round()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        if ctx.how == "drawing":
            return gradients[0] * torch.rand_like(gradients[0]), None
        return gradients[0], None


class Beyond(nn.Module):
    """Does what a traced graph would leave out, as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.inner = how, nn.Linear(WIDTH, WIDTH)
        self.table = nn.Embedding(4, WIDTH, max_norm=1.0)
        if how == "parameter hook":
            self.inner.weight.register_hook(lambda gradient: gradient * 2)
        if how == "sparse":
            self.table = nn.Embedding(4, WIDTH, sparse=True)
        if how == "scripted":
            self.inner = torch.jit.script(self.inner)
        if how == "module hook":
            self.inner.register_full_backward_hook(lambda module, inputs, results: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        if self.how in ("writing", "returning", "drawing", "counting"):
            result = _Straight.apply(x, self.how)
            x = result[0] if self.how == "returning" else result
        if self.how == "given a module":
            x = _Straight.apply(x, self.inner)
        if self.how == "local function":

            class Local(_Straight):
                forward, backward = _Straight.forward, _Straight.backward

            x = Local.apply(x)
        if self.how == "node hook" and x.grad_fn is not None:
            x.grad_fn.register_prehook(lambda gradients: gradients)
        if self.how == "state":
            state = torch.get_rng_state()
            x = x + torch.rand(WIDTH)
            torch.set_rng_state(state)
        if self.how == "fork":
            with torch.random.fork_rng(devices=[]):
                x = x + torch.rand(WIDTH)
        if self.how == "data":
            self.inner.bias.data.clamp_(-1, 1)
        if self.how == "assigned data":
            self.inner.bias.data = self.inner.bias.data * 2
        if self.how == "packed":
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t.half(), lambda t: t.float()):
                x = x * x
        if self.how == "read data":
            x = x + self.inner.bias.data
        if self.how == "late hook":
            x.register_post_accumulate_grad_hook(lambda tensor: None)
        if self.how == "hook":
            x.register_hook(lambda gradient: gradient * 2)
        if self.how == "average":
            with torch.no_grad():
                self.inner.bias.mul_(0.9)
        if self.how in ("norm", "sparse"):
            x = x + self.table(torch.zeros(x.shape[0], dtype=torch.int64))
        return x


def beyond(how: str) -> nn.Module:
    return Layers(nn.Identity(), Beyond(how))
