"""The operator table: one entry for each aten operator of which more is known than torch says.

A key is the operator's name without library and overload: `linear` of aten.linear.default. To add
an operator, add its entry; `OperatorRule` explains each field.
"""

import torch
import torch.nn.functional as F

from pipecut.compiler.operators import forms, module_forms
from pipecut.compiler.operators.forms import functional, infix, method, method_of, torch_function
from pipecut.compiler.operators.rule import Indices, LossArguments, OperatorRule, ViewWhen

# Python's own operator.getitem: one part of a result that has several.
GETITEM = "getitem"
# What reads a size of a tensor that depends on data: the number of its dimension.
SIZE = "aten.sym_size.int"
# What makes a tensor of a number.
NUMBER_AS_TENSOR = "aten.scalar_tensor.default"
# What makes a result of what is given or held.
COPY = "aten.clone.default"
# What weighs results and adds them up to a loss.
PRODUCT, TOTAL, SUM_OF_TWO = "aten.mul.Tensor", "aten.sum.default", "aten.add.Tensor"

# torch.nn._reduction's number for a mean, and F.cross_entropy's default for labels to ignore.
_CROSS_ENTROPY = LossArguments(weight=2, reduction=3, ignore_index=4, mean=1, ignored=-100)

RULES: dict[str, OperatorRule] = {
    # Products.
    "linear": OperatorRule(functional, module_forms.linear, weight_gradient_later=True),
    "addmm": OperatorRule(torch_function, weight_gradient_later=True),
    "conv1d": OperatorRule(functional, module_forms.convolution(1), weight_gradient_later=True),
    "conv2d": OperatorRule(functional, module_forms.convolution(2), weight_gradient_later=True),
    "conv3d": OperatorRule(functional, module_forms.convolution(3), weight_gradient_later=True),
    "matmul": OperatorRule(infix("@")),
    "bmm": OperatorRule(torch_function),
    "_grouped_mm": OperatorRule(counted_as="experts", offsets=2),
    "scaled_dot_product_attention": OperatorRule(
        forms.attention,
        counted_as="attention",
        cuda_keeps="fused attention",
        functions=(F.scaled_dot_product_attention,),
    ),
    # Arithmetic.
    "add": OperatorRule(infix("+")),
    "sub": OperatorRule(infix("-")),
    "mul": OperatorRule(infix("*")),
    "div": OperatorRule(infix("/")),
    "__and__": OperatorRule(infix("&")),
    "bitwise_and": OperatorRule(infix("&")),
    "__or__": OperatorRule(infix("|")),
    "eq": OperatorRule(infix("==")),
    "ne": OperatorRule(infix("!=")),
    "lt": OperatorRule(infix("<")),
    "le": OperatorRule(infix("<=")),
    "gt": OperatorRule(infix(">")),
    "ge": OperatorRule(infix(">=")),
    "add_": OperatorRule(method),
    "sub_": OperatorRule(method),
    "mul_": OperatorRule(method),
    "div_": OperatorRule(method),
    "sum": OperatorRule(method_of("default", "dim_IntList")),
    "mean": OperatorRule(method_of("default", "dim")),
    "abs": OperatorRule(torch_function),
    "neg": OperatorRule(torch_function),
    "pow": OperatorRule(torch_function),
    "exp": OperatorRule(torch_function),
    "log": OperatorRule(torch_function),
    "erf": OperatorRule(torch_function),
    "sqrt": OperatorRule(torch_function),
    "rsqrt": OperatorRule(torch_function),
    "sin": OperatorRule(torch_function),
    "cos": OperatorRule(torch_function),
    "cumsum": OperatorRule(torch_function),
    # Activations and pooling.
    "tanh": OperatorRule(torch_function),
    "sigmoid": OperatorRule(torch_function),
    "relu": OperatorRule(functional),
    "relu_": OperatorRule(method),
    "leaky_relu": OperatorRule(functional),
    "gelu": OperatorRule(functional),
    "silu": OperatorRule(functional),
    "mish": OperatorRule(functional),
    "hardswish": OperatorRule(functional),
    "softplus": OperatorRule(functional),
    "max_pool2d": OperatorRule(functional),
    "avg_pool2d": OperatorRule(functional),
    "adaptive_avg_pool2d": OperatorRule(functional),
    "pixel_shuffle": OperatorRule(functional),
    # What training mode changes.
    "dropout": OperatorRule(
        forms.dropout,
        module_forms.dropout,
        may_alias=True,
        view_when=ViewWhen.NOTHING_DROPPED,
        training_flag=2,
        drops=True,
        cuda_keeps="boolean mask",
        functions=(F.dropout, torch.dropout),
    ),
    "dropout_": OperatorRule(
        forms.dropout,
        may_alias=True,
        view_when=ViewWhen.NOTHING_DROPPED,
        training_flag=2,
        drops=True,
    ),
    "batch_norm": OperatorRule(forms.batch_norm, training_flag=5, statistics=(3, 4)),
    "instance_norm": OperatorRule(training_flag=5, statistics=(3, 4)),
    "layer_norm": OperatorRule(forms.norm, module_forms.layer_norm),
    "group_norm": OperatorRule(forms.norm),
    "lstm": OperatorRule(cudnn_draws=True),
    "gru": OperatorRule(cudnn_draws=True),
    "rnn_tanh": OperatorRule(cudnn_draws=True),
    "rnn_relu": OperatorRule(cudnn_draws=True),
    # Losses.
    "cross_entropy_loss": OperatorRule(
        forms.cross_entropy, indices=Indices.CLASSES, loss=_CROSS_ENTROPY
    ),
    "nll_loss": OperatorRule(indices=Indices.CLASSES),
    "nll_loss2d": OperatorRule(indices=Indices.CLASSES),
    "nll_loss_nd": OperatorRule(indices=Indices.CLASSES),
    "nll_loss_forward": OperatorRule(indices=Indices.CLASSES),
    "nll_loss2d_forward": OperatorRule(indices=Indices.CLASSES),
    # Look-ups.
    "embedding": OperatorRule(
        forms.embedding, module_forms.embedding, gathers=True, indices=Indices.ROWS
    ),
    "embedding_bag": OperatorRule(gathers=True, indices=Indices.ROWS),
    "embedding_renorm_": OperatorRule(gathers=True, indices=Indices.ROWS),
    "index": OperatorRule(indices=Indices.ROWS),
    "index_select": OperatorRule(indices=Indices.ROWS),
    "index_put": OperatorRule(indices=Indices.ROWS),
    "index_put_": OperatorRule(indices=Indices.ROWS),
    "where": OperatorRule(torch_function),
    "masked_fill": OperatorRule(method),
    "masked_fill_": OperatorRule(method),
    # Shapes, copies and types.
    "alias": OperatorRule(same_values=True),
    "view": OperatorRule(method, same_values=True),
    "_unsafe_view": OperatorRule(same_values=True),
    "slice": OperatorRule(forms.sliced, same_values=True),
    "select": OperatorRule(method_of("int")),
    "split": OperatorRule(method_of("Tensor")),
    "chunk": OperatorRule(method_of("default")),
    "expand": OperatorRule(method, same_values=True),
    "reshape": OperatorRule(
        method, may_alias=True, view_when=ViewWhen.DENSE_INPUT, same_values=True
    ),
    "reshape_as": OperatorRule(may_alias=True, view_when=ViewWhen.DENSE_INPUT),
    "flatten": OperatorRule(method, may_alias=True, view_when=ViewWhen.DENSE_INPUT),
    "contiguous": OperatorRule(
        method, may_alias=True, view_when=ViewWhen.SAME_STRIDES, same_values=True
    ),
    "to": OperatorRule(
        forms.cast, returns_own_dtype=True, may_alias=True, view_when=ViewWhen.SAME_DTYPE
    ),
    "type_as": OperatorRule(view_when=ViewWhen.SAME_DTYPE),
    "t": OperatorRule(method),
    "transpose": OperatorRule(method),
    "permute": OperatorRule(method),
    "squeeze": OperatorRule(method),
    "unsqueeze": OperatorRule(method),
    "cat": OperatorRule(torch_function),
    "stack": OperatorRule(torch_function),
    "arange": OperatorRule(torch_function),
    "fill_": OperatorRule(method),
    "copy_": OperatorRule(method),
    "zero_": OperatorRule(method),
    "detach": OperatorRule(method, stops_gradients=True),
    "detach_": OperatorRule(stops_gradients=True, writes_nothing=True),
    "detach_copy": OperatorRule(stops_gradients=True),
    # Made in the shape of another tensor, of whose numbers they have nothing.
    **dict.fromkeys(
        (
            *("zeros_like", "ones_like", "full_like", "empty_like"),
            *("rand_like", "randn_like", "randint_like"),
            *("new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
        ),
        OperatorRule(stops_gradients=True),
    ),
    # Parts of a storage or of a result.
    GETITEM: OperatorRule(part_of_input=True),
    "sym_size": OperatorRule(forms.size, part_of_input=True, stops_gradients=True),
    "as_strided": OperatorRule(part_of_input=True),
    "as_strided_": OperatorRule(part_of_input=True),
    "as_strided_copy": OperatorRule(part_of_input=True),
    "as_strided_scatter": OperatorRule(part_of_input=True),
    # Checks that tracing leaves behind.
    "_assert_async": OperatorRule(guard=True, asserts=True),
    "_assert_scalar": OperatorRule(guard=True, asserts_size=True),
    "_assert_tensor_metadata": OperatorRule(guard=True),
    "_functional_assert_async": OperatorRule(guard=True, asserts=True),
    "_functional_assert_scalar": OperatorRule(guard=True),
    "sym_constrain_range": OperatorRule(guard=True),
    "sym_constrain_range_for_size": OperatorRule(guard=True),
    "_functional_sym_constrain_range": OperatorRule(guard=True),
    "_functional_sym_constrain_range_for_size": OperatorRule(guard=True),
}
