"""The command line. Imports what a command needs when it runs, so that --help is quick."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console

from pipecut.console import bar, console, count, one_of
from pipecut.end_at_signal import AskedToEnd, listen, say_stopped
from pipecut.errors import PipecutError, UserFileError

if TYPE_CHECKING:
    from pipecut.compiler.partition.problem import Comm
    from pipecut.plan.folder import PlanFolder

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
)
PROFILE_HELP = "SQLite file of measurements; by default $PIPECUT_PROFILE, or profile.sqlite in the user's cache folder."
PlanArgument = Annotated[Path, typer.Argument(help="A plan folder, as pipecut compile makes it.")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the code of a plan that was not compiled here, now and later."
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        import pipecut

        print(f"pipecut {pipecut.__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cut a PyTorch model into pipeline stages and train it: compile, look at the plan, verify, run."""


@app.command()
def compile(
    job: Annotated[Path, typer.Argument(help="The job file: model, inputs, batch, optimizer.")],
    cluster: Annotated[
        str, typer.Option(help="A cluster file, a name of `pipecut specs`, or auto: this machine.")
    ] = "auto",
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The plan folder to write.")
    ] = Path("plan"),
    stages: Annotated[
        str | None, typer.Option(help="Stages, or auto; by default one a device.")
    ] = None,
    data_parallel: Annotated[
        str | None, typer.Option(help="Replicas of each stage, or auto, over the job's.")
    ] = None,
    microbatch: Annotated[
        str | None, typer.Option(help="Samples a microbatch, or auto, over the job's.")
    ] = None,
    microbatches: Annotated[
        int | None, typer.Option(min=1, help="Microbatches a step, over the job's.")
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="gpipe, 1f1b, interleaved, zb-h1, v-shaped or auto, over the job's."),
    ] = None,
    stages_per_rank: Annotated[
        int | None, typer.Option(min=1, help="Stages on each device, interleaved, over the job's.")
    ] = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain", help="Print the candidates tried, and what more of each limit gives."
        ),
    ] = False,
    costs: Annotated[
        str,
        typer.Option(help="auto (measured where profiled), roofline, profile, or measured:REPORT."),
    ] = "auto",
    profile_file: Annotated[Path | None, typer.Option("--profile", help=PROFILE_HELP)] = None,
    solver: Annotated[str, typer.Option(help="highs or cbc.")] = "highs",
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds for the solver.")] = 30.0,
) -> None:
    """Trace, cost, partition, schedule, check; write a plan folder.

    Sizes that are auto, here or in the job file, are searched for the shortest step of the global batch.

    Examples: pipecut compile job.yaml --cluster hgx-h100 -o plan/ --stages 8

    pipecut compile job.yaml --cluster hgx-h100 --stages auto --data-parallel auto --microbatch auto --explain
    """
    from pipecut.compiler import Options, SizeOverrides, compile_and_explain
    from pipecut.compiler.partition.place import SolverOptions
    from pipecut.compiler.schedules.registry import SCHEDULES
    from pipecut.tables.plan import print_plan
    from pipecut.tables.search import print_explained

    one_of("--schedule", schedule, (*SCHEDULES, "auto"))
    one_of("--solver", solver, ("highs", "cbc"))
    if stages_per_rank is not None and schedule not in (None, "interleaved", "auto"):
        raise UserFileError(
            f"--stages-per-rank {stages_per_rank}: is for --schedule interleaved, and this is {schedule}"
        )
    if microbatch is not None and microbatches is not None:
        raise UserFileError("give --microbatch or --microbatches, not both")
    counts = (
        count("--stages", stages),
        count("--data-parallel", data_parallel),
        count("--microbatch", microbatch),
    )
    if not costs.startswith("measured:"):
        one_of("--costs", costs, ("auto", "roofline", "profile", "measured:REPORT"))
    options = Options(
        SizeOverrides(*counts, microbatches, schedule, stages_per_rank),
        explain,
        costs,
        profile_file,
        SolverOptions(solver, time_limit),
    )
    progress = Console(stderr=True)
    with progress.status("starting") as status:

        def tell(name: str) -> None:
            status.update(name)
            if not progress.is_terminal:
                progress.print(f"{name} ...")

        compiled = compile_and_explain(job, cluster, output, options, tell)
    if explain:
        print_explained(compiled.tried, compiled.prices, console)
    print_plan(compiled.folder.plan, console)
    console.print(
        f"plan written to {output}/; next: pipecut verify {output}, pipecut run {output} --steps 10"
    )


@app.command()
def profile(
    job: Annotated[Path, typer.Argument(help="The job file.")],
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default a GPU where there is one.")
    ] = None,
    microbatch: Annotated[
        int | None, typer.Option(min=1, help="Samples a microbatch, over the job's.")
    ] = None,
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes at work meanwhile; by default 2 on a CPU.")
    ] = None,
    profile_file: Annotated[Path | None, typer.Option("--profile", help=PROFILE_HELP)] = None,
) -> None:
    """Time a job's operators and layers on this machine, for compile to use; a second run measures only what is new.

    Example: pipecut profile job.yaml && pipecut compile job.yaml
    """
    import torch

    from pipecut.compiler import profile_job

    one_of("--device", device, ("cpu", "cuda"))
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with bar() as tell:
        found = profile_job(
            job, place, microbatch, profile_file, tell, ranks or (1 if place.type == "cuda" else 2)
        )
    console.print(f"{found.new} measured now, {found.known} known before")
    if found.failed:
        console.print(
            f"cannot run by themselves, part of their layer's time: {', '.join(found.failed)}"
        )
    side = "above" if found.overstated >= 0 else "below"
    console.print(
        f"single operators sum to {abs(found.overstated):.1%} {side} whole layers; plans use the layers' times"
    )


@app.command()
def calibrate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The cluster file to write.")
    ] = Path("cluster.yaml"),
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Ranks that measure at once; by default GPUs, or 2.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; by default a GPU where there is one.")
    ] = None,
) -> None:
    """Measure this machine - products, memory, messages between ranks, what each operator reaches - and write its cluster file.

    Example: pipecut calibrate --ranks 2 -o cluster.yaml
    """
    import torch

    from pipecut.calibrate.calibrate import calibrate as calibrate_machine

    one_of("--device", device, ("cpu", "cuda"))
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    beside = ranks or (max(1, torch.cuda.device_count()) if place == "cuda" else 2)
    with bar() as tell:
        link = calibrate_machine(beside, place, output, tell)
    if link is not None:
        console.print(
            f"messages: {link.latency * 1e6:.0f} us + bytes at {link.bandwidth / 1e9:.2f} GB/s; "
            f"the largest error of this fit is {link.residual:.0%}"
        )
    console.print(f"cluster written to {output}; next: pipecut compile JOB --cluster {output}")


@app.command()
def solve(
    graph: Annotated[
        Path,
        typer.Argument(
            help="A costed graph: the published placement format, or a plan's graph.json."
        ),
    ],
    devices: Annotated[int | None, typer.Option(min=1, help="Devices, over the file's.")] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory of each: 16GiB, or bytes; over the file's.")
    ] = None,
    comm: Annotated[
        str | None,
        typer.Option(help="direct: a tensor costs its maker and each user; relay: each boundary."),
    ] = None,
    each: Annotated[
        int,
        typer.Option(
            "--stages-per-device",
            min=1,
            help="Stages on each device, in turns of one (interleaving).",
        ),
    ] = 1,
    time_limit: Annotated[float, typer.Option(min=0.1, help="Seconds for the solver.")] = 25.0,
    gap: Annotated[float, typer.Option(min=0.0, help="Relative gap at which to stop.")] = 1e-7,
    solver: Annotated[str, typer.Option(help="highs or cbc.")] = "highs",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Partition a costed graph without any model, and say what is proven.

    Example: pipecut solve layer_gnmt.json --devices 6 --json
    """
    from rich.markup import escape

    from pipecut.compiler.partition.standalone.solve import print_solved, solve_file

    one_of("--comm", comm, ("direct", "relay"))
    one_of("--solver", solver, ("highs", "cbc"))
    with Console(stderr=True).status(f"solving {escape(str(graph))}"):
        way = cast("Comm | None", comm)  # checked above
        solved = solve_file(graph, devices, memory, way, solver, time_limit, gap, each)
    print_solved(solved, as_json, console)
    if solved["status"] == "infeasible":
        raise typer.Exit(3)


@app.command()
def show(plan: PlanArgument) -> None:
    """Print a plan's table again."""
    from pipecut.plan.folder import read_plan
    from pipecut.tables.plan import print_plan

    print_plan(read_plan(plan).plan, console)


@app.command()
def check(plan: PlanArgument) -> None:
    """Prove a plan sound: everything placed, acyclic, no deadlock, memory fits."""
    from pipecut.plan.check import check as check_plan
    from pipecut.plan.folder import read_plan

    for line in check_plan(read_plan(plan)):
        console.print(f"ok  {line}")


@app.command()
def seal(plan: PlanArgument) -> None:
    """Make a plan whose files you edited a plan again: prove it sound as it is now, then note its files as they are."""
    from pipecut.plan.check import check as check_plan
    from pipecut.plan.folder import seal as seal_plan
    from pipecut.plan.folder import write_seal
    from pipecut.plan.trust import code_outside, is_trusted, trust

    folder = seal_plan(plan)
    for line in check_plan(folder):
        console.print(f"ok  {line}")
    # A plan from elsewhere need only come with a wrong seal to be sealed here, by somebody who saw none of its code.
    own = is_trusted(folder.plan.seal) or not code_outside(folder, Path.cwd())
    sealed = write_seal(folder)
    if own:
        trust(sealed)
    else:
        console.print(
            "it was not compiled here; look at its code: verify and run will ask for --trust once"
        )
    console.print(f"{plan} is sealed; next: pipecut verify {plan}")


@app.command()
def verify(
    plan: PlanArgument,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to compare.")] = 3,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Compare eval mode, too: its loss and every output.")
    ] = False,
    trusted: TrustOption = False,
) -> None:
    """Run the plan beside the unsplit model and compare loss, gradients, parameters and buffers."""
    from pipecut.runtime.verify import verify as verify_plan

    _ask_about(plan, trusted)
    with Console(stderr=True).status(f"running {steps} steps of the plan and of the unsplit model"):
        result = verify_plan(plan, steps, evaluation)
    console.print(
        f"{result.compared} tensors compared, tolerance {result.tolerance:g} of a tensor's norm"
    )
    for kind, (value, name) in sorted(result.worst.items()):
        console.print(
            f"{'ok  ' if value <= result.tolerance else 'FAIL'} {kind:10s} {value:.2e}  ({name})"
        )
    if not result.passed:
        raise typer.Exit(4)


@app.command()
def run(
    plan: PlanArgument,
    data: Annotated[
        str | None,
        typer.Option(
            help="module:function, an iterable of global batches; default: the job's inputs."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 10,
    rate: Annotated[
        float | None,
        typer.Option(
            "--lr", help="Learning rate; default: 0.001, or the checkpoint's with --resume."
        ),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(min=0.0, help="Clip the global gradient norm; 0, the default: do not."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the trained weights, also on Ctrl-C.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda, instead of the plan's.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Write a Chrome trace of the last step, predicted beside measured."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Print predicted against measured seconds, and write them as JSON."),
    ] = None,
    checkpoints: Annotated[Path, typer.Option(help="Folder for checkpoints.")] = Path(
        "checkpoints"
    ),
    every: Annotated[
        int, typer.Option("--checkpoint-every", min=0, help="Steps between checkpoints; 0: none.")
    ] = 0,
    keep: Annotated[int, typer.Option(min=1, help="Checkpoints to keep.")] = 3,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from the last checkpoint, of this plan or another one of the model.",
        ),
    ] = False,
    restarts: Annotated[
        int | None,
        typer.Option(
            "--max-restarts",
            min=0,
            help="Times to go on after losing a rank; 0, or 1 with --on-failure.",
        ),
    ] = None,
    on_failure: Annotated[
        str | None,
        typer.Option(help="restart: the same plan again; replan: one for the devices that remain."),
    ] = None,
    stall: Annotated[
        float | None,
        typer.Option(
            "--stall-timeout",
            min=1,
            help="Seconds without progress until a rank is ended; default: 240.",
        ),
    ] = None,
    trusted: TrustOption = False,
) -> None:
    """Train on this machine, one process a rank. --steps counts those before a checkpoint, too.

    Several machines: torchrun --nnodes 2 --nproc-per-node 8 ... -m pipecut.runtime PLAN --data ... --steps ...
    """
    from pipecut.model.functions import find_function
    from pipecut.runtime.checkpoint.folder import home_of, refuse_earlier
    from pipecut.runtime.checkpoint.lock import refuse_locked
    from pipecut.runtime.launch.restart import run_with_restarts
    from pipecut.runtime.ranks.devices import refuse_without_gpu
    from pipecut.writable import writable_file, writable_folder

    one_of("--on-failure", on_failure, ("restart", "replan"))
    times = (1 if on_failure is not None else 0) if restarts is None else restarts
    if times and not every:
        raise UserFileError(
            "going on after a failure needs checkpoints; give --checkpoint-every, such as 100"
        )
    if every and not resume:
        refuse_earlier(checkpoints)
    if every:
        writable_folder(home_of(checkpoints), "--checkpoints")
        refuse_locked(home_of(checkpoints))
    if save is not None:
        writable_folder(save, "--save")
    for file, option in ((trace, "--trace"), (report, "--report")):
        if file is not None:
            writable_file(file, option)
    one_of("--device", device, ("cpu", "cuda"))
    for option, number in (("--lr", rate), ("--clip", clip)):
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise UserFileError(f"{option} {number}: must be a number of 0 or more")
    manifest = _ask_about(plan, trusted).plan
    refuse_without_gpu(manifest, device)
    if data is not None:
        # Here it is told once, on the ranks once each.
        find_function(data, map(Path, manifest.model.folders), "--data")
    arguments = ["--steps", str(steps)]
    arguments += [
        "--checkpoints",
        str(checkpoints),
        "--checkpoint-every",
        str(every),
        "--keep",
        str(keep),
    ]
    arguments += ["--resume"] if resume else []
    for option, value in (
        ("--lr", rate),
        ("--clip", clip),
        ("--data", data),
        ("--save", save),
        ("--device", device),
        ("--trace", trace),
        ("--report", report),
    ):
        arguments += [option, str(value)] if value is not None else []

    def without_device(lost_plan: Path, rank: int) -> Path:
        from pipecut.compiler.replan import replan

        with Console(stderr=True).status(f"planning without the device of rank {rank}"):
            return replan(lost_plan, rank)

    def tell(message: str) -> None:
        print(f"pipecut: {message}", file=sys.stderr, flush=True)

    run_with_restarts(
        plan, arguments, times, stall, without_device if on_failure == "replan" else None, tell
    )


@app.command()
def timeline(
    plan: PlanArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Chrome trace to write, for ui.perfetto.dev."),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Picture to write; needs matplotlib.")] = None,
) -> None:
    """Write the predicted step of a plan as a trace, a picture or both."""
    from pipecut.plan.check import check as check_plan
    from pipecut.plan.folder import read_plan
    from pipecut.plan.simulate import predicted
    from pipecut.runtime.observe.chrome_trace import write_trace
    from pipecut.runtime.observe.picture import draw

    if output is None and png is None:
        raise UserFileError("say what to write: -o trace.json, --png picture.png, or both")
    folder = read_plan(plan)
    check_plan(folder)
    found = predicted(folder)
    if output is not None:
        write_trace(output, folder, found, {})
    if png is not None:
        draw(png, folder, found)
    written = " and ".join(str(path) for path in (output, png) if path is not None)
    console.print(
        f"predicted step {found.step_seconds * 1e3:.1f} ms, bubble {found.bubble:.0%}; written to {written}"
    )


@app.command()
def export(
    plan: PlanArgument,
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint, or a folder of them: then the last one.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Safetensors file to write.")
    ] = Path("model.safetensors"),
) -> None:
    """Write a checkpoint as the unsplit model's own state dict, which loads into it with strict=True."""
    from pipecut.plan.folder import read_plan
    from pipecut.runtime.checkpoint.export import export as export_checkpoint

    count, step = export_checkpoint(read_plan(plan).plan, checkpoint, output)
    console.print(f"{count} tensors after step {step} written to {output}")


@app.command()
def specs() -> None:
    """List the clusters, device kinds and links that come with pipecut."""
    from rich.table import Table

    from pipecut.compiler.inputs.cluster import cluster_names, library, read_cluster
    from pipecut.compiler.inputs.units import show_bytes

    clusters = Table("cluster", "devices", title="clusters (--cluster NAME)")
    for name in cluster_names():
        kinds = [device.kind for device in read_cluster(name).devices]
        clusters.add_row(name, ", ".join(f"{kinds.count(k)} x {k}" for k in dict.fromkeys(kinds)))
    clusters.add_row("auto", "this machine")
    devices = Table("device", "memory", "bandwidth", "bf16", "source", title="device kinds")
    for name, kind in library().devices.items():
        rate = f"{kind.flops['bf16'] / 1e12:.0f} TFLOP/s"
        devices.add_row(
            name, show_bytes(kind.memory), f"{kind.bandwidth / 1e9:.0f} GB/s", rate, kind.source
        )
    links = Table("link", "bandwidth", "latency", "source", title="links")
    for name, link in library().links.items():
        links.add_row(
            name, f"{link.bandwidth / 1e9:.0f} GB/s", f"{link.latency * 1e6:.0f} us", link.source
        )
    for table in (clusters, devices, links):
        console.print(table)


def _ask_about(plan: Path, trusted: bool) -> "PlanFolder":
    """A plan that the user means to run: read, and asked about once where it is from elsewhere. Raises UserFileError."""
    from pipecut.plan.folder import read_plan
    from pipecut.plan.trust import refuse_stranger, trust

    folder = read_plan(plan)
    try:
        if not trusted:
            refuse_stranger(folder)
            return folder
    except UserFileError as error:
        if not sys.stdin.isatty() or not typer.confirm(f"{error}\nRun it?"):
            raise
    trust(folder.plan.seal)
    return folder


def main() -> None:
    """Errors of known kinds end with their message and exit code; nothing shows a traceback but a bug of ours."""
    listen()
    try:
        code = app(standalone_mode=False)
    except PipecutError as error:
        print(f"pipecut: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except AskedToEnd as asked:
        say_stopped()
        sys.exit(asked.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        say_stopped()
        sys.exit(130)
    except OSError as error:
        print(f"pipecut: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(4)
    except Exception as error:
        # click's usage errors carry their own code and text.
        if not hasattr(error, "format_message"):
            raise
        print(f"pipecut: {error.format_message()} (see --help)", file=sys.stderr)
        sys.exit(2)
    sys.exit(code or 0)
