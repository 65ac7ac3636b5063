"""Single spikes, each with a confidence, from rates and the distribution of true counts around expected ones."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.result import SpikeTimes
from nwb_calcium_lvm.spikes.calibration import at_least

Array = NDArray[np.floating]

WINDOW = 0.3  # s around a peak of the rate; targets are spikes smoothed by 0.04 s, so that it holds a spike whole


def find_spikes(rates: Array, start: float, rate: float, dispersion: float, threshold: float | None) -> SpikeTimes:
    """Find the spikes of each trace of a segment.

    Each peak of the rate stands for the spikes within half a window of it, as far as the valleys to its neighbours.
    With m expected there, the k-th spike is real with the probability that a negative binomial of mean m and the given
    dispersion is k or more: its confidence. K spikes are kept, m rounded, or those of at least the confidence
    ``threshold``; the k-th is put where (k - 1/2) / K of m has accumulated.

    Parameters
    ----------
    rates : ndarray, shape (time, roi)
        Spikes per s; sample t stands for an interval of 1 / ``rate`` s around ``start`` + t / ``rate``.
    start, rate : float
        In s and Hz.
    dispersion : float
        φ in variance = m + φ m².
    threshold : float, optional
        Least confidence, between 0 and 1.
    """
    found = [_of_one(r.astype(float), start, rate, dispersion, threshold) for r in rates.T]
    return SpikeTimes([t for t, _ in found], [c for _, c in found])


def _of_one(rates: Array, start: float, rate: float, dispersion: float, threshold: float | None) -> tuple[Array, Array]:
    none = np.zeros(0)
    if not np.isfinite(rates).all():
        return none, none
    until = np.concatenate([[0.0], np.cumsum(rates)]) / rate  # expected spikes before each limit between samples
    first, last = _around_peaks(rates, max(round(0.5 * WINDOW * rate), 1))
    expected = until[last] - until[first]
    n = _how_many(expected, dispersion, threshold)
    which = np.repeat(np.arange(len(n)), n)
    rank = np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n)
    wanted = until[first[which]] + (rank + 0.5) / n[which] * expected[which]
    times = start + (np.interp(wanted, until, np.arange(len(until))) - 0.5) / rate
    return times, at_least(rank + 1, expected[which], dispersion)


def _how_many(expected: Array, dispersion: float, threshold: float | None) -> NDArray[np.integer]:
    """Return how many spikes of each peak are kept."""
    if threshold is None:
        return np.floor(expected + 0.5).astype(int)
    n = np.zeros(len(expected), int)
    left = np.arange(len(expected))
    while len(left):
        left = left[at_least(n[left] + 1, expected[left], dispersion) >= threshold]
        n[left] += 1
    return n


def _around_peaks(rates: Array, reach: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return, for each peak, the first sample that belongs to it and the one after its last."""
    padded = np.concatenate([[-np.inf], rates, [-np.inf]])
    rising, falling = padded[1:-1] > padded[:-2], padded[1:-1] >= padded[2:]
    peaks = np.flatnonzero(rising & falling)
    # The lowest sample between two peaks parts them, and belongs to the later one.
    valleys = [a + int(np.argmin(rates[a:b])) for a, b in pairwise(peaks.tolist())]
    first = np.concatenate([[0], valleys]).astype(int)
    last = np.concatenate([valleys, [len(rates)]]).astype(int)
    return np.maximum(first, peaks - reach), np.minimum(last, peaks + reach + 1)
