"""What a checkpoint must share with the plan, and what may differ and is reported."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from pipecut.errors import CheckpointError, OtherTrainingError
from pipecut.plan.schema import StageTensor
from pipecut.runtime.checkpoint.manifest import Group, Manifest, TrainingState
from pipecut.runtime.checkpoint.resume import (
    changes,
    recipe_of,
    refuse_diverged,
    refuse_other_model,
    refuse_other_optimizer,
)
from tests.checkpoints import about
from tests.plans import made_plan, made_stage

WEIGHTS = {f"parameter/layers.{index}.weight": "rank_0.safetensors" for index in range(2)}
ADAM = torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])


def saved(**fields: Any) -> Manifest:
    recipe = recipe_of(made_plan(), ADAM, {"kind": "adam", "data": "models:data", "clip": 0.5})
    model = {"factory": "models:build", "args": {}}
    usual = {"model": model, "tensors": WEIGHTS, "training": TrainingState(ranks=1, recipe=recipe)}
    return about(3, groups=[Group({}, [])], **{**usual, **fields})


def test_the_same_training_has_nothing_to_report() -> None:
    refuse_other_model("here", made_plan(), saved())
    refuse_other_optimizer("here", saved(), ADAM, "adam")
    more = {"kind": "adam", "data": "models:data", "clip": 0.5}
    assert changes(saved(), made_plan(), more) == []


@pytest.mark.parametrize(
    ("tensors", "difference"),
    [
        ({**WEIGHTS, "parameter/head": "f"}, "has parameter head, which the model of .* has not"),
        ({}, r"has no parameter layers.0.weight and 1 more, which the model of models:build has"),
        ({**WEIGHTS, "buffer/mean": "f"}, "has buffer mean, which"),
    ],
)
def test_another_model_is_refused(tensors: dict[str, str], difference: str) -> None:
    with pytest.raises(OtherTrainingError, match=f"^here is of another model, .*{difference}"):
        refuse_other_model("here", made_plan(), saved(tensors=tensors))


def test_optimizer_states_and_random_numbers_are_no_part_of_the_model() -> None:
    more = {"optimizer/exp_avg/layers.0.weight": "f", "random/0": "f"}
    refuse_other_model("here", made_plan(), saved(tensors={**WEIGHTS, **more}))


def test_buffers_that_are_stored_nowhere_are_not_missed() -> None:
    mask = StageTensor(names=["mask"], shape=[1], dtype="float32", persistent=False)
    count = StageTensor(names=["count"], shape=[], dtype="float32", persistent=False, written=True)
    stages = [made_stage(0, 2, buffers=[mask]), made_stage(1, 2)]
    refuse_other_model("here", made_plan(stages=stages), saved())
    stages = [made_stage(0, 2, buffers=[count]), made_stage(1, 2)]
    with pytest.raises(OtherTrainingError, match="has no buffer count"):
        refuse_other_model("here", made_plan(stages=stages), saved())


def test_another_optimizer_is_refused() -> None:
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(OtherTrainingError, match="with the optimizer Adam, this one has SGD"):
        refuse_other_optimizer("here", saved(), sgd, None)
    with pytest.raises(OtherTrainingError, match="with the optimizer adam, this one has adamw"):
        refuse_other_optimizer("here", saved(), ADAM, "adamw")
    refuse_other_optimizer("here", saved(training=TrainingState(ranks=1)), sgd, "sgd")


def test_other_parameter_groups_are_refused() -> None:
    groups = [Group({}, []), Group({}, [])]
    with pytest.raises(OtherTrainingError, match="has 1 parameter groups, the checkpoint 2"):
        refuse_other_optimizer("here", replace(saved(), groups=groups), ADAM, "adam")


def test_a_diverged_training_is_refused() -> None:
    refuse_diverged("here", saved())
    with pytest.raises(CheckpointError, match="^here has values .* diverged; move it out"):
        refuse_diverged("here", saved(finite=False))


def test_what_may_differ_is_reported() -> None:
    model = made_plan().model.model_copy(update={"seed": 5, "args": {"depth": 2}})
    current = {"kind": "adam", "data": None, "clip": 0.5}
    assert changes(saved(), made_plan(model=model), current) == [
        "the factory's arguments is {'depth': 2}, it was {} when the checkpoint was written",
        "seed is 5, it was 0 when the checkpoint was written",
        "--data is not given, it was models:data when the checkpoint was written",
    ]


def test_a_users_own_loop_reports_nothing_that_it_does_not_set() -> None:
    assert changes(saved(), made_plan(), {}) == []
