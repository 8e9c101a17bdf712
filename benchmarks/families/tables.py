"""The tables of docs/families.md, from docs/families.jsonl."""

from collections import Counter
from collections.abc import Iterable

from benchmarks.families.outcome import Kind, Outcome, read_outcomes

# Longest message in a table; what follows a message's first lines is where it is from.
LONGEST = 400
WORST_FIRST = list(Kind)[::-1]


def counts(outcomes: Iterable[Outcome]) -> str:
    """How many ended how."""
    models = list(outcomes)
    numbers = Counter(outcome.kind for outcome in models)
    bitwise = sum(o.kind is Kind.EXACT and o.difference == 0 for o in models)
    lines = ["| outcome | models |", "|---|---|"]
    for kind in Kind:
        if numbers[kind]:
            of_these = f", {bitwise} of them bitwise" if kind is Kind.EXACT else ""
            lines.append(f"| {kind}{of_these} | {numbers[kind]} |")
    return "\n".join([*lines, f"| all | {len(models)} |"])


def exact(outcomes: Iterable[Outcome]) -> str:
    """How far each exact model is from the unsplit one."""
    lines = ["| model | largest difference | CPU seconds to compile |", "|---|---|---|"]
    lines += [
        f"| `{outcome.name}` | {outcome} | {outcome.seconds:.0f} |"
        for outcome in _by_name(outcomes)
        if outcome.kind is Kind.EXACT
    ]
    return "\n".join(lines)


def others(outcomes: Iterable[Outcome]) -> str:
    """What was said of each other model."""
    lines = ["| model | outcome | what it says |", "|---|---|---|"]
    lines += [
        f"| `{outcome.name}` | {outcome.kind} | {_in_a_cell(outcome.reason)} |"
        for outcome in sorted(_by_name(outcomes), key=lambda model: WORST_FIRST.index(model.kind))
        if outcome.kind is not Kind.EXACT
    ]
    return "\n".join(lines)


def made_of(outcomes: Iterable[Outcome]) -> str:
    """The code and the libraries that the models ran with."""
    models = list(outcomes)
    lines = ["| of | version | models |", "|---|---|---|"]
    commits = Counter(outcome.commit for outcome in models)
    lines += [f"| pipecut | {commit} | {commits[commit]} |" for commit in sorted(commits)]
    versions = Counter(pair for outcome in models for pair in outcome.libraries.items())
    lines += [f"| {name} | {v} | {versions[name, v]} |" for name, v in sorted(versions)]
    return "\n".join(lines)


def _by_name(outcomes: Iterable[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=lambda outcome: outcome.name)


def _in_a_cell(text: str) -> str:
    line = " ".join(text.replace("|", " ").replace("<", "&lt;").split())
    return line if len(line) <= LONGEST else line[:LONGEST].rsplit(" ", 1)[0] + " ..."


TABLES = {
    "families_counts": lambda _: counts(read_outcomes().values()),
    "families_exact": lambda _: exact(read_outcomes().values()),
    "families_others": lambda _: others(read_outcomes().values()),
    "families_made_of": lambda _: made_of(read_outcomes().values()),
}
