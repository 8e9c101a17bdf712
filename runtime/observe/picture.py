"""A predicted step as a picture, one row per rank; below it each rank's memory over the step."""

from pathlib import Path
from typing import Any

from pipecut.errors import UserFileError
from pipecut.plan.actions import kind_of, microbatch_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.replay.memory import memory_over_time
from pipecut.plan.replay.simulate import Event, Timeline

# Colour and meaning of what fills a rank's row.
KINDS = {
    "F": ("#4c78a8", "forward"),
    "B": ("#f58518", "backward"),
    "I": ("#f58518", "gradients of inputs"),
    "W": ("#b279a2", "gradients of weights"),
    "REDUCE": ("#54a24b", "sum of gradients"),
}
# With more ranks, or more events, than these there is no space for their names.
MOST_NAMED_RANKS, MOST_NAMED_EVENTS = 8, 400


def draw(path: Path, folder: PlanFolder, timeline: Timeline) -> None:
    """Write a PNG. Raises UserFileError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserFileError(
            "--png needs matplotlib, which is not installed: pip install 'pipecut[pictures]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    ranks = 1 + max((event.rank for event in timeline.events), default=0)
    figure, (rows, memory) = pyplot.subplots(
        2,
        sharex=True,
        figsize=(12, 3.4 + 0.4 * ranks),
        height_ratios=(0.6 + 0.4 * ranks, 2.2),
        layout="constrained",
    )
    _draw_rows(rows, ranks, timeline)
    _draw_memory(memory, folder, timeline)
    step = f"predicted step {timeline.step_seconds * 1e3:.1f} ms, bubble {timeline.bubble:.0%}"
    rows.set_title(f"{folder.plan.schedule}, {step}")
    labels = rows.get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _draw_rows(axes: Any, ranks: int, timeline: Timeline) -> None:
    for kind, (colour, meaning) in KINDS.items():
        events = [event for event in timeline.events if kind_of(event.action) == kind]
        for event in events:
            width = (event.end - event.start) * 1e3
            begin = event.start * 1e3
            axes.barh(event.rank, width, left=begin, color=colour, edgecolor="white")
            if len(timeline.events) < MOST_NAMED_EVENTS:
                _write_microbatch(axes, event)
        if events:
            # A bar without width, for the legend.
            axes.barh(0, 0, color=colour, label=meaning)
    axes.set_yticks(range(ranks), [f"rank {rank}" for rank in range(ranks)])
    axes.invert_yaxis()


def _write_microbatch(axes: Any, event: Event) -> None:
    microbatch = microbatch_of(event.action)
    if microbatch is not None:
        middle = (event.start + event.end) / 2 * 1e3
        centred = {"ha": "center", "va": "center"}
        axes.text(middle, event.rank, str(microbatch), fontsize=7, color="white", **centred)


def _draw_memory(axes: Any, folder: PlanFolder, timeline: Timeline) -> None:
    curves = memory_over_time(folder, timeline)
    for rank, curve in enumerate(curves):
        seconds, sizes = [p.seconds * 1e3 for p in curve], [p.bytes / 2**20 for p in curve]
        axes.step(seconds, sizes, where="post", label=f"rank {rank}", linewidth=1)
    axes.set_ylabel("MiB")
    axes.set_ylim(0)
    axes.set_xlabel("ms")
    if len(curves) <= MOST_NAMED_RANKS:
        axes.legend(loc="upper right", frameon=False, ncols=4, fontsize=8)
