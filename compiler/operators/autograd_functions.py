"""Classes of torch.autograd.Function as operators: `package.module:Name.apply` is one's target.

Such an operator is the user's code, forward and backward, which stage code imports and calls.
"""

import hashlib
import importlib
import importlib.machinery
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

APPLY = ".apply"


class NotImportable(Exception):
    """A class that other processes cannot find by its name; the text says why."""


@dataclass(frozen=True)
class AutogradFunction:
    """A class by its module and its name there, which has dots where it stands in a class."""

    module: str
    name: str

    @staticmethod
    def of(function: Any) -> "AutogradFunction":
        """Raises NotImportable where an import of its name gives something else."""
        known = AutogradFunction(function.__module__, function.__qualname__)
        if "<locals>" in known.name:
            raise NotImportable("it is defined within a function")
        package = known.module.partition(".")[0]
        if importlib.machinery.PathFinder.find_spec(package) is None:
            raise NotImportable(f"no module '{package}' is found by its name")
        try:
            same = known.load() is function
        except (ImportError, AttributeError):
            same = False
        if not same:
            raise NotImportable(f"{known.module} has no such class under this name")
        return known

    @staticmethod
    def of_target(target: str) -> "AutogradFunction | None":
        """The class of an operator's target; None for any other operator."""
        module, colon, name = target.partition(":")
        return AutogradFunction(module, name.removesuffix(APPLY)) if colon else None

    def __str__(self) -> str:
        """`package.module.Name`."""
        return f"{self.module}.{self.name}"

    @property
    def target(self) -> str:
        """What the graph's operators name."""
        return f"{self.module}:{self.name}{APPLY}"

    @property
    def outermost(self) -> str:
        """What is imported: the class, or the one that it stands in."""
        return self.name.partition(".")[0]

    @property
    def token(self) -> str:
        """What stands for `outermost` in code until the file's other names are known."""
        digest = hashlib.sha256(f"{self.module}:{self.outermost}".encode()).hexdigest()
        return f"imported_{digest[:16]}"

    @property
    def code(self) -> str:
        """What stage code calls, with the token."""
        return f"{self.token}{self.name.removeprefix(self.outermost)}{APPLY}"

    def load(self) -> Any:
        """The class, imported."""
        found: Any = sys.modules.get(self.module) or importlib.import_module(self.module)
        for part in self.name.split("."):
            found = getattr(found, part)
        return found

    def apply(self) -> Callable[..., Any]:
        """Its `apply`, imported."""
        apply: Callable[..., Any] = self.load().apply
        return apply
