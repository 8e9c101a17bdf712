"""Evaluation of a hand-made stage: any batch, no trace in the training, reasons of refusals."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipecut.errors import RunError
from pipecut.plan.schema import Evaluation as EvaluationOfPlan
from pipecut.plan.schema import Plan
from pipecut.runtime.evaluation import Evaluation
from pipecut.runtime.health.status import State
from pipecut.runtime.ranks.agree.meeting import Meeting
from pipecut.runtime.ranks.agree.same_batches import SameBatches
from tests.chain import chain_modules, chain_rank, chain_worlds
from tests.plans import made_plan, made_stage, made_tensor


def plan_of(**evaluation: Any) -> Plan:
    """One stage with an output, which takes labels that nothing but a loss would need."""
    stage = made_stage(0, 1, outputs=[made_tensor("hidden")])
    labels = made_tensor("labels", shape=["batch"], dtype="int64", optional=True, needs_grad=False)
    inputs = [made_tensor("x", needs_grad=False), labels]
    return made_plan(1, stages=[stage], inputs=inputs, evaluation=EvaluationOfPlan(**evaluation))


def evaluation_of(plan: Plan) -> tuple[Evaluation, Any]:
    """The evaluation, and its model, which counts how often it was refreshed."""
    (world,) = chain_worlds(plan)
    rank = chain_rank(plan, world)
    model = SimpleNamespace(world=world, modules=rank.modules, masters=None, refreshed=0)

    def refresh() -> None:
        model.refreshed += 1

    def train(mode: bool) -> None:
        rank.modules[0].train(mode)

    model.refresh, model.train = refresh, train
    same_batches = SameBatches(Meeting(0, 1), world.status)
    return Evaluation(plan, model, rank.engine, same_batches), model


def batch_of(count: int) -> dict[str, torch.Tensor]:
    return {
        "x": torch.linspace(-1, 1, 4 * count).view(count, 4),
        "labels": torch.zeros(count).long(),
    }


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_the_loss_of_any_batch_is_the_unsplit_models(count: int) -> None:
    plan = plan_of()
    evaluation, model = evaluation_of(plan)
    batch = batch_of(count)
    (expected,) = chain_modules(plan)[0](batch["x"])
    with torch.no_grad():
        torch.testing.assert_close(evaluation.loss(batch), expected.detach())
    assert model.refreshed == 1 and model.world.status.state is State.BETWEEN


def test_outputs_are_joined_and_labels_may_be_missing() -> None:
    plan = plan_of()
    evaluation, _ = evaluation_of(plan)
    batch = batch_of(7)
    with torch.no_grad():
        outputs = evaluation.predict({"x": batch["x"]}, everywhere=True)
        expected = torch.tanh(chain_modules(plan)[0].layers["0"](batch["x"]))
    torch.testing.assert_close(outputs["hidden"], expected)
    assert set(batch) == {"x", "labels"}


def test_a_call_adds_nothing_to_the_users_batch() -> None:
    evaluation, _ = evaluation_of(plan_of())
    batch = {"x": torch.rand(2, 4)}
    with torch.no_grad():
        evaluation.predict(batch, everywhere=False)
    assert set(batch) == {"x"}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_as_it_was_even_after_an_error(training: bool) -> None:
    evaluation, model = evaluation_of(plan_of())
    model.train(training)
    modes = []
    model.modules[0].register_forward_hook(lambda module, *_: modes.append(module.training))
    with torch.no_grad():
        evaluation.loss(batch_of(2))
        model.modules[0].forward = lambda *_: 1 / 0
        with pytest.raises(RunError, match="division by zero"):
            evaluation.loss(batch_of(2))
    assert modes == [False] and model.modules[0].training == training


def test_random_numbers_of_the_training_go_on() -> None:
    evaluation, model = evaluation_of(plan_of())

    def draw(*_: object) -> None:
        torch.rand(3)

    model.modules[0].register_forward_hook(draw)
    state = torch.get_rng_state()
    with torch.no_grad():
        evaluation.loss(batch_of(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_be_evaluated_says_why() -> None:
    refused, _ = evaluation_of(plan_of(refused="a layer draws numbers"))
    for call in (refused.loss, lambda batch: refused.predict(batch, everywhere=False)):
        with pytest.raises(RunError, match="rank 0: the plan only trains: a layer draws numbers"):
            call(batch_of(2))
    without_loss, _ = evaluation_of(plan_of(loss=False))
    with pytest.raises(RunError, match="no loss in eval mode; ask for its outputs with predict"):
        without_loss.loss(batch_of(2))


def test_a_model_without_outputs_has_nothing_to_predict() -> None:
    plan = made_plan(1, evaluation=EvaluationOfPlan(left_out={"cache": "it is no tensor"}))
    evaluation, _ = evaluation_of(plan)
    with pytest.raises(
        RunError, match="nothing to predict; 'cache' cannot be handed out: it is no tensor"
    ):
        evaluation.predict({"x": torch.rand(2, 4)}, everywhere=False)


def test_lists_whose_microbatches_may_be_reordered_are_not_predicted() -> None:
    evaluation, _ = evaluation_of(plan_of())
    with pytest.raises(RunError, match="rank 0: x of a batch to predict is a list; outputs keep"):
        evaluation.predict({"x": [torch.rand(2, 4), torch.rand(1, 4)]}, everywhere=False)  # type: ignore[dict-item]


def test_left_out_outputs_say_why_where_they_are_asked_for() -> None:
    evaluation, _ = evaluation_of(plan_of(left_out={"cache": "it is no tensor"}))
    with torch.no_grad():
        outputs = evaluation.predict({"x": torch.rand(2, 4)}, everywhere=False)
    with pytest.raises(Exception, match="it is no tensor"):
        outputs["cache"]


def test_outputs_of_many_batches_are_concatenated() -> None:
    plan = plan_of()
    evaluation, _ = evaluation_of(plan)
    batches = [batch_of(count) for count in (8, 8, 3)]
    outputs = evaluation.predict_all(({"x": batch["x"]} for batch in batches), everywhere=True)
    alone = [evaluation.predict({"x": batch["x"]}, everywhere=True) for batch in batches]
    together = torch.cat([output["hidden"] for output in alone])
    assert torch.equal(outputs["hidden"], together)
    assert outputs["hidden"].shape == (19, 4)
    with pytest.raises(RunError, match="there is no batch to predict"):
        evaluation.predict_all([], everywhere=True)
