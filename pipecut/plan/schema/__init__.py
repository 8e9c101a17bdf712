"""The plan folder as typed values: the contract between compiler and runtime."""

from pipecut.plan.schema.batch import Batch, Terms
from pipecut.plan.schema.dimensions import Dimension, evaluate
from pipecut.plan.schema.dtypes import HALF, ITEM_BYTES, Dtype
from pipecut.plan.schema.numbers import Bytes, Constant, Count, Finite, Positive, Rate, Seconds
from pipecut.plan.schema.plan import (
    VERSION,
    CertificateRecord,
    ModelRef,
    Plan,
    Prediction,
    Source,
    Tied,
)
from pipecut.plan.schema.stage import (
    Boundary,
    Evaluation,
    EvaluationStage,
    Stage,
    StageMemory,
)
from pipecut.plan.schema.tensors import HeldTensors, StageTensor, Tensor

__all__ = [
    "HALF",
    "ITEM_BYTES",
    "VERSION",
    "Batch",
    "Boundary",
    "Bytes",
    "CertificateRecord",
    "Constant",
    "Count",
    "Dimension",
    "Dtype",
    "Evaluation",
    "EvaluationStage",
    "Finite",
    "HeldTensors",
    "ModelRef",
    "Plan",
    "Positive",
    "Prediction",
    "Rate",
    "Seconds",
    "Source",
    "Stage",
    "StageMemory",
    "StageTensor",
    "Tensor",
    "Terms",
    "Tied",
    "evaluate",
]
