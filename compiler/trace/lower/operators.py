"""Nodes of an exported program to operators, in program order; nested graphs are put in place."""

import operator as python_operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from pipecut.compiler.choices import Check, Choice
from pipecut.compiler.graph import Operator, Ref, Value
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.operators.table import COPY, GETITEM
from pipecut.compiler.trace.data_sizes.asked import AskedSize
from pipecut.compiler.trace.data_sizes.reading import Assumed, DataSizes, TracedCall, has_data_sizes
from pipecut.compiler.trace.functions.arguments import read_arguments
from pipecut.compiler.trace.functions.calling import CALL, returns_single
from pipecut.compiler.trace.functions.observing import Look, Observed, observe
from pipecut.compiler.trace.lower.arguments import Arguments, references
from pipecut.compiler.trace.lower.dimensions import DependsOnData, NeedsFixedBatch, follows_data
from pipecut.compiler.trace.lower.draws import count_draws
from pipecut.compiler.trace.lower.gradients import DIFFERENTIABLE, Gradients
from pipecut.compiler.trace.lower.names import Names, part_name
from pipecut.compiler.trace.lower.source import module_calls, where, where_forward
from pipecut.compiler.trace.lower.storage import Storages
from pipecut.compiler.trace.lower.values import Values
from pipecut.compiler.trace.opaque.operators import OPAQUE
from pipecut.compiler.trace.opaque.reading import as_opaque
from pipecut.compiler.trace.opaque.standing_in import StandingIn
from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.compiler.trace.stamp.expand import Marker, Stamps
from pipecut.compiler.trace.stamp.markers import BEGIN, BODY, END, MARKERS, NODE, OUT
from pipecut.compiler.trace.watch.choices import CHOSEN
from pipecut.device.types import is_traced_device
from pipecut.errors import TraceError

# A module that torch.export adds to check its inputs.
GUARDS_MODULE = "_guards_fn"
Contexts = tuple[str, ...]
NUMBERS = (torch.SymInt, torch.SymBool, torch.SymFloat, int, float, bool)


class OperatorReader:
    """Reads modules into `operators`, with the values of their results.

    `shared` has for each operator the inputs whose storage its result has; `stamps` reads the
    layers that were stamped; `opaque` has the modules that were not traced. `checks` are those of
    `choices`, by number, that the program has.
    """

    stamps: Stamps | None = None
    opaque: StandingIn | None = None

    def __init__(
        self,
        values: Values,
        names: Names,
        choices: Sequence[Choice] = (),
        by_size: Sequence[AskedSize] = (),
    ) -> None:
        self.values, self.names, self.choices = values, names, choices
        self.by_name, self.storage, self.alias = values.by_name, values.storage, names.alias
        self.arguments = Arguments(names, values.dimensions)
        self.storages, self.gradients = Storages(values), Gradients(values)
        self.data_sizes = DataSizes(values.dimensions, by_size)
        self.operators: list[Operator] = []
        self.shared: list[tuple[str, ...]] = []
        self.checks: list[Check] = []
        # Of the whole program, whether the loss needs them or not: the model makes them all.
        self.draws = 0
        self.opaque_operators: dict[str, Operator] = {}

    def read(self, module: fx.GraphModule, contexts: Contexts = (), prefix: str = "") -> None:
        """Raises TraceError for a node that a stage cannot run."""
        for node in module.graph.nodes:
            rule = rule_of(str(node.target))
            if rule.asserts:
                self._assertion(node, prefix)
            if rule.asserts_size:
                self._assume(self.data_sizes.assertion(_traced(node, prefix)))
            if node.op in ("placeholder", "output", "get_attr") or _is_guard(node):
                continue
            try:
                self._read_node(module, node, contexts, prefix)
            except (NeedsFixedBatch, Untraceable):
                raise
            except TraceError as error:
                text = str(error)
                if isinstance(error, DependsOnData):
                    text = text.replace(";", f"{where(node)};", 1)
                raise Untraceable(text, module_calls(node)[-1].module) from error
        if not prefix:
            self._check_sizes()

    def _read_node(
        self, module: fx.GraphModule, node: Any, contexts: Contexts, prefix: str
    ) -> None:
        target = str(node.target)
        if node.target in MARKERS:
            self._mark(node, contexts, prefix)
        elif node.target is CHOSEN:
            self._check(node, prefix)
        elif "wrap_with_set_grad_enabled" in target:
            enabled, body, *arguments = node.args
            inner = (*contexts, f"torch.set_grad_enabled({bool(enabled)})")
            self._inline(node, getattr(module, str(body.target)), arguments, inner, prefix)
        elif "wrap_with_autocast" in target:
            *settings, body = node.args[:5]
            inner = (*contexts, _autocast(*settings))
            self._inline(node, getattr(module, str(body.target)), node.args[5:], inner, prefix)
        elif node.op == "call_function":
            self._call(node, contexts, prefix)
        else:
            raise TraceError(
                f"the traced model calls {target}, which pipecut cannot split{where(node)}"
            )

    def _inline(
        self, node: fx.Node, body: fx.GraphModule, arguments: Any, contexts: Contexts, prefix: str
    ) -> None:
        """Read a node's body in its place: names of the body's nodes begin with the node's."""
        if self.stamps is not None:
            self.stamps.nested()
        inner = f"{prefix}{node.name}_"
        placeholders = [n for n in body.graph.nodes if n.op == "placeholder"]
        for placeholder, argument in zip(placeholders, arguments, strict=True):
            if isinstance(argument, fx.Node):
                self.names.alias(inner + placeholder.name, self.names.of(argument, prefix))
        self.read(body, contexts, inner)
        results = next(n for n in body.graph.nodes if n.op == "output").args[0]
        for index, result in enumerate(results if isinstance(results, list | tuple) else [results]):
            if isinstance(result, fx.Node):
                value = self.names.of(result, inner)
                self.names.alias(part_name(prefix + node.name, index), value)

    def _call(self, node: fx.Node, contexts: Contexts, prefix: str) -> None:
        result = node.meta.get("val")
        if isinstance(result, NUMBERS):
            # A number: where it is used, arguments have its expression.
            return
        elsewhere = _size_follows_data(result) and not _in_own_forward(node)
        if elsewhere and all(_asks_for_a_number(user) for user in node.users):
            # Something else was traced in its place.
            return
        if self.stamps is not None:
            self.stamps.node(prefix + node.name)
        inlined = self._part_of_inlined(node, prefix)
        if inlined is not None:
            self.names.alias(prefix + node.name, inlined)
            return
        if node.target is CALL:
            self._function(node, contexts, prefix)
            return
        operator, shared = self._operator(node, contexts, prefix)
        self.operators.append(operator)
        self.shared.append(shared)
        needed = self._needed(operator)
        # A module that makes sizes which depend on data is refused, so that it runs as it is.
        own = has_data_sizes(result) and _in_own_forward(node)
        if own:
            self.data_sizes.note(_traced(node, prefix))
        self._add_values(operator, result, needed)
        self.gradients.follow(operator, shared, needed)
        if own:
            self._read_sizes(operator, _traced(node, prefix))

    def _read_sizes(self, operator: Operator, call: TracedCall) -> None:
        """Operators for what depends on data of the sizes of a result."""
        for reader in self.data_sizes.readers(operator, self.by_name.get(operator.name)):
            self.add(reader, (), [])
        for reader_or_assumed in self.data_sizes.equal(operator, call):
            if isinstance(reader_or_assumed, Operator):
                self.add(reader_or_assumed, (), [])
            else:
                self._assume(reader_or_assumed)

    def _assume(self, assumed: Assumed | None) -> None:
        """Let a run check what the trace takes for granted of sizes."""
        if assumed is not None:
            self.add(assumed.operator, (), [assumed.value])
            self.checks.append(assumed.check)

    def _check_sizes(self) -> None:
        """Let a run check choices by sizes. Raises Untraceable where a module makes the size."""
        try:
            for assumed in self.data_sizes.choices():
                self._assume(assumed)
        except DependsOnData as error:
            raise Untraceable(str(error), "") from error

    def add(self, operator: Operator, shared: tuple[str, ...], values: Sequence[Value]) -> None:
        """An operator that no node stands for, with what its result is made of."""
        self.operators.append(operator)
        self.shared.append(shared)
        needed = self.gradients.needed_by(operator)
        for value in values:
            differentiable = value.dtype.startswith(DIFFERENTIABLE)
            self.values.by_name[value.name] = replace(value, needs_grad=needed and differentiable)
        self.gradients.follow(operator, shared, needed)

    def _mark(self, node: fx.Node, contexts: Contexts, prefix: str) -> None:
        """A marker of a layer."""
        assert self.stamps is not None
        name, args = prefix + node.name, list[Any](node.args)
        if node.target is NODE:
            self.stamps.node(name)
        elif node.target is OUT:
            _, call, position = args
            storage = node.meta["val"].untyped_storage()._cdata
            self.stamps.out(name, call, position, storage)
        else:
            tensors = tuple(self.names.of(tensor, prefix) for tensor in args[0])
            marker = Marker(prefix, contexts, tensors, calls=module_calls(node), call=args[1])
            read = {BEGIN: self.stamps.begin, END: self.stamps.end, BODY: self.stamps.body}
            read[node.target](marker)

    def _check(self, node: fx.Node, prefix: str) -> None:
        """A marker of a choice by a value."""
        if self.stamps is not None:
            self.stamps.node(prefix + node.name)
        condition, number = list[Any](node.args)
        self._add_check(node, self.names.of(condition, prefix), self.choices[number], prefix)

    def _assertion(self, node: fx.Node, prefix: str) -> None:
        """An assertion that the model makes in a tensor's own kernel: a choice that only raises."""
        condition, *message = list[Any](node.args)
        value = self.by_name.get(self.names.of(condition, prefix))
        if value is not None and (value.dtype, value.shape) == ("bool", ()):
            words = f"an asserted tensor{''.join(f' ({text})' for text in message)}"
            choice = Choice(words, where(node).strip(" ()"), True, only_raises=True)
            self._add_check(node, value.name, choice, prefix)

    def _add_check(self, node: fx.Node, value: str, choice: Choice, prefix: str) -> None:
        if all(operator.name != value for operator in self.operators):
            value = self._copied(value, prefix + node.name)
        self.checks.append(Check(value, choice))

    def _copied(self, value: str, name: str) -> str:
        """An operator's result that is what the model was given, or holds."""
        copied = replace(self.by_name[value], name=name)
        operator = Operator(name, COPY, (Ref(value),), (), (value,), "", "", "")
        self.add(operator, (), [copied])
        return name

    def _part_of_inlined(self, node: fx.Node, prefix: str) -> str | None:
        """The value that a node takes out of an inlined body's results."""
        if node.target is not python_operator.getitem or not isinstance(node.args[0], fx.Node):
            return None
        return self.names.alias_of(part_name(prefix + node.args[0].name, node.args[1]))

    def _operator(
        self, node: fx.Node, contexts: Contexts, prefix: str
    ) -> tuple[Operator, tuple[str, ...]]:
        """The node's operator, and the inputs whose storage its result has."""
        name = prefix + node.name
        args = tuple(self.arguments.of(argument, prefix) for argument in node.args)
        kwargs = {
            key: self.arguments.of(argument, prefix)
            for key, argument in node.kwargs.items()
            if key != "pin_memory"
        }
        effects = self.storages.effects(name, node, args, kwargs)
        calls = module_calls(node)
        operator = Operator(
            name,
            target=_target(node),
            args=args,
            kwargs=tuple(kwargs.items()),
            inputs=tuple(dict.fromkeys(references((args, kwargs)))),
            module=calls[-1].module,
            module_class=calls[-1].class_name,
            source=where(node),
            contexts=contexts,
            writes=effects.writes,
            aliases=effects.aliases,
            draws=self._next_draws(count_draws(node, self.values.dimensions)),
            calls=calls,
        )
        return self._as_called(operator, node), effects.shared

    def _next_draws(self, count: int) -> tuple[int, ...]:
        first, self.draws = self.draws, self.draws + count
        return tuple(range(first, self.draws))

    def _function(self, node: fx.Node, contexts: Contexts, prefix: str) -> None:
        """Read the call of an autograd.Function: its operator, and the values of its results."""
        target, text, tensors, sizes = list[Any](node.args)
        name, calls = prefix + node.name, module_calls(node)
        taken = tuple(self.names.of(tensor, prefix) for tensor in tensors)
        args = read_arguments(text, [Ref(v) for v in taken], self.arguments.of(sizes, prefix))
        operator = Operator(
            name,
            target,
            args,
            kwargs=(),
            inputs=tuple(dict.fromkeys(taken)),
            module=calls[-1].module,
            module_class=calls[-1].class_name,
            source=where(node),
            contexts=contexts,
            calls=calls,
        )
        needed = self.gradients.needed_by(operator)
        looks = [Look.of(self.by_name[value], needed) for value in taken]
        numbers = [self.values.dimensions.of(size).number for size in map(_size, sizes)]
        observed = observe(target, text, looks, numbers, operator.source)
        shared = [tuple(taken[at] for at in positions) for positions in observed.shared]
        effects = self.storages.of_function(name, shared)
        draws = self._next_draws(observed.draws)
        gives_none = {taken[at] for at in observed.gives_none}
        gives_none -= {v for at, v in enumerate(taken) if at not in observed.gives_none}
        operator = replace(operator, aliases=effects.aliases, draws=draws)
        self.operators.append(replace(operator, gives_none=tuple(sorted(gives_none))))
        self.shared.append(effects.shared)
        self._add_results(node, name, observed, shared)
        self.gradients.follow(self.operators[-1], effects.shared, needed)

    def _add_results(
        self, node: fx.Node, name: str, observed: Observed, shared: Sequence[tuple[str, ...]]
    ) -> None:
        """The values of a Function's results; of a single tensor that of the operator itself."""
        single = returns_single(*map(str, node.args[:2]))
        for index, result in enumerate(node.meta["val"]):
            part = name if single else part_name(name, index)
            self.values.add(part, result, observed.needs_grad[index])
            if shared[index]:
                self.storage[part] = self.storage[shared[index][0]]
        if single:
            self.names.alias(part_name(name, 0), name)

    def _as_called(self, operator: Operator, node: fx.Node) -> Operator:
        """Of an opaque module, its call in the module around it, and the parts of its result."""
        if node.target in OPAQUE:
            assert self.opaque is not None
            operator = as_opaque(operator, self.opaque)
            source = where_forward(self.opaque.class_of(operator.module))
            operator = replace(operator, source=source)
            self.opaque_operators[operator.name] = operator
            return operator
        whole = self.opaque_operators.get(operator.inputs[0]) if operator.inputs else None
        if whole is None or operator.target != GETITEM:
            return operator
        return replace(
            operator,
            module=whole.module,
            module_class=whole.module_class,
            source=whole.source,
            calls=whole.calls,
        )

    def _needed(self, operator: Operator) -> bool:
        """Whether what an operator makes needs a gradient, where its dtype can have one."""
        whole = self.opaque_operators.get(operator.inputs[0]) if operator.inputs else None
        if whole is not None and whole.opaque and operator.target == GETITEM:
            needs = whole.opaque.needs_grad[operator.args[1]]
            return needs and self.gradients.needed_by(operator)
        return self.gradients.needed_by(operator)

    def _add_values(self, operator: Operator, result: Any, needed: bool) -> None:
        """The value of a result, or those of its tensors where it has several."""
        name = operator.name
        parts_need = operator.opaque.needs_grad if operator.opaque is not None else None
        if isinstance(result, torch.Tensor):
            differentiable = result.is_floating_point() or result.is_complex()
            needed = needed and (parts_need is None or parts_need[0])
            self.values.add(name, result, needed and differentiable)
            return
        for index, part in enumerate(result if isinstance(result, list | tuple) else ()):
            if isinstance(part, torch.Tensor):
                needs_grad = needed and part.is_floating_point()
                needs_grad = needs_grad and (parts_need is None or parts_need[index])
                self.values.add(part_name(name, index), part, needs_grad)


def _size(size: Any) -> Any:
    return size.meta["val"] if isinstance(size, fx.Node) else size


def _in_own_forward(node: fx.Node) -> bool:
    """Whether a node is of the model's own forward, or of its loss."""
    return not module_calls(node)[-1].module


def _traced(node: fx.Node, prefix: str) -> TracedCall:
    args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), lambda n: n.meta.get("val"))
    place = where(node).strip(" ()")
    return TracedCall(prefix + node.name, node.target, args, kwargs, node.meta.get("val"), place)


def _size_follows_data(result: Any) -> bool:
    sizes = result.shape if isinstance(result, torch.Tensor) else ()
    return any(
        isinstance(size, torch.SymInt) and any(map(follows_data, size.node.expr.free_symbols))
        for size in sizes
    )


def _asks_for_a_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), NUMBERS) or _is_guard(node)


def _autocast(device: Any, dtype: Any, enabled: Any, cache: Any) -> str:
    kind = "device.type" if is_traced_device(device) else repr(device)
    return f"torch.autocast({kind}, dtype={dtype}, enabled={enabled}, cache_enabled={cache})"


def _is_guard(node: fx.Node) -> bool:
    """Whether a node checks something and computes nothing."""
    if node.op == "call_module":
        return GUARDS_MODULE in str(node.target)
    return node.target is torch._assert or rule_of(str(node.target)).guard


def _target(node: fx.Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    if node.target is python_operator.getitem:
        return GETITEM
    raise TraceError(
        f"the traced model calls {node.target}, which pipecut cannot write as code{where(node)}"
    )
