"""A predicted step as a picture: a row for each rank, forward, backward and sums of gradients in their own colours.

Below it, each rank's memory over the step.
"""

from pathlib import Path

from pipecut.errors import UserFileError
from pipecut.plan.actions import kind_of, microbatch_of
from pipecut.plan.folder import PlanFolder
from pipecut.plan.memory import memory_curves
from pipecut.plan.simulate import Timeline

KINDS = {
    "F": ("#4c78a8", "forward"),
    "B": ("#f58518", "backward"),
    "I": ("#f58518", "gradients of inputs"),
    "W": ("#b279a2", "gradients of weights"),
    "REDUCE": ("#54a24b", "sum of gradients"),
}
# More ranks than these have no room for their names.
MOST_NAMED = 8


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

    rows = 1 + max((event.rank for event in timeline.events), default=0)
    figure, (axes, below) = pyplot.subplots(
        2,
        sharex=True,
        figsize=(12, 3.4 + 0.4 * rows),
        height_ratios=(0.6 + 0.4 * rows, 2.2),
        layout="constrained",
    )
    for kind, (colour, meaning) in KINDS.items():
        own = [event for event in timeline.events if kind_of(event.action) == kind]
        for event in own:
            axes.barh(
                event.rank,
                (event.end - event.start) * 1e3,
                left=event.start * 1e3,
                color=colour,
                edgecolor="white",
            )
            microbatch = microbatch_of(event.action)
            if len(timeline.events) < 400 and microbatch is not None:
                middle = (event.start + event.end) / 2 * 1e3
                axes.text(
                    middle,
                    event.rank,
                    str(microbatch),
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white",
                )
        if own:
            axes.barh(0, 0, color=colour, label=meaning)
    axes.set_yticks(range(rows), [f"rank {rank}" for rank in range(rows)])
    axes.invert_yaxis()
    for rank, curve in enumerate(memory_curves(folder, timeline)):
        seconds, sizes = [s * 1e3 for s, _ in curve], [size / 2**20 for _, size in curve]
        below.step(seconds, sizes, where="post", label=f"rank {rank}", linewidth=1)
    below.set_ylabel("MiB")
    below.set_ylim(0)
    if rows <= MOST_NAMED:
        below.legend(loc="upper right", frameon=False, ncols=4, fontsize=8)
    below.set_xlabel("ms")
    axes.set_title(
        f"{folder.plan.schedule}, predicted step {timeline.step_seconds * 1e3:.1f} ms, bubble {timeline.bubble:.0%}"
    )
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
