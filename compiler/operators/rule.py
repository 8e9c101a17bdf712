"""What the compiler knows of one operator beyond what torch's own schema and fake kernels say."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from pipecut.compiler.operators.forms import Form
from pipecut.compiler.operators.module_forms import ModuleForm


class ViewWhen(Enum):
    """When a result that may share its first input's storage does share it."""

    ALWAYS = "always"
    SAME_DTYPE = "input and result have one dtype"
    SAME_STRIDES = "input and result have the same strides"
    DENSE_INPUT = "the input is contiguous"
    NOTHING_DROPPED = "the chance to drop is zero, or the operator does not train"


class Indices(Enum):
    """Which numbers an operator takes as indices: they stay below a size of its first input."""

    ANY_DIMENSION = "below the smallest of its sizes"
    ROWS = "below its dimension 0"
    CLASSES = "below its dimension 1"


@dataclass(frozen=True)
class LossArguments:
    """Where a mean over labels has its arguments, and what they are by default."""

    weight: int
    reduction: int
    ignore_index: int
    mean: int
    ignored: int


@dataclass(frozen=True)
class OperatorRule:
    """One operator's rule. The defaults hold for an operator without an entry in the table.

    Stage code:
    `code` writes the call in readable form; without it the call is `torch.ops.aten...`.
    `module` writes the module of torch that does the same with parameters of its own.

    Storage:
    `may_alias`: the result may share the first input's storage although the schema names no alias.
    `view_when`: when a result that aliases its first input moves no bytes.
    `returns_own_dtype`: given a dtype alone that its input has, it returns the input itself.
    `same_values`: the result has the input's numbers in the input's order.
    `part_of_input`: the result stands on the stage of its input, because it is a part of it.
    `writes_nothing`: the write that its schema names changes no number.

    Training:
    `training_flag` is the position of the argument that is True only in training mode.
    `drops`: zeroes elements at random while that flag is True.
    `statistics` are the positions of running statistics, written while that flag is True.
    `stops_gradients`: no gradient flows through it.
    `cudnn_draws`: on a GPU it draws from a state of cuDNN's own, which no seed sets.
    `weight_gradient_later`: the runtime may compute its weight's gradient after its input's. The
    code that does so is in runtime/engine/weight_gradients.py, whose `DEFERRED` has the same names.
    `loss` has the arguments of a mean over labels, some of which are ignored.
    `guard`: checks something while the model is traced, and computes nothing.
    `asserts`: a guard that fails where its first argument, a tensor, is false: in a run as well.
    `asserts_size`: the same of a condition on sizes.

    Costs:
    `gathers`: reads as many bytes of its first input as it writes, not the whole of it.
    `counted_as`: how FLOPs are counted where fake tensors do not tell them.
    `cuda_keeps`: what CUDA's kernel keeps for backward where it differs from the CPU's.
    `functions`: Python functions by which stage code and users call it.

    Random inputs, for profiling:
    `indices` bounds its integer inputs; `offsets` is the position of an input of rising rows.
    """

    code: Form | None = None
    module: ModuleForm | None = None
    may_alias: bool = False
    view_when: ViewWhen = ViewWhen.ALWAYS
    returns_own_dtype: bool = False
    same_values: bool = False
    part_of_input: bool = False
    writes_nothing: bool = False
    training_flag: int | None = None
    drops: bool = False
    statistics: tuple[int, ...] = ()
    stops_gradients: bool = False
    cudnn_draws: bool = False
    weight_gradient_later: bool = False
    loss: LossArguments | None = None
    guard: bool = False
    asserts: bool = False
    asserts_size: bool = False
    gathers: bool = False
    counted_as: Literal["measured", "attention", "experts"] = "measured"
    cuda_keeps: Literal["as cpu", "fused attention", "boolean mask"] = "as cpu"
    functions: tuple[Callable[..., Any], ...] = ()
    indices: Indices = Indices.ANY_DIMENSION
    offsets: int | None = None
