"""The modules of the user's model that some operators are from."""

from collections.abc import Sequence

from pipecut.compiler.graph import Operator
from pipecut.text_table import ranges

# Parts of a name that say enough: `model.embeddings.norm` of `model.embeddings.norm.inner`.
MOST_PARTS = 3


def modules_covered(operators: Sequence[Operator]) -> list[str]:
    """Names of modules, layers as ranges: `transformer.wte`, `transformer.h.0-5`."""
    layers: dict[str, list[int]] = {}
    for operator in operators:
        parts = operator.module.split(".") if operator.module else []
        number = next((at for at, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            layers.setdefault(".".join(parts[:number]), []).append(int(parts[number]))
        elif len(parts) > 1 or (parts and not _has_modules_within(operators, parts[0])):
            layers.setdefault(".".join(parts[:MOST_PARTS]), [])
    names = []
    for prefix, numbers in layers.items():
        if numbers:
            names += [f"{prefix}.{run}" for run in ranges(numbers)]
        elif not any(other.startswith(f"{prefix}.") for other in layers):
            names.append(prefix)
    return names


def _has_modules_within(operators: Sequence[Operator], module: str) -> bool:
    return any(operator.module.startswith(f"{module}.") for operator in operators)
