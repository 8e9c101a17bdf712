"""A predicted step as a picture: a row for each rank, forward, backward and sums of gradients in their own colours."""

from pathlib import Path

from pipecut.errors import UserFileError
from pipecut.runtime.plan import Plan
from pipecut.runtime.simulate import Timeline

COLOURS = {"F": "#4c78a8", "B": "#f58518", "REDUCE": "#54a24b"}


def draw(path: Path, plan: Plan, timeline: Timeline) -> None:
    """Write a PNG. Raises UserFileError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserFileError("--png needs matplotlib, which is not installed: pip install 'pipecut[pictures]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = 1 + max((event.rank for event in timeline.events), default=0)
    figure, axes = pyplot.subplots(figsize=(12, 1.2 + 0.4 * rows), layout="constrained")
    for kind, colour in COLOURS.items():
        own = [event for event in timeline.events if event.action.kind == kind]
        for event in own:
            axes.barh(event.rank, (event.end - event.start) * 1e3, left=event.start * 1e3, color=colour, edgecolor="white")
            if len(timeline.events) < 400 and kind != "REDUCE":
                middle = (event.start + event.end) / 2 * 1e3
                axes.text(middle, event.rank, str(event.action.microbatch), ha="center", va="center", fontsize=7, color="white")
        if own:
            axes.barh(0, 0, color=colour, label={"F": "forward", "B": "backward", "REDUCE": "sum of gradients"}[kind])
    axes.set_yticks(range(rows), [f"rank {rank}" for rank in range(rows)])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.set_title(f"{plan.schedule}, predicted step {timeline.step_seconds * 1e3:.1f} ms, bubble {timeline.bubble:.0%}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
