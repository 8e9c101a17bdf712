"""What backward keeps of a buffer that forward writes is a copy."""

from pipecut.compiler.trace.backward.written_buffers import reading_copies
from tests.compiler.chain_graphs import made_buffer, made_operator, made_value

MUL, ADD = "aten.mul.Tensor", "aten.add_.Tensor"
BUFFERS = [made_buffer("seen", "seen")]
WRITE = made_operator("write", ADD, "seen", "seen", writes=("seen",), aliases=("seen",))
VIEW = made_operator("view", "aten.view.default", "write", aliases=("write",))


def values_of(*needing: str) -> dict[str, object]:
    names = ("x", "seen", "write", "view", "first", "second")
    return {name: made_value(name, name in needing) for name in names}


def test_an_operator_that_needs_gradients_reads_a_copy_after_the_last_write() -> None:
    values = values_of("x", "first", "second")
    first = made_operator("first", MUL, "x", "seen")
    second = made_operator("second", MUL, "first", "view")
    result = reading_copies([first, WRITE, VIEW, second], values, BUFFERS)
    assert [o.name for o in result] == ["first", "write", "view", "second_reads_1", "second"]
    copy, reader = result[-2:]
    assert (copy.target, copy.inputs) == ("aten.clone.default", ("view",))
    assert reader.inputs == ("first", "second_reads_1")
    assert str(reader) == "aten.mul.Tensor(first, second_reads_1)"
    assert not values["second_reads_1"].needs_grad


def test_what_needs_no_gradient_or_writes_nothing_stays() -> None:
    values = values_of("x")
    reader = made_operator("second", MUL, "x", "write")
    assert reading_copies([WRITE, reader], values, BUFFERS) == (WRITE, reader)
    assert reading_copies([reader], values_of("x", "second"), BUFFERS) == (reader,)
