"""Half-precision parameters with float32 masters, which the optimizer has.

A microbatch's gradient is added to the master's in float32 and let go, so a parameter takes 2
bytes, its master, the gradient and each of the optimizer's states 4 (Micikevicius et al., Mixed
Precision Training, 2018; 18 bytes with Adam, as in Megatron-LM).
"""

from collections.abc import Sequence

import torch
from torch import nn

from pipecut.runtime.gradients.parameters import RankParameter, on_gradient


class Masters:
    """Adds gradients to masters as backward makes them, and rounds masters into the stages."""

    def __init__(self, parameters: Sequence[RankParameter]) -> None:
        self.parameters = {parameter.model: parameter for parameter in parameters}
        # Sharded ones are brought into the stages by Shards.gather.
        self.rounded = [p for p in parameters if p.has_master and p.rows is None]
        # The version of each half-precision tensor when its master was last rounded into it.
        self.versions: dict[RankParameter, int] = {}
        for parameter in parameters:
            if parameter.has_master:
                on_gradient(parameter.model, self.accumulate)

    def master_of(self, model: nn.Parameter) -> nn.Parameter:
        """What takes the gradient of a parameter of a stage."""
        return self.parameters[model].master

    def accumulate(self, model: nn.Parameter) -> None:
        """Add a parameter's gradient to its master's, and let it go."""
        master = self.master_of(model)
        if master is model or model.grad is None:
            return
        gradient, model.grad = model.grad, None
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    def drop_gradients(self) -> None:
        """Leave no gradient, neither in a stage nor in a master."""
        for parameter in self.parameters.values():
            parameter.model.grad = parameter.master.grad = None

    def refresh(self) -> None:
        """Round masters into their parameters.

        All of them each time: what writes to `.data`, as some optimizers do, leaves no trace in a
        tensor's version.
        """
        with torch.no_grad():
            for parameter in self.rounded:
                parameter.model.copy_(parameter.master)
                self.versions[parameter] = parameter.model._version

    def written(self) -> list[RankParameter]:
        """Half-precision parameters that somebody else wrote since the last refresh."""
        return [p for p in self.rounded if p.model._version != self._version_of(p)]

    def _version_of(self, parameter: RankParameter) -> int:
        return self.versions.get(parameter, parameter.model._version)
