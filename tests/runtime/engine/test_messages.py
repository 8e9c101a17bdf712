"""A transport posts, sends and checks a hand-made plan's tensors, without ranks."""

from typing import Any

import pytest
import torch

from pipecut.errors import RunError
from pipecut.plan.actions import Message
from pipecut.plan.schema import Boundary, Plan
from pipecut.runtime.engine.transport import Transport
from tests.chain import Mailboxes, chain_worlds, in_threads
from tests.plans import made_plan, made_tensor


def plan_over(*tensors: Any) -> Plan:
    """Two stages with these tensors between them."""
    boundary = Boundary(left=0, tensors=list(tensors), bandwidth=1e9, latency=0.0)
    return made_plan(2, boundaries=[boundary])


def pair(plan: Plan) -> list[Transport]:
    """The transports of both ranks."""
    return [Transport(plan, world, Mailboxes()) for world in chain_worlds(plan)]


def test_activations_arrive_as_they_were_sent() -> None:
    left, right = pair(plan_over(made_tensor("a"), made_tensor("b", shape=["batch"])))
    message, tensors = Message("F", 1, 0), [torch.rand(2, 4), torch.rand(2)]
    right.post(message, {"batch": 2})
    assert right.awaits(message) and not right.awaits(Message("F", 1, 1))
    left.send(message, {"batch": 2}, tensors)
    received = right.take(message)
    assert all(torch.equal(a, b) for a, b in zip(received, tensors, strict=True))
    assert not right.awaits(message) and right.take(message) == []


def test_only_tensors_that_need_one_have_a_gradient() -> None:
    left, right = pair(plan_over(made_tensor("ids", needs_grad=False), made_tensor("x")))
    message = Message("B", 0, 0)
    left.post(message, {"batch": 2})
    right.send(message, {"batch": 2}, [torch.ones(2, 4)])
    (gradient,) = left.take(message)
    assert torch.equal(gradient, torch.ones(2, 4))


def test_a_layout_in_memory_is_kept_over_the_boundary() -> None:
    shape = ["batch", 3, 5, 5]
    left, right = pair(plan_over(made_tensor("image", shape=shape, order=[0, 2, 3, 1])))
    image = torch.rand(2, 3, 5, 5).to(memory_format=torch.channels_last)
    message = Message("F", 1, 0)
    right.post(message, {"batch": 2})
    left.send(message, {"batch": 2}, [image])
    (received,) = right.take(message)
    assert torch.equal(received, image) and received.stride() == image.stride()


def test_receives_are_matched_in_the_order_of_posts() -> None:
    left, right = pair(plan_over(made_tensor("x")))
    messages = [Message("F", 1, m) for m in range(3)]
    for message in messages:
        right.post(message, {"batch": 1})
    for m, message in enumerate(messages):
        left.send(message, {"batch": 1}, [torch.full((1, 4), float(m))])
    for m, message in reversed(list(enumerate(messages))):
        assert float(right.take(message)[0][0, 0]) == m


def test_a_tensor_of_another_type_shape_or_number_is_refused() -> None:
    left, _ = pair(plan_over(made_tensor("x")))
    for tensor in (torch.zeros(2, 4, dtype=torch.bfloat16), torch.zeros(1, 4)):
        with pytest.raises(RunError, match=r"stage 0 made the activation of x as .*compile again"):
            left.send(Message("F", 1, 0), {"batch": 2}, [tensor])
    with pytest.raises(RunError, match="stage 0 made 0 activations to send, the plan has 1"):
        left.send(Message("F", 1, 0), {"batch": 2}, [])


def test_stages_of_one_rank_hand_over_without_a_message() -> None:
    (transport,) = [
        Transport(plan, world) for plan in [made_plan(2)] for world in chain_worlds(plan)[:1]
    ]
    message, tensors = Message("F", 1, 0), [torch.ones(2, 4)]
    transport.hand_over(message, tensors)
    assert not transport.awaits(message) and transport.take(message) is tensors


def test_what_is_sent_is_kept_until_it_is_answered() -> None:
    left, right = pair(plan_over(made_tensor("x")))

    def send() -> int:
        for m in range(2):
            left.send(Message("F", 1, m), {"batch": 1}, [torch.ones(1, 4)])
        before = len(left.leaving)
        left.post(Message("B", 0, 0), {"batch": 1})
        left.take(Message("B", 0, 0))
        return before - len(left.leaving)

    def answer() -> None:
        right.post(Message("F", 1, 0), {"batch": 1})
        right.send(Message("B", 0, 0), {"batch": 1}, right.take(Message("F", 1, 0)))

    freed, _ = in_threads([send, answer])
    assert freed == 1
    left.finish()
    assert not left.leaving
