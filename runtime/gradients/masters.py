"""Half-precision parameters with float32 masters, which the optimizer has, and loss scaling, as the field does it.

A microbatch's gradient is added to the master's in float32 and let go, so a parameter takes 2 bytes, its master, the gradient and
each of the optimizer's states 4 (Micikevicius et al., Mixed Precision Training, 2018; 18 bytes with Adam, as Megatron-LM has it).
"""

from collections.abc import Iterable

import torch
from torch import nn

from pipecut.plan.schema import HALF


class Masters:
    """The master of each parameter: itself where it is no half-precision one that is trained.

    Unless the parameters are `filled`, masters get no values, nor memory that was touched, before they are given theirs.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], filled: bool = True) -> None:
        self.of: dict[int, nn.Parameter] = {}
        self.parameters: list[nn.Parameter] = []
        self.halves: list[nn.Parameter] = []
        # By the parameter's id, how often it was written when its master was last copied into it.
        self.versions: dict[int, int] = {}
        for parameter in parameters:
            if id(parameter) in self.of:
                continue
            self.of[id(parameter)] = parameter
            self.parameters.append(parameter)
            if parameter.requires_grad and str(parameter.dtype).removeprefix("torch.") in HALF:
                self.of[id(parameter)] = nn.Parameter(
                    parameter.detach().float()
                    if filled
                    else torch.empty_like(parameter, dtype=torch.float32)
                )
                self.halves.append(parameter)
                parameter.register_post_accumulate_grad_hook(self.take)  # type: ignore[no-untyped-call]

    def take(self, parameter: torch.Tensor) -> None:
        """Add a parameter's gradient to its master's, and let it go."""
        master = self.of[id(parameter)]
        if master is parameter or parameter.grad is None:
            return
        gradient, parameter.grad = parameter.grad, None
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    def without_values(self, parameter: nn.Parameter) -> nn.Parameter:
        """What takes the parameter's gradient from now on, where its master's values are kept elsewhere."""
        master = self.of[id(parameter)]
        if master is not parameter:
            empty = torch.zeros((), dtype=master.dtype, device=master.device).expand(master.shape)
            self.of[id(parameter)] = nn.Parameter(empty)
            self.halves = [half for half in self.halves if half is not parameter]
        return self.of[id(parameter)]

    def refresh(self) -> None:
        """Round masters into their parameters.

        Always, since what writes to `.data`, as some optimizers do, leaves no trace in a tensor's version.
        """
        with torch.no_grad():
            for parameter in self.halves:
                parameter.copy_(self.of[id(parameter)])
                self.versions[id(parameter)] = parameter._version

    def written(self) -> list[int]:
        """Ids of half-precision parameters that somebody else wrote since the last refresh."""
        return [id(p) for p in self.halves if self.versions.get(id(p), p._version) != p._version]


class LossScale:
    """By how much a float16 loss is multiplied, so that small gradients are not rounded to zero.

    As torch.amp.GradScaler with its defaults: halved when a gradient overflows, whose step is left out, and doubled after 2,000
    steps in which none did. Left at 1 for other precisions.
    """

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000

    def __init__(self, precision: str) -> None:
        self.used = precision == "fp16"
        self.scale = 65536.0 if self.used else 1.0
        self.good = 0

    def overflows(self, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        """Whether a gradient of this rank is infinite or no number, as a 0 or 1 to be joined over ranks."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        return torch.stack([torch.isfinite(g).all() for g in gradients]).all().logical_not().float()

    def apply(self, parameters: Iterable[nn.Parameter], overflowed: bool) -> None:
        """Divide gradients by the scale; leave none where one overflowed, so that the optimizer does nothing."""
        for parameter in parameters:
            if parameter.grad is not None and overflowed:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.div_(self.scale)
        self.good = 0 if overflowed else self.good + 1
        if overflowed:
            self.scale *= self.BACKOFF
        elif self.good % self.INTERVAL == 0:
            self.scale *= self.GROWTH

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"scale": self.scale, "good": float(self.good)}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """From one."""
        self.scale, self.good = state["scale"], int(state["good"])
