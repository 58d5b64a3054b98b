"""A histogram of durations in bounded memory: eight buckets to each power of two of nanoseconds, so a quantile is off by 12 % at most."""

from __future__ import annotations

import numpy as np

STEPS = 8  # buckets to a power of two
STEP_BITS = 3
BUCKETS = 64 * STEPS


class Latency:
    """Counts durations in ns. Negative ones count as 0."""

    def __init__(self) -> None:
        self.counts = np.zeros(BUCKETS, np.int64)
        self.total_ns = 0
        self.count = 0
        self.max_ns = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count a duration `times` times."""
        duration_ns = max(duration_ns, 0)
        self.counts[_bucket(duration_ns)] += times
        self.count += times
        self.total_ns += duration_ns * times
        self.max_ns = max(self.max_ns, duration_ns)

    def quantile(self, share: float) -> float:
        """Return the duration in ns below which `share` (0 to 1) of all lie; NaN while there is none."""
        if not self.count:
            return float("nan")
        bucket = int(np.searchsorted(np.cumsum(self.counts), max(share * self.count, 1.0)))
        return min(float(_upper(bucket)), float(self.max_ns))

    def reset(self) -> None:
        """Begin anew."""
        self.counts[:] = 0
        self.total_ns = self.count = self.max_ns = 0


def _bucket(duration_ns: int) -> int:
    if duration_ns < STEPS:
        return duration_ns
    power = duration_ns.bit_length() - 1
    return (power - STEP_BITS + 1) * STEPS + ((duration_ns >> (power - STEP_BITS)) & (STEPS - 1))


def _upper(bucket: int) -> int:
    """The largest duration of a bucket."""
    if bucket < STEPS:
        return bucket
    power, step = bucket // STEPS + STEP_BITS - 1, bucket % STEPS
    return ((STEPS + step + 1) << (power - STEP_BITS)) - 1
