"""Stores time-stamped samples and resamples them to one common clock.

Time stamps are whole nanoseconds, as in ROS, so that sums and comparisons are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NS = 1_000_000_000
"""Nanoseconds in a second."""


@dataclass(frozen=True)
class Series:
    """Samples of one signal, in the order of their stamps; no stamp occurs twice.

    Attributes:
        stamps: (N,) int64 time stamps, ns.
        values: (N, ...) samples.
    """

    stamps: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, stamps: Sequence[int], values: Sequence[np.ndarray] | np.ndarray) -> Series:
        """Builds a series from samples in any order.

        If several samples have the same stamp, the last one counts. A sample with NaN or infinity
        is left out, because drivers send it when they have no value.

        Args:
            stamps: N stamps, ns.
            values: N samples of one shape.
        """
        times, samples = np.asarray(stamps, np.int64), np.asarray(values)
        order = np.argsort(times, kind="stable")
        times, samples = times[order], samples[order]
        keep = np.append(times[1:] != times[:-1], True)[: len(times)]
        if np.issubdtype(samples.dtype, np.floating):
            keep &= np.isfinite(samples.reshape(len(samples), -1)).all(1)
        return cls(times[keep], samples[keep])

    def __len__(self) -> int:
        """Returns the number of samples."""
        return len(self.stamps)

    def spans(self, max_gap_ns: int) -> np.ndarray:
        """Returns the intervals in which the signal is present: (K, 2) first and last stamp, ns.

        Args:
            max_gap_ns: Longest gap within an interval, ns; a longer gap splits it.
        """
        if not len(self):
            return np.zeros((0, 2), np.int64)
        after = np.flatnonzero(np.diff(self.stamps) > max_gap_ns)
        first = self.stamps[np.concatenate([[0], after + 1])]
        last = self.stamps[np.concatenate([after, [len(self) - 1]])]
        return np.stack([first, last], axis=1)

    def hold(self, ticks: np.ndarray) -> np.ndarray:
        """Returns the latest sample at each tick, (T, ...); the first sample for earlier ticks.

        Args:
            ticks: (T,) int64 times, ns.
        """
        index = np.searchsorted(self.stamps, ticks, side="right") - 1
        return self.values[np.maximum(index, 0)]

    def interpolate(self, ticks: np.ndarray) -> np.ndarray:
        """Returns the linear interpolation at each tick, (T, D); outside, the end values are held.

        Args:
            ticks: (T,) int64 times, ns.
        """
        # Nanoseconds since the epoch exceed a float's 53 bits; nanoseconds since the first tick do
        # not.
        at, known = (ticks - ticks[0]).astype(float), (self.stamps - ticks[0]).astype(float)
        columns = [np.interp(at, known, column) for column in self.values.T]
        return np.stack(columns, axis=1)


def overlap(spans: Iterable[np.ndarray]) -> np.ndarray:
    """Returns the intervals in which all signals are present, (K, 2) first and last stamp, ns.

    Args:
        spans: (K_i, 2) ordered, disjoint intervals for each of one or more signals.
    """
    common, *others = [one.tolist() for one in spans]
    for other in others:
        both, i, j = [], 0, 0
        while i < len(common) and j < len(other):
            first, last = max(common[i][0], other[j][0]), min(common[i][1], other[j][1])
            if first <= last:
                both.append([first, last])
            if common[i][1] < other[j][1]:
                i += 1
            else:
                j += 1
        common = both
    return np.array(common, np.int64).reshape(-1, 2)


def clock(first: int, last: int, rate_hz: float) -> np.ndarray:
    """Returns the ticks in ``[first, last]``, (T,) int64, ns; the first tick is ``first``.

    Args:
        first: Start of the interval, ns.
        last: End of the interval, ns.
        rate_hz: Ticks per second.
    """
    period = NS / rate_hz
    # The small addend keeps the last tick if a rounding error makes (last - first) / period too
    # small.
    count = int((last - first) / period + 1e-6) + 1
    return first + np.rint(np.arange(count) * period).astype(np.int64)


def unit_actions(targets: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """Returns targets divided by their scale, float32 in [-1, 1].

    Args:
        targets: (T, A) in any unit.
        scale: One number for all columns, or (A,) numbers; at least the largest magnitude.
    """
    # Division and rounding to float32 can exceed 1 by one unit in the last place.
    return np.clip(targets / scale, -1, 1).astype(np.float32)
