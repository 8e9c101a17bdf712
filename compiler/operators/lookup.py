"""From an operator's target in the graph to its rule, its name and torch's own function."""

from functools import cache
from typing import Any

import torch

# Registers what fake tensors need.
import pipecut.compiler.operators.fake_kernels  # noqa: F401
from pipecut.compiler.operators.autograd_functions import AutogradFunction
from pipecut.compiler.operators.rule import OperatorRule
from pipecut.compiler.operators.table import GETITEM, RULES

ATEN = "aten"
# Libraries of torch's own, whose tags say which operators draw random numbers.
TORCH_LIBRARIES = (ATEN, "prims")
_WITHOUT_ENTRY = OperatorRule()


def rule_of(target: str) -> OperatorRule:
    """The rule of a target such as aten.linear.default."""
    library, _, name = target.partition(".")
    if target != GETITEM and (library != ATEN or ":" in target):
        return _WITHOUT_ENTRY
    return RULES.get(name.split(".")[0] or target, _WITHOUT_ENTRY)


def short_name(target: str) -> str:
    """`linear` of aten.linear.default; `Name` of package.module:Name.apply."""
    function = AutogradFunction.of_target(target)
    if function is not None:
        return function.name
    return target.split(".")[-2] if "." in target else target


def resolve(target: str) -> Any:
    """torch's function for a target such as aten.linear.default, or the user's own."""
    users_own = AutogradFunction.of_target(target)
    if users_own is not None:
        return users_own.apply()
    function: Any = torch.ops
    for part in target.split("."):
        function = getattr(function, part)
    return function


def may_draw_random(target: str) -> bool:
    """Whether an operator draws random numbers, or is another library's and may do anything."""
    if target == GETITEM:
        return False
    if target.split(".")[0] not in TORCH_LIBRARIES or ":" in target:
        return True
    return torch.Tag.nondeterministic_seeded in resolve(target).tags


@cache
def may_share_storage(target: str) -> bool:
    """Whether an operator's result may be its input under another name, as a view's is."""
    if target == GETITEM:
        return True
    if target.split(".")[0] != ATEN or ":" in target:
        return False
    results = resolve(target)._schema.returns
    aliased = any(r.alias_info is not None and not r.alias_info.is_write for r in results)
    return aliased or rule_of(target).may_alias
