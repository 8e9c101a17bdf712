"""The optimizers that a plan may train with, and what each keeps of a parameter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipecut.plan.schema.numbers import Finite, PlanModel

Argument = bool | int | Finite | str | None | list[Finite | None]
# States of a parameter's size, by the arguments of an optimizer.
CountStates = Callable[[Mapping[str, Any]], int]


@dataclass(frozen=True)
class Kind:
    """A class of torch.optim.

    - `count_states`: how many values it keeps for each element of a parameter, whatever its shape.
    - `preset`: arguments that the name stands for.
    - `elementwise`: each element's step follows from its own gradients alone, so that rows may be
      stepped apart.
    - `factored`: of a matrix it keeps a row and a column in place of all elements.
    - `takes_matrices`: it steps parameters of two dimensions only.
    - `normalises`: a step is about as long as the learning rate, however small the gradient is.
    """

    torch_name: str
    count_states: CountStates
    preset: Mapping[str, Argument] = field(default_factory=dict)
    elementwise: bool = True
    factored: bool = False
    takes_matrices: bool = False
    normalises: bool = True


def _always(states: int) -> CountStates:
    return lambda _arguments: states


def _where_given(least: int, *options: str) -> CountStates:
    """A number of states, and one more for each of these arguments that is not 0 or false."""
    return lambda arguments: least + sum(bool(arguments.get(option)) for option in options)


KINDS: dict[str, Kind] = {
    "adamw": Kind("AdamW", _where_given(2, "amsgrad")),
    "adam": Kind("Adam", _where_given(2, "amsgrad")),
    "sgd": Kind("SGD", _where_given(0, "momentum"), normalises=False),
    "momentum": Kind("SGD", _where_given(0, "momentum"), {"momentum": 0.9}, normalises=False),
    "nadam": Kind("NAdam", _always(2)),
    "radam": Kind("RAdam", _always(2)),
    "adamax": Kind("Adamax", _always(2)),
    "adagrad": Kind("Adagrad", _always(1)),
    "adadelta": Kind("Adadelta", _always(2), normalises=False),
    "rmsprop": Kind("RMSprop", _where_given(1, "momentum", "centered")),
    "rprop": Kind("Rprop", _always(2)),
    "asgd": Kind("ASGD", _always(1), normalises=False),
    "adafactor": Kind("Adafactor", _always(1), elementwise=False, factored=True),
    "muon": Kind("Muon", _always(1), elementwise=False, takes_matrices=True),
}


def _known(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"'{name}' is none of {', '.join(KINDS)}")
    return name


class Optimizer(PlanModel):
    """A class of torch.optim, its arguments, and patterns of parameters that do not decay.

    Where only the name is given, plan.yaml has only the name.
    """

    name: Annotated[str, AfterValidator(_known)]
    arguments: dict[str, Argument] = {}
    no_decay: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        return {"name": data} if isinstance(data, str) else data

    @model_serializer(mode="wrap")
    def _plain(self, handler: SerializerFunctionWrapHandler) -> Any:
        return handler(self) if self.arguments or self.no_decay else self.name

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.name} ({arguments})" if arguments else self.name

    @property
    def kind(self) -> Kind:
        """What is known of its class."""
        return KINDS[self.name]

    @property
    def all_arguments(self) -> dict[str, Any]:
        """With those that the name stands for; lists as tuples, which torch.optim takes."""
        given = {**self.kind.preset, **self.arguments}
        return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}

    def decays(self, name: str) -> bool:
        """Whether no pattern of `no_decay` has a parameter of this FQN."""
        return not any(fnmatchcase(name, pattern) for pattern in self.no_decay)

    def state_bytes(self, shape: Sequence[int], stepped_bytes: int) -> int:
        """Bytes of what it keeps of a parameter, or of rows of it, of so many bytes in float32.

        Counts that it keeps once for a parameter are left out: they are 4 bytes each.
        """
        elements = prod(shape)
        if self.kind.factored and len(shape) > 1 and elements:
            kept = elements // shape[-1] + elements // shape[-2]
            return stepped_bytes // elements * kept
        return stepped_bytes * self.kind.count_states(self.all_arguments)
