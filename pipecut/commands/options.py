"""Options of the commands, with their help; those of a run are in pipecut/run_options.py."""

from pathlib import Path
from typing import Annotated

import typer

from pipecut.device.types import TYPE_NAMES

# A size that `pipecut compile` takes as a number or as auto.
Size = str | None

PlanArgument = Annotated[Path, typer.Argument(help="A plan folder, made by pipecut compile.")]
JobArgument = Annotated[
    Path, typer.Argument(help="The job file: model, inputs, batch, optimizer (docs/job.md).")
]
CompiledJobArgument = Annotated[
    Path | None,
    typer.Argument(
        help="The job file: model, inputs, batch, optimizer (docs/job.md). None with --model."
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="In place of a job file: a Hugging Face folder, with its weights, or a config.json.",
    ),
]
SequenceOption = Annotated[
    int | None, typer.Option("--sequence", min=1, help="With --model: tokens of a sample.")
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", min=1, help="With --model: samples per step.")
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the code of a plan that was not compiled here, now and later."
    ),
]
ClusterOption = Annotated[
    str,
    typer.Option(
        "--cluster", help="A cluster file, a name of pipecut specs, or auto: this machine."
    ),
]
PlanOutput = Annotated[Path, typer.Option("-o", "--output", help="The plan folder to write.")]
PageOutput = Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", help="Also write the plan as one HTML page, as pipecut view does."),
]
ViewedRunOption = Annotated[
    Path | None,
    typer.Option(
        "--run", help="The report of a run of this plan: the file of pipecut run --report."
    ),
]
ViewedTraceOption = Annotated[
    Path | None,
    typer.Option("--trace", help="The trace of a run of this plan: that of pipecut run --trace."),
]
AgainstOption = Annotated[
    Path | None,
    typer.Option("--against", help="Another plan folder, to see what differs from it."),
]
StagesOption = Annotated[
    Size, typer.Option("--stages", help="Number of stages, or auto; default: one per device.")
]
DataParallelOption = Annotated[
    Size,
    typer.Option("--data-parallel", help="Replicas of each stage, or auto; default: the job's."),
]
MicrobatchOption = Annotated[
    Size, typer.Option("--microbatch", help="Samples per microbatch, or auto; default: the job's.")
]
MicrobatchesOption = Annotated[
    int | None,
    typer.Option("--microbatches", min=1, help="Microbatches per step, in place of --microbatch."),
]
ScheduleOption = Annotated[
    str | None,
    typer.Option("--schedule", help="A schedule of pipecut specs, or auto; default: the job's."),
]
StagesPerRankOption = Annotated[
    int | None,
    typer.Option(
        "--stages-per-rank",
        min=1,
        help="Stages on each device of the interleaved schedule; default: the job's.",
    ),
]
TrustTraceOption = Annotated[
    bool,
    typer.Option(
        "--trust-trace",
        help="Do not run the model beside its trace, which small models are refused by where they"
        " differ.",
    ),
]
LayoutOption = Annotated[
    str | None,
    typer.Option(
        "--layout",
        help="Megatron's layout in place of a search for the cut, such as 'Et*3|(tt|)*2tL'"
        " (docs/other-tools.md); '' for none in place of the job's.",
    ),
]
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain",
        help="Print every candidate, why it lost, and what more devices or memory would give.",
    ),
]
CostsOption = Annotated[
    str,
    typer.Option(
        "--costs",
        help="auto: measured where profiled, else estimated; roofline: estimated;"
        " profile: measured; measured:REPORT: those of a run's --report.",
    ),
]
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="SQLite file of measurements; default: $PIPECUT_PROFILE, or profile.sqlite in the"
        " user's cache folder.",
    ),
]
SolverOption = Annotated[str, typer.Option("--solver", help="highs or cbc.")]
TimeLimitOption = Annotated[
    float, typer.Option("--time-limit", min=0.1, help="Seconds for the solver.")
]
MeasuredDeviceOption = Annotated[
    str | None,
    typer.Option("--device", help=f"{TYPE_NAMES}; default: a GPU where there is one."),
]
ProfiledMicrobatchOption = Annotated[
    int | None,
    typer.Option("--microbatch", min=1, help="Samples per microbatch; default: the job's."),
]
BusyRanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        help="Processes that compute at the same time, as the ranks of a run do; default: 2 on a"
        " CPU, 1 on a GPU.",
    ),
]
CalibratedRanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks", min=1, help="Ranks that measure at the same time; default: one per GPU, or 2."
    ),
]
RestartsOption = Annotated[
    int | None,
    typer.Option(
        "--max-restarts",
        min=0,
        help="How often to continue after losing a rank; default: 0, or 1 with --on-failure.",
    ),
]
OnFailureOption = Annotated[
    str | None,
    typer.Option(
        "--on-failure",
        help="restart: the same plan; replan: a plan for the devices that remain.",
    ),
]
StallOption = Annotated[
    float | None,
    typer.Option(
        "--stall-timeout",
        min=1,
        help="Seconds without progress after which a rank is ended; default: 240.",
    ),
]
CommOption = Annotated[
    str | None,
    typer.Option(
        "--comm",
        help="direct: the maker and each user of a tensor send and receive it;"
        " relay: each stage passes it on to the next.",
    ),
]
TurnsOption = Annotated[
    int,
    typer.Option(
        "--stages-per-device",
        min=1,
        help="Stages on each device, which take turns (the interleaved schedule).",
    ),
]
OnnxClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", help="Of an ONNX model: the cluster whose devices it runs on."),
]
DimensionOption = Annotated[
    list[str] | None,
    typer.Option("--dim", help="Of an ONNX model: a symbolic dimension's size, as batch=8."),
]
