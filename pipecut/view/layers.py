"""The layers of a model, by the paths of its modules."""

# What the operators of the model itself, in none of its modules, stand under.
OUTSIDE = "(the model itself)"


def layer_of(module: str) -> str:
    """The layer that a module is in: its path up to the first number, or the whole of it."""
    parts = module.split(".")
    numbered = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: numbered + 1]) or OUTSIDE
