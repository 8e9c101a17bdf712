"""The sizes of a batch, and what part of the loss each microbatch has."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pipecut.errors import RunError
from pipecut.plan.schema.numbers import Count, PlanModel, Positive, Signed

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


class LengthRange(PlanModel):
    """The shortest and the longest that a microbatch may be along a sequence dimension."""

    shortest: Positive
    longest: Positive


class MoreSamples(PlanModel):
    """Microbatches of up to these lengths may have so many samples, in the same memory."""

    samples: Positive
    lengths: dict[str, Positive]


class Rising(PlanModel):
    """Which microbatches run first, in rising order; the others follow in falling order.

    Of those from the shortest to the longest every so many, from `first` on, which counts from the
    longest where it is negative.
    """

    first: Signed = 0
    every: Positive = 2


class Batch(PlanModel):
    """Samples per step and per microbatch; `dynamic` when any other size works too, of at least
    `least_samples`.

    The loss of a batch is the mean of its microbatches' losses, weighted by samples or by `terms`;
    where it is `summed`, their sum.
    `lengths` has each length that microbatches may have of their own, by the name that dimensions
    call it. Memory is checked and time predicted for the longest. `order` is that in which listed
    microbatches run; `pad` has what samples of an input are made longer with; `more_samples` is
    what microbatches of shorter lengths may have; of a balanced order `rising` says which rise.
    """

    global_size: Positive
    microbatch: Positive
    dynamic: bool
    least_samples: Positive = 1
    terms: Terms | None = None
    summed: bool = False
    lengths: dict[str, LengthRange] = {}
    order: Literal["as-given", "balanced"] = "as-given"
    pad: dict[str, float] = {}
    more_samples: MoreSamples | None = None
    rising: Rising = Rising()

    def sizes(self, samples: int) -> dict[str, int]:
        """What dimensions are evaluated for: so many samples, of the longest lengths."""
        longest = {name: allowed.longest for name, allowed in self.lengths.items()}
        return {"batch": samples, **longest}

    def most_samples(self, lengths: Mapping[str, int]) -> int:
        """The most samples of a microbatch of such lengths, for which memory is planned."""
        more = self.more_samples
        if more is None or any(lengths[name] > most for name, most in more.lengths.items()):
            return self.microbatch
        return more.samples

    @property
    def largest(self) -> dict[str, int]:
        """The sizes of a whole microbatch of the longest lengths."""
        return self.sizes(self.microbatch)

    def weights(
        self, microbatches: Sequence[Mapping[str, "torch.Tensor"]], samples: Sequence[int]
    ) -> list[float]:
        """The weight of each microbatch, of so many samples each; they sum to 1 in a mean.

        Raises RunError when a microbatch has no label that counts.
        """
        if self.summed:
            return [1.0 for _ in samples]
        counts = self.counts(microbatches, samples)
        return [count / sum(counts) for count in counts]

    def counts(
        self, microbatches: Sequence[Mapping[str, "torch.Tensor"]], samples: Sequence[int]
    ) -> Sequence[int]:
        """What microbatches are weighted by: their samples, or their labels that count.

        Raises RunError when a microbatch has no label that counts.
        """
        return samples if self.terms is None else _counts(self.terms, microbatches)


def _counts(terms: Terms, microbatches: Sequence[Mapping[str, "torch.Tensor"]]) -> list[int]:
    counts = [terms.count(tensors[terms.input]) for tensors in microbatches]
    if 0 in counts:
        raise RunError(
            f"no label of microbatch {counts.index(0)} counts "
            f"('{terms.input}' is {terms.ignored} throughout), so its mean is not a number; "
            "regroup the samples so that every microbatch has a counted label"
        )
    return counts
