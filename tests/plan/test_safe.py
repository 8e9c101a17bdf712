"""Reading a plan runs no code, ends soon and stays small; only code with the right hash runs."""

import os
import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from pipecut.cli import app
from pipecut.compiler import Options, SizeOverrides, compile
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.job import read_job
from pipecut.errors import PlanError, UserFileError
from pipecut.plan.check.check import check
from pipecut.plan.folder import GRAPH, MANIFEST, SCHEDULE, read_plan, seal, seal_of, write_seal
from pipecut.plan.trust import refuse_stranger, trust
from pipecut.runtime.engine.stage import build_module

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("safe")
    (folder / "job.yaml").write_text(
        'model: {factory: "tests.models.core:mlp"}\n'
        'inputs: "tests.models.core:vectors"\n'
        "batch: {global: 8, microbatch: 2}\n"
    )
    compile(
        folder / "job.yaml",
        "auto",
        folder / "plan",
        Options(SizeOverrides(stages=2), costs="roofline"),
    )
    return folder / "plan"


@pytest.fixture
def plan(compiled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(compiled, tmp_path / "plan"))


def pipecut(*arguments: str | Path) -> str:
    """What a command prints. Raises its error."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False).output


def edit(plan: Path, change: Callable[[Any], None]) -> None:
    """A manifest edited and sealed by somebody who has no pipecut."""
    data = yaml.safe_load((plan / MANIFEST).read_text())
    change(data)
    data["seal"] = seal_of(data)
    (plan / MANIFEST).write_text(yaml.dump(data, sort_keys=False))


def test_a_cached_stage_does_not_run_in_place_of_the_checked_one(plan: Path) -> None:
    folder = read_plan(plan)
    source = plan / "stages" / "stage_0.py"
    honest, stat = source.read_bytes(), source.stat()
    source.write_text("raise SystemExit('the cached file ran')\n" + " " * 10_000)
    cached = py_compile.compile(
        str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    assert cached is not None and Path(cached).is_file()
    source.write_bytes(honest)
    os.utime(source, (stat.st_atime, stat.st_mtime))
    module = build_module(plan, folder.plan, folder.plan.stages[0], torch.device("cpu"))
    assert list(module.state_dict())


def test_a_stage_edited_after_it_was_read_does_not_run(plan: Path) -> None:
    folder = read_plan(plan)
    (plan / "stages" / "stage_0.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(PlanError, match="stage_0.py was edited"):
        build_module(plan, folder.plan, folder.plan.stages[0], torch.device("cpu"))


@pytest.mark.parametrize("name", [MANIFEST, SCHEDULE])
def test_aliases_in_a_plan_are_refused_at_once(name: str, plan: Path) -> None:
    (plan / name).write_text(BOMB + "version: 5\n")
    with pytest.raises(PlanError, match="has aliases"):
        seal(plan)


@pytest.mark.parametrize("read", [read_job, lambda path: read_cluster(str(path))])
def test_aliases_of_aliases_in_a_users_file_are_refused(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMB)
    with pytest.raises(UserFileError, match="stand for more than 100,000 values"):
        read(path)
    path.write_text("a: &a [*a]\n")
    with pytest.raises(
        UserFileError, match="bomb.yaml:1:4: an alias stands for what it is part of"
    ):
        read(path)


def test_an_alias_in_a_users_file_is_what_it_stands_for(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        'model: {factory: &f "tests.models.core:mlp"}\n'
        'inputs: "tests.models.core:vectors"\n'
        "batch: {global: &n 8, microbatch: *n}\n"
    )
    assert read_job(path).microbatch == 8


@pytest.mark.parametrize("link", ["stages", "stages/stage_0.py", GRAPH])
def test_links_out_of_a_plan_are_not_followed(link: str, plan: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(plan / link, elsewhere)
    (plan / link).symlink_to(elsewhere)
    with pytest.raises(PlanError, match="is a link to .*elsewhere"):
        read_plan(plan)


NUMBERS: dict[str, Callable[[Any], None]] = {
    "bandwidth 0": lambda p: p["boundaries"][0].update(bandwidth=0.0),
    "latency nan": lambda p: p["boundaries"][0].update(latency=float("nan")),
    "a batch of 10^18": lambda p: p["batch"].update(global_size=10**18),
    "a batch of 2 billion": lambda p: p["batch"].update(global_size=2_000_000_000),
    "seconds below 0": lambda p: p["stages"][0].update(forward_seconds=-1.0),
    "infinite seconds": lambda p: p["prediction"].update(step_seconds=float("inf")),
    "bytes beyond any": lambda p: p["stages"][0].update(device_bytes=2**70),
}


@pytest.mark.parametrize("what", sorted(NUMBERS))
def test_numbers_that_nothing_has_are_refused(what: str, plan: Path) -> None:
    edit(plan, NUMBERS[what])
    with pytest.raises(PlanError):
        check(read_plan(plan))


def test_names_that_look_like_markup_are_printed_as_they_are(plan: Path) -> None:
    def rename(data: Any) -> None:
        data["stages"][0]["modules"] = ["[/bold] [red]layer :smile:"]
        data["notes"] = ["[/]"]

    edit(plan, rename)
    shown = pipecut("show", plan)
    assert "[/bold] [red]layer :smile:" in shown and "note: [/]" in shown


def test_a_timeline_checks_the_plan_first(plan: Path) -> None:
    text = (plan / SCHEDULE).read_text()
    (plan / SCHEDULE).write_text(text.replace("F 1.0", "F 7.0", 1))
    write_seal(seal(plan))
    with pytest.raises(PlanError, match="stage"):
        pipecut("timeline", plan, "-o", plan / "trace.json")
    assert not (plan / "trace.json").exists()


@pytest.mark.parametrize("memory", ["1e400GiB", "1e30GiB", "-1GiB", "nanGiB"])
def test_memory_that_nothing_has_is_refused(memory: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: mine\nnodes: [{{devices: {{h100-sxm: 1}}}}]\nreserve: {memory}\n")
    with pytest.raises(UserFileError, match=r"cluster.yaml:3:10: reserve: "):
        read_cluster(str(path))


def test_compiling_again_removes_the_old_plans_files_alone(compiled: Path, plan: Path) -> None:
    (plan / "checkpoints").mkdir()
    (plan / "checkpoints" / "step_1.safetensors").write_text("weeks of work")
    (plan / "notes.txt").write_text("mine")
    compile(
        compiled.parent / "job.yaml",
        "auto",
        plan,
        Options(SizeOverrides(stages=1), costs="roofline"),
    )
    assert (plan / "checkpoints" / "step_1.safetensors").read_text() == "weeks of work"
    assert (plan / "notes.txt").read_text() == "mine" and not (
        plan / "stages" / "stage_1.py"
    ).exists()
    check(read_plan(plan))
    assert not [path for path in plan.parent.iterdir() if path.name.startswith(".plan-")]


def test_a_folder_that_is_no_plan_is_left_alone(compiled: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("mine: [1]\n")
    with pytest.raises(UserFileError, match="is no plan folder"):
        compile(
            compiled.parent / "job.yaml",
            "auto",
            tmp_path,
            Options(SizeOverrides(stages=1), costs="roofline"),
        )
    assert (tmp_path / "plan.yaml").read_text() == "mine: [1]\n"


def test_a_plan_from_elsewhere_is_asked_about_once(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_stranger(read_plan(plan))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    edit(plan, lambda data: data["model"].update(factory="os:system"))
    with pytest.raises(UserFileError, match=r"was not compiled here.*os:system.*--trust"):
        refuse_stranger(read_plan(plan))
    with pytest.raises(UserFileError, match="--trust"):
        pipecut("run", plan, "--steps", "1")
    trust(read_plan(plan).plan.seal)
    refuse_stranger(read_plan(plan))


def test_sealing_a_strangers_plan_is_no_trust(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    manifest = plan / MANIFEST
    data = yaml.safe_load(manifest.read_text()) | {"seal": "0" * 64}
    manifest.write_text(yaml.dump(data, sort_keys=False))
    assert "--trust" in pipecut("seal", plan)
    with pytest.raises(UserFileError, match="--trust"):
        refuse_stranger(read_plan(plan))
    trust(read_plan(plan).plan.seal)
    assert "--trust" not in pipecut("seal", plan)
    refuse_stranger(read_plan(plan))
