"""GPipe (Huang et al., 2019): all forwards, then all backwards.

stage 0   F0 F1 F2 .  .  .  .  B0 B1 B2
stage 1   .  F0 F1 F2 .  .  B0 B1 B2 .
stage 2   .  .  F0 F1 F2 B0 B1 B2 .  .
"""


def gpipe(stage: int, stages: int, microbatches: int) -> list[tuple[str, int]]:
    """(F or B, microbatch) in the order the stage computes them."""
    return [("F", m) for m in range(microbatches)] + [("B", m) for m in range(microbatches)]
