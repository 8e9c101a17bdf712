"""1F1B (Narayanan et al., PipeDream, 2019; with a flush, 2021): a stage holds at most stages - stage microbatches.

stage 0   F0 F1 F2 .  .  B0 F3 .  B1 .  B2 .  B3
stage 1   .  F0 F1 .  B0 F2 .  B1 F3 B2 .  B3 .
stage 2   .  .  F0 B0 F1 .  B1 F2 B2 F3 B3 .  .
"""


def one_f_one_b(stage: int, stages: int, microbatches: int) -> list[tuple[str, int]]:
    """(F or B, microbatch) in the order the stage computes them."""
    warm = min(stages - stage - 1, microbatches)
    order = [("F", m) for m in range(warm)]
    for m in range(microbatches - warm):
        order += [("F", warm + m), ("B", m)]
    return order + [("B", m) for m in range(microbatches - warm, microbatches)]
