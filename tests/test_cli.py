"""Every command of the command line: what it passes on, prints and refuses, and its exit code."""

import gc
import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import pipecut
from pipecut import cli
from pipecut.compiler import AUTO, Options, SizeOverrides, compile
from pipecut.compiler.partition.program.solver import SOLVERS
from pipecut.compiler.profile.measured_costs import SOURCES
from pipecut.console import show_warnings_plainly
from pipecut.device.types import DEVICE_TYPES
from pipecut.errors import InfeasibleError, PipecutError, UserFileError
from pipecut.model.comparison import Comparison, Difference
from pipecut.plan.folder import PlanFolder, read_plan
from pipecut.rare_collections import USUAL, collect_rarely, collect_usually
from pipecut.run_options import RunOptions
from pipecut.runtime.__main__ import app as rank_app
from pipecut.runtime.checkpoint.export import Exported
from tests.models.golden import golden_job

# Two nodes in a row, one second each, and a tensor between them.
CHAIN = {
    "maxFPGAs": 2,
    "maxSizePerFPGA": 10,
    "nodes": [
        {"id": index, "fpgaLatency": 1, "cpuLatency": 1, "size": 1, "supportedOnFpga": 1}
        for index in (1, 2)
    ],
    "edges": [{"sourceId": 1, "destId": 2, "cost": 0.25}],
}


def invoke(*arguments: object) -> Any:
    """The result of a command; errors of pipecut's are raised."""
    return CliRunner().invoke(cli.app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PlanFolder:
    """Two stages of the golden model `skip`."""
    folder = tmp_path_factory.mktemp("cli")
    files = golden_job(folder, "skip")
    return compile(files.job, str(files.cluster), folder / "plan", Options(costs="roofline"))


@pytest.fixture
def job_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job.yaml in the current folder."""
    (tmp_path / "job.yaml").touch()
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Put a function that returns `result` in the place of another; the list of its calls grows."""

    def replace(target: str, result: object = None) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def record(*arguments: object, **options: object) -> object:
            calls.append((*arguments, *options.values()))
            return result

        monkeypatch.setattr(target, record)
        return calls

    return replace


def test_version_and_help() -> None:
    assert invoke("--version").output == f"pipecut {pipecut.__version__}\n"
    help_text = CliRunner().invoke(cli.app, []).output
    for command in cli.app.registered_commands:
        assert command.callback is not None
        name = command.callback.__name__.replace("_", "-")
        assert name in help_text
        assert invoke(name, "--help").exit_code == 0


@pytest.mark.parametrize("name", [*SOLVERS, *(source.split(":")[0] for source in SOURCES)])
def test_help_names_every_solver_and_source_of_costs(name: str) -> None:
    assert name in invoke("compile", "--help").output


@pytest.mark.parametrize("command", ["run", "profile", "calibrate"])
@pytest.mark.parametrize("name", DEVICE_TYPES)
def test_help_names_every_type_of_device(command: str, name: str) -> None:
    assert name in invoke(command, "--help").output.partition("--device")[2].splitlines()[0]


@pytest.mark.usefixtures("job_here")
def test_compile_passes_its_options_on(called: Any, plan: PlanFolder) -> None:
    calls = called("pipecut.compiler.compile_plan", SimpleNamespace(folder=plan))
    printed = invoke(
        *("compile", "job.yaml", "--cluster", "hgx-h100", "-o", "out", "--stages", "auto"),
        *("--data-parallel", 2, "--microbatch", 4, "--schedule", "zb-h1", "--solver", "cbc"),
        *("--time-limit", 3, "--costs", "measured:run.json"),
    ).output
    ((request, _),) = calls
    options = request.options
    assert (request.job, request.cluster) == (Path("job.yaml"), "hgx-h100")
    assert request.output == Path("out")
    assert options.sizes == SizeOverrides(AUTO, 2, 4, None, "zb-h1", None)
    assert (options.solving.solver, options.solving.time_limit) == ("cbc", 3)
    assert (options.costs, options.explain, options.profile) == ("measured:run.json", False, None)
    assert "plan written to out/; next: pipecut verify out" in printed


@pytest.mark.usefixtures("job_here")
def test_compile_writes_the_page_that_is_asked_for(
    called: Any, plan: PlanFolder, tmp_path: Path
) -> None:
    called("pipecut.compiler.compile_plan", SimpleNamespace(folder=plan))
    page = tmp_path / "plan.html"
    printed = invoke("compile", "job.yaml", "-o", plan.path, "--html", page).output
    assert f"page written to {page}" in printed.replace("\n", "")
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_view_shows_a_plan_beside_another(plan: PlanFolder, tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    printed = invoke("view", plan.path, "--against", plan.path, "-o", page).output
    assert f"page written to {page}" in printed.replace("\n", "")
    assert '"moves":[]' in page.read_text()
    with pytest.raises(UserFileError, match="run.json cannot be read: No such file"):
        invoke("view", plan.path, "--run", tmp_path / "run.json", "-o", page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "0"], "--stages 0: must be a number of 1 or more, or auto"),
        (["--microbatch", "many"], "--microbatch many: must be a number"),
        (["--data-parallel", "-2"], "--data-parallel -2: must be a number"),
        (["--schedule", "2f2b"], "--schedule 2f2b: must be gpipe or 1f1b or .* or auto"),
        (["--solver", "scip"], "--solver scip: must be highs or cbc"),
        (["--costs", "guess"], "--costs guess: must be auto or roofline or profile or measured:"),
        (["--microbatch", "1", "--microbatches", "2"], "give --microbatch or --microbatches"),
        (
            ["--stages-per-rank", "2", "--schedule", "gpipe"],
            "--stages-per-rank 2: is for --schedule interleaved, and this is gpipe",
        ),
    ],
)
@pytest.mark.usefixtures("job_here")
def test_compile_refuses_options_that_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(UserFileError, match=message):
        invoke("compile", "job.yaml", *arguments)


@pytest.mark.usefixtures("job_here")
def test_profile_reports_what_it_measured(called: Any) -> None:
    measured = SimpleNamespace(new=3, stored=4, again=2, failed=["aten.where"], overstated=-0.25)
    calls = called("pipecut.compiler.profile_job", measured)
    printed = invoke("profile", "job.yaml", "--device", "cpu", "--microbatch", 2).output
    ((job, device, microbatch, stored, _, ranks),) = calls
    assert (str(job), device.type, microbatch, stored, ranks) == ("job.yaml", "cpu", 2, None, 2)
    assert "3 measured now, 4 measured before" in printed
    assert "of these 2 once more: this machine was faster or slower before" in printed
    assert "cannot run by themselves, part of their layer's time: aten.where" in printed
    assert "single operators sum to 25.0% below whole layers" in printed


def test_calibrate_reports_the_link(called: Any) -> None:
    link = SimpleNamespace(latency=2e-5, bandwidth=3e9, residual=0.04)
    calls = called("pipecut.calibrate.calibrate.calibrate", link)
    printed = invoke("calibrate", "--device", "cpu", "-o", "mine.yaml").output
    assert calls[0][:3] == (2, "cpu", Path("mine.yaml"))
    assert "messages: 20 us + bytes at 3.00 GB/s; the largest error of this fit is 4%" in printed
    assert "next: pipecut compile JOB --cluster mine.yaml" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("command", [("profile", "job.yaml"), ("calibrate",)])
@pytest.mark.usefixtures("job_here")
def test_a_device_that_the_machine_lacks_is_refused(command: tuple[str, ...]) -> None:
    with pytest.raises(UserFileError, match="--device cuda: this machine has none; give .* cpu"):
        invoke(*command, "--device", "cuda")


@pytest.mark.parametrize("command", [("profile", "job.yaml"), ("calibrate",), ("run", "plan")])
@pytest.mark.usefixtures("job_here")
def test_a_device_is_cpu_or_cuda(command: tuple[str, ...]) -> None:
    with pytest.raises(UserFileError, match="--device tpu: must be cpu or cuda"):
        invoke(*command, "--device", "tpu")


def test_solve_prints_the_assignment(tmp_path: Path) -> None:
    graph = tmp_path / "chain.json"
    graph.write_text(json.dumps(CHAIN))
    solved = json.loads(invoke("solve", graph, "--json").output)
    assert solved["status"] == "optimal" and solved["objective"] == pytest.approx(1.25)
    assert "1.25" in invoke("solve", graph).output


def test_solve_ends_with_3_where_nothing_fits(tmp_path: Path) -> None:
    graph = tmp_path / "chain.json"
    graph.write_text(json.dumps(CHAIN))
    result = invoke("solve", graph, "--memory", "1", "--devices", 1, "--json")
    assert result.exit_code == 3 and json.loads(result.output)["status"] == "infeasible"
    with pytest.raises(UserFileError, match="--comm both: must be direct or relay"):
        invoke("solve", graph, "--comm", "both")
    with pytest.raises(UserFileError, match="--dim batch: must be a name and a number from 1 "):
        invoke("solve", "model.onnx", "--dim", "batch")
    for size in ("0", "-8", "²", "9" * 20, "9" * 5000):
        with pytest.raises(UserFileError, match=f"--dim batch={size}: must be .* from 1 to 21474"):
            invoke("solve", "model.onnx", "--dim", f"batch={size}")


def test_show_and_check_print_a_plan(plan: PlanFolder) -> None:
    assert "tests.models.golden:skip on golden: 1f1b" in invoke("show", plan.path).output
    shown = json.loads(invoke("show", plan.path, "--json").output)
    assert shown["seal"] == plan.plan.seal and len(shown["stages"]) == 2
    lines = invoke("check", plan.path).output.splitlines()
    assert len(lines) > 3 and all(line.startswith("ok  ") for line in lines)


def test_seal_proves_and_says_what_is_next(plan: PlanFolder, tmp_path: Path) -> None:
    stage = plan.path / "stages" / "stage_0.py"
    stage.write_text(stage.read_text() + "\n# edited\n")
    assert f"sealed; next: pipecut verify {plan.path}" in invoke("seal", plan.path).output.replace(
        "\n", ""
    )
    assert read_plan(plan.path).plan.hashes["stages/stage_0.py"]


@pytest.mark.parametrize(("error", "code"), [(1e-7, 0), (0.5, 4)])
def test_verify_ends_with_4_where_something_differs(
    error: float, code: int, plan: PlanFolder, called: Any
) -> None:
    passed = error < 1e-5
    compared = Comparison({"gradient": Difference(error, "layers.0.weight")}, 1e-5, compared=9)
    calls = called("pipecut.runtime.verify.verify.verify", compared)
    result = invoke("verify", plan.path, "--steps", 2, "--eval", "--code", ".")
    assert calls == [(plan.path, 2, True, Path("."))] and result.exit_code == code
    assert "9 tensors compared" in result.output
    assert ("ok   gradient" if passed else "FAIL gradient") in result.output


def test_run_passes_its_options_to_every_rank(plan: PlanFolder, called: Any) -> None:
    calls = called("pipecut.runtime.launch.restart.run_with_restarts")
    invoke("run", plan.path, "--steps", 5, "--lr", 0.5, "--device", "cpu", "--stall-timeout", 9)
    ((folder, arguments, restarts, stall, replan, _),) = calls
    assert (folder, restarts, stall, replan) == (plan.path, 0, 9, None)
    assert arguments == RunOptions(steps=5, rate=0.5, device="cpu").arguments()


def test_run_restarts_once_where_only_on_failure_is_given(
    plan: PlanFolder, called: Any, tmp_path: Path
) -> None:
    calls = called("pipecut.runtime.launch.restart.run_with_restarts")
    checkpoints = ("--checkpoints", tmp_path / "checkpoints", "--checkpoint-every", 2)
    invoke("run", plan.path, *checkpoints, "--on-failure", "replan")
    _, arguments, restarts, _, replan, _ = calls[0]
    assert restarts == 1 and replan is not None and "--checkpoint-every" in arguments
    with pytest.raises(UserFileError, match="needs checkpoints; give --checkpoint-every"):
        invoke("run", plan.path, "--max-restarts", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "nan"], "--lr nan: must be a number of 0 or more"),
        (["--clip", "inf"], "--clip inf: must be a number of 0 or more"),
        (["--on-failure", "pray"], "--on-failure pray: must be restart or replan"),
        (["--save", "{file}/weights"], "--save .* cannot be written"),
        (["--report", "{file}/run.json"], "--report .* cannot be written"),
        (["--data", "tests.models.golden:nowhere"], "--data: .*nowhere"),
        (["--code", "{file}/nowhere"], "--code .*nowhere: there is no such folder"),
    ],
)
def test_run_refuses_before_any_rank_starts(
    arguments: list[str], message: str, plan: PlanFolder, tmp_path: Path, called: Any
) -> None:
    calls = called("pipecut.runtime.launch.restart.run_with_restarts")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserFileError, match=message):
        invoke("run", plan.path, *(a.format(file=tmp_path / "file") for a in arguments))
    assert not calls


def test_run_refuses_to_resume_from_nothing(plan: PlanFolder, called: Any, tmp_path: Path) -> None:
    calls = called("pipecut.runtime.launch.restart.run_with_restarts")
    options = ("--resume", "--checkpoints", tmp_path / "empty")
    with pytest.raises(PipecutError, match="empty has no checkpoint; leave out --resume to begin"):
        invoke("run", plan.path, *options)
    assert not calls


def test_ranks_take_the_options_that_run_passes_on() -> None:
    def options_of(app: typer.Typer, name: str) -> set[str]:
        command = typer.main.get_command(app)
        command = getattr(command, "commands", {}).get(name, command)
        return {option for p in command.params for option in p.opts if option.startswith("--")}

    full = RunOptions(
        *(
            "m:f",
            1,
            0.1,
            0.2,
            Path("s"),
            "cpu",
            Path("t"),
            Path("r"),
            Path("c"),
            2,
            3,
            True,
            True,
            Path("d"),
            Path("l"),
        )
    )
    passed_on = {argument for argument in full.arguments() if argument.startswith("--")}
    assert len(passed_on) == len(fields(RunOptions))
    assert options_of(rank_app, "run") - {"--restarted"} == passed_on
    launcher_only = {"--max-restarts", "--on-failure", "--stall-timeout", "--trust"}
    assert options_of(cli.app, "run") - launcher_only == passed_on


def test_a_plan_that_cuts_elsewhere_has_no_layout(plan: PlanFolder) -> None:
    message = r"has no layout: the head is cut between stages 0, 1; placement: {never_cut: \[...\]}"
    with pytest.raises(UserFileError, match=message):
        invoke("layout", plan.path)


def test_a_schedule_goes_out_and_comes_back(plan: PlanFolder, tmp_path: Path) -> None:
    copy, file = tmp_path / "plan", tmp_path / "schedule.csv"
    shutil.copytree(plan.path, copy)
    printed = invoke("schedule", "export", copy, "-o", file).output.replace("\n", "")
    assert 'schedule._load_csv("' in printed and "compute_only" in printed
    # GPipe's order, in place of 1F1B's.
    ranks = [[f"{rank}{op}{m}" for op in "FB" for m in range(4)] for rank in (0, 1)]
    file.write_text("\n".join(map(",".join, ranks)) + "\n")
    printed = invoke("schedule", "import", copy, file).output.replace("\n", "")
    assert "has the schedule of" in printed and "next: pipecut verify" in printed
    changed = read_plan(copy)
    assert changed.plan.schedule == "1f1b (replaced by schedule.csv)"
    assert invoke("check", copy).exit_code == 0
    assert [str(a) for a in changed.actions[0] if str(a)[0] == "F"] == [
        f"F 0.{m}" for m in range(4)
    ]


def test_timeline_writes_what_was_asked_for(plan: PlanFolder, tmp_path: Path) -> None:
    trace = tmp_path / "step.json"
    printed = invoke("timeline", plan.path, "-o", trace).output.replace("\n", "")
    assert re.search(r"predicted step [\d.]+ ms, bubble \d+%; written to .*step.json", printed)
    assert json.loads(trace.read_text())["traceEvents"]
    with pytest.raises(UserFileError, match="say what to write"):
        invoke("timeline", plan.path)


def test_export_says_what_it_wrote(plan: PlanFolder, called: Any, tmp_path: Path) -> None:
    calls = called("pipecut.runtime.checkpoint.export.export", Exported(8, 400))
    printed = invoke("export", plan.path, "checkpoints", "-o", "m.safetensors").output
    ((_, checkpoint, output),) = calls
    assert (str(checkpoint), str(output)) == ("checkpoints", "m.safetensors")
    assert printed == "8 tensors after step 400 written to m.safetensors\n"


def test_specs_lists_clusters_devices_links_and_schedules() -> None:
    printed = invoke("specs").output
    for name in ("hgx-h100-x8", "h100-sxm", "nvlink4", "v-shaped"):
        assert name in printed


def test_a_plan_from_elsewhere_needs_trust(
    plan: PlanFolder, called: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = called("pipecut.runtime.launch.restart.run_with_restarts")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserFileError, match="was not compiled here"):
        invoke("run", plan.path)
    assert not calls
    invoke("run", plan.path, "--trust")
    invoke("run", plan.path)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (InfeasibleError("nothing fits"), 3, "pipecut: nothing fits\n"),
        (PipecutError("some error"), 1, "pipecut: some error\n"),
        (FileNotFoundError(2, "No such file", "x.yaml"), 4, "pipecut: x.yaml: No such file\n"),
        (typer.BadParameter("steps"), 2, "pipecut: Invalid value: steps (see --help)\n"),
        (KeyboardInterrupt(), 130, "pipecut: stopped\n"),
        (cli.AskedToEnd(15), 143, "pipecut: stopped\n"),
    ],
)
def test_an_error_ends_with_one_line_and_its_code(
    raised: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(standalone_mode: bool) -> None:
        raise raised

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "listen", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (code, message)


def test_a_command_ends_without_looking_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", lambda **_: 0)
    monkeypatch.setattr(cli, "listen", lambda: None)
    gc.unfreeze()
    with pytest.raises(SystemExit):
        cli.main()
    assert gc.get_freeze_count() > 10_000
    gc.unfreeze()


def test_a_rank_collects_garbage_as_usual_but_for_what_it_imported() -> None:
    try:
        collect_usually()
        assert gc.get_threshold() == USUAL and gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
        collect_rarely()


def test_a_bug_of_pipecuts_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(standalone_mode: bool) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", fail)
    monkeypatch.setattr(cli, "listen", lambda: None)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_usage_errors_end_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pipecut", "run"])
    monkeypatch.setattr(cli, "listen", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert re.match(r"pipecut: Missing argument .* \(see --help\)\n", capsys.readouterr().err)


def test_a_warning_about_a_users_file_is_a_line_without_ours(capsys: Any, monkeypatch: Any) -> None:
    others: list[Any] = []
    monkeypatch.setattr(warnings, "showwarning", lambda *arguments: others.append(arguments))
    show_warnings_plainly()
    warnings.showwarning(FutureWarning("job.yaml:4:1: old"), FutureWarning, "read.py", 12)
    assert capsys.readouterr().err == "pipecut: warning: job.yaml:4:1: old\n"
    warnings.showwarning(UserWarning("mine"), UserWarning, "other.py", 3)
    assert len(others) == 1 and not capsys.readouterr().err


@pytest.mark.usefixtures("job_here")
def test_a_page_that_cannot_be_written_is_refused_before_the_compile(tmp_path: Path) -> None:
    with pytest.raises(UserFileError, match="--html .* cannot be written: Is a directory"):
        invoke("compile", "job.yaml", "-o", tmp_path / "plan", "--html", tmp_path)
    assert not (tmp_path / "plan").exists()


def test_the_help_of_every_command_has_an_example() -> None:
    group = typer.main.get_command(cli.app)
    commands = dict(getattr(group, "commands"))  # noqa: B009
    schedule = commands.pop("schedule")
    commands |= schedule.commands
    without = [name for name, command in commands.items() if "Example" not in command.help]
    assert not without and "pipecut init my-training" in (group.help or "")
