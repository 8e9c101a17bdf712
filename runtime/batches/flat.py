"""A batch as the user gives it, by the names of the plan's inputs: nested ones taken apart."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipecut.errors import RunError
from pipecut.model.batch.nesting import kind_of, members_of
from pipecut.plan.schema import Container, Plan, name_within, same_constant
from pipecut.runtime.batches.check_tensors import check_tensors
from pipecut.runtime.health.rank_errors import naming_errors

SEQUENCES = ("list", "tuple")


def flat_batch(plan: Plan, batch: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """The batch's tensors, or lists of tensors, and constants, by the names that the plan has.

    A list of containers has one for each microbatch, or for each sample. Raises RunError, which
    begins with `where`, for what is nested otherwise than the plan was compiled for, and for what
    is no tensor.
    """
    flat: dict[str, Any] = {}
    with naming_errors(where):
        for name, value in batch.items():
            leaves = dict(_leaves_of_input(plan, name, value))
            twice = next((leaf for leaf in leaves if leaf in flat), None)
            if twice is not None:
                raise RunError(f"the batch has '{twice}' twice; give it once")
            flat.update(leaves)
    check_tensors(flat, where, plan.constants)
    return flat


def _leaves_of_input(plan: Plan, name: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    if name not in plan.nesting or not _lists_containers(plan, name, value):
        yield from _leaves(plan, name, value, in_sequence=False)
        return
    parts = [dict(_leaves(plan, name, part, in_sequence=True)) for part in value]
    for leaf in parts[0]:
        values = [part.get(leaf) for part in parts]
        if leaf in plan.constants:
            different = next((v for v in values if not same_constant(v, values[0])), values[0])
            yield leaf, different
        else:
            yield leaf, values
    for number, part in enumerate(parts):
        if part.keys() != parts[0].keys():
            leaf = sorted(part.keys() ^ parts[0].keys())[0]
            raise RunError(f"input '{leaf}' is in some parts of the batch only, as in {number}")


def _lists_containers(plan: Plan, name: str, value: Any) -> bool:
    """Whether a value is a list of what the plan has under a name."""
    if not isinstance(value, list | tuple) or not value or _is_alike(plan, name, value):
        return False
    return all(_is_alike(plan, name, part) for part in value)


def _is_alike(plan: Plan, name: str, value: Any) -> bool:
    """Whether a value is nested as the plan has it, whatever the number of its members."""
    container = plan.nesting.get(name)
    if container is None:
        return kind_of(value) is None
    return _is_of_kind(container, value) and all(
        _is_alike(plan, name_within(name, key), member) for key, member in members_of(value).items()
    )


def _is_of_kind(container: Container, value: Any) -> bool:
    """A class of a script has another module's name where the script is run."""
    kind = kind_of(value)
    if kind is None or kind == container.kind:
        return kind is not None
    module, _, name = kind.partition(":")
    return module == "__main__" and name == container.kind.partition(":")[2]


def _leaves(plan: Plan, name: Any, value: Any, in_sequence: bool) -> Iterator[tuple[Any, Any]]:
    """Tensors and constants of an input, by name. `in_sequence`: a list in it is none of parts."""
    container = plan.nesting.get(name)
    if container is None:
        if in_sequence and isinstance(value, list | tuple):
            raise RunError(
                f"input '{name}' is a {type(value).__name__}; list whole microbatches: for each "
                f"all that is in '{name.partition('.')[0]}'"
            )
        yield name, value
        return
    if not _is_of_kind(container, value):
        raise RunError(
            f"input '{name}' is a {kind_of(value) or type(value).__name__}, the plan was compiled "
            f"for a {container.kind} of {_listing(container.keys)}"
        )
    members = members_of(value)
    _check_keys(name, container, members)
    for key, member in members.items():
        within = in_sequence or container.kind in SEQUENCES
        yield from _leaves(plan, name_within(name, key), member, within)


def _check_keys(name: str, container: Container, members: Mapping[Any, Any]) -> None:
    """Raises RunError for unknown keys, another order, and sequences of another length."""
    if container.kind in SEQUENCES and len(members) != len(container.keys):
        raise RunError(
            f"input '{name}' is a {container.kind} of {len(members)}, the plan was compiled for "
            f"{len(container.keys)}; compile it for that many, or stack them to one tensor"
        )
    unknown = next((key for key in members if key not in container.keys), None)
    if unknown is not None:
        raise RunError(
            f"input '{name}' has {unknown!r}, which the plan does not know; it was compiled for "
            f"{_listing(container.keys)}"
        )
    ordered = [key for key in container.keys if key in members]
    if list(members) != ordered:
        raise RunError(
            f"input '{name}' has its keys in the order {_listing(list(members))}, the plan was "
            f"compiled for {_listing(ordered)}; the model may go through them in order"
        )


def _listing(keys: Sequence[Any]) -> str:
    return ", ".join(map(str, keys)) or "nothing"
