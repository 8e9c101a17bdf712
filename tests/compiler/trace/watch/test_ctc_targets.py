"""Targets of CTC loss in rows give the loss and gradients of those that are selected by a mask."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import pipecut.compiler.operators.fake_kernels  # noqa: F401
from pipecut.compiler.trace.watch.ctc_targets import CtcTargets

TIME, BATCH, LONGEST, CLASSES = 9, 4, 3, 7


def scores() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(TIME, BATCH, CLASSES, generator=generator).requires_grad_()


@pytest.mark.parametrize("lengths", [(3, 1, 0, 2), (3, 3, 3, 3)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("loss", [F.ctc_loss, torch.ctc_loss])
def test_rows_are_as_good_as_what_is_selected(lengths: object, order: object, loss: object) -> None:
    target_lengths = torch.tensor(lengths)
    mask = (torch.arange(LONGEST) < target_lengths[:, None])[:, torch.tensor(order)]
    labels = torch.where(mask, torch.arange(BATCH * LONGEST).view(BATCH, LONGEST) % 6 + 1, -100)
    selected = labels.masked_select(mask)
    conditions: list[torch.Tensor] = []
    targets = CtcTargets(conditions.append)
    targets.follow(torch.Tensor.masked_select, (labels, mask), selected)
    of_selected, of_rows = scores(), scores()
    others = (torch.full((BATCH,), TIME), target_lengths)
    expected = F.ctc_loss(of_selected.log_softmax(-1), selected, *others, zero_infinity=True)
    args, kwargs = targets.in_rows(loss, (of_rows.log_softmax(-1), selected, *others), {})
    assert args[1].shape == (BATCH, LONGEST) and not kwargs
    result = F.ctc_loss(*args, zero_infinity=True)
    expected.backward()
    result.backward()
    assert torch.equal(result, expected) and torch.equal(of_rows.grad, of_selected.grad)
    assert [bool(condition) for condition in conditions] == [True]


def test_lengths_that_are_others_are_a_condition_that_fails() -> None:
    labels, mask = torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool)
    selected = labels.masked_select(mask)
    conditions: list[torch.Tensor] = []
    targets = CtcTargets(conditions.append)
    targets.follow(torch.masked_select, (labels, mask), selected)
    keywords = {"targets": selected, "target_lengths": torch.tensor([4, 2])}
    _, kwargs = targets.in_rows(F.ctc_loss, (torch.zeros(9, 2, 7),), keywords)
    assert kwargs["targets"].shape == (2, 3) and not bool(conditions[0])


def test_the_sizes_on_fake_tensors_are_the_real_ones() -> None:
    lengths = torch.full((BATCH,), TIME), torch.full((BATCH,), LONGEST)
    given = (torch.ones(BATCH, LONGEST).long(), *lengths)
    real = torch.ops.aten._ctc_loss.Tensor(scores().log_softmax(-1), *given)
    with FakeTensorMode() as mode:
        fakes = tuple(mode.from_tensor(tensor) for tensor in given)
        probabilities = mode.from_tensor(scores().detach()).requires_grad_()
        fake = torch.ops.aten._ctc_loss.Tensor(probabilities, *fakes)
        torch.ctc_loss(probabilities, *fakes, 0, 1, False).backward()
    assert [t.shape for t in fake] == [t.shape for t in real]
    assert probabilities.grad is not None and probabilities.grad.shape == probabilities.shape
