"""The tables of docs/families.md, from docs/families.jsonl."""

from collections import Counter
from collections.abc import Iterable

from benchmarks.families.outcome import Kind, Outcome, read_outcomes
from benchmarks.markdown import in_a_cell, markdown_table

# Longest message in a table; what follows a message's first lines is where it is from.
LONGEST = 400
WORST_FIRST = list(Kind)[::-1]
# What is asked of the zoo: so many exact models, and CPU seconds of the slowest compile.
LEAST_EXACT, MOST_SECONDS = 200, 60.0


def counts(outcomes: Iterable[Outcome]) -> str:
    """How many ended how."""
    models = list(outcomes)
    numbers = Counter(outcome.kind for outcome in models)
    bitwise = sum(o.kind is Kind.EXACT and o.difference == 0 for o in models)
    rows = []
    for kind in Kind:
        if numbers[kind]:
            of_these = f", {bitwise} of them bitwise" if kind is Kind.EXACT else ""
            rows.append((f"{kind}{of_these}", str(numbers[kind])))
    return markdown_table(("outcome", "models"), [*rows, ("all", str(len(models)))])


def bar(outcomes: Iterable[Outcome]) -> str:
    """What is asked of these models, and what they do."""
    models = list(outcomes)
    numbers = Counter(outcome.kind for outcome in models)
    slowest = max(models, key=lambda outcome: outcome.seconds or 0.0)
    rows = [
        ("exact", f"at least {LEAST_EXACT}", str(numbers[Kind.EXACT])),
        *(
            (str(kind), "0", str(numbers[kind]))
            for kind in (Kind.INEXACT, Kind.FAILED, Kind.TIMEOUT)
        ),
        (
            "CPU seconds of the slowest compile",
            f"at most {MOST_SECONDS:.0f}",
            f"{slowest.seconds or 0.0:.0f} (`{slowest.name}`)",
        ),
    ]
    return markdown_table(("of the models", "asked", "measured"), rows)


def exact(outcomes: Iterable[Outcome]) -> str:
    """How far each exact model is from the unsplit one."""
    rows = [
        (f"`{outcome.name}`", str(outcome), f"{outcome.seconds:.0f}")
        for outcome in _by_name(outcomes)
        if outcome.kind is Kind.EXACT
    ]
    return markdown_table(("model", "largest difference", "CPU seconds to compile"), rows)


def others(outcomes: Iterable[Outcome]) -> str:
    """What was said of each other model."""
    rows = [
        (f"`{outcome.name}`", outcome.kind, _shortened(outcome.reason))
        for outcome in sorted(_by_name(outcomes), key=lambda model: WORST_FIRST.index(model.kind))
        if outcome.kind is not Kind.EXACT
    ]
    return markdown_table(("model", "outcome", "what it says"), rows)


def made_of(outcomes: Iterable[Outcome]) -> str:
    """The code and the libraries that the models ran with."""
    models = list(outcomes)
    commits = Counter(outcome.commit for outcome in models)
    rows = [("pipecut", commit, str(commits[commit])) for commit in sorted(commits)]
    versions = Counter(pair for outcome in models for pair in outcome.libraries.items())
    rows += [(name, v, str(versions[name, v])) for name, v in sorted(versions)]
    return markdown_table(("of", "version", "models"), rows)


def _by_name(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.name)


def _shortened(text: str) -> str:
    line = in_a_cell(text)
    return line if len(line) <= LONGEST else line[:LONGEST].rsplit(" ", 1)[0] + " ..."


TABLES = {
    "families_bar": lambda _: bar(read_outcomes().values()),
    "families_counts": lambda _: counts(read_outcomes().values()),
    "families_exact": lambda _: exact(read_outcomes().values()),
    "families_others": lambda _: others(read_outcomes().values()),
    "families_made_of": lambda _: made_of(read_outcomes().values()),
}
