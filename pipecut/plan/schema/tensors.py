"""Tensors that cross boundaries, and those that stages hold."""

from math import prod

from pipecut.plan.schema.dimensions import Dimension, Sizes, evaluate
from pipecut.plan.schema.dtypes import HALF, ITEM_BYTES, Dtype
from pipecut.plan.schema.numbers import Bytes, PlanModel


class Tensor(PlanModel):
    """A tensor over a boundary, from the batch or to the user.

    `order` lists the dimensions from the outermost in memory to the innermost; empty when that is
    their own order. Of the batch, an `optional` one is needed only for the loss, not for outputs;
    a `whole` one is the same for every microbatch, since none of its dimensions follows the batch.
    """

    name: str
    shape: list[Dimension]
    dtype: Dtype
    needs_grad: bool = False
    order: list[int] = []
    optional: bool = False
    whole: bool = False

    def sizes(self, microbatch: Sizes) -> list[int]:
        """The shape in a microbatch of such sizes."""
        return [evaluate(dimension, microbatch) for dimension in self.shape]

    def with_numbers(self, lengths: Sizes) -> "Tensor":
        """One of a batch with numbers for lengths; the samples stay as they are."""
        shape = [
            lengths.get(size, size) if isinstance(size, str) and size != "batch" else size
            for size in self.shape
        ]
        return self.model_copy(update={"shape": shape})

    @property
    def samples_at(self) -> int:
        """The dimension that has the samples, along which microbatches are concatenated."""
        return self.shape.index("batch") if "batch" in self.shape else 0

    def bytes_for(self, microbatch: Sizes) -> int:
        """Bytes in a microbatch of such sizes."""
        return prod(self.sizes(microbatch)) * ITEM_BYTES[self.dtype]


class StageTensor(PlanModel):
    """A parameter or buffer of a stage; `names` are all its names in the user's model.

    `written` when the stage's forward changes it.
    """

    names: list[str]
    shape: list[Bytes]
    dtype: Dtype
    trainable: bool = False
    persistent: bool = True
    written: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of its values."""
        return ITEM_BYTES[self.dtype] * prod(self.shape)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of its gradient, float32 where it has a master; 0 when it is not trained."""
        if not self.trainable:
            return 0
        return self.bytes * (4 // ITEM_BYTES[self.dtype] if self.dtype in HALF else 1)


class HeldTensors(PlanModel):
    """The parameters and buffers of a stage, as parameters.json has them."""

    parameters: list[StageTensor]
    buffers: list[StageTensor]
