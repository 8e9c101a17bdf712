"""A stage runs once on zeros before its first step, without lasting effect."""

import logging

import pytest
import torch

from pipecut.plan.schema import Plan
from pipecut.runtime.engine.warm import needs_warming, warm
from pipecut.runtime.gradients.masters import Masters
from pipecut.runtime.gradients.parameters import parameters_of
from tests.chain import CPU, Multiply, chain_modules
from tests.plans import made_plan


def warmed(plan: Plan, training: bool = True) -> dict[int, Multiply]:
    modules = chain_modules(plan)
    masters = Masters([p for module in modules.values() for p in parameters_of(module)])
    warm(plan, plan.stages, dict(modules), masters, CPU, training)
    return modules


@pytest.mark.parametrize("training", [True, False])
def test_every_compiled_stage_runs_once_and_nothing_stays(training: bool) -> None:
    random = torch.get_rng_state()
    plan = made_plan(3, compile="inductor")
    modules = chain_modules(plan)
    random = torch.get_rng_state()
    masters = Masters([p for module in modules.values() for p in parameters_of(module)])
    warm(plan, plan.stages, dict(modules), masters, CPU, training)
    assert [module.calls for module in modules.values()] == [1, 1, 1]
    assert all(p.grad is None for module in modules.values() for p in module.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_eager_stages_on_a_cpu_have_nothing_to_set_up() -> None:
    assert not needs_warming(made_plan(1), CPU) and needs_warming(
        made_plan(1, compile="inductor"), CPU
    )
    assert warmed(made_plan(1))[0].calls == 0


def test_a_stage_that_cannot_run_on_zeros_is_left_with_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no zeros here")

    monkeypatch.setattr(Multiply, "forward", fail)
    with caplog.at_level(logging.WARNING):
        warmed(made_plan(1, compile="inductor"))
    assert "stage 0 could not run on zeros before its first step: no zeros here" in caplog.text
