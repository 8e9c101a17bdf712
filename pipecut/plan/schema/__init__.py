"""The plan folder as typed values: the contract between compiler and runtime."""

from pipecut.plan.schema.batch import Batch, LengthRange, MoreSamples, Rising, Terms
from pipecut.plan.schema.dimensions import Dimension, Sizes, evaluate
from pipecut.plan.schema.dtypes import HALF, ITEM_BYTES, Dtype, has_value
from pipecut.plan.schema.nesting import Container, Nesting, name_within
from pipecut.plan.schema.numbers import (
    Bytes,
    Constant,
    Count,
    Finite,
    Positive,
    Rate,
    Seconds,
    same_constant,
)
from pipecut.plan.schema.optimizer import KINDS, Optimizer
from pipecut.plan.schema.plan import (
    TRUSTED,
    VERSION,
    CertificateRecord,
    ModelRef,
    Plan,
    Prediction,
    Source,
    Tied,
    TraceComparison,
)
from pipecut.plan.schema.stage import (
    Boundary,
    Evaluation,
    EvaluationStage,
    OpaqueModule,
    OpaqueResult,
    SecondsAt,
    Stage,
    StageMemory,
    ValueCheck,
)
from pipecut.plan.schema.tensors import HeldTensors, StageTensor, Tensor
from pipecut.plan.schema.training import EvalData, LrSchedule

__all__ = [
    "HALF",
    "ITEM_BYTES",
    "KINDS",
    "TRUSTED",
    "VERSION",
    "Batch",
    "Boundary",
    "Bytes",
    "CertificateRecord",
    "Constant",
    "Container",
    "Count",
    "Dimension",
    "Dtype",
    "EvalData",
    "Evaluation",
    "EvaluationStage",
    "Finite",
    "HeldTensors",
    "LengthRange",
    "LrSchedule",
    "ModelRef",
    "MoreSamples",
    "Nesting",
    "OpaqueModule",
    "OpaqueResult",
    "Optimizer",
    "Plan",
    "Positive",
    "Prediction",
    "Rate",
    "Rising",
    "Seconds",
    "SecondsAt",
    "Sizes",
    "Source",
    "Stage",
    "StageMemory",
    "StageTensor",
    "Tensor",
    "Terms",
    "Tied",
    "TraceComparison",
    "ValueCheck",
    "evaluate",
    "has_value",
    "name_within",
    "same_constant",
]
