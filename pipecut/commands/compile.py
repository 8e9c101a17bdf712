"""`pipecut compile`: a job and a cluster to a plan folder."""

from pathlib import Path

from pipecut.commands.options import (
    ClusterOption,
    CostsOption,
    DataParallelOption,
    ExplainOption,
    HtmlOption,
    JobArgument,
    LayoutOption,
    MicrobatchesOption,
    MicrobatchOption,
    PlanOutput,
    ProfileOption,
    ScheduleOption,
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
    trust_trace: TrustTraceOption = False,
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
    solving = SolverOptions(solver, time_limit)
    options = Options(sizes, explain, costs, profile_file, solving, (), layout, trust_trace)
    if html is not None:
        writable_file(html, "--html")
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
