"""What a model's forward leaves behind in its modules, beside what it writes in place.

A buffer that is assigned (`self.mean = ...`) is written: reads see a copy, as they see another
tensor in the model itself, and what was assigned last goes into the buffer. A plain attribute that
changes is refused where the next forward would read it: a plan holds one forward only. What is
filled once and does not depend on the batch or a parameter, as a mask, may stay.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pipecut.compiler.trace.opaque.untraceable import Untraceable
from pipecut.compiler.trace.watch.attributes import AttributeReads, Copied, Place, attributes_of
from pipecut.errors import TraceError

NOTHING = Copied(None)


class ModuleState:
    """Watches forwards of a model, one at a time.

    After a forward, `needs_another_trace` says that it did something whose meaning only another
    one, watched more closely, can tell.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.needs_another_trace = False
        self._assigned_buffers: set[Place] = set()
        self._changing_attributes: set[Place] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around a forward. Raises TraceError."""
        self.needs_another_trace = False
        buffers = self._buffers()
        attributes = {p: Copied.of(value) for p, value in attributes_of(self.modules).items()}
        copies = {p: buffers[p].clone() for p in self._assigned_buffers if p in buffers}
        versions = {place: copy._version for place, copy in copies.items()}
        self._set_buffers(copies)
        with AttributeReads(self.modules, self._changing_attributes).watched() as reads:
            try:
                yield
            except BaseException:
                self._restore(buffers, attributes)
                raise
        try:
            untouched = {
                place: copies.get(place, buffer)
                for place, buffer in buffers.items()
                if place not in copies or copies[place]._version == versions[place]
            }
            self._write_back(buffers, untouched)
            self._refuse_changes(attributes, reads)
        finally:
            self._restore(buffers, attributes)

    def _buffers(self) -> dict[Place, torch.Tensor]:
        return {
            Place(path, name): buffer
            for path, module in self.modules.items()
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def _set_buffers(self, buffers: dict[Place, torch.Tensor]) -> None:
        for place, buffer in buffers.items():
            self.modules[place.path]._buffers[place.name] = buffer

    def _write_back(
        self, buffers: dict[Place, torch.Tensor], untouched: dict[Place, torch.Tensor]
    ) -> None:
        """Write what forward assigned into the buffers themselves.

        `untouched` has what a module still holds where forward neither assigned nor wrote it.
        """
        written = {}
        for place, buffer in buffers.items():
            value = self.modules[place.path]._buffers.get(place.name)
            if place not in untouched or value is not untouched[place]:
                written[place] = _fitting(place, value, buffer)
        if not written.keys() <= self._assigned_buffers:
            self._assigned_buffers |= written.keys()
            self.needs_another_trace = True
        # All copied before any is written: one buffer may be assigned what another one holds.
        values = {place: tensor.detach().clone() for place, tensor in written.items()}
        with torch.no_grad():
            for place, value in values.items():
                buffers[place].copy_(value)

    def _refuse_changes(self, before: dict[Place, Copied], reads: AttributeReads) -> None:
        """Raises Untraceable for an attribute that changed and was read before it was written."""
        now = attributes_of(self.modules)
        changed = {
            place for place in {*before, *now} if before.get(place, NOTHING).differs(now.get(place))
        }
        for place in sorted(changed & reads.first_reads.keys()):
            was_empty = before.get(place, NOTHING).value is None
            if was_empty and not reads.depends_on_data(now.get(place)):
                # Filled once.
                continue
            raise Untraceable(
                f"'{place}' changes from one forward to the next ({reads.first_reads[place]} "
                "reads it), and a plan holds one forward only; register it as a buffer, "
                f"and write it in place with self.{place.name}.copy_(...)",
                place.path,
            )
        if not changed <= self._changing_attributes:
            self._changing_attributes |= changed
            self.needs_another_trace = True

    def _restore(self, buffers: dict[Place, torch.Tensor], before: dict[Place, Copied]) -> None:
        self._set_buffers(buffers)
        for place in attributes_of(self.modules).keys() - before.keys():
            self.modules[place.path].__dict__.pop(place.name)
        for place, copied in before.items():
            self.modules[place.path].__dict__[place.name] = copied.restored()


def _fitting(place: Place, value: torch.Tensor | None, buffer: torch.Tensor) -> torch.Tensor:
    if value is None or value.shape != buffer.shape or value.dtype != buffer.dtype:
        assigned = "None" if value is None else f"{value.dtype} {list(value.shape)}"
        raise TraceError(
            f"the model's forward assigns {assigned} to its buffer '{place}', "
            f"which is {buffer.dtype} {list(buffer.shape)}, and a plan's buffers keep their "
            "shape; assign one of the same shape and dtype"
        )
    return value
