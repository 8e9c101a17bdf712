"""Operators that nothing needs are dropped."""

from collections.abc import Collection, Sequence

from pipecut.compiler.graph import Operator, storage_roots


def without_dead_code(
    operators: Sequence[Operator], results: Collection[str], buffers: Collection[str]
) -> tuple[Operator, ...]:
    """Operators that `results` depend on, or that write to buffers or to a storage that is read.

    The operators stand in program order, before and after.
    """
    roots = storage_roots(operators)
    needed, read_storages = set(results), set(results)
    kept: list[Operator] = []
    for operator in reversed(operators):
        written = {roots.get(name, name) for name in operator.writes}
        effective = not written.isdisjoint(buffers) or not written.isdisjoint(read_storages)
        if operator.name in needed or effective or not needed.isdisjoint(operator.writes):
            kept.append(operator)
            needed.update(operator.inputs)
            used = (*operator.inputs, operator.name)
            read_storages.update(roots.get(name, name) for name in used)
    return tuple(reversed(kept))
