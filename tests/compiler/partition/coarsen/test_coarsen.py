"""From costed graphs to blocks: by hand, and the golden models' as text."""

from pathlib import Path

import pytest

from pipecut.compiler.costs.roofline import cost
from pipecut.compiler.graph import Parameter
from pipecut.compiler.inputs.cluster_file import read_cluster
from pipecut.compiler.inputs.job import read_job
from pipecut.compiler.partition.coarsen.assemble import Grouping, assemble
from pipecut.compiler.partition.coarsen.coarsen import coarsen
from pipecut.compiler.partition.coarsen.parameter_bytes import OptimizerSpec, fixed_bytes
from pipecut.compiler.partition.constraints import Constraints
from pipecut.compiler.partition.load import bottleneck
from pipecut.compiler.partition.placement import Certificate, placement_of
from pipecut.compiler.partition.problem import Duplicated, StageDevice
from pipecut.compiler.trace.trace import trace
from pipecut.plan.schema import Optimizer
from tests.compiler.partition.coarsen.graphs import Sketch
from tests.compiler.partition.problems import device
from tests.golden import check_golden
from tests.models.golden import NAMES, golden_job

DEVICES = (device(in_flight=2), device())
SGD = OptimizerSpec(Optimizer(name="sgd"))
ADAMW = Optimizer(name="adamw")


def layers() -> Sketch:
    """Two layers with a weight each, a mask that both use, and a view of the first's result."""
    sketch = Sketch()
    sketch.parameter("w0", 8)
    sketch.parameter("w1", 4)
    sketch.add("mask", seconds=0.5, size=4, target="aten.zeros.default")
    sketch.add("first", "x", "w0", "mask", seconds=9.0, grad=True)
    sketch.add("view", "first", seconds=0.0, target="aten.view.default", grad=True)
    sketch.add("second", "view", "w1", "mask", seconds=9.0)
    sketch.add("loss", "second", seconds=0.25)
    return sketch


def test_blocks_tensors_and_what_is_shared_are_counted() -> None:
    problem = coarsen(layers().costed(), DEVICES, SGD, Constraints())
    assert [block.operators for block in problem.blocks] == [(1, 2), (3,), (4,)]
    assert [block.seconds["gpu"] for block in problem.blocks] == [9.0, 9.0, 0.25]
    assert problem.edges == {(0, 1), (1, 2)}
    moved = [(row.name, row.forward_bytes, row.backward_bytes) for row in problem.tensors]
    assert moved == [("view", 8, 8), ("second", 8, 0)]
    assert [(row.name, row.users) for row in problem.shared] == [
        ("w0", (0,)),
        ("w1", (1,)),
        ("mask", (0, 1)),
    ]
    assert problem.duplicated == (Duplicated(0, (0, 1)),)


def test_constraints_become_pins_splits_and_larger_blocks() -> None:
    rules = Constraints(together=((3, 4),), before=((3, 4),), pins=((1, 0), (4, 1)))
    problem = coarsen(layers().costed(), DEVICES, SGD, rules, "auto")
    assert [block.operators for block in problem.blocks] == [(1, 2), (3, 4)]
    assert problem.pins == ((0, 0), (1, 1)) and problem.splits == ((0, 1),)
    assert problem.recompute == "auto"


def test_a_parameter_that_nothing_uses_stands_with_the_first_block() -> None:
    sketch = Sketch()
    sketch.parameter("unused")
    sketch.add("first", "x")
    sketch.add("loss", "first")
    grouping = Grouping(sketch.costed(), [[0], [1]], frozenset(), {})
    problem = assemble(grouping, DEVICES, {"unused": 12}, Constraints())
    assert [(row.name, row.bytes, row.users) for row in problem.shared] == [("unused", 12, (0,))]


def test_a_frozen_parameter_has_no_gradient_and_no_states() -> None:
    trained = Parameter("w", ("w",), (4,), "float32", 16, trainable=True)
    frozen = Parameter("w", ("w",), (4,), "float32", 16, trainable=False)
    assert fixed_bytes(frozen, SGD) == 16
    # Weight, gradient and the two moments of AdamW.
    assert fixed_bytes(trained, OptimizerSpec(ADAMW)) == 4 * 16
    # The moments over two replicas.
    assert fixed_bytes(trained, OptimizerSpec(ADAMW, shards=2)) == 3 * 16


@pytest.mark.parametrize("name", NAMES)
def test_the_blocks_of_the_golden_models(name: str, tmp_path: Path) -> None:
    files = golden_job(tmp_path, name)
    job, cluster = read_job(files.job), read_cluster(str(files.cluster))
    costed = cost(trace(job), cluster, "fp32", 2)
    link = cluster.slowest_link([(0, 1)])
    devices = tuple(
        StageDevice("slow-core", 2**30, in_flight, link.bandwidth, link.latency)
        for in_flight in (2, 1)
    )
    problem = coarsen(costed, devices, OptimizerSpec(ADAMW), Constraints())
    check_golden(f"coarsen/{name}", str(problem))
    half = len(problem.blocks) // 2
    stages = [0] * half + [1] * (len(problem.blocks) - half)
    # A cut in the middle, of which nothing is proven but that one stage must do half of the work.
    slowest = bottleneck(problem, stages)
    bound = sum(block.seconds["slow-core"] for block in problem.blocks) / 2
    gap = 1 - bound / slowest
    certificate = Certificate(slowest, bound, gap, False, "cut in the middle", 0.0)
    check_golden(f"placement/{name}", str(placement_of(problem, stages, certificate)))
