"""A placement of blocks, as one of operators, and how it prints."""

from dataclasses import replace

from pipecut.compiler.partition.placement import Certificate, placement_of
from pipecut.compiler.partition.problem import Duplicated
from tests.compiler.partition.problems import chain, device

CERTIFICATE = Certificate(8.0, 7.2, 0.1, False, "HiGHS 1.0", 0.5)


def test_duplicated_operators_are_on_every_stage_that_uses_them() -> None:
    problem = chain([4.0, 5.0], 2, [3.0])
    blocks = (
        replace(problem.blocks[0], operators=(0, 2)),
        replace(problem.blocks[1], operators=(3,)),
    )
    problem = replace(problem, blocks=blocks, duplicated=(Duplicated(1, (0, 1)),))
    placement = placement_of(problem, [0, 1], CERTIFICATE)
    assert placement.stages_of == ({0}, {0, 1}, {0}, {1})
    assert placement.loads == (7.0, 8.0) and placement.recompute == (False, False)


def test_a_placement_prints_as_a_table() -> None:
    problem = replace(chain([4.0, 5.0], 2, [3.0]), stage_devices=(device(2**20), device(2**30)))
    assert str(placement_of(problem, [0, 1], CERTIFICATE)) == (
        "stage  device   operators  load  memory          recompute\n"
        "0      0 (gpu)  0          7 s   0 B of 1.0 MiB  no\n"
        "1      1 (gpu)  1          8 s   3 B of 1.0 GiB  no\n"
        "bottleneck 8 s, bound 7.2 s, gap 10.00%, not proven optimal (HiGHS 1.0)"
    )


def test_a_proven_certificate_says_so() -> None:
    certificate = replace(CERTIFICATE, proven=True, gap=0.0)
    assert certificate.verdict == "proven optimal"
