"""A plan as a table for people."""

from rich.console import Console
from rich.table import Table

from pipecut.compiler.inputs.units import show_bytes, show_seconds
from pipecut.plan.schema import Plan


def print_plan(plan: Plan, console: Console) -> None:
    """Stages, then the bottleneck, its bound and the gap, then the predicted step."""
    again = any(stage.recompute for stage in plan.stages)
    several = len(plan.stages) > plan.layout.pipeline_ranks
    table = Table(
        title=f"{plan.model.factory} on {plan.cluster}: {plan.schedule}, "
        f"{plan.microbatches} microbatches of {plan.batch.microbatch}"
        + (f", {plan.replicas} replicas" if plan.replicas > 1 else "")
    )
    for name, side in (
        ("stage", "right"),
        *((("rank", "right"),) if several else ()),
        ("device", "left"),
        ("modules covered", "left"),
        ("parameters", "right"),
        ("forward", "right"),
        ("backward", "right"),
        *((("recompute", "right"),) if again else ()),
        ("peak memory", "right"),
        ("sends", "right"),
    ):
        table.add_column(name, justify=side, overflow="fold")
    for stage in plan.stages:
        taken = stage.peak_bytes + stage.outside_bytes
        share = taken / max(stage.device_bytes, 1)
        table.add_row(
            str(stage.index),
            *((str(stage.pipeline_rank),) if several else ()),
            stage.device,
            ", ".join(stage.modules),
            f"{stage.parameter_count:,}",
            show_seconds(stage.forward_seconds),
            show_seconds(stage.backward_seconds),
            *(
                (f"+{show_seconds(stage.forward_seconds)}" if stage.recompute else "",)
                if again
                else ()
            ),
            f"{show_bytes(taken)} of {show_bytes(stage.device_bytes)} ({share:.0%})",
            show_bytes(stage.bytes_sent),
        )
    console.print(table)
    c = plan.certificate
    verdict = "proven optimal" if c.proven else f"gap {c.gap:.2%}"
    console.print(
        f"bottleneck {show_seconds(c.objective)} a microbatch, bound {show_seconds(c.bound)}, {verdict} "
        f"({c.solver}, {c.seconds:.1f} s)"
    )
    p = plan.prediction
    console.print(f"predicted step {show_seconds(p.step_seconds)}, bubble {p.bubble:.0%}")
    for tied in plan.tied:
        console.print(
            f"tied: {' = '.join(tied.names)} on stages {', '.join(map(str, tied.stages))}"
        )
    for note in plan.notes:
        console.print(f"note: {note}")
