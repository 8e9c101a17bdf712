"""Parameters without contents: what is left out, what is remembered, what is refused."""

import pytest
import torch

from pipecut.model.building.reclaimable_storage import ContentsAreRead, ReclaimableStorage


def managed(storage: ReclaimableStorage, number: int, size: int = 1024) -> torch.Tensor:
    tensor = torch.empty(size)
    storage.manage(tensor, number)
    return tensor


def test_a_parameter_without_contents_takes_no_memory() -> None:
    with ReclaimableStorage(drawn=False) as storage:
        tensor = managed(storage, 3)
        tensor.normal_().mul_(0.02)
        assert tensor.untyped_storage().nbytes() == 0
    assert storage.depends_on_lost(tensor) == {3} and not storage.read


def test_the_generator_goes_past_what_is_left_out() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.empty(1024).normal_()
        expected = torch.empty(4).uniform_()
        torch.manual_seed(5)
        with ReclaimableStorage(drawn=False) as storage:
            managed(storage, 0).normal_()
            assert torch.equal(torch.empty(4).uniform_(), expected)


def test_the_state_that_code_asks_for_is_that_after_the_draws() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        torch.empty(1024).uniform_()
        expected = torch.get_rng_state()
        torch.manual_seed(5)
        with ReclaimableStorage(drawn=False) as storage:
            managed(storage, 0).uniform_()
            assert torch.equal(torch.get_rng_state(), expected)


def test_what_is_computed_from_lost_contents_is_remembered() -> None:
    with ReclaimableStorage(drawn=False) as storage:
        first, second = managed(storage, 1), managed(storage, 2)
        total = first + second
        product = total * torch.ones(1024)
        shape = torch.zeros_like(product)
    assert storage.depends_on_lost(product) == {1, 2}
    assert not storage.depends_on_lost(shape)


def test_a_tensor_that_is_filled_anew_depends_on_nothing_lost() -> None:
    with ReclaimableStorage() as storage:
        source = managed(storage, 1)
        target = torch.zeros(1024)
        target.copy_(source)
        assert storage.depends_on_lost(target) == storage.depends_on_lost(source)
        target.zero_()
        assert not storage.depends_on_lost(target)
        # A part alone does not fill it.
        target.add_(source)
        target[:5].zero_()
    assert storage.depends_on_lost(target) == storage.depends_on_lost(source)


def test_python_cannot_read_contents_that_are_left_out() -> None:
    with ReclaimableStorage(drawn=False) as storage:
        tensor = managed(storage, 1)
        for read in (lambda: tensor.tolist(), lambda: tensor.numpy(), lambda: bool(tensor[0] > 0)):
            with pytest.raises(ContentsAreRead):
                read()
    assert storage.read == {1}


def test_real_contents_may_be_read_and_are_noted_where_they_were_lost() -> None:
    with ReclaimableStorage(budget=4096) as storage:
        first = managed(storage, 1).fill_(1.0)
        managed(storage, 2).fill_(2.0)
        # The second one took the budget, and the first one its memory back without its contents.
        assert first.sum().item() is not None
    assert storage.read == {1}


def test_the_least_recently_used_go_first() -> None:
    with ReclaimableStorage(budget=2 * 4096) as storage:
        tensors = [managed(storage, number).zero_() for number in range(2)]
        tensors[0].add_(1)
        managed(storage, 2).zero_()
        held = [bool(t.untyped_storage().nbytes()) for t in tensors]
    assert held == [True, False]
