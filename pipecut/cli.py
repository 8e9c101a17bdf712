"""The command line.

A command imports what it needs when it runs, so that --help, show and specs start at once; the
packages `pipecut` and `pipecut.compiler` import a public name when it is asked for. Nothing else
imports late for the sake of time."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pipecut.console import (
    console,
    number_or_auto,
    progress_bar,
    progress_line,
    refuse_other_than,
    show_warnings_plainly,
)
from pipecut.device.local import best_type, device_count, is_available
from pipecut.device.types import DEVICE_TYPES, DeviceType, type_of
from pipecut.end_at_signal import AskedToEnd, listen, say_stopped
from pipecut.errors import PipecutError, UserFileError
from pipecut.options import (
    AgainstOption,
    BusyRanksOption,
    CalibratedRanksOption,
    ClusterOption,
    CommOption,
    CostsOption,
    DataParallelOption,
    DimensionOption,
    ExplainOption,
    HtmlOption,
    JobArgument,
    LayoutOption,
    MeasuredDeviceOption,
    MicrobatchesOption,
    MicrobatchOption,
    OnFailureOption,
    OnnxClusterOption,
    PageOutput,
    PlanArgument,
    PlanOutput,
    ProfiledMicrobatchOption,
    ProfileOption,
    RestartsOption,
    ScheduleOption,
    SolverOption,
    StagesOption,
    StagesPerRankOption,
    StallOption,
    TimeLimitOption,
    TrustOption,
    TurnsOption,
    ViewedRunOption,
    ViewedTraceOption,
)
from pipecut.quantities import counted
from pipecut.rare_collections import rare_collections
from pipecut.run_options import (
    DEFAULT_CHECKPOINTS,
    DEFAULT_KEEP,
    DEFAULT_STEPS,
    CheckpointsOption,
    ClipOption,
    CodeOption,
    DataOption,
    EveryOption,
    KeepOption,
    RateOption,
    ReportOption,
    ResumeOption,
    RunDeviceOption,
    RunOptions,
    SaveOption,
    StepsOption,
    TraceOption,
)
from pipecut.schedule_commands import app as schedule_app
from pipecut.version import __version__
from pipecut.writable import writable_file, writable_folder

if TYPE_CHECKING:
    from pipecut.compiler.partition.problem import Comm
    from pipecut.plan.folder import PlanFolder

# A larger dimension has no tensor on any device.
MOST_SIZE = 2**31 - 1

app = typer.Typer(add_completion=False, no_args_is_help=True)
app.add_typer(schedule_app, name="schedule")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pipecut {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cut a PyTorch model into pipeline stages and train it.

    The usual order: compile a job, show the plan, verify it, run it.
    """


@app.command()
@rare_collections()
def compile(
    job: JobArgument,
    cluster: ClusterOption = "auto",
    output: PlanOutput = Path("plan"),
    stages: StagesOption = None,
    data_parallel: DataParallelOption = None,
    microbatch: MicrobatchOption = None,
    microbatches: MicrobatchesOption = None,
    schedule: ScheduleOption = None,
    stages_per_rank: StagesPerRankOption = None,
    layout: LayoutOption = None,
    explain: ExplainOption = False,
    costs: CostsOption = "auto",
    profile_file: ProfileOption = None,
    solver: SolverOption = "highs",
    time_limit: TimeLimitOption = 30.0,
    html: HtmlOption = None,
) -> None:
    """Trace the model, cost it, cut it into stages, check the result and write a plan folder.

    Sizes that are auto, here or in the job file, are searched for the shortest predicted step.

    Examples: pipecut compile job.yaml --cluster hgx-h100 -o plan/ --stages 8

    pipecut compile job.yaml --cluster hgx-h100 --stages auto --microbatch auto --explain
    """
    from pipecut.compiler import Options, Request, SizeOverrides, compile_plan
    from pipecut.compiler.partition.place import SolverOptions
    from pipecut.tables.plan import print_plan
    from pipecut.tables.search import print_explained

    _refuse_unknown_names(schedule, solver, costs)
    if microbatch is not None and microbatches is not None:
        raise UserFileError("give --microbatch or --microbatches, not both")
    if stages_per_rank is not None:
        _refuse_fixed_stages_per_rank(schedule, stages_per_rank)
    sizes = SizeOverrides(
        number_or_auto("--stages", stages),
        number_or_auto("--data-parallel", data_parallel),
        number_or_auto("--microbatch", microbatch),
        microbatches,
        schedule,
        stages_per_rank,
    )
    options = Options(
        sizes, explain, costs, profile_file, SolverOptions(solver, time_limit), layout=layout
    )
    if html is not None:
        writable_file(html, "--html")
    with progress_line("starting") as report:
        compiled = compile_plan(Request(job, cluster, output, options), report)
    if explain:
        print_explained(compiled.trials, compiled.sensitivities, console)
    print_plan(compiled.folder.plan, console)
    if html is not None:
        _write_page(html, output)
    console.print(
        f"plan written to {output}/; next: pipecut verify {output}, pipecut run {output} --steps 10"
    )


def _refuse_unknown_names(schedule: str | None, solver: str, costs: str) -> None:
    """Raises UserFileError for a schedule, a solver or a source of costs that is none."""
    from pipecut.compiler.partition.program.solver import SOLVERS
    from pipecut.compiler.profile.measured_costs import refuse_unknown_source
    from pipecut.compiler.schedules.registry import SCHEDULES

    refuse_other_than("--schedule", schedule, (*SCHEDULES, "auto"))
    refuse_other_than("--solver", solver, SOLVERS)
    refuse_unknown_source(costs)


def _refuse_fixed_stages_per_rank(schedule: str | None, stages_per_rank: int) -> None:
    """Raises UserFileError for a schedule whose number of stages per rank is its own."""
    from pipecut.compiler.schedules.registry import WITH_CHOSEN_STAGES_PER_RANK

    if schedule not in (None, "auto", *WITH_CHOSEN_STAGES_PER_RANK):
        raise UserFileError(
            f"--stages-per-rank {stages_per_rank}: is for"
            f" --schedule {' or '.join(WITH_CHOSEN_STAGES_PER_RANK)}, and this is {schedule}"
        )


@app.command()
def profile(
    job: JobArgument,
    device: MeasuredDeviceOption = None,
    microbatch: ProfiledMicrobatchOption = None,
    ranks: BusyRanksOption = None,
    profile_file: ProfileOption = None,
) -> None:
    """Time a job's operators and layers on this machine, so that compile plans with measurements.

    A second run measures only what is new.

    Example: pipecut profile job.yaml && pipecut compile job.yaml
    """
    import torch

    from pipecut.compiler import profile_job

    device_type = _device_type(device)
    busy_ranks = ranks or (2 if device_type.of_host else 1)
    with progress_bar() as report:
        measured = profile_job(
            job, torch.device(device_type.name), microbatch, profile_file, report, busy_ranks
        )
    console.print(f"{measured.new} measured now, {measured.stored} measured before")
    if measured.failed:
        failed = ", ".join(measured.failed)
        console.print(f"cannot run by themselves, part of their layer's time: {failed}")
    side = "above" if measured.overstated >= 0 else "below"
    console.print(
        f"single operators sum to {abs(measured.overstated):.1%} {side} whole layers;"
        " plans use the layers' times"
    )


@app.command()
def calibrate(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The cluster file to write.")
    ] = Path("cluster.yaml"),
    ranks: CalibratedRanksOption = None,
    device: MeasuredDeviceOption = None,
) -> None:
    """Measure this machine and write its cluster file.

    Measured are matrix products, memory, messages between ranks, and what part of the roofline
    each operator reaches.

    Example: pipecut calibrate --ranks 2 -o cluster.yaml
    """
    from pipecut.calibrate.calibrate import calibrate as calibrate_machine

    device_type = _device_type(device)
    devices = 2 if device_type.of_host else max(1, device_count(device_type))
    with progress_bar() as report:
        link = calibrate_machine(ranks or devices, device_type.name, output, report)
    if link is not None:
        console.print(
            f"messages: {link.latency * 1e6:.0f} us + bytes at {link.bandwidth / 1e9:.2f} GB/s; "
            f"the largest error of this fit is {link.residual:.0%}"
        )
    console.print(f"cluster written to {output}; next: pipecut compile JOB --cluster {output}")


def _device_type(device: str | None) -> DeviceType:
    """The device type that the user named, or that of a GPU where there is one.

    Raises UserFileError where this machine has no such device.
    """
    refuse_other_than("--device", device, tuple(DEVICE_TYPES))
    if device is not None and not is_available(type_of(device)):
        raise UserFileError(f"--device {device}: this machine has none; give --device cpu")
    return best_type() if device is None else type_of(device)


@app.command()
def solve(
    graph: Annotated[
        Path,
        typer.Argument(
            help="A costed graph (the published placement format, or a plan's graph.json), or an"
            " ONNX model."
        ),
    ],
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of devices; default: the file's.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of each device, such as 16GiB; default: the file's."),
    ] = None,
    comm: CommOption = None,
    stages_per_device: TurnsOption = 1,
    time_limit: TimeLimitOption = 25.0,
    gap: Annotated[float, typer.Option(min=0.0, help="Relative gap at which to stop.")] = 1e-7,
    solver: SolverOption = "highs",
    cluster: OnnxClusterOption = None,
    dim: DimensionOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Partition a graph without running any model, and say what is proven.

    A costed graph has its times. An ONNX model's are estimated from shapes, for a forward pass on
    the devices of --cluster (hgx-h100); only the file itself is read, so weights may be absent.

    Examples: pipecut solve layer_gnmt.json --devices 6 --json

    pipecut solve model.onnx --devices 4 --cluster rtx-4090x4 --dim batch=8
    """
    from pipecut.compiler.partition.place import SolverOptions
    from pipecut.compiler.partition.program.solver import SOLVERS
    from pipecut.compiler.partition.standalone.read import Uncosted
    from pipecut.compiler.partition.standalone.solve import print_solved, solve_file

    refuse_other_than("--comm", comm, ("direct", "relay"))
    refuse_other_than("--solver", solver, SOLVERS)
    transfers = cast("Comm | None", comm)  # checked above
    uncosted = Uncosted(cluster, dict(map(_dimension, dim or ())))
    with progress_line(f"solving {graph}"):
        options = SolverOptions(solver, time_limit, gap)
        solved = solve_file(graph, options, devices, memory, transfers, stages_per_device, uncosted)
    print_solved(solved, as_json, console)
    if solved.status == "infeasible":
        raise typer.Exit(3)


def _dimension(text: str) -> tuple[str, int]:
    """A name and its size. Raises UserFileError."""
    name, _, size = text.rpartition("=")
    number = int(size) if size.isdecimal() and len(size) <= len(str(MOST_SIZE)) else 0
    if not name or not 1 <= number <= MOST_SIZE:
        raise UserFileError(
            f"--dim {text}: must be a name and a number from 1 to {MOST_SIZE}, as batch=8"
        )
    return name, number


@app.command()
def show(
    plan: PlanArgument,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object; docs/plan-format.md has its keys."),
    ] = False,
) -> None:
    """Print a plan's table: stages, devices, memory, times, what is proven.

    Example: pipecut show plan/ --json | jq .prediction.step_seconds
    """
    from pipecut.plan.folder import plan_in

    read = plan_in(plan)
    if as_json:
        from pipecut.tables.plan_json import shown_plan

        print(shown_plan(read).model_dump_json())
    else:
        from pipecut.tables.plan import print_plan

        print_plan(read, console)


@app.command()
def layout(plan: PlanArgument) -> None:
    """Print a plan's cut as Megatron's --pipeline-model-parallel-layout, where it has one.

    Example: pipecut layout plan/
    """
    from pipecut.compiler.partition.layouts import layout_of
    from pipecut.plan.folder import read_plan

    folder = read_plan(plan)
    operators, stages = folder.graph.operators, len(folder.plan.stages)
    parameters = {parameter.value for parameter in folder.graph.parameters}
    placed_on = [operator.placed_on for operator in operators]
    try:
        print(layout_of(operators, parameters, placed_on, stages))
    except UserFileError as error:
        raise UserFileError(
            f"{plan} has no layout: {error}; placement: {{never_cut: [...]}} in the job file keeps "
            "modules whole"
        ) from None


@app.command()
def check(plan: PlanArgument) -> None:
    """Prove a plan sound: every operator is placed, no cycle, no deadlock, memory fits."""
    from pipecut.plan.check.check import check as check_plan
    from pipecut.plan.folder import read_plan

    for line in check_plan(read_plan(plan)):
        console.print(f"ok  {line}")


@app.command()
def seal(plan: PlanArgument) -> None:
    """Accept the files of a plan that you edited: prove it sound as it is now, then seal it.

    Where schedule.yaml was edited, memory and the step's seconds are predicted anew.
    """
    from pipecut.plan.edit.sealing import proven
    from pipecut.plan.folder import write_seal
    from pipecut.plan.trust import code_outside, is_trusted, trust

    folder, lines = proven(plan)
    for line in lines:
        console.print(f"ok  {line}")
    # A stranger's plan need only come with a wrong seal to be sealed here by somebody who has
    # seen none of its code: sealing it does not make it trusted.
    trusted = is_trusted(folder.plan.seal) or not code_outside(folder, Path.cwd())
    new_seal = write_seal(folder)
    if trusted:
        trust(new_seal)
    else:
        console.print(
            "it was not compiled here: read its code; verify and run will ask for --trust once"
        )
    console.print(f"{plan} is sealed; next: pipecut verify {plan}")


@app.command()
def verify(
    plan: PlanArgument,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to compare.")] = 3,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Compare eval mode as well: its loss and every output.")
    ] = False,
    code: CodeOption = None,
    trusted: TrustOption = False,
) -> None:
    """Run the plan beside the unsplit model and compare loss, gradients, parameters and buffers."""
    from pipecut.runtime.verify.verify import verify as verify_plan

    _read_trusted(plan, trusted, code)
    with progress_line(f"running {counted(steps, 'step')} of the plan and of the unsplit model"):
        result = verify_plan(plan, steps, evaluation, code=code)
    console.print(str(result))
    if not result.passed:
        raise typer.Exit(4)


@app.command()
def run(
    plan: PlanArgument,
    data: DataOption = None,
    steps: StepsOption = DEFAULT_STEPS,
    rate: RateOption = None,
    clip: ClipOption = None,
    save: SaveOption = None,
    device: RunDeviceOption = None,
    trace: TraceOption = None,
    report: ReportOption = None,
    checkpoints: CheckpointsOption = DEFAULT_CHECKPOINTS,
    checkpoint_every: EveryOption = 0,
    keep: KeepOption = DEFAULT_KEEP,
    resume: ResumeOption = False,
    restarts: RestartsOption = None,
    on_failure: OnFailureOption = None,
    stall: StallOption = None,
    code: CodeOption = None,
    trusted: TrustOption = False,
) -> None:
    """Train on this machine, with one process per rank.

    Example: pipecut run plan/ --data mymodel:batches --steps 1000 --checkpoint-every 100

    Several machines: torchrun --nnodes 2 --nproc-per-node 8 ... -m pipecut.runtime PLAN ...
    """
    from pipecut.runtime.launch.restart import run_with_restarts

    asked = RunOptions(
        data=data,
        steps=steps,
        rate=rate,
        clip=clip,
        save=save,
        device=device,
        trace=trace,
        report=report,
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        keep=keep,
        resume=resume,
        code=code,
    )
    refuse_other_than("--on-failure", on_failure, ("restart", "replan"))
    most_restarts = (0 if on_failure is None else 1) if restarts is None else restarts
    _refuse_impossible_run(asked, most_restarts)
    _refuse_plan_that_cannot_run(_read_trusted(plan, trusted, code), asked)
    replan = _plan_without if on_failure == "replan" else None
    run_with_restarts(plan, asked.arguments(), most_restarts, stall, replan, _print_message)


def _refuse_impossible_run(asked: RunOptions, restarts: int) -> None:
    """Raises UserFileError for options that would end the run after its start, or lose its work."""
    from pipecut.runtime.checkpoint.folder import home_of, refuse_earlier, refuse_none
    from pipecut.runtime.checkpoint.lock import refuse_locked

    if asked.resume:
        refuse_none(asked.checkpoints)
    if restarts and not asked.checkpoint_every:
        raise UserFileError(
            "continuing after a failure needs checkpoints; give --checkpoint-every, such as 100"
        )
    if asked.checkpoint_every:
        if not asked.resume:
            refuse_earlier(asked.checkpoints)
        home = home_of(asked.checkpoints)
        writable_folder(home, "--checkpoints")
        refuse_locked(home)
    asked.refuse_unwritable()
    refuse_other_than("--device", asked.device, tuple(DEVICE_TYPES))
    asked.refuse_bad_numbers()


def _refuse_plan_that_cannot_run(folder: "PlanFolder", asked: RunOptions) -> None:
    """Raises UserFileError where a device, code or --data is missing: once, not once per rank."""
    from pipecut.model.functions import find_function, places_of_data, refuse_missing_code
    from pipecut.runtime.ranks.devices import refuse_without_gpu

    refuse_without_gpu(folder.plan, asked.device)
    model = folder.plan.model
    if asked.data is not None:
        find_function(asked.data, places_of_data(model), "--data")
    else:
        refuse_missing_code(model.inputs, model)
    if model.weights is None and not asked.resume:
        refuse_missing_code(model.factory, model)


def _plan_without(plan: Path, lost_rank: int) -> Path:
    """Compile a plan for the devices that remain."""
    from pipecut.compiler.replan import replan

    with progress_line(f"planning without the device of rank {lost_rank}"):
        return replan(plan, lost_rank)


def _print_message(message: str) -> None:
    print(f"pipecut: {message}", file=sys.stderr, flush=True)


@app.command()
def view(
    plan: PlanArgument,
    run: ViewedRunOption = None,
    trace: ViewedTraceOption = None,
    against: AgainstOption = None,
    output: PageOutput = Path("plan.html"),
) -> None:
    """Write a plan as one HTML page that any browser opens, without a network.

    With --run, --trace or both it shows what was measured beside what was predicted.

    Example: pipecut view plan/ --run report.json --trace trace.json -o plan.html
    """
    _write_page(output, plan, run, trace, against)


def _write_page(
    page: Path,
    plan: Path,
    run: Path | None = None,
    trace: Path | None = None,
    against: Path | None = None,
) -> None:
    """Write the page of a plan, and say where it is.

    Raises PlanError or UserFileError for what cannot be read, UserFileError for the page.
    """
    from pipecut.quantities import show_bytes
    from pipecut.view.data import page_data
    from pipecut.view.page import write_page
    from pipecut.view.sources import read_sources

    size = write_page(page, page_data(read_sources(plan, run, trace, against)))
    console.print(f"page written to {page} ({show_bytes(size)}); open it in a browser")


@app.command()
def timeline(
    plan: PlanArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Chrome trace to write, for ui.perfetto.dev."),
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Picture to write; needs matplotlib.")] = None,
) -> None:
    """Write the predicted step of a plan as a trace, a picture or both.

    Example: pipecut timeline plan/ --png step.png
    """
    from pipecut.plan.check.check import check as check_plan
    from pipecut.plan.folder import read_plan
    from pipecut.plan.replay.simulate import predicted
    from pipecut.runtime.observe.chrome_trace import write_trace
    from pipecut.runtime.observe.picture import draw

    if output is None and png is None:
        raise UserFileError("say what to write: -o trace.json, --png picture.png, or both")
    folder = read_plan(plan)
    for file, option in ((output, "-o"), (png, "--png")):
        if file is not None:
            writable_file(file, option)
    check_plan(folder)
    step = predicted(folder)
    if output is not None:
        write_trace(output, folder, step, {})
    if png is not None:
        draw(png, folder, step)
    written = " and ".join(str(path) for path in (output, png) if path is not None)
    console.print(
        f"predicted step {step.step_seconds * 1e3:.1f} ms, bubble {step.bubble:.0%};"
        f" written to {written}"
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
    """Write a checkpoint as a state dict of the unsplit model.

    Load it with load_state_dict(..., strict=True).

    Example: pipecut export plan/ checkpoints/ -o model.safetensors
    """
    from pipecut.plan.folder import plan_in
    from pipecut.runtime.checkpoint.export import export as export_checkpoint

    exported = export_checkpoint(plan_in(plan), checkpoint, output)
    console.print(
        f"{counted(exported.tensors, 'tensor')} after step {exported.step} written to {output}"
    )


@app.command()
def export_onnx(
    plan: PlanArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for stage_N.onnx and manifest.json.")
    ] = Path("onnx"),
    weights: Annotated[
        str | None,
        typer.Option(
            help="A checkpoint, a folder of them, safetensors, or none: the structure alone;"
            " default: what training begins with."
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Run the stages in onnxruntime and compare with the unsplit model."
        ),
    ] = False,
    code: CodeOption = None,
    trusted: TrustOption = False,
) -> None:
    """Write each stage as an ONNX file for inference, and a manifest of what feeds what.

    In eval mode, for a batch of any size; weights under the model's own names. What only the loss
    needs is left out, where the model returns anything else. docs/onnx.md shows how to run them.

    Example: pipecut export-onnx plan/ --weights checkpoints/ -o onnx/ --verify
    """
    from pipecut.extras import EXPORTING, RUNNING, need

    need(EXPORTING, "pipecut export-onnx")
    if verify:
        need(RUNNING, "--verify")
    from pipecut.onnx.export import export_onnx as export_plan
    from pipecut.onnx.table import print_exported
    from pipecut.onnx.values import Weights

    folder = _read_trusted(plan, trusted, code)
    values = Weights(folder, weights)
    if verify:
        from pipecut.onnx.compare import differences, refuse_different, refuse_incomparable

        refuse_incomparable(folder.plan, values)
    with progress_line("starting") as report:
        manifest = export_plan(folder, output, values, report)
        print_exported(manifest, output, console)
        if verify:
            report("comparing with the unsplit model")
            found = differences(folder, output, values)
    if verify:
        for difference in found:
            console.print(f"ok  {difference}")
        refuse_different(found)


@app.command()
def specs() -> None:
    """List the clusters, device kinds, links and schedules that come with pipecut."""
    from pipecut.tables.specs import print_specs

    print_specs(console)


def _read_trusted(plan: Path, trusted: bool, code: Path | None) -> "PlanFolder":
    """A plan that the user means to run. One from elsewhere is asked about once.

    Raises UserFileError where nobody answers, or the answer is no.
    """
    from pipecut.plan.folder import read_plan
    from pipecut.plan.trust import refuse_stranger, trust

    if code is not None and not code.is_dir():
        raise UserFileError(f"--code {code}: there is no such folder")
    folder = read_plan(plan, code)
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
    """Run a command. Known errors end with their message and exit code; only a bug of pipecut's
    shows a traceback."""
    listen()
    show_warnings_plainly()
    try:
        code = app(standalone_mode=False)
    except PipecutError as error:
        print(f"pipecut: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except AskedToEnd as signal_received:
        say_stopped()
        sys.exit(signal_received.exit_code)
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
