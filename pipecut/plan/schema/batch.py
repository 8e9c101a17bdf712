"""The sizes of a batch, and what part of the loss each microbatch has."""

from typing import TYPE_CHECKING

from pipecut.errors import RunError
from pipecut.plan.schema.numbers import Count, PlanModel, Positive

if TYPE_CHECKING:
    import torch


class Terms(PlanModel):
    """What the loss is the mean over: an input's labels but for `ignored` ones.

    The first `skipped` labels of each sample do not count either.
    """

    input: str
    ignored: int
    skipped: Count

    def count(self, labels: "torch.Tensor") -> int:
        """The labels that count."""
        counting = labels[:, self.skipped :] if self.skipped else labels
        return int((counting != self.ignored).sum())


class Batch(PlanModel):
    """Samples per step and per microbatch; `dynamic` when any other size works too.

    The loss of a batch is the mean of its microbatches' losses, weighted by samples or by `terms`.
    """

    global_size: Positive
    microbatch: Positive
    dynamic: bool
    terms: Terms | None = None

    def weights(self, batch: dict[str, "torch.Tensor"], samples: list[int]) -> list[float]:
        """The weight of each microbatch, of so many samples each; they sum to 1.

        Raises RunError when a microbatch has no label that counts.
        """
        counts = samples if self.terms is None else _counts(self.terms, batch, samples)
        return [count / sum(counts) for count in counts]


def _counts(terms: Terms, batch: dict[str, "torch.Tensor"], samples: list[int]) -> list[int]:
    # Imported late, so that whoever only starts ranks and reads what they do imports no torch.
    import torch

    counts = [terms.count(labels) for labels in torch.split(batch[terms.input], samples)]
    if 0 in counts:
        raise RunError(
            f"no label of microbatch {counts.index(0)} counts "
            f"('{terms.input}' is {terms.ignored} throughout), so its mean is not a number; "
            "regroup the samples so that every microbatch has a counted label"
        )
    return counts
