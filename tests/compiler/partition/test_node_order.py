"""Unequal nodes take the stages that suit them."""

from pathlib import Path

from pipecut.compiler import Options, SizeOverrides, compile

CLUSTER = """name: unequal
nodes:
  - {{name: a, devices: {{{first}: 1}}}}
  - {{name: b, devices: {{{last}: 1}}}}
network: {{bandwidth: 100GB/s, latency: 0us}}
devices:
  roomy:
    memory: 1GiB
    bandwidth: 1GB/s
    flops: {{fp32: 100MFLOP/s}}
    overhead: 0us
    efficiency: 1
    type: cpu
    source: me
  tight:
    memory: 135KiB
    bandwidth: 1GB/s
    flops: {{fp32: 100MFLOP/s}}
    overhead: 0us
    efficiency: 1
    type: cpu
    source: me
"""
# With 64 samples per microbatch, activations weigh as much as parameters do.
JOB = """model: {factory: "tests.models.core:mlp"}
inputs: "tests.models.core:vectors"
batch: {global: 256, microbatch: 64}
recompute: never
"""


def test_the_node_with_room_takes_the_stage_with_most_in_flight(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(JOB)
    plans = []
    for first, last in (("roomy", "tight"), ("tight", "roomy")):
        cluster = tmp_path / f"{first}.yaml"
        cluster.write_text(CLUSTER.format(first=first, last=last))
        plans.append(
            compile(job, str(cluster), tmp_path / first, Options(SizeOverrides(stages=2))).plan
        )
    devices = [[stage.device for stage in plan.stages] for plan in plans]
    assert devices == [["roomy", "tight"], ["roomy", "tight"]]
    assert plans[0].certificate.objective == plans[1].certificate.objective
    assert [any("--node-rank" in note for note in plan.notes) for plan in plans].count(True) == 1


def test_a_stage_goes_to_the_node_that_suits_it_where_nodes_are_left_over(tmp_path: Path) -> None:
    job, cluster = tmp_path / "job.yaml", tmp_path / "cluster.yaml"
    job.write_text(JOB)
    cluster.write_text(CLUSTER.format(first="tight", last="roomy"))
    plan = compile(job, str(cluster), tmp_path / "plan", Options(SizeOverrides(stages=1))).plan
    assert [stage.device for stage in plan.stages] == ["roomy"]
    assert plan.source is not None and plan.source.devices == [1]
