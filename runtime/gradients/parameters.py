"""The parameters that this rank holds: one frozen record each, however many stages use it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from pipecut.plan.rows import Rows
from pipecut.plan.schema import HALF, Plan
from pipecut.runtime.ranks.world import World


@dataclass(frozen=True, eq=False)
class RankParameter:
    """A parameter of this rank: what computes with it, takes its gradient, and is stepped.

    `names` are all its FQNs, of which plans and checkpoints know it by the first. `stages` are
    those of this rank that hold it. `tied_ranks` are the global ranks of this replica that hold
    it, in order, where other ranks do; empty where no other rank has it.

    `model` is what the stages compute with. `master` takes the gradient: `model` itself, or a
    float32 parameter for a half-precision one that is trained. `stepped` is what the optimizer
    has: `master` itself, or with `shard_optimizer: true` a parameter with this replica's `rows` of
    it; the master of one that is sharded has no values. `rows` is None where the optimizer has all
    rows.

    One that is `beside_opaque` is on a stage with a module that runs as it is: the data decides
    whether it gets a gradient.
    """

    names: tuple[str, ...]
    stages: tuple[int, ...]
    trainable: bool
    model: nn.Parameter
    master: nn.Parameter
    stepped: nn.Parameter
    rows: Rows | None = None
    tied_ranks: tuple[int, ...] = ()
    beside_opaque: bool = False

    @property
    def name(self) -> str:
        """The name that plans and checkpoints know it by."""
        return self.names[0]

    @property
    def has_master(self) -> bool:
        """Whether its gradient is added up in float32, beside the half-precision parameter."""
        return self.master is not self.model

    def is_owned_by(self, rank: int) -> bool:
        """Whether a rank is the first of its replica to hold it: it counts and saves it."""
        return not self.tied_ranks or rank == self.tied_ranks[0]


def master_for(model: nn.Parameter, filled: bool = True) -> nn.Parameter:
    """What takes a parameter's gradient: itself, or float32 for one of half precision.

    Unless `filled`, a new master gets no values, nor memory that was touched.
    """
    if not model.requires_grad or str(model.dtype).removeprefix("torch.") not in HALF:
        return model
    if filled:
        return nn.Parameter(model.detach().float())
    return nn.Parameter(torch.empty_like(model, dtype=torch.float32))


def parameters_of(module: nn.Module) -> list[RankParameter]:
    """The parameters of a module that is no part of a run, with filled masters."""
    parameters = []
    for name, model in module.named_parameters():
        master = master_for(model)
        parameters.append(RankParameter((name,), (0,), model.requires_grad, model, master, master))
    return parameters


def rank_parameters(
    plan: Plan, world: World, modules: Mapping[int, nn.Module]
) -> list[RankParameter]:
    """The parameters of this rank's stages, in the modules' order; masters have no values.

    Stages share tied parameters already (see tied.py).
    """
    stages = [stage for stage in plan.stages if stage.index in modules]
    tensors = {name: tensor for s in stages for tensor in s.parameters for name in tensor.names}
    tied_ranks = ranks_that_share(plan, world)
    # Of all stages, so that all ranks that share a parameter say the same of it.
    beside_opaque = {t.names[0] for s in plan.stages if s.opaque for t in s.parameters}
    parameters: dict[str, RankParameter] = {}
    for module in modules.values():
        for module_name, model in module.named_parameters():
            tensor = tensors[module_name]
            name = tensor.names[0]
            if name in parameters:
                continue
            master = master_for(model, filled=False)
            parameters[name] = RankParameter(
                tuple(tensor.names),
                tuple(s.index for s in stages if any(t.names[0] == name for t in s.parameters)),
                tensor.trainable,
                model,
                master,
                master,
                tied_ranks=tied_ranks.get(name, ()),
                beside_opaque=name in beside_opaque,
            )
    return list(parameters.values())


def ranks_that_share(plan: Plan, world: World) -> dict[str, tuple[int, ...]]:
    """The ranks of this replica that hold each of this rank's tied parameters, by first name.

    Stages of one rank share the parameter itself, so what only one rank holds is left out.
    """
    shared = {}
    for tied in plan.tied:
        ranks = tuple(sorted({world.rank_of(stage) for stage in tied.stages}))
        if world.rank in ranks and len(ranks) > 1:
            shared[tied.names[0]] = ranks
    return shared


def on_gradient(model: nn.Parameter, call: Callable[[nn.Parameter], None]) -> None:
    """Call whenever backward has added to a parameter's gradient, in the order of these hooks."""
    model.register_post_accumulate_grad_hook(call)  # type: ignore[no-untyped-call]


def by_name(parameters: Iterable[RankParameter]) -> dict[str, RankParameter]:
    """Each under all its names."""
    return {name: parameter for parameter in parameters for name in parameter.names}
