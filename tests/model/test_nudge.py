"""Each parameter's last bit is changed, to see how far rounding goes."""

import pytest
import torch
from torch import nn

from pipecut.model.nudge import nudge


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 23), ("bf16", 7), ("fp16", 10)])
def test_each_number_becomes_one_beside_it(precision: str, bits: int) -> None:
    model = nn.Linear(64, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.5)
    nudge(model, precision, seed=0)
    assert set(model.weight.sub(1.5).unique().tolist()) == {-(2.0**-bits), 2.0**-bits}
