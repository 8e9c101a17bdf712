"""Writes that a plan cannot carry out are refused by the names of what is written."""

import pytest

from pipecut.compiler.graph import Ref
from pipecut.compiler.trace.lower.refusals import refuse_shared_writes, refuse_writes
from pipecut.errors import TraceError
from tests.compiler.graphs import buffer, operator, parameter, value

WEIGHT, TOTAL = value("weight", 3), value("total", 3)
VIEW = operator("view", "aten.view.default", Ref("weight"), aliases=("weight",))
WRITE = operator("write", "aten.zero_.default", Ref("view"), writes=("view",), aliases=("view",))
COUNT = operator("count", "aten.zero_.default", Ref("total"), writes=("total",))


def test_a_write_to_a_parameter_through_a_view_is_refused() -> None:
    message = r"writes to its parameter 'weight' \(model.py:7\).*register_buffer"
    with pytest.raises(TraceError, match=message):
        refuse_writes([VIEW, WRITE], [parameter(WEIGHT)], [])


def test_a_write_to_a_plain_tensor_is_refused() -> None:
    with pytest.raises(TraceError, match="writes to 'total', a tensor that is no buffer"):
        refuse_writes([COUNT], [parameter(WEIGHT)], [buffer(TOTAL)])


def test_other_writes_are_the_models_own_business() -> None:
    refuse_writes([VIEW, COUNT], [parameter(WEIGHT)], [])


def test_a_write_to_one_of_two_buffers_that_share_memory_is_refused() -> None:
    with pytest.raises(TraceError, match="'total' and 'other' share memory.*clone"):
        refuse_shared_writes([COUNT], [buffer(TOTAL)], [("total", "other")])


def test_buffers_that_share_memory_may_be_read() -> None:
    refuse_shared_writes([COUNT], [buffer(TOTAL)], [("left", "right")])
    refuse_shared_writes([VIEW], [buffer(TOTAL)], [("total", "other")])
