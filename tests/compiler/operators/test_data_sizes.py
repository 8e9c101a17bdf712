"""Which calls make sizes that depend on data, and the most that these can be."""

import torch

from pipecut.compiler.operators.data_sizes import guess_of, makes_size, most_of

ATEN = torch.ops.aten
ROWS, MASK = torch.zeros(4, 3), torch.zeros(4, dtype=torch.bool)
WHOLE = torch.zeros(4, 1, dtype=torch.bool)
COUNTS = torch.zeros(4, dtype=torch.int64)
MOST = [
    (ATEN.nonzero.default, (ROWS,), 12),
    (ATEN.index.Tensor, (ROWS, [MASK]), 4),
    (ATEN.index.Tensor, (ROWS, [None, MASK[:3]]), 3),
    (ATEN.masked_select.default, (ROWS, ROWS > 0), 12),
    (ATEN.masked_select.default, (ROWS[:, :1], WHOLE.expand(4, 3)), 12),
    (ATEN.masked_select.default, (ROWS[0], WHOLE), 12),
    (ATEN._unique2.default, (ROWS,), 12),
    (ATEN.unique_dim.default, (ROWS, 1), 3),
    (ATEN.repeat_interleave.Tensor, (COUNTS,), None),
    (ATEN.repeat_interleave.self_Tensor, (ROWS, COUNTS, 0), None),
    (ATEN.bincount.default, (COUNTS,), None),
]
FIXED = [
    (ATEN.index.Tensor, (ROWS, [COUNTS])),
    (ATEN.repeat_interleave.self_int, (ROWS, 2, 0)),
    (ATEN.relu.default, (ROWS,)),
]


def test_the_most_of_each_call() -> None:
    for function, args, most in MOST:
        assert makes_size(function, args), function
        assert most_of(function, args, {}) == most, function
    assert not any(makes_size(function, args) for function, args in FIXED)
    assert guess_of((ROWS, COUNTS)) == 4
