"""Which stages, replicas, microbatch and schedule make the shortest step of the global batch.

Candidates are tried in the order of their bounds, until these are above the best step found.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipecut.compiler.candidate import Candidate
from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.schedules.registry import SCHEDULES
from pipecut.compiler.search.candidates import SEARCHED, candidates
from pipecut.compiler.search.sensitivity import sensitivities
from pipecut.compiler.search.sizes import SearchSpace
from pipecut.compiler.search.trial import Sensitivity, Setting, Trial, attempt, bounded
from pipecut.errors import InfeasibleError, UserFileError
from pipecut.quantities import show_seconds

Progress = Callable[[str], None]
# Other schedules fell short of their prediction by up to a tenth beside 1F1B
# (benchmarks/steps/engine.py).
MARGIN = 0.12
# Candidates that are named where none fits.
NAMED = 3


@dataclass(frozen=True)
class Chosen:
    """The chosen candidate; all trials, the best first, where there was something to compare.

    `sensitivities` are there where the choice was to be explained. `compared` is the number of
    candidates that sizes left open had.
    """

    sizes: Candidate
    trials: tuple[Trial, ...] = ()
    sensitivities: tuple[Sensitivity, ...] = ()

    compared: int = 0

    def __str__(self) -> str:
        """The chosen candidate, then a line for each trial and for each limit."""
        return "\n".join(map(str, (f"chosen: {self.sizes}", *self.trials, *self.sensitivities)))


def search(space: SearchSpace, setting: Setting, progress: Progress) -> tuple[Trial, ...]:
    """All candidates, the best first. Raises UserFileError when the space has none."""
    trials = _tried(_ordered(space, setting), setting, progress)
    best = _shortest(trials)
    if best is not None:
        trials += _other_schedules(space, best.candidate, setting, progress)
    return tuple(sorted(trials, key=_rank))


def choose(
    space: SearchSpace, setting: Setting, progress: Progress, explain: bool = False
) -> Chosen:
    """The best candidate, and what became of the others. Raises InfeasibleError where none fits.

    Of a space with nothing to decide it is the only one, whatever became of it: if it does not
    fit, the partitioner says what is the least that would.
    """
    trials = search(space, setting, progress) if explain or not space.fixed else ()
    sizes = candidates(space)[0] if space.fixed else _best(trials)
    limits = sensitivities(space, trials, setting, progress) if explain else ()
    return Chosen(sizes, trials, limits, 0 if space.fixed else len(trials))


def _best(trials: tuple[Trial, ...]) -> Candidate:
    if trials[0].step_seconds is None:
        reasons = "; ".join(f"{trial.candidate}: {trial.why}" for trial in trials[:NAMED])
        raise InfeasibleError(
            f"none of {len(trials)} candidates fits: {reasons}; give more devices, "
            "or a smaller model"
        )
    return trials[0].candidate


def _ordered(space: SearchSpace, setting: Setting) -> list[Trial]:
    trials = [bounded(setting, candidate) for candidate in candidates(space)]
    if not trials:
        raise UserFileError(
            f"no microbatch and number of replicas divide the global batch of {space.total} over "
            f"{space.devices} devices; change batch.global, or give data_parallel or "
            "batch.microbatch"
        )
    return sorted(trials, key=lambda trial: (trial.bound, trial.candidate.schedule))


def _tried(ordered: list[Trial], setting: Setting, progress: Progress) -> list[Trial]:
    trials: list[Trial] = []
    least = float("inf")
    for number, trial in enumerate(ordered, 1):
        if trial.bound >= least:
            trials.append(replace(trial, why=f"at best {show_seconds(trial.bound)}"))
            continue
        progress(f"trying {number} of {len(ordered)}: {trial.candidate}")
        trial = attempt(trial, setting)
        if trial.step_seconds is not None:
            least = min(least, trial.step_seconds)
        trials.append(trial)
    return trials


def _shortest(trials: list[Trial]) -> Trial | None:
    """The first of the shortest steps; None where no candidate was placed."""
    placed = [trial for trial in trials if trial.step_seconds is not None]
    return min(placed, key=lambda trial: trial.step_seconds or 0.0, default=None)


def _other_schedules(
    space: SearchSpace, sizes: Candidate, setting: Setting, progress: Progress
) -> list[Trial]:
    """The best sizes with the schedules that are not searched, where the schedule is open."""
    trials: list[Trial] = []
    if space.schedule is not AUTO or sizes.ranks == 1:
        return trials
    for name in SCHEDULES:
        candidate = _with_schedule(sizes, name, setting.job.spec.stages_per_rank)
        if name not in SEARCHED and space.stages in (AUTO, candidate.stages):
            progress(f"trying {candidate}")
            trials.append(attempt(bounded(setting, candidate), setting))
    return trials


def _with_schedule(sizes: Candidate, name: str, interleaved: int) -> Candidate:
    """The sizes on as many ranks with another schedule.

    `interleaved` is the job's stages_per_rank.
    """
    stages_per_rank = SCHEDULES[name].stages_per_rank or interleaved
    return replace(
        sizes,
        schedule=name,
        stages_per_rank=stages_per_rank,
        stages=sizes.ranks * stages_per_rank,
    )


def _rank(trial: Trial) -> tuple[bool, float, float]:
    """The shortest step first.

    A schedule that is not searched counts as longer by what it may fall short of its prediction.
    """
    margin = 1.0 if trial.candidate.schedule in SEARCHED else 1.0 + MARGIN
    return trial.step_seconds is None, (trial.step_seconds or 0.0) * margin, trial.bound
