"""What an exported program takes: parameters, buffers and the tensors of a batch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.graph_signature import InputKind, InputSpec

from pipecut.compiler.graph import BatchInput, Buffer, Parameter
from pipecut.compiler.names import identifier
from pipecut.compiler.trace.export import Exported
from pipecut.compiler.trace.lower.names import Names
from pipecut.compiler.trace.lower.values import Values
from pipecut.errors import TraceError

# Where the user's model is in what is traced.
PREFIX = "model."


@dataclass(frozen=True)
class Signature:
    """`constants` are the buffers that are plain tensors of the model, in no state_dict."""

    parameters: tuple[Parameter, ...]
    buffers: tuple[Buffer, ...]
    batch_inputs: tuple[BatchInput, ...]
    constants: tuple[Buffer, ...]

    @property
    def held(self) -> tuple[Parameter | Buffer, ...]:
        """Parameters and buffers."""
        return (*self.parameters, *self.buffers)


def read_signature(exported: Exported, values: Values, names: Names) -> Signature:
    """Adds the values of all inputs. Raises TraceError, by name, for what no plan can carry."""
    reader = _SignatureReader(exported, values, names)
    for spec in exported.program.graph_signature.input_specs:
        reader.read(spec)
    reader.add_unused()
    return Signature(
        tuple(reader.parameters),
        tuple(reader.buffers),
        tuple(reader.batch_inputs),
        tuple(reader.constants),
    )


class _SignatureReader:
    def __init__(self, exported: Exported, values: Values, names: Names) -> None:
        self.exported, self.values, self.names = exported, values, names
        self.model = exported.model.model
        self.fqns = _fqns_by_tensor(self.model)
        self.persistent = self.model.state_dict(keep_vars=True).keys()
        self.tensors = _tensors_by_fqn(exported.model)
        nodes = exported.program.graph.nodes
        self.traced = {n.name: n.meta.get("val") for n in nodes if n.op == "placeholder"}
        # Tensors keyed by identity, as torch hashes them: a tied one comes several times.
        self.value_of: dict[torch.Tensor, str] = {}
        self.parameters: list[Parameter] = []
        self.buffers: list[Buffer] = []
        self.batch_inputs: list[BatchInput] = []
        self.constants: list[Buffer] = []

    def read(self, spec: InputSpec) -> None:
        name, target = str(spec.arg.name), str(spec.target)
        match spec.kind:
            case InputKind.USER_INPUT:
                self._add_batch_input(name)
            case InputKind.PARAMETER:
                self._add_parameter(name, target)
            case InputKind.BUFFER:
                self._add_buffer(name, self.tensors[target], self.traced[name])
            case InputKind.CONSTANT_TENSOR:
                self._add_constant(name, target)
            case _:
                raise _refusal(spec, self.exported.program.constants.get(target))

    def add_unused(self) -> None:
        """Parameters and buffers that forward does not touch: they are the model's all the same."""
        for fqn, parameter in self.model.named_parameters():
            if parameter not in self.value_of:
                self._declare_parameter(self._free(f"unused_{identifier(fqn)}"), parameter)
        for fqn, buffer in self.model.named_buffers():
            if buffer not in self.value_of:
                self._add_buffer(self._free(f"unused_{identifier(fqn)}"), buffer, buffer)

    def _free(self, name: str) -> str:
        return self.names.free(name, self.values.by_name)

    def _add_batch_input(self, placeholder: str) -> None:
        """A tensor of the batch, as a value whose name is close to the user's own."""
        batch = self.exported.batch
        users_name = list(batch.tensors)[len(self.batch_inputs)]
        value = self._free(f"batch_{identifier(users_name)}")
        self.names.alias(placeholder, value)
        self.values.add(value, self.traced[placeholder], needs_grad=False)
        self.batch_inputs.append(BatchInput(value, users_name, users_name in batch.whole))

    def _add_parameter(self, name: str, target: str) -> None:
        parameter = self.tensors[target]
        if parameter in self.value_of:
            self.names.alias(name, self.value_of[parameter])
        else:
            self._declare_parameter(name, parameter, self.traced[name])

    def _declare_parameter(
        self, name: str, parameter: torch.Tensor, traced: torch.Tensor | None = None
    ) -> None:
        self.value_of[parameter] = name
        trainable = parameter.requires_grad
        value = self.values.add(name, parameter if traced is None else traced, trainable)
        shape = tuple(parameter.shape)
        self.parameters.append(
            Parameter(name, self.fqns[parameter], shape, value.dtype, value.bytes, trainable)
        )

    def _add_buffer(self, name: str, buffer: torch.Tensor, traced: torch.Tensor) -> None:
        self.value_of[buffer] = name
        self.values.add(name, traced, needs_grad=False)
        fqns = self.fqns[buffer]
        persistent = fqns[0] in self.persistent
        self.buffers.append(Buffer(name, fqns, persistent, _real(buffer, fqns[0])))

    def _add_constant(self, name: str, target: str) -> None:
        """A plain tensor of the model, or one that it made of numbers while it was traced."""
        self.values.add(name, self.traced[name], needs_grad=False)
        data = _real(self.exported.program.constants[target], target)
        constant = Buffer(name, (target.removeprefix(PREFIX),), persistent=False, data=data)
        self.buffers.append(constant)
        self.constants.append(constant)


def _refusal(spec: InputSpec, constant: Any) -> TraceError:
    if isinstance(constant, torch.Generator):
        return TraceError(
            "the model draws from a torch.Generator of its own, whose state no plan has; leave "
            "generator= out: each draw is seeded by the job's seed, the step and the microbatch"
        )
    kind = spec.kind.name
    return TraceError(
        f"the model takes an input of kind {kind} ({spec.arg.name}), which cannot be split"
    )


def _tensors_by_fqn(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer, tied ones under each of their names."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _fqns_by_tensor(model: nn.Module) -> dict[torch.Tensor, tuple[str, ...]]:
    """All names of each parameter and buffer."""
    fqns: dict[torch.Tensor, tuple[str, ...]] = {}
    for fqn, tensor in _tensors_by_fqn(model).items():
        fqns[tensor] = (*fqns.get(tensor, ()), fqn)
    return fqns


def _real(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor's own data. Raises TraceError where it has none."""
    if not tensor.is_meta and not isinstance(tensor, FakeTensor):
        return tensor.detach().clone()
    if tensor.numel() == 0:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    raise TraceError(
        f"constant '{name}' was created on a parameter's device while tracing, where it has no "
        "value; register it as a buffer in the module's __init__, or create it with torch.full "
        "or torch.arange"
    )
