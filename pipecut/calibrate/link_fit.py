"""Seconds of messages of several sizes -> latency and bandwidth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Seconds per byte where the measurements say that larger messages take no longer.
LEAST_RATE = 1e-15


@dataclass(frozen=True)
class Fit:
    """Seconds of a message = latency + bytes / bandwidth.

    `residual` is the largest relative error over the sizes that were measured.
    """

    latency: float
    bandwidth: float
    residual: float


def fit(seconds: Mapping[int, float]) -> Fit:
    """Least squares of the relative errors over message sizes in bytes; no term is below zero."""
    sizes, times = np.array(list(seconds), dtype=float), np.array(list(seconds.values()))
    rows = np.stack([1 / times, sizes / times], axis=1)
    solution = np.linalg.lstsq(rows, np.ones(len(times)), rcond=None)[0]
    latency, rate = float(solution[0]), float(solution[1])
    if latency < 0:
        # Least squares of only the rate.
        latency = 0.0
        rate = float((sizes / times).sum() / ((sizes / times) ** 2).sum())
    if rate <= 0:
        latency, rate = float(np.median(times)), LEAST_RATE
    errors = np.abs((latency + rate * sizes) / times - 1)
    return Fit(latency, 1 / rate, float(errors.max()))
