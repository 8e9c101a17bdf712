"""All that a page shows, as one value: the JSON in it is this value, key by key.

`pipecut.view(name, {title, render(root, data)})` in a script registers a view. `data` is the whole
page's data, from which a view reads `data.plan` and what stands under its own name; a view whose
part is null is not shown. A new view is a dataclass with a function that makes it, a field here, a
script in assets/, and a line of SCRIPTS in page.py.

Seconds and bytes are plain numbers, seconds rounded to 9 digits.
"""

from dataclasses import dataclass

from pipecut.view.diff import Diff, diff_of
from pipecut.view.facts import PlanFacts, facts_of
from pipecut.view.memory import MemoryView, memory_of
from pipecut.view.overview import Overview, overview_of
from pipecut.view.sources import Sources
from pipecut.view.stages import StagesData, stages_of
from pipecut.view.timeline import StepView, timeline_of
from pipecut.view.why import Why, why_of


@dataclass(frozen=True)
class PageData:
    """`title` names the page, `plan` is what all views read; the other fields are a view's each."""

    title: str
    plan: PlanFacts
    overview: Overview
    stages: StagesData
    timeline: StepView
    memory: MemoryView
    why: Why
    diff: Diff | None


def page_data(sources: Sources) -> PageData:
    """What the page of a plan shows."""
    facts = facts_of(sources.plan)
    return PageData(
        title=f"{facts.model} on {facts.cluster}",
        plan=facts,
        overview=overview_of(sources),
        stages=stages_of(sources),
        timeline=timeline_of(sources),
        memory=memory_of(sources),
        why=why_of(sources),
        diff=diff_of(sources.folder, sources.other),
    )
