"""A choice -> explain.json."""

from pipecut.compiler.search.search import Chosen
from pipecut.compiler.search.trial import Trial
from pipecut.plan.schema.explanation import Explanation, LimitPrice, TriedCandidate


def explanation_of(choice: Chosen) -> Explanation | None:
    """What the search knows of its candidates and limits; None where nothing was compared."""
    if not choice.trials:
        return None
    return Explanation(
        candidates=tuple(_candidate(trial, choice) for trial in choice.trials),
        limits=tuple(
            LimitPrice(limit=row.limit, step_seconds=row.step_seconds)
            for row in choice.sensitivities
        ),
    )


def _candidate(trial: Trial, choice: Chosen) -> TriedCandidate:
    sizes = trial.candidate
    return TriedCandidate(
        stages=sizes.stages,
        replicas=sizes.replicas,
        microbatch=sizes.microbatch,
        microbatches=sizes.microbatches,
        schedule=sizes.schedule,
        step_seconds=trial.step_seconds,
        bubble=trial.bubble,
        recomputing=trial.recomputing,
        chosen=sizes == choice.sizes,
        why=trial.why,
    )
