"""Which choices by a value a plan must check: those that a batch, or a step, may make otherwise."""

from collections.abc import Sequence

from pipecut.compiler.choices import Check
from pipecut.compiler.graph import Buffer, Operator, storage_roots, values_behind
from pipecut.compiler.trace.explain import cumulative_batch_norm
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.model.unsplit import WithLoss


def needed_checks(
    operators: Sequence[Operator],
    checks: Sequence[Check],
    buffers: Sequence[Buffer],
    model: WithLoss,
) -> tuple[Check, ...]:
    """The checks, each once, without those of constants and of buffers that nothing changes.

    Raises Untraceable where a choice is made by a buffer that forward writes to.
    """
    roots = storage_roots(operators)
    written = {roots.get(name, name) for operator in operators for name in operator.writes}
    by_value = {buffer.value: buffer for buffer in buffers}
    kept = {}
    for check in checks:
        used, choice = values_behind(operators, check.value), check.choice
        by_buffers = used & by_value.keys() & written if choice.from_values else ()
        for name in sorted(by_buffers):
            buffer = by_value[name].names[0]
            raise cumulative_batch_norm(model, f" ({choice.source})") or Untraceable(
                f"the model chooses what to do by its buffer '{buffer}', which its forward writes "
                f"to ({choice.words}, {choice.source}), and a plan holds one way only; use the "
                "buffer in tensor operators, such as torch.where, index_copy_ or gather, in place "
                "of its value",
                buffer.rpartition(".")[0],
            )
        constant = {name for name in used & by_value.keys() if not by_value[name].persistent}
        if used - constant - {operator.name for operator in operators} or _draws(operators, used):
            kept[check.value] = check
    return tuple(kept.values())


def _draws(operators: Sequence[Operator], used: set[str]) -> bool:
    return any(operator.draws for operator in operators if operator.name in used)
