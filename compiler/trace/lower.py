"""Exported program to graph. The only reader of fx."""

import operator as python_operator
from dataclasses import replace
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_unflatten
from torch.utils._sympy.printers import PythonPrinter

from pipecut.compiler.graph import (
    BatchInput,
    Buffer,
    Graph,
    Literal,
    Operator,
    Output,
    Parameter,
    Ref,
    Sym,
    Value,
)
from pipecut.compiler.inputs.job import Job
from pipecut.compiler.names import identifier
from pipecut.compiler.operators.lookup import rule_of
from pipecut.compiler.operators.table import GETITEM
from pipecut.compiler.trace.batch_of_one import alike_for_one
from pipecut.compiler.trace.evaluation import flags_alone, with_evaluation, without_dropout
from pipecut.compiler.trace.export import Exported, export, export_evaluation
from pipecut.compiler.trace.randomness import count_draws
from pipecut.compiler.trace.requirements import checked
from pipecut.device.types import is_traced_device
from pipecut.errors import TraceError

PREFIX = "model."
BATCH = sympy.Symbol("batch", integer=True, positive=True)
# A module that torch.export adds to check its inputs.
GUARDS_MODULE = "_guards_fn"


def trace(job: Job) -> Graph:
    """Trace the job's model. Raises TraceError or UserFileError."""
    # The user's code may set another.
    surrounding = torch.get_default_dtype()
    try:
        graph = _both_modes(job)
        return replace(graph, default_dtype=str(torch.get_default_dtype()).removeprefix("torch."))
    finally:
        torch.set_default_dtype(surrounding)


def _training(job: Job) -> tuple[Exported, "_Lowering", Graph, Graph]:
    """In training mode, with the graph of the loss and that of all that the model returns."""
    size, total = job.microbatch, job.spec.batch.global_
    try:
        exported = export(job)
        lowering = _Lowering(exported, size)
        training, everything = lowering.graphs()
    except NeedsFixedBatch as error:
        exported = export(job, fixed_because=str(error))
        lowering = _Lowering(exported, size)
        training, everything = lowering.graphs()
    if not (exported.dynamic and exported.choices and 1 in (size, total % size)):
        return exported, lowering, training, everything
    what = f"with one sample the model does something else (at {exported.choices[0]})"
    one = export(job.with_microbatch(1), fixed_because=what)
    lowering_of_one = _Lowering(one, 1)
    of_one, everything_of_one = lowering_of_one.graphs()
    if alike_for_one(_Lowering(exported, 1).graphs()[0], of_one):
        return exported, lowering, training, everything
    if size == 1:
        return one, lowering_of_one, of_one, everything_of_one
    raise TraceError(
        f"the last microbatch of {total} samples in {size}s has one sample alone, and {what}; "
        "choose batch.global or batch.microbatch so that none is left alone"
    )


def _both_modes(job: Job) -> Graph:
    microbatch = job.microbatch
    exported, lowering, training, everything = _training(job)
    training = checked(training)
    if not exported.reads.differs and flags_alone(lowering.operators, exported.reads.dropouts):
        return with_evaluation(training, without_dropout(everything))
    refused = ""
    for dynamic in (True, False) if exported.dynamic else (False,):
        evaluated = export_evaluation(job, exported, dynamic)
        try:
            if isinstance(evaluated, Exported):
                return with_evaluation(training, _Lowering(evaluated, microbatch).graphs()[1])
            refused = refused or evaluated
        except TraceError as error:
            refused = refused or str(error)
    why = f"the model cannot be traced in eval mode: {refused}"
    return replace(training, outputs=(), refused=why)


class NeedsFixedBatch(TraceError):
    """A program for a batch of any size has something that stage code cannot write."""


class _Lowering:
    """One exported program to one Graph."""

    def __init__(self, exported: Exported, microbatch: int) -> None:
        self.exported, self.program, self.model = exported, exported.program, exported.model
        self.microbatch = microbatch
        self.values: dict[str, Value] = {}
        self.operators: list[Operator] = []
        # Of the whole program, whether the loss needs them or not: the model makes them all.
        self.draws = 0
        self.alias: dict[str, str] = {}
        self.requires_grad: dict[str, bool] = {}
        self.storage: dict[str, int] = {}
        # What an operator's result, or a part of it, certainly shares storage with.
        self.sources: dict[str, tuple[str, ...]] = {}
        # A view to the value through whose writes it comes to need a gradient.
        self.grad_roots: dict[str, str] = {}
        self.tuples: dict[str, list[Value]] = {}
        self.sizes: dict[Any, tuple[int | str, int]] = {}
        self.names: dict[int, tuple[str, ...]] = {}
        self.nodes = {node.name for node in self.program.graph.nodes}

    def graphs(self) -> tuple[Graph, Graph]:
        """Lower everything and drop what is not needed: by the loss or a buffer; by them or what else the model returns."""
        parameters, buffers, inputs = self._signature()
        self._lower(self.program.graph_module, (), "")
        self._refuse_written(parameters, buffers)
        loss, named, left_out = self._results()
        written = {b.value for b in buffers}
        results = {loss} - {""}, {loss, *(output.value for output in named)} - {""}
        exported = self.exported
        constants = dict(exported.batch.constants)
        rest = (loss, exported.dynamic, exported.notes, named, constants, left_out)
        _refuse_shared_writes(self.operators, buffers, self.model.sharing_buffers)
        first, second = (
            Graph(
                tuple(_alive(self.operators, needed, written)),
                self.values,
                parameters,
                buffers,
                inputs,
                *rest,
            )
            for needed in results
        )
        return first, second

    def _refuse_written(
        self, parameters: tuple[Parameter, ...], buffers: tuple[Buffer, ...]
    ) -> None:
        """Raises TraceError where forward writes to a parameter, which of a plan only optimizers do, or to a plain tensor.

        Tracing itself writes to the latter, and no state_dict has it.
        """
        held = {
            parameter.value: f"its parameter '{parameter.names[0]}'" for parameter in parameters
        }
        kinds = {spec.arg.name: spec.kind for spec in self.program.graph_signature.input_specs}
        for buffer in buffers:
            if kinds.get(buffer.value) == InputKind.CONSTANT_TENSOR:
                held[buffer.value] = f"'{buffer.names[0]}', a tensor that is no buffer"
        roots: dict[str, str] = {}
        for operator in self.operators:
            for name in operator.aliases[:1]:
                roots[operator.name] = roots.get(name, name)
            for name in {roots.get(name, name) for name in operator.writes} & held.keys():
                raise TraceError(
                    f"the model's forward writes to {held[name]}{operator.source}, which a plan does not carry on; "
                    "register it as a buffer (register_buffer), or write to it between steps in a loop of your own"
                )

    def _results(self) -> tuple[str, tuple[Output, ...], dict[str, str]]:
        """The loss's value, "" where there is none; names and values of what else is returned; why some of it cannot be had.

        Raises TraceError where the loss depends on nothing.
        """
        specs = [
            s
            for s in self.program.graph_signature.output_specs
            if s.kind.name in ("USER_OUTPUT", "LOSS_OUTPUT")
        ]
        names = [self.alias.get(str(s.arg.name), str(s.arg.name)) for s in specs]
        result = tree_unflatten(names, self.program.call_spec.out_spec)
        made = {operator.name for operator in self.operators}
        loss = result["loss"][0] if result["loss"] else ""
        if loss and loss not in made:
            raise TraceError(
                "the traced model has no loss: its result does not depend on its inputs"
            )
        left_out = dict(self.exported.left_out)
        for name, value in result["others"].items():
            if value not in made:
                left_out[name] = "it is no result of the model but what it was given, or holds"
            elif self._samples_at(value) is None:
                left_out[name] = (
                    "none of its dimensions, or not one alone, is that of the samples; return it for each sample"
                )
        named = tuple(
            Output(name, value) for name, value in result["others"].items() if name not in left_out
        )
        return loss, named, left_out

    def _samples_at(self, value: str) -> int | None:
        """The dimension of a tensor that has the samples, where it is the only one that depends on their number."""
        shape = self.values[value].shape if value in self.values else ()
        if not self.exported.dynamic:
            return 0 if shape[:1] == (self.microbatch,) else None
        follow = [index for index, size in enumerate(shape) if isinstance(size, str)]
        return follow[0] if len(follow) == 1 and shape[follow[0]] == "batch" else None

    def _signature(
        self,
    ) -> tuple[tuple[Parameter, ...], tuple[Buffer, ...], tuple[BatchInput, ...]]:
        model, program = self.model.model, self.program
        self.names = _names_of(model)
        owned = dict(self.model.named_parameters(remove_duplicate=False))
        held = dict(self.model.named_buffers(remove_duplicate=False))
        persistent = set(model.state_dict().keys())
        nodes = {
            node.name: node.meta.get("val")
            for node in program.graph.nodes
            if node.op == "placeholder"
        }
        first: dict[int, str] = {}
        parameters: list[Parameter] = []
        buffers: list[Buffer] = []
        inputs: list[BatchInput] = []
        for spec in program.graph_signature.input_specs:
            name = spec.arg.name
            if spec.kind == InputKind.USER_INPUT:
                inputs.append(self._batch_input(name, len(inputs)))
                self._tensor(inputs[-1].value, nodes[name], False)
            elif spec.kind == InputKind.PARAMETER:
                tensor = owned[str(spec.target)]
                if id(tensor) in first:
                    self.alias[name] = first[id(tensor)]
                    continue
                first[id(tensor)] = name
                parameters.append(self._parameter(name, nodes[name], tensor))
            elif spec.kind == InputKind.BUFFER:
                buffer = held[str(spec.target)]
                first[id(buffer)] = name
                self._tensor(name, nodes[name], False)
                aliases = self.names[id(buffer)]
                buffers.append(
                    Buffer(name, aliases, aliases[0] in persistent, _real(buffer, aliases[0]))
                )
            elif spec.kind == InputKind.CONSTANT_TENSOR:
                target = str(spec.target)
                self._tensor(name, nodes[name], False)
                constant = _real(program.constants[target], target)
                buffers.append(Buffer(name, (target.removeprefix(PREFIX),), False, constant))
            elif isinstance(program.constants.get(str(spec.target)), torch.Generator):
                raise TraceError(
                    "the model draws from a torch.Generator of its own, whose state no plan has; leave generator= away, "
                    "and each draw is seeded by the job's seed, the step and the microbatch"
                )
            else:
                raise TraceError(
                    f"the model takes an input of kind {spec.kind.name} ({name}), which cannot be split"
                )
        for name, parameter in model.named_parameters():
            if id(parameter) not in first:
                parameters.append(
                    self._parameter(
                        self._free_name(f"unused_{identifier(name)}"), parameter, parameter
                    )
                )
        for name, buffer in model.named_buffers():
            if id(buffer) not in first:
                value = self._tensor(self._free_name(f"unused_{identifier(name)}"), buffer, False)
                buffers.append(
                    Buffer(
                        value.name, self.names[id(buffer)], name in persistent, _real(buffer, name)
                    )
                )
        return tuple(parameters), tuple(buffers), tuple(inputs)

    def _parameter(self, name: str, traced: torch.Tensor, tensor: nn.Parameter) -> Parameter:
        value = self._tensor(name, traced, tensor.requires_grad)
        names = self.names[id(tensor)]
        return Parameter(
            name, names, tuple(tensor.shape), value.dtype, value.bytes, tensor.requires_grad
        )

    def _batch_input(self, placeholder: str, number: int) -> BatchInput:
        """A tensor of the batch, as a value whose name is close to the user's own."""
        users_name = list(self.exported.batch.tensors)[number]
        value = self._free_name(f"batch_{identifier(users_name)}")
        self.alias[placeholder] = value
        return BatchInput(value, users_name, users_name in self.exported.batch.whole)

    def _free_name(self, name: str) -> str:
        """A name for a value that no other one has."""
        while name in self.values or name in self.nodes:
            name += "_"
        return name

    def _size(self, size: Any) -> tuple[int | str, int]:
        """A dimension as an int or an expression in `batch`, and its number for one microbatch."""
        if isinstance(size, int):
            return size, size
        expression = sympy.sympify(size.node.expr if isinstance(size, torch.SymInt) else size)
        if expression in self.sizes:
            return self.sizes[expression]
        if len(expression.free_symbols) > 1 or any(
            str(s).startswith("u") for s in expression.free_symbols
        ):
            if self.exported.dynamic and not any(
                str(s).startswith("u") for s in expression.free_symbols
            ):
                raise NeedsFixedBatch(f"a tensor's size is {expression}")
            raise TraceError(
                f"a tensor's size depends on data ({expression}); pipecut needs sizes that follow the batch"
            )
        replaced = expression.xreplace({symbol: BATCH for symbol in expression.free_symbols})
        code = PythonPrinter().doprint(replaced)
        result = (
            (code, int(replaced.subs(BATCH, self.microbatch)))
            if replaced.free_symbols
            else (int(replaced),) * 2
        )
        self.sizes[expression] = result
        return result

    def _tensor(self, name: str, tensor: torch.Tensor, needs_grad: bool) -> Value:
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            held = {
                str(s.arg.name): str(s.target).removeprefix(PREFIX)
                for s in self.program.graph_signature.input_specs
            }
            raise TraceError(
                f"'{held.get(name, name)}' is a {layout} tensor, which a plan cannot carry; make it dense, with .to_dense()"
            )
        both = [self._size(size) for size in tensor.shape]
        sizes = tuple(number for _, number in both)
        strides = tuple(self._size(s)[1] for s in tensor.stride())
        count = 1
        for number in sizes:
            count *= number
        value = Value(
            name,
            tuple(code for code, _ in both),
            sizes,
            strides,
            str(tensor.dtype).removeprefix("torch."),
            count * tensor.element_size(),
            needs_grad,
        )
        self.values[name] = value
        self.storage[name] = tensor.untyped_storage()._cdata
        self.requires_grad[name] = needs_grad
        return value

    def _lower(self, module: fx.GraphModule, contexts: tuple[str, ...], prefix: str) -> None:
        for node in module.graph.nodes:
            target = str(node.target)
            if node.op in ("placeholder", "output", "get_attr") or _is_guard(node):
                continue
            if "wrap_with_set_grad_enabled" in target:
                enabled, body, *rest = node.args
                inner = (*contexts, f"torch.set_grad_enabled({bool(enabled)})")
                self._inline(node, module, body, rest, inner, prefix)
            elif "wrap_with_autocast" in target:
                device, dtype, enabled, cache, body, *rest = node.args
                kind = "device.type" if is_traced_device(device) else repr(device)
                inner = (
                    *contexts,
                    f"torch.autocast({kind}, dtype={dtype}, enabled={enabled}, cache_enabled={cache})",
                )
                self._inline(node, module, body, rest, inner, prefix)
            elif node.op == "call_function":
                self._call(node, contexts, prefix)
            else:
                raise TraceError(
                    f"the traced model calls {target}, which pipecut cannot split{_where(node)}"
                )

    def _inline(
        self,
        node: fx.Node,
        parent: fx.GraphModule,
        body: Any,
        args: list[Any],
        ctx: tuple[str, ...],
        at: str,
    ) -> None:
        module = getattr(parent, str(body.target))
        prefix = f"{at}{node.name}_"
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        for placeholder, given in zip(placeholders, args, strict=True):
            if isinstance(given, fx.Node):
                self.alias[prefix + placeholder.name] = self._name(given, at)
        self._lower(module, ctx, prefix)
        results = next(n for n in module.graph.nodes if n.op == "output").args[0]
        for index, result in enumerate(results if isinstance(results, list | tuple) else [results]):
            if isinstance(result, fx.Node):
                self.alias[f"{at}{node.name}[{index}]"] = self._name(result, prefix)

    def _name(self, node: fx.Node, prefix: str) -> str:
        return self.alias.get(prefix + node.name, prefix + node.name)

    def _argument(self, value: Any, prefix: str) -> Any:
        if isinstance(value, fx.Node):
            meta = value.meta.get("val")
            if isinstance(meta, torch.SymInt):
                code, _ = self._size(meta)
                return code if isinstance(code, int) else Sym(code)
            if isinstance(meta, int | float | bool) and not isinstance(meta, torch.Tensor):
                return meta
            if isinstance(meta, torch.SymFloat | torch.SymBool):
                raise NeedsFixedBatch(
                    f"a number depends on the batch size in a way that stage code cannot write ({meta}){_where(value)}"
                )
            return Ref(self._name(value, prefix))
        if isinstance(value, torch.SymInt):
            code, _ = self._size(value)
            return code if isinstance(code, int) else Sym(code)
        if isinstance(value, list | tuple):
            return tuple(self._argument(item, prefix) for item in value)
        if isinstance(value, torch.device):
            return Literal("device")
        if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
            return Literal(str(value))
        if value is None or isinstance(value, bool | int | float | str | complex):
            return value
        raise TraceError(
            f"an operator takes a {type(value).__name__}, which pipecut cannot write as code"
        )

    def _call(self, node: fx.Node, contexts: tuple[str, ...], prefix: str) -> None:
        meta = node.meta.get("val")
        if isinstance(meta, torch.SymInt | int | float | bool | torch.SymBool | torch.SymFloat):
            return
        name = prefix + node.name
        if node.target is python_operator.getitem and isinstance(node.args[0], fx.Node):
            inner = self.alias.get(f"{prefix}{node.args[0].name}[{node.args[1]}]")
            if inner is not None:
                self.alias[name] = inner
                return
        args = tuple(self._argument(a, prefix) for a in node.args)
        kwargs = tuple(
            (k, self._argument(a, prefix)) for k, a in node.kwargs.items() if k != "pin_memory"
        )
        inputs = tuple(dict.fromkeys(refs((args, kwargs))))
        self.sources[name] = self._sources(name, node, inputs)
        writes, aliases = self._schema(node, args, dict(kwargs))
        aliases = tuple(dict.fromkeys((*self.sources[name], *aliases)))
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        module, kind = ("", "")
        if stack and not str(stack[-1][0]).startswith("_"):
            module, kind = str(stack[-1][0]), str(stack[-1][1])
        module = module.removeprefix("model").removeprefix(".")
        first, self.draws = (
            self.draws,
            self.draws + count_draws(node, lambda size: self._size(size)[1]),
        )
        operator = Operator(
            name,
            _target(node),
            args,
            kwargs,
            inputs,
            module,
            kind.rsplit(".", 1)[-1],
            _where(node),
            contexts,
            writes,
            aliases,
            tuple(range(first, self.draws)),
        )
        self.operators.append(operator)
        grad = self._needs_grad(operator)
        if isinstance(meta, torch.Tensor):
            self._tensor(name, meta, grad and (meta.is_floating_point() or meta.is_complex()))
        else:
            self.requires_grad[name] = grad
            for index, part in enumerate(meta if isinstance(meta, list | tuple) else ()):
                if isinstance(part, torch.Tensor):
                    self._tensor(f"{name}[{index}]", part, grad and part.is_floating_point())
        source = next((n for n in (*self.sources[name], *writes) if n in aliases), name)
        if not _past_autograd(operator):
            self.grad_roots[name] = self.grad_roots.get(source, source)
        for written in writes:
            # Running statistics are written past autograd.
            if grad and written in aliases and written in self.values:
                self._mark_grad(written)

    def _mark_grad(self, written: str) -> None:
        """What is written needs a gradient from here on, and with it what it is a view of, and all other views of that."""
        root = self.grad_roots.get(written, written)
        for name in (root, *(view for view, of in self.grad_roots.items() if of == root)):
            value = self.values.get(name)
            if value is None:
                self.requires_grad[name] = True
            elif value.dtype.startswith(("float", "bfloat", "complex")):
                self.requires_grad[name] = True
                self.values[name] = replace(value, needs_grad=True)

    def _needs_grad(self, operator: Operator) -> bool:
        return not _past_autograd(operator) and any(
            self.requires_grad.get(name, False) for name in operator.inputs
        )

    def _sources(self, name: str, node: fx.Node, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Inputs whose storage the traced result has; schemas do not tell of einsum's, or of those of meshgrid."""
        if node.target is python_operator.getitem:
            return self.sources.get(f"{inputs[0]}[{node.args[1]}]", ())
        meta = node.meta.get("val")
        storages = []
        for index, part in enumerate(meta if isinstance(meta, list | tuple) else (meta,)):
            if isinstance(part, torch.Tensor) and part.layout == torch.strided:
                storages.append(part.untyped_storage()._cdata)
                shared = tuple(given for given in inputs if self.storage.get(given) == storages[-1])
                self.sources[f"{name}[{index}]"] = shared
        return tuple(given for given in inputs if self.storage.get(given) in storages)

    def _schema(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Inputs the operator writes to, and inputs its result shares storage with."""
        schema = getattr(node.target, "_schema", None)
        if schema is None:
            return (), tuple(refs((args, kwargs))) if node.target is python_operator.getitem else ()
        rule = rule_of(str(node.target))
        writes: list[str] = []
        aliases: list[str] = []
        for index, argument in enumerate(schema.arguments):
            given = args[index] if index < len(args) else kwargs.get(argument.name)
            if argument.alias_info is not None:
                names = list(refs(given))
                aliases += names
                if argument.alias_info.is_write and not rule.writes_nothing:
                    writes += names
        flag = rule.training_flag
        if rule.statistics and flag is not None and len(args) > flag and args[flag]:
            writes += [name for position in rule.statistics for name in refs(args[position])]
        if rule.may_alias:
            aliases += list(refs(args[:1]))
        return tuple(writes), tuple(aliases)


def _refuse_shared_writes(
    operators: list[Operator], buffers: tuple[Buffer, ...], sharing: tuple[tuple[str, str], ...]
) -> None:
    """Raises TraceError where the model writes to memory that two buffers have: a plan holds each by itself."""
    roots: dict[str, str] = {}
    for operator in operators:
        if operator.aliases:
            roots[operator.name] = roots.get(operator.aliases[0], operator.aliases[0])
    written = {roots.get(name, name) for operator in operators for name in operator.writes}
    changed = {name for buffer in buffers if buffer.value in written for name in buffer.names}
    for pair in sharing:
        if changed & set(pair):
            raise TraceError(
                f"buffers '{pair[0]}' and '{pair[1]}' share memory, and the model writes to it; "
                "make them one buffer, or give one of them a copy with .clone()"
            )


def _names_of(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """By a tensor's id all FQNs of each parameter and buffer."""
    held = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    names: dict[int, tuple[str, ...]] = {}
    for name, tensor in held:
        names[id(tensor)] = (*names.get(id(tensor), ()), name)
    return names


def refs(value: Any) -> Any:
    """Names of all values an argument structure refers to."""
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, list | tuple):
        for item in value:
            yield from refs(item)
    elif isinstance(value, dict):
        yield from refs(tuple(value.values()))


def _past_autograd(operator: Operator) -> bool:
    return (
        rule_of(operator.target).stops_gradients
        or "torch.set_grad_enabled(False)" in operator.contexts[-1:]
    )


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
        f"the traced model calls {node.target}, which pipecut cannot write as code{_where(node)}"
    )


def _where(node: fx.Node) -> str:
    trace = node.meta.get("stack_trace") or ""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    if not frames:
        return ""
    path, line = frames[-1].split(",")[:2]
    return f" ({path.removeprefix('File ').strip(chr(34))}:{line.removeprefix(' line ')})"


def _real(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if not tensor.is_meta and not isinstance(tensor, FakeTensor):
        return tensor.detach().clone()
    if tensor.numel() == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    raise TraceError(
        f"constant '{name}' was created on a parameter's device while tracing, where it has no value; "
        "register it as a buffer in the module's __init__, or create it with torch.full or torch.arange"
    )


def _alive(operators: list[Operator], results: set[str], buffers: set[str]) -> list[Operator]:
    needed = set(results)
    kept: list[Operator] = []
    roots: dict[str, str] = {}
    for operator in operators:
        for name in operator.aliases[:1]:
            roots[operator.name] = roots.get(name, name)
    live_roots: set[str] = set(results)
    for operator in reversed(operators):
        writes_needed = any(
            name in buffers
            or roots.get(name, name) in buffers
            or name in needed
            or roots.get(name, name) in live_roots
            for name in operator.writes
        )
        if operator.name in needed or writes_needed:
            kept.append(operator)
            needed.update(operator.inputs)
            live_roots.update(roots.get(name, name) for name in (*operator.inputs, operator.name))
    return kept[::-1]
