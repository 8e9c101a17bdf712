"""Whether the batches take the way through the model that the plan was made for.

A stage hands out the booleans by which the model chooses. They stay on the device, and are read
once for all microbatches of a step, before anything is done with its gradients.
"""

import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from pipecut.errors import OtherWayError, PipecutError, RunError
from pipecut.plan.schema import Plan, Stage, ValueCheck
from pipecut.runtime.health.rank_errors import naming_errors
from pipecut.runtime.ranks.world import World


@dataclass
class StageChecks:
    """A stage's answers in a step, by microbatch: each a dictionary that its forward fills."""

    stage: Stage
    answers: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def wanted(self, microbatch: int) -> dict[str, dict[str, torch.Tensor]]:
        """What to pass to a forward so that it hands out its answers; they replace earlier ones."""
        if not self.stage.checks:
            return {}
        self.answers[microbatch] = {}
        return {"checks": self.answers[microbatch]}

    def wrong(self, ignored: Collection[str] = ()) -> torch.Tensor | None:
        """Of each check that no ignored input goes into and each microbatch, whether it fails.

        [checks, microbatches] on the stage's device; None where there are none. Raises RunError.
        """
        checks = self._checks(ignored) if self.answers else []
        lacking = [c.value for c in checks if any(c.value not in a for a in self.answers.values())]
        if lacking:
            raise RunError(
                f"{self.stage.file} does not hand out '{lacking[0]}', by which the model chooses; "
                "compile again"
            )
        rows = [
            torch.stack([answers[check.value] for answers in self.answers.values()]) != check.answer
            for check in checks
        ]
        return torch.stack(rows) if rows else None

    def first_wrong(
        self, wrong: torch.Tensor, ignored: Collection[str] = ()
    ) -> tuple[int, ValueCheck]:
        """The first microbatch where a check fails, and the check."""
        check, at = wrong.nonzero()[0].tolist()
        return list(self.answers)[at], self._checks(ignored)[check]

    def already_wrong(self) -> ValueCheck | None:
        """A check that fails, in a step that did not come to its end."""
        try:
            return next(
                (
                    check
                    for answers in self.answers.values()
                    for check in self.stage.checks
                    if check.value in answers and bool(answers[check.value]) != check.answer
                ),
                None,
            )
        except RuntimeError:
            # The device itself failed.
            return None

    def _checks(self, ignored: Collection[str]) -> list[ValueCheck]:
        return [c for c in self.stage.checks if set(c.inputs).isdisjoint(ignored)]


@contextmanager
def telling_other_way(rank: int, stages: Sequence[StageChecks]) -> Iterator[None]:
    """Around a step. Where it fails after a wrong answer on this rank, that is likely to be why."""
    try:
        yield
    except PipecutError as error:
        for checks in stages:
            failing = checks.already_wrong()
            if failing is not None:
                stage = checks.stage.index
                text = f"rank {rank} on {socket.gethostname()}, stage {stage}: {other_way(failing)}"
                raise RunError(text) from error
        raise


def refuse_other_way(
    plan: Plan,
    world: World,
    stages: Sequence[StageChecks],
    subject: str,
    ignored: Collection[str] = (),
) -> None:
    """Compare the answers of all ranks with the plan's; those of `ignored` inputs are not asked.

    `subject` names the batch in messages. Raises OtherWayError with one message on every rank.
    """
    if not any(stage.checks for stage in plan.stages):
        return
    wrong = {checks.stage.index: checks.wrong(ignored) for checks in stages}
    failing = [rows.any() for rows in wrong.values() if rows is not None]
    fails = torch.stack(failing).any() if failing else torch.zeros((), device=world.device)
    fails = fails.to(torch.int32)
    if world.size > 1:
        with naming_errors(f"rank {world.rank}, comparing how the batch goes through the model"):
            dist.all_reduce(fails, op=dist.ReduceOp.MAX)
    if not fails.item():
        return
    texts = [
        _message(world, checks, *checks.first_wrong(rows, ignored), subject)
        for checks in stages
        if (rows := wrong[checks.stage.index]) is not None and rows.any()
    ]
    raise OtherWayError(world.meeting.first_text(subject, texts[0] if texts else ""))


def other_way(check: ValueCheck) -> str:
    """What a check that fails says, with a remedy."""
    remedy = (
        "the model itself raises an error for such a batch: see that line"
        if check.only_raises
        else "compile with inputs whose example batch is like this one, keep such batches out, or "
        "write the choice with torch.where"
    )
    return (
        f"the plan was made for batches where {check.condition} is {check.answer} "
        f"({check.source}); this one has {not check.answer}; {remedy}"
    )


def _message(
    world: World, checks: StageChecks, microbatch: int, check: ValueCheck, subject: str
) -> str:
    return (
        f"rank {world.rank} on {socket.gethostname()}, stage {checks.stage.index}, "
        f"microbatch {microbatch} of {subject}: {other_way(check)}"
    )
