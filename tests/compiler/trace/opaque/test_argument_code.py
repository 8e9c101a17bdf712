"""Arguments of opaque modules as code: each tensor has a place, all else is written."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence

from pipecut.compiler.trace.opaque.argument_code import argument_code
from pipecut.errors import TraceError


def test_every_tensor_and_whole_number_has_a_place() -> None:
    x, y = torch.zeros(2), torch.ones(2)
    written = argument_code((x, None, (y, x), [3]), {"k": {"a": x, "b": True}, "d": 0.5}, "it")
    assert written.code == "{0}, None, ({1}, {0}, ), [{2}], k={{'a': {0}, 'b': True}}, d=0.5"
    assert written.leaves[0] is x and written.leaves[1] is y and written.leaves[2] == 3
    code = written.code.format("x", "y", 3)
    given = eval(f"(lambda *args, **kwargs: (args, kwargs))({code})", {"x": x, "y": y})
    assert given == ((x, None, (y, x), [3]), {"k": {"a": x, "b": True}, "d": 0.5})


def test_what_has_a_class_is_made_by_it() -> None:
    packed = PackedSequence(torch.zeros(3), torch.tensor([2, 1]))
    written = argument_code((packed,), {}, "it")
    assert written.code.startswith("torch.nn.utils.rnn.PackedSequence(data={0}, batch_sizes={1}")
    assert written.imports == {"torch.nn.utils.rnn"}


def test_what_no_code_can_make_is_refused() -> None:
    with pytest.raises(TraceError, match=r"^it is given a builtins.object, which no stage's"):
        argument_code((object(),), {}, "it")
