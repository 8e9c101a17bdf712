"""`pipecut compile`: a job and a cluster to a plan folder."""

from pathlib import Path

from pipecut.commands.options import (
    BatchOption,
    ClusterOption,
    CompiledJobArgument,
    CostsOption,
    DataParallelOption,
    ExplainOption,
    HtmlOption,
    LayoutOption,
    MicrobatchesOption,
    MicrobatchOption,
    ModelOption,
    PlanOutput,
    ProfileOption,
    ScheduleOption,
    SequenceOption,
    SolverOption,
    StagesOption,
    StagesPerRankOption,
    TimeLimitOption,
    TrustTraceOption,
)
from pipecut.commands.view import write_plan_page
from pipecut.console import console, number_or_auto, progress_line, refuse_other_than
from pipecut.errors import UserFileError
from pipecut.writable import writable_file


def compile(
    job: CompiledJobArgument = None,
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
    trust_trace: TrustTraceOption = False,
    html: HtmlOption = None,
    model: ModelOption = None,
    sequence: SequenceOption = None,
    batch: BatchOption = None,
) -> None:
    """Trace the model, cost it, cut it into stages, check the result and write a plan folder.

    Sizes that are auto, here or in the job file, are searched for the shortest predicted step.

    Examples: pipecut compile job.yaml --cluster hgx-h100 --stages auto --explain

    pipecut compile --model llama/ --sequence 2048 --batch 64 --cluster hgx-h100 -o plan/
    """
    _refuse_other_than_one_job(job, model, sequence, batch)
    from pipecut.compiler import Options, Request, SizeOverrides, compile_plan
    from pipecut.compiler.partition.place import SolverOptions
    from pipecut.tables.plan import print_plan
    from pipecut.tables.search import print_explained

    _refuse_unknown_names(schedule, stages_per_rank, solver, costs)
    sizes = SizeOverrides(
        number_or_auto("--stages", stages),
        number_or_auto("--data-parallel", data_parallel),
        number_or_auto("--microbatch", _one_of(microbatch, microbatches)),
        microbatches,
        schedule,
        stages_per_rank,
    )
    solving = SolverOptions(solver, time_limit)
    options = Options(sizes, explain, costs, profile_file, solving, (), layout, trust_trace)
    if html is not None:
        writable_file(html, "--html")
    job = job or _job_of_folder(model, sequence, batch, microbatch or "auto", output)
    with progress_line("starting") as report:
        compiled = compile_plan(Request(job, cluster, output, options), report)
    if explain:
        print_explained(compiled.trials, compiled.sensitivities, console)
    print_plan(compiled.folder.plan, console)
    if html is not None:
        write_plan_page(html, output)
    console.print(
        f"plan written to {output}/; next: pipecut verify {output}, pipecut run {output} --steps 10"
    )


def _one_of(microbatch: str | None, microbatches: int | None) -> str | None:
    """--microbatch. Raises UserFileError where --microbatches is given, too."""
    if microbatch is not None and microbatches is not None:
        raise UserFileError("give --microbatch or --microbatches, not both")
    return microbatch


def _refuse_other_than_one_job(
    job: Path | None, model: Path | None, sequence: int | None, batch: int | None
) -> None:
    """Raises UserFileError unless there is a job file that can be read, or --model with --batch.

    It is asked before imports that take seconds.
    """
    from pipecut.compiler.inputs.document.read import read_text

    if model is not None:
        if job is not None:
            raise UserFileError(f"give {job} or --model, not both")
        if batch is None:
            raise UserFileError("--model: give the samples per step as --batch")
        return
    if job is None:
        raise UserFileError("give a job file, or a Hugging Face folder as --model")
    if sequence is not None or batch is not None:
        raise UserFileError("--sequence and --batch are for --model; a job file has its own")
    read_text(job)


def _job_of_folder(
    model: Path | None, sequence: int | None, batch: int | None, microbatch: str, output: Path
) -> Path:
    """The job file of --model, written beside the plan."""
    from pipecut.compiler.emit.publish import refuse_occupied
    from pipecut.compiler.inputs.hugging_face.job import FolderRequest, write_job_of_folder

    assert model is not None and batch is not None
    refuse_occupied(output)
    written = output.parent / f"{output.name}.job.yaml"
    left_out = write_job_of_folder(FolderRequest(model, sequence, batch, microbatch), written)
    console.print(f"wrote {written}, which says the same and can be changed", markup=False)
    if left_out:
        console.print(f"the model has none of these weights: {', '.join(left_out)}", markup=False)
    return written


def _refuse_unknown_names(
    schedule: str | None, stages_per_rank: int | None, solver: str, costs: str
) -> None:
    """Raises UserFileError for a schedule, a solver or a source of costs that is none.

    Also for a schedule whose number of stages per rank is its own.
    """
    from pipecut.compiler.partition.program.solver import SOLVERS
    from pipecut.compiler.profile.measured_costs import refuse_unknown_source
    from pipecut.compiler.schedules.registry import SCHEDULES, WITH_CHOSEN_STAGES_PER_RANK

    refuse_other_than("--schedule", schedule, (*SCHEDULES, "auto"))
    refuse_other_than("--solver", solver, SOLVERS)
    refuse_unknown_source(costs)
    chosen = schedule in (None, "auto", *WITH_CHOSEN_STAGES_PER_RANK)
    if stages_per_rank is not None and not chosen:
        raise UserFileError(
            f"--stages-per-rank {stages_per_rank}: is for"
            f" --schedule {' or '.join(WITH_CHOSEN_STAGES_PER_RANK)}, and this is {schedule}"
        )
