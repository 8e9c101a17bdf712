"""Sizes of the job file and of the command line, resolved."""

from pathlib import Path
from typing import Any

import pytest

from pipecut.compiler.inputs.auto import AUTO
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.search.sizes import SizeOverrides, resolve_sizes, usable_devices
from pipecut.errors import UserFileError
from tests.costs import made_cluster, made_device, made_job

PATH = Path("job.yaml")


@pytest.mark.parametrize(
    ("keys", "overrides", "expected"),
    [
        # stages, replicas, microbatch, schedule, stages per rank; on 8 devices.
        ({}, {}, (8, 1, 2, "1f1b", 1)),
        ({"stages": 4}, {}, (4, 1, 2, "1f1b", 1)),
        ({"data_parallel": 2}, {}, (4, 2, 2, "1f1b", 1)),
        ({"data_parallel": "auto"}, {}, (AUTO, AUTO, 2, "1f1b", 1)),
        ({"stages": 4}, {"stages": 2}, (2, 1, 2, "1f1b", 1)),
        ({"stages": 4}, {"stages": AUTO}, (AUTO, 1, 2, "1f1b", 1)),
        ({"stages": 4}, {"stages": "auto", "schedule": "auto"}, (AUTO, 1, 2, AUTO, 1)),
        ({}, {"microbatch": 4}, (8, 1, 4, "1f1b", 1)),
        ({}, {"microbatches": 3}, (8, 1, 3, "1f1b", 1)),
        ({"schedule": "v-shaped"}, {}, (16, 1, 2, "v-shaped", 2)),
        ({"schedule": "interleaved"}, {}, (16, 1, 2, "interleaved", 2)),
        ({"schedule": "interleaved", "stages_per_rank": 3}, {}, (24, 1, 2, "interleaved", 3)),
        ({"schedule": "interleaved"}, {"stages_per_rank": 4}, (32, 1, 2, "interleaved", 4)),
        ({"schedule": "auto"}, {"schedule": "zb-h1"}, (8, 1, 2, "zb-h1", 1)),
    ],
)
def test_the_command_line_stands_over_the_job_file(
    keys: dict[str, Any], overrides: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    space = resolve_sizes(made_job(**keys).spec, PATH, 8, SizeOverrides(**overrides))
    assert (
        space.stages,
        space.replicas,
        space.microbatch,
        space.schedule,
        space.stages_per_rank,
    ) == expected
    assert space.fixed == (AUTO not in expected)


@pytest.mark.parametrize(
    ("keys", "overrides", "message"),
    [
        ({"stages": 9}, {}, "9 stages asked for, but the cluster has 8 devices"),
        ({"stages": 4, "data_parallel": 4}, {}, "4 stages times 4 replicas asked for"),
        ({"stages": 3, "schedule": "v-shaped"}, {}, "3 stages is no multiple"),
        ({}, {"microbatch": 9}, "--microbatch 9: must be at most the global batch, 8"),
        ({}, {"microbatches": 9}, "--microbatches 9: must be at most the global batch, 8"),
        (
            {"stages": 18, "schedule": "interleaved", "stages_per_rank": 2},
            {},
            "18 stages, 2 on a device, asked for",
        ),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    keys: dict[str, Any], overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserFileError, match=message):
        resolve_sizes(made_job(**keys).spec, PATH, 8, SizeOverrides(**overrides))


def test_a_batch_that_replicas_do_not_divide_is_refused_where_it_is(write_job: Any) -> None:
    job = read_job(write_job("mlp", "vectors"))
    message = r"mlp.yaml:4:1: a global batch of 8 is no multiple of 2 replicas with microbatches of"
    with pytest.raises(UserFileError, match=message):
        resolve_sizes(job.spec, job.path, 8, SizeOverrides(replicas=2, microbatch=3))


@pytest.mark.parametrize(
    ("stages", "replicas", "cores", "expected"),
    [(None, None, 2, 2), (4, None, 2, 4), (4, 3, 2, 12), (4, 9, 2, 16), (1, 1, 20, 16)],
)
def test_of_this_machine_as_many_cores_are_used_as_there_are_or_stages_need(
    stages: int | None, replicas: int | None, cores: int, expected: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    machine = made_cluster(16)
    auto = type(machine)("auto", machine.devices, machine.inside, None, 0)
    sizes = SizeOverrides(stages, replicas)
    assert usable_devices(auto, made_job().spec, sizes) == expected
    assert usable_devices(machine, made_job().spec, sizes) == 16


def test_of_this_machine_as_many_cores_are_used_as_a_layout_has_stages(monkeypatch: Any) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    machine = made_cluster(16)
    auto = type(machine)("auto", machine.devices, machine.inside, None, 0)
    spec = made_job(placement={"layout": "Et|t|t|tL"}).spec
    assert usable_devices(auto, spec, SizeOverrides()) == 4


def test_all_gpus_of_this_machine_are_used() -> None:
    machine = made_cluster([made_device(type="cuda")] * 3)
    auto = type(machine)("auto", machine.devices, machine.inside, None, 0)
    assert usable_devices(auto, made_job().spec, SizeOverrides(stages=1)) == 3


def test_an_override_is_a_number_or_auto() -> None:
    assert SizeOverrides(stages=0) == SizeOverrides(stages="auto") == SizeOverrides(stages=AUTO)  # type: ignore[arg-type]
    with pytest.raises(UserFileError, match="many"):
        SizeOverrides(stages="many")  # type: ignore[arg-type]
