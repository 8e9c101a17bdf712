"""The search finds what trying everything finds, and its bounds hold."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipecut.compiler import AUTO, Options, Request, SizeOverrides, compile, compile_plan
from pipecut.compiler.costs.rebatch import with_batch
from pipecut.compiler.graphs import Costs, Graphs
from pipecut.compiler.inputs.auto import Auto
from pipecut.compiler.inputs.cluster import Cluster
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.job import Job, read_job
from pipecut.compiler.profile.measured_costs import MeasuredCosts
from pipecut.compiler.search.candidates import SEARCHED, candidates
from pipecut.compiler.search.search import MARGIN, search
from pipecut.compiler.search.sizes import SearchSpace, resolve_sizes
from pipecut.compiler.search.sizes import SizeOverrides as Over
from pipecut.compiler.search.trial import Setting, attempt
from pipecut.compiler.trace.trace import trace
from pipecut.errors import InfeasibleError, UserFileError

CLUSTER = """name: small
nodes:
  - {{devices: {{core: 4}}, link: wire}}
devices:
  core:
    memory: {memory}
    bandwidth: 1GB/s
    flops: {{fp32: 100MFLOP/s}}
    overhead: 0us
    efficiency: 1
    type: cpu
    source: me
links:
  wire: {{bandwidth: 1GB/s, latency: 10us, source: made up}}
"""


def setting_of(job: Job, machine: Cluster) -> Setting:
    costs = Costs(Graphs(job, job.microbatch), machine, MeasuredCosts())
    return Setting(job, machine, costs)


def cluster(tmp_path: Path, memory: str = "4GiB") -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER.format(memory=memory))
    return str(path)


@given(
    devices=st.integers(1, 24),
    total=st.integers(1, 48),
    stages=st.just(AUTO) | st.integers(1, 8),
    replicas=st.just(AUTO) | st.integers(1, 4),
    microbatch=st.just(AUTO) | st.integers(1, 8),
)
def test_candidates_use_what_there_is_and_divide_the_batch(
    devices: int, total: int, stages: int | Auto, replicas: int | Auto, microbatch: int | Auto
) -> None:
    for one in candidates(SearchSpace(devices, total, stages, replicas, microbatch, AUTO)):
        assert one.stages * one.replicas <= devices
        samples = one.replicas * one.microbatches * one.microbatch
        assert (
            samples == total
            if one.replicas > 1 or microbatch is AUTO
            else samples - total < one.microbatch
        )
        assert stages in (AUTO, one.stages)
        assert replicas in (AUTO, one.replicas)
        assert microbatch in (AUTO, one.microbatch)


@pytest.mark.parametrize("memory", ["4GiB", "200KiB"])
def test_the_search_finds_the_best_of_all(memory: str, write_job: Any, tmp_path: Path) -> None:
    job = read_job(write_job("mlp", "vectors"))
    machine = read_cluster(cluster(tmp_path, memory))
    asked = resolve_sizes(
        job.spec, job.path, 4, Over(stages=AUTO, replicas=AUTO, microbatch=AUTO, schedule=AUTO)
    )
    setting = setting_of(job, machine)
    tried = search(asked, setting, lambda _: None)
    searched = [one for one in tried if one.candidate.schedule in SEARCHED]
    everything = [attempt(one, setting) for one in searched]
    steps = [one.step_seconds for one in everything if one.step_seconds is not None]
    assert len(searched) == len(candidates(asked)) and len(steps) > 5
    assert searched[0].step_seconds == min(steps)
    assert any(one.why.startswith("at best") for one in searched)
    for one in everything:
        assert one.step_seconds is None or one.bound <= one.step_seconds * (1 + 1e-9)


@pytest.mark.parametrize(("total", "taken"), [(8, True), (64, False)])
def test_another_schedule_is_taken_where_it_is_much_shorter(
    total: int, taken: bool, write_job: Any, tmp_path: Path
) -> None:
    # With two microbatches a stage the bubble is large, with sixteen there is little to gain.
    path = write_job("mlp", "vectors")
    path.write_text(
        path.read_text().replace("global: 8, microbatch: 2", f"global: {total}, microbatch: 1")
    )
    job = read_job(path)
    machine = read_cluster(cluster(tmp_path))
    space = resolve_sizes(job.spec, job.path, 4, Over(stages="auto", schedule="auto"))
    tried = search(space, setting_of(job, machine), lambda _: None)
    best = next(one for one in tried if one.candidate.schedule in SEARCHED)
    others = [one for one in tried if one.candidate.schedule not in SEARCHED]
    assert best.step_seconds is not None and {one.candidate.ranks for one in others} == {
        best.candidate.ranks
    }
    shortest = min(one.step_seconds for one in others if one.step_seconds is not None)
    assert (tried[0] is not best) == taken == (shortest * (1 + MARGIN) < best.step_seconds)


def test_a_plan_is_the_best_found_and_says_so(write_job: Any, tmp_path: Path) -> None:
    job = write_job("mlp", "vectors", extra="stages: auto\ndata_parallel: auto\nschedule: auto\n")
    options = Options(explain=True)
    compiled = compile_plan(Request(job, cluster(tmp_path), tmp_path / "plan", options))
    plan, best = compiled.folder.plan, compiled.trials[0]
    assert (len(plan.stages), plan.replicas, plan.schedule) == (
        best.candidate.stages,
        best.candidate.replicas,
        best.candidate.schedule,
    )
    assert plan.prediction.step_seconds == pytest.approx(best.step_seconds, rel=0.01)
    assert any("candidates" in note for note in plan.notes)
    assert [price.limit for price in compiled.sensitivities] == [
        "one more device",
        "10% more memory",
        "twice the bandwidth of links",
    ]
    assert all(price.step_seconds is not None for price in compiled.sensitivities)


def test_nothing_that_fits_names_the_candidates(write_job: Any, tmp_path: Path) -> None:
    with pytest.raises(InfeasibleError, match="none of .* candidates fits: .*memory"):
        compile(
            write_job("mlp", "vectors"),
            cluster(tmp_path, "10KiB"),
            tmp_path / "plan",
            Options(SizeOverrides(stages=AUTO)),
        )


def test_replicas_that_do_not_divide_the_batch_are_refused(write_job: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UserFileError, match=r"mlp.yaml:4:1: a global batch of 8 is no multiple of 3 replicas"
    ):
        compile(
            write_job("mlp", "vectors"),
            cluster(tmp_path),
            tmp_path / "plan",
            Options(SizeOverrides(stages=1, replicas=3)),
        )


@pytest.mark.parametrize(
    ("model", "inputs", "loss"), [("gpt2", "tokens", None), ("unet", "unet_inputs", "unet_loss")]
)
def test_a_resized_graph_has_the_sizes_of_one_traced_so(
    model: str, inputs: str, loss: str | None, write_job: Any
) -> None:
    job = read_job(write_job(model, inputs, loss))
    resized, traced = with_batch(trace(job), 4), trace(job.with_microbatch(4))
    assert {n: (v.sizes, v.bytes) for n, v in resized.values.items()} == {
        n: (v.sizes, v.bytes) for n, v in traced.values.items()
    }
    same = sum(
        resized.values[name].strides == value.strides for name, value in traced.values.items()
    )
    assert same > 0.9 * len(traced.values)
