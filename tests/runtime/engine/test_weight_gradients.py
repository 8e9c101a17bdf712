"""Gradients of weights that come later are those that come at once, whatever is multiplied."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.runtime.engine.weight_gradients import WeightGradStore
from pipecut.runtime.verify.verify import verify
from tests.models.numerics import vectors
from tests.models.products import PRODUCTS, products


def gradients(model: nn.Module, later: bool, microbatches: int = 2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    for _ in range(microbatches):
        batch = vectors(6)
        if not later:
            model(**batch).backward()
            continue
        aside = WeightGradStore()
        with aside:
            loss = model(**batch)
        loss.backward()
        aside.do()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", sorted(PRODUCTS))
def test_a_product_has_the_gradients_of_autograd(kind: str) -> None:
    torch.manual_seed(0)
    model = products(kind)
    expected = gradients(model, later=False)
    model.zero_grad()
    for found, want in zip(gradients(model, later=True), expected, strict=True):
        assert found.dtype == want.dtype
        assert float((found - want).norm()) <= 1e-6 * float(want.norm())


def test_plain_products_do_come_later() -> None:
    weight, aside = nn.Parameter(torch.ones(3, 3)), WeightGradStore()
    with aside:
        F.linear(torch.ones(2, 3), weight).sum().backward()
    assert weight.grad is None and len(aside.tasks) == 1
    aside.do()
    assert torch.equal(weight.grad, torch.full((3, 3), 2.0))


def test_a_sparse_gradient_is_added_to() -> None:
    table, aside = nn.Embedding(5, 4, sparse=True), WeightGradStore()
    with aside:
        F.linear(table(torch.tensor([1, 2])), table.weight).sum().backward()
    aside.do()
    expected = nn.Parameter(table.weight.detach().clone())
    F.linear(F.embedding(torch.tensor([1, 2]), expected), expected).sum().backward()
    assert table.weight.grad is not None and expected.grad is not None
    assert torch.allclose(table.weight.grad.to_dense(), expected.grad)


@pytest.mark.parametrize("accumulated", [False, True])
def test_hooks_of_the_user_are_called(accumulated: bool) -> None:
    weight, seen = nn.Parameter(torch.ones(3, 3)), []
    register = weight.register_post_accumulate_grad_hook if accumulated else weight.register_hook
    register(lambda tensor: seen.append(tensor))  # type: ignore[no-untyped-call]
    aside = WeightGradStore()
    with aside:
        F.linear(torch.ones(2, 3), weight).sum().backward()
    aside.do()
    assert len(seen) == 1 and weight.grad is not None


def test_a_weight_that_was_written_meanwhile_is_told() -> None:
    weight, aside = nn.Parameter(torch.ones(3, 3)), WeightGradStore()
    with aside:
        result = F.linear(torch.ones(2, 3, requires_grad=True), weight).sum()
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def test_products_that_come_at_once_and_later_compute_what_the_unsplit_model_does(
    slow_cores: str,
    tmp_path: Path,
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        'model: {factory: "tests.models.products:mixed"}\n'
        'inputs: "tests.models.numerics:vectors"\nbatch: {global: 8, microbatch: 2}\n'
    )
    compile(job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=2, schedule="zb-h1")))
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mixed", "shared"])
def test_shared_products_compute_what_the_unsplit_model_does(
    model: str,
    slow_cores: str,
    tmp_path: Path,
) -> None:
    args = ", args: {kind: vector}" if model == "shared" else ""
    job = tmp_path / "job.yaml"
    job.write_text(
        f'model: {{factory: "tests.models.products:{model}"{args}}}\n'
        'inputs: "tests.models.numerics:vectors"\nbatch: {global: 8, microbatch: 2}\n'
    )
    compile(
        job, slow_cores, tmp_path / "plan", Options(SizeOverrides(stages=4, schedule="v-shaped"))
    )
    result = verify(tmp_path / "plan", steps=2)
    assert result.passed, result.worst
