"""Which values need a gradient: through operators, views and writes."""

from pipecut.compiler.graph import Operator
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.trace.lower.values import Values

NO_GRAD = "torch.set_grad_enabled(False)"
# Names of dtypes that have gradients begin so.
DIFFERENTIABLE = ("float", "bfloat", "complex")


class Gradients:
    """Follows gradients in program order."""

    def __init__(self, values: Values) -> None:
        self.values = values
        # A result of several tensors has no value of its own.
        self._results: dict[str, bool] = {}
        # A view to the value through whose writes it comes to need a gradient.
        self._roots: dict[str, str] = {}

    def needed_by(self, operator: Operator) -> bool:
        """Whether an operator's result needs a gradient, where its dtype can have one."""
        return not past_autograd(operator) and any(map(self._needs, operator.inputs))

    def _needs(self, name: str) -> bool:
        value = self.values.by_name.get(name)
        return self._results.get(name, False) if value is None else value.needs_grad

    def follow(self, operator: Operator, shared: tuple[str, ...], needed: bool) -> None:
        """Note an operator whose values are there: `shared` are inputs whose storage it has."""
        name = operator.name
        if name not in self.values.by_name:
            self._results[name] = needed
        candidates = (*shared, *operator.writes)
        source = next((c for c in candidates if c in operator.aliases), name)
        if not past_autograd(operator):
            self._roots[name] = self._roots.get(source, source)
        for written in operator.writes:
            # Running statistics are written past autograd: they alias no result.
            if needed and written in operator.aliases and written in self.values.by_name:
                self._mark(written)

    def _mark(self, written: str) -> None:
        """From here on a gradient reaches what is written, what it is a view of, and its views."""
        root = self._roots.get(written, written)
        for name in (root, *(view for view, of in self._roots.items() if of == root)):
            value = self.values.by_name.get(name)
            if value is None:
                self._results[name] = True
            elif value.dtype.startswith(DIFFERENTIABLE):
                self.values.needs_grad_from_here(name)


def past_autograd(operator: Operator) -> bool:
    return rule_of(operator.target).stops_gradients or NO_GRAD in operator.contexts[-1:]
