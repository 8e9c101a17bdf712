"""What a problem's values say of themselves."""

from dataclasses import replace

from pipecut.compiler.partition.problem import (
    Block,
    Duplicated,
    Problem,
    SharedParameter,
    StageDevice,
    TensorUse,
)
from tests.compiler.partition.problems import chain, device

PROBLEM = Problem(
    blocks=(
        Block((0, 1, 2), {"gpu": 2e-3}, 2048, 1024, {"gpu": 1e-3}),
        Block((4,), {"gpu": 5e-3}, 0, 0),
    ),
    edges=frozenset({(0, 1)}),
    tensors=(TensorUse("hidden", 0, (1,), 4096, 4096, 2),),
    shared=(SharedParameter("embed.weight", 8192, (0, 1)),),
    stage_devices=(
        StageDevice("gpu", 2**30, 2, 1e9, 1e-6),
        StageDevice("gpu", 2**30, 1, 1e9, 1e-6),
    ),
    pins=((1, 1),),
    splits=((0, 1),),
    duplicated=(Duplicated(3, (0, 1)),),
)


def test_a_problem_prints_as_tables() -> None:
    assert str(PROBLEM) == (
        "stage  device   capacity  in flight  link         latency\n"
        "0      0 (gpu)  1.0 GiB   2          953.7 MiB/s  1 us\n"
        "1      1 (gpu)  1.0 GiB   1          953.7 MiB/s  1 us\n"
        "\n"
        "block  operators  after  gpu   saved    transient\n"
        "0      0-2        -      2 ms  2.0 KiB  1.0 KiB\n"
        "1      4          0      5 ms  0 B      0 B\n"
        "\n"
        "tensor  from  to  forward  backward  messages\n"
        "hidden  0     1   4.0 KiB  4.0 KiB   2\n"
        "\n"
        "shared        used by  bytes    gpu   saved\n"
        "embed.weight  0-1      8.0 KiB  0 ns  0 B\n"
        "\n"
        "transfers: relay; recompute: never\n"
        "block 1 stands on stage 1\n"
        "a cut lies between blocks 0 and 1\n"
        "operator 3 runs on every stage with one of blocks 0-1"
    )


def test_a_stage_that_recomputes_adds_its_forward_seconds() -> None:
    block = PROBLEM.blocks[0]
    assert block.seconds_on("gpu", recompute=False) == 2e-3
    assert block.seconds_on("gpu", recompute=True) == 3e-3


def test_a_stage_that_recomputes_saves_one_microbatch() -> None:
    assert device(in_flight=4).saved_microbatches(recompute=False) == 4
    assert device(in_flight=4).saved_microbatches(recompute=True) == 1
    assert device(in_flight=0).saved_microbatches(recompute=True) == 0


def test_what_is_shared_weighs_as_often_as_it_is_saved() -> None:
    mask = SharedParameter("mask", 10, (0,), {"gpu": 2.0}, {"gpu": 1.0}, saved_bytes=3)
    assert mask.bytes_with(2) == 16
    assert mask.seconds_on("gpu", recompute=True) == 3.0
    assert mask.seconds_on("another kind", recompute=True) == 0.0


def test_stages_have_devices_of_their_own_unless_the_problem_says() -> None:
    problem = chain([1.0] * 4, 4)
    assert problem.stages_of_devices() == {0: [0], 1: [1], 2: [2], 3: [3]}
    problem = replace(problem, devices=(0, 1, 1, 0))
    assert problem.stages_of_devices() == {0: [0, 3], 1: [1, 2]}


def test_blocks_know_what_they_share() -> None:
    assert PROBLEM.shared_by_block() == [[0], [0]]


def test_the_quicker_choice_stands_first() -> None:
    assert replace(PROBLEM, recompute="auto").recompute_choices == (False, True)
    assert replace(PROBLEM, recompute="always").recompute_choices == (True,)
