"""The candidates of a search, and what its limits cost, as tables for people."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from pipecut.compiler.search.trial import Sensitivity, Trial
from pipecut.quantities import counted, show_seconds

# More candidates than this say nothing new.
MOST_SHOWN = 40
# A step that gets shorter by less is no shorter: predictions are not that exact.
LEAST_GAIN = 5e-4
COLUMNS = (
    *("stages", "replicas", "microbatch", "microbatches", "schedule"),
    *("step", "bubble", "recomputing", "why"),
)


def print_explained(
    trials: Sequence[Trial], sensitivities: Sequence[Sensitivity], console: Console
) -> None:
    """The best candidate first and why each other lost; then what looser limits would give."""
    table = Table(*COLUMNS, title="candidates")
    best = trials[0]
    for trial in trials[:MOST_SHOWN]:
        table.add_row(*_sizes(trial), *_outcome(trial, best))
    console.print(table)
    if len(trials) > MOST_SHOWN:
        console.print(f"and {len(trials) - MOST_SHOWN} more, none better")
    for sensitivity in sensitivities:
        console.print(_effect(sensitivity, best.step_seconds))


def _sizes(trial: Trial) -> tuple[str, ...]:
    candidate = trial.candidate
    return (
        str(candidate.stages),
        str(candidate.replicas),
        str(candidate.microbatch),
        str(candidate.microbatches),
        candidate.schedule,
    )


def _outcome(trial: Trial, best: Trial) -> tuple[str, str, str, str]:
    """Step, bubble, recomputing stages, and how the step compares with the best one's."""
    if trial.step_seconds is None or best.step_seconds is None:
        return "", "", "", trial.why
    ratio = trial.step_seconds / best.step_seconds
    if ratio < 1:
        compared = f"{1 - ratio:.1%} faster: no more than its prediction may be off"
    else:
        compared = "chosen" if trial is best else f"{ratio - 1:.1%} slower"
    recomputing = counted(trial.recomputing, "stage") if trial.recomputing else ""
    return show_seconds(trial.step_seconds), f"{trial.bubble:.0%}", recomputing, compared


def _effect(sensitivity: Sensitivity, best_seconds: float | None) -> str:
    """How much shorter the step would be without a limit."""
    if sensitivity.step_seconds is None or best_seconds is None:
        return str(sensitivity)
    gain = 1 - sensitivity.step_seconds / best_seconds
    effect = f"{gain:.1%} shorter" if gain > LEAST_GAIN else "no shorter"
    return f"{sensitivity}, {effect}"
