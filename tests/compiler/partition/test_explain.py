"""Why nothing fits: the stage that binds, and what would help."""

from dataclasses import replace

from pipecut.compiler.partition.explain import Remedies, explain
from pipecut.compiler.partition.problem import Problem, SharedParameter
from tests.compiler.partition.problems import block, chain, device, in_flight_per_stage

GIB = 2**30


def message(problem: Problem, proven: bool = True) -> str:
    return str(explain(problem, proven, in_flight_per_stage))


def test_fewer_blocks_than_stages_name_the_most_stages() -> None:
    assert message(chain([1.0] * 2, 3)) == (
        "3 stages asked for, but the model has only 2 parts that a cut may separate; "
        "ask for --stages 2 or fewer"
    )


def test_a_placement_section_that_cannot_be_obeyed_is_named() -> None:
    problem = replace(chain([1.0] * 3, 2), pins=((0, 1), (2, 0)))
    assert "no placement obeys the job's placement: section" in message(problem)
    assert "no placement was found that obeys" in message(problem, proven=False)


def heavy(size: int, count: int = 4, stages: int = 2, capacity: int = 10 * GIB) -> Problem:
    """Blocks with a parameter each."""
    problem = chain([1.0] * count, stages, capacity=capacity)
    shared = tuple(SharedParameter(f"p{v}", size, (v,)) for v in range(count))
    return replace(problem, shared=shared)


def test_the_least_memory_and_the_fewest_stages_are_named() -> None:
    text = message(heavy(6 * GIB))
    assert text.startswith("no placement fits: memory binds on stage 0 (gpu), which needs 12.0 GiB")
    assert "parameters, gradients and optimizer states are most of it" in text
    assert "What would fit: 12.0 GiB per device after the reserve with 2 stages" in text
    assert "; or 4 stages of this kind (--stages 4); or a smaller microbatch; or" in text
    assert text.endswith("or recompute: auto in the job file.")


def test_more_stages_help_only_where_a_block_fits_alone() -> None:
    text = message(heavy(11 * GIB))
    assert text.endswith("job file. More stages of this kind do not help, up to 256.")


def test_where_there_is_no_job_its_keys_are_no_remedies() -> None:
    """As where `pipecut solve` partitions a file."""
    remedies = Remedies(stages="--devices", memory="--memory", of_job=False)
    text = str(explain(heavy(6 * GIB), True, in_flight_per_stage, remedies))
    assert "What would fit: 12.0 GiB per device after the reserve (--memory)" in text
    assert text.endswith("or 4 stages of this kind (--devices 4).")
    assert "microbatch" not in text and "recompute" not in text


def test_activations_in_flight_are_named_where_they_weigh_most() -> None:
    blocks = tuple(block(1.0, saved=3 * GIB) for _ in range(4))
    problem = replace(heavy(1), blocks=blocks, stage_devices=(device(10 * GIB, in_flight=2),) * 2)
    text = message(problem, proven=False)
    assert text.startswith("no placement was found that fits: memory binds")
    assert "saved activations in flight are most of it" in text and "2 microbatches" in text


def test_recomputing_is_no_remedy_where_it_was_tried() -> None:
    text = message(replace(heavy(6 * GIB), recompute="auto"))
    assert "with recompute or without" in text and "recompute: auto" not in text
