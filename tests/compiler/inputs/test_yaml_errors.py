"""A broken file gives one paragraph with file:line and exit code 2, never a traceback."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.document.positions import KEY, position_of
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.search.sizes import SizeOverrides, resolve_sizes
from pipecut.errors import UserFileError

JOB = """model: {factory: "tests.models.core:mlp"}
inputs: "tests.models.core:vectors"
batch: {global: 8, microbatch: 2}
"""
CLUSTER = """name: mine
nodes:
  - {name: a, count: 1, devices: {h100-sxm: 8}, link: nvlink4}
"""
BROKEN_JOBS = {
    "empty file": "",
    "only a comment": "# nothing\n",
    "a list": "- model\n",
    "a scalar": "hello\n",
    "unknown key": JOB + "optimiser: adamw\n",
    "tab": JOB + "\tseed: 1\n",
    "unclosed bracket": JOB + "model2: {a: 1\n",
    "missing model": 'inputs: "tests.models.core:vectors"\nbatch: {global: 8, microbatch: 2}\n',
    "missing microbatch": JOB.replace(", microbatch: 2", ""),
    "wrong type": JOB.replace("global: 8", "global: eight"),
    "float batch": JOB.replace("global: 8", "global: 8.5"),
    "negative batch": JOB.replace("global: 8", "global: -8"),
    "microbatch above global": JOB.replace("microbatch: 2", "microbatch: 9"),
    "unknown schedule": JOB + "schedule: 2f2b\n",
    "unknown precision": JOB + "precision: int3\n",
    "unknown optimizer": JOB + "optimizer: lion\n",
    "duplicate key": JOB + "seed: 1\nseed: 2\n",
    "factory without colon": JOB.replace("tests.models.core:mlp", "tests.models.core.mlp"),
    "factory not found": JOB.replace("tests.models.core:mlp", "tests.models.core:nothing"),
    "module not found": JOB.replace("tests.models.core:mlp", "tests.nowhere:mlp"),
    "seed as text": JOB + "seed: one\n",
}
BROKEN_CLUSTERS = {
    "unknown device": CLUSTER.replace("h100-sxm", "h100-smx"),
    "unknown link": CLUSTER.replace("nvlink4", "nvlink9"),
    "no link": CLUSTER.replace(", link: nvlink4", ""),
    "duplicate node": CLUSTER
    + "  - {name: a, count: 1, devices: {h100-sxm: 8}, link: nvlink4}\n"
    + "network: {bandwidth: 1GB/s, latency: 1us}\n",
    "two nodes, no network": CLUSTER.replace("count: 1", "count: 2"),
    "wrong unit": CLUSTER + "reserve: 3GB/s\n",
    "no unit": CLUSTER + "reserve: 3\n",
    "negative memory": CLUSTER + "reserve: -3GiB\n",
    "negative count": CLUSTER.replace("count: 1", "count: -1"),
    "no nodes": "name: mine\nnodes: []\n",
    "unknown key in a node": CLUSTER.replace("count: 1", "cuont: 1"),
    "network latency wrong": CLUSTER + "network: {bandwidth: 1GB/s, latency: 5GB}\n",
    "negative device memory": CLUSTER
    + "devices: {x: {memory: -1GiB, bandwidth: 1GB/s, flops: {fp32: 1TFLOP/s}, source: me}}\n",
}


def one_paragraph(message: str, path: Path) -> None:
    assert re.match(rf"{re.escape(str(path))}:\d+:\d+: .{{10,}}", message), message
    assert "\n" not in message and "Traceback" not in message


@pytest.mark.parametrize("what", sorted(BROKEN_JOBS))
def test_broken_job(what: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(BROKEN_JOBS[what])
    with pytest.raises(UserFileError) as caught:
        read_job(path)
    assert caught.value.exit_code == 2
    one_paragraph(str(caught.value), path)


@pytest.mark.parametrize("what", sorted(BROKEN_CLUSTERS))
def test_broken_cluster(what: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(BROKEN_CLUSTERS[what])
    with pytest.raises(UserFileError) as caught:
        read_cluster(str(path))
    one_paragraph(str(caught.value), path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (JOB + "schedule: chimera\n", r"schedule: Input should be .*'gpipe'.*, or auto"),
        (JOB.replace("microbatch: 2", "microbatch: x"), r"batch.microbatch: .*integer, or auto"),
        (JOB + "stages: x\n", r"stages: .*integer, or auto"),
    ],
)
def test_a_wrong_value_says_that_auto_would_do(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(UserFileError, match=message):
        read_job(path)


def test_misspelt_device_is_reported_with_position_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(BROKEN_CLUSTERS["unknown device"])
    with pytest.raises(
        UserFileError,
        match=r"cluster.yaml:3:\d+: unknown device 'h100-smx'; did you mean 'h100-sxm'",
    ):
        read_cluster(str(path))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, len(JOB) - 1), st.text(alphabet="{}[]:,\t\n-x0\"'#&*!%@", min_size=1, max_size=3)
)
def test_a_mutated_job_is_read_or_refused(at: int, junk: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_text(JOB[:at] + junk + JOB[at + 1 :])
        try:
            read_job(path)
        except UserFileError as error:
            assert "Traceback" not in str(error)


@pytest.mark.parametrize(
    ("text", "location", "position"),
    [
        (
            '# compile: later\nmodel: {args: {compile: 1}}\ninputs: "a:b"\ncompile: inductor\n',
            ("compile", KEY),
            (4, 1),
        ),
        ('inputs: "m:build"\nmodel: {factory: "m:build"}\n', ("model", "factory"), (2, 18)),
        ("name: nodes\nnodes: [{devices: {a: 1}}, {devices: {b: 1}}]\n", ("nodes", 1), (2, 28)),
        ("nodes: [{name: b, devices: {a: 1, b: 1}}]\n", ("nodes", 0, "devices", "b", KEY), (1, 35)),
        ("batch: {global: 4}\n", ("batch", "microbatch"), (1, 8)),
        ("", ("batch",), (1, 1)),
    ],
)
def test_a_position_is_that_of_the_key_not_of_a_word_like_it(
    text: str, location: tuple[str | int, ...], position: tuple[int, int], tmp_path: Path
) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    assert position_of(path, *location) == position


def test_a_function_that_is_not_found_is_told_where_its_key_is(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    comment, rest = "# tests.models.core:nothing", JOB.partition("\n")[2]
    path.write_text(f'{comment}\n{rest}model:\n  factory: "tests.models.core:nothing"\n')
    with pytest.raises(UserFileError, match=r"job.yaml:5:12: "):
        read_job(path)


def test_a_reserve_of_more_than_a_device_has_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER + "reserve: 90GiB\n")
    with pytest.raises(
        UserFileError,
        match=r"cluster.yaml:4:10: a reserve of 90.0 GiB leaves nothing of a h100-sxm's 79.6 GiB",
    ):
        read_cluster(str(path))


def test_chunks_without_interleaving_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB + "stages_per_rank: 2\nschedule: 1f1b\n")
    with pytest.raises(
        UserFileError,
        match=r"job.yaml:4:1: stages_per_rank is for schedule: interleaved, and this is 1f1b",
    ):
        resolve_sizes(read_job(path).spec, path, 4, SizeOverrides())
    path.write_text(JOB + "schedule: interleaved\nstages_per_rank: 2\n")
    assert resolve_sizes(read_job(path).spec, path, 4, SizeOverrides()).stages_per_rank == 2
