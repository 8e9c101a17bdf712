"""Bytes of a parameter with all that training keeps beside it."""

from dataclasses import dataclass
from functools import cache

from pipecut.compiler.graph import Parameter
from pipecut.compiler.inputs.job import JobSpec
from pipecut.plan.replay.memory import kept_bytes
from pipecut.plan.schema import Optimizer, StageTensor


@dataclass(frozen=True)
class OptimizerSpec:
    """The optimizer, and how many replicas its states and the masters are divided over."""

    optimizer: Optimizer
    shards: int = 1

    @staticmethod
    def of(spec: JobSpec, replicas: int) -> "OptimizerSpec":
        """The job's optimizer, over a number of replicas."""
        return OptimizerSpec(spec.optimizer.in_plan, replicas if spec.shard_optimizer else 1)


# A search asks for the same parameters with every candidate.
@cache
def stage_tensor(parameter: Parameter) -> StageTensor:
    """A parameter as a plan lists it."""
    return StageTensor(
        names=list(parameter.names),
        shape=list(parameter.shape),
        dtype=parameter.dtype,
        trainable=parameter.trainable,
    )


def fixed_bytes(parameter: Parameter, optimizer: OptimizerSpec) -> int:
    """Bytes of a parameter with its gradient, its master and the optimizer's states.

    A frozen parameter has none of these three.
    """
    tensor = stage_tensor(parameter)
    return kept_bytes(tensor, optimizer.optimizer, optimizer.shards) + tensor.gradient_bytes
