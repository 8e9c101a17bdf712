"""Modules of torch that do what a block does: `nn.Linear(192, 576)`."""

from pipecut.compiler.graph import Operator
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.operators.module_forms import HeldCall
from pipecut.compiler.stages.blocks.modules import Module


def torch_module(module: Module, dtype: str) -> str | None:
    """The constructor of torch's own module that does the same; None where there is none.

    It has the same parameters under the same names, and its one call is the one operator.
    """
    if list(module.methods) != ["forward"] or module.members:
        return None
    block = module.methods["forward"].block
    if len(block.body) != 1 or len(block.inputs) != 1 or len(block.results) != 1:
        return None
    (operator,) = block.body
    if not isinstance(operator, Operator) or operator.contexts != block.contexts:
        return None
    rule = rule_of(operator.target)
    by_mode = {} if rule.training_flag is None else {rule.training_flag: False}
    if rule.module is None or operator.kwargs or dict(operator.modes) != by_mode:
        return None
    call = HeldCall(operator.args, block.inputs[0], module.parameters)
    arguments = rule.module(call)
    if arguments is None or call.used != set(module.parameters):
        return None
    trained = {parameter.trainable for parameter in module.parameters.values()}
    if len(trained) > 1:
        return None
    frozen = ".requires_grad_(False)" if False in trained else ""
    return f"{arguments[:-1]}{dtype}){frozen}" if module.parameters else arguments
