"""How well predicted spike rates agree with spikes that were seen, by the rules of the two public benchmarks.

A neuron may consist of several segments; each is trimmed, and they are put end to end. Two comparisons are made:

- *raw counts*: the prediction integrated into bins of 40 ms against the number of spikes in them (Spikefinder);
- *smoothed rate*: the prediction at 30 Hz against the spikes smoothed by a Gaussian of 50 ms (CASCADE).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.stats import rankdata

Array = NDArray[np.floating]

_ROUNDING = 1e-10  # a prediction that varies by less than this share of itself is constant


@dataclass(frozen=True)
class SpikeScoring:
    """The rules of a comparison.

    Parameters
    ----------
    bin_rate : float
        Bins per s for raw counts.
    smooth_rate : float
        Samples per s of the smoothed comparison.
    smooth_sd : float
        Standard deviation of the Gaussian that smooths the spikes, in s.
    trim : float
        Left out at both ends of each segment, in s.
    shortest : float
        Segments that are not at least this long after trimming are left out, in s.
    fewest_spikes : int
        Neurons with fewer scored spikes are left out.
    lag : float
        The prediction is moved earlier by this much before it is compared, in s.
    """

    bin_rate: float = 25.0
    smooth_rate: float = 30.0
    smooth_sd: float = 0.05
    trim: float = 1.1
    shortest: float = 1.0
    fewest_spikes: int = 5
    lag: float = 0.0


class ScoredSegment(NamedTuple):
    """One segment of one neuron.

    Parameters
    ----------
    rate : ndarray, shape (n,)
        Predicted spikes per s; sample k stands for the interval of 1 / ``sampling_rate`` around ``first`` + k /
        ``sampling_rate``. NaN counts as 0.
    sampling_rate : float
        Of the prediction, in Hz; need not be that of the recording.
    start, stop : float
        Times of the first and the last frame of the recording, in s.
    spikes : ndarray
        Spike times in s.
    first : float, optional
        Time of the prediction's first sample in s. Default: ``start``.
    """

    rate: ArrayLike
    sampling_rate: float
    start: float
    stop: float
    spikes: ArrayLike
    first: float | None = None


class SpikeScores(NamedTuple):
    """Agreement of one neuron's prediction with its spikes.

    Parameters
    ----------
    pearson, spearman, auc : float
        Against raw counts at 25 Hz; AUC is the chance that a bin with spikes is given more than one without.
    smooth_pearson : float
        Against spikes smoothed by 50 ms, at 30 Hz.
    bias, error : float
        Σ(p - g) / Σg and Σ|p - g| / Σg at 30 Hz, of predictions in spikes per s.
    n_spikes : int
    seconds : float
        What was scored.
    """

    pearson: float
    spearman: float
    auc: float
    smooth_pearson: float
    bias: float
    error: float
    n_spikes: int
    seconds: float


class SpikeSummary(NamedTuple):
    """A set of neurons: p25 is the mean of ``pearson`` and c30 the median of ``smooth_pearson`` over neurons."""

    p25: float
    c30: float
    spearman: float
    auc: float
    bias: float
    error: float
    n_neurons: int


def score_spikes(segments: Iterable[ScoredSegment], scoring: SpikeScoring | None = None) -> SpikeScores | None:
    """Score one neuron; None where it has too few spikes or no segment that is long enough.

    Parameters
    ----------
    segments : iterable of ScoredSegment
    scoring : SpikeScoring, optional

    Examples
    --------
    >>> import numpy as np
    >>> spikes = np.arange(2.0, 58.0, 4.0)
    >>> rate = np.histogram(spikes, np.arange(1801) / 30 - 1 / 60)[0] * 30.0
    >>> scores = score_spikes([ScoredSegment(rate, 30.0, 0.0, 59.9, spikes)])
    >>> scores.n_spikes, round(scores.bias, 6)
    (14, 0.0)
    """
    rules = scoring or SpikeScoring()
    parts = [_compare(s, rules) for s in segments if s.stop - s.start >= 2 * rules.trim + rules.shortest]
    if not parts:
        return None
    binned, counts, predicted, smoothed = (np.concatenate(part) for part in zip(*parts, strict=True))
    if counts.sum() < rules.fewest_spikes:
        return None
    return SpikeScores(
        pearson=pearson(binned, counts),
        spearman=spearman(binned, counts),
        auc=auc(binned, counts > 0),
        smooth_pearson=pearson(predicted, smoothed),
        bias=float((predicted.sum() - smoothed.sum()) / smoothed.sum()),
        error=float(np.abs(predicted - smoothed).sum() / smoothed.sum()),
        n_spikes=int(counts.sum()),
        seconds=counts.size / rules.bin_rate,
    )


def summarise_spikes(scores: Sequence[SpikeScores | None]) -> SpikeSummary:
    """Return what is reported of one data set: means over its neurons, medians for c30, bias and error.

    Parameters
    ----------
    scores : sequence of SpikeScores or None
        Of the neurons; None, a neuron that could not be scored, is left out.
    """
    kept = [s for s in scores if s is not None]
    if not kept:
        raise ValueError(f"None of {len(scores)} neurons could be scored: too few spikes, or segments too short.")
    columns = {name: np.array([getattr(s, name) for s in kept], float) for name in SpikeScores._fields}
    return SpikeSummary(
        p25=float(np.nanmean(columns["pearson"])),
        c30=float(np.nanmedian(columns["smooth_pearson"])),
        spearman=float(np.nanmean(columns["spearman"])),
        auc=_mean_of_known(columns["auc"]),
        bias=float(np.nanmedian(columns["bias"])),
        error=float(np.nanmedian(columns["error"])),
        n_neurons=len(kept),
    )


def pearson(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return the Pearson correlation; 0 where either is constant, since nothing is predicted then."""
    a, b = np.asarray(predicted, float), np.asarray(true, float)
    if any(np.ptp(x) <= _ROUNDING * np.max(np.abs(x)) for x in (a, b)):
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2)))


def spearman(predicted: ArrayLike, true: ArrayLike) -> float:
    """Return the rank correlation, ties sharing their mean rank; 0 where either is constant."""
    return pearson(rankdata(predicted), rankdata(true))


def auc(predicted: ArrayLike, is_spiking: ArrayLike) -> float:
    """Return the area under the receiver operating characteristic; NaN where all bins are of one kind."""
    label = np.asarray(is_spiking, bool)
    n_in, n_out = int(label.sum()), int((~label).sum())
    if n_in == 0 or n_out == 0:
        return float("nan")
    return float((rankdata(predicted)[label].sum() - n_in * (n_in + 1) / 2) / (n_in * n_out))


def match_spikes(found: ArrayLike, true: ArrayLike, tolerance: float = 0.1) -> tuple[NDArray, NDArray]:
    """Pair found spikes with true ones no further away than ``tolerance`` s, as many as can be, each once.

    Parameters
    ----------
    found, true : array_like, shape (n,), (m,)
        Increasing times in s.
    tolerance : float
        In s.

    Returns
    -------
    is_true : ndarray of bool, shape (n,)
        Whether each found spike has a partner; their mean is the precision.
    is_found : ndarray of bool, shape (m,)
        Whether each true spike has one; their mean is the recall.

    Examples
    --------
    >>> match_spikes([1.0, 1.05, 3.0], [1.08, 2.0])
    (array([ True, False, False]), array([ True, False]))
    """
    a, b = np.asarray(found, float), np.asarray(true, float)
    is_true, is_found = np.zeros(len(a), bool), np.zeros(len(b), bool)
    i = j = 0
    while i < len(a) and j < len(b):  # the earliest that can be paired may always be: what comes later has more choice
        if abs(a[i] - b[j]) <= tolerance:
            is_true[i] = is_found[j] = True
            i, j = i + 1, j + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return is_true, is_found


def _compare(segment: ScoredSegment, rules: SpikeScoring) -> tuple[Array, Array, Array, Array]:
    rate = np.nan_to_num(np.asarray(segment.rate, float))
    spikes = np.asarray(segment.spikes, float)
    moved = (segment.start if segment.first is None else segment.first) - rules.lag
    inner = np.arange(segment.start + rules.trim, segment.stop - rules.trim, 1.0 / rules.bin_rate)
    counts = np.histogram(spikes, inner)[0].astype(float)
    step = 1.0 / rules.smooth_rate
    n = int(np.floor((segment.stop - segment.start) * rules.smooth_rate + 1e-9)) + 1
    grid = segment.start + np.arange(n) / rules.smooth_rate
    edges = np.append(grid, grid[-1] + step) - 0.5 * step
    raw = np.histogram(spikes, edges)[0].astype(float)
    smoothed = gaussian_filter1d(raw, rules.smooth_sd * rules.smooth_rate, mode="constant") * rules.smooth_rate
    predicted = _integral(rate, segment.sampling_rate, moved, edges) * rules.smooth_rate
    kept = (grid >= segment.start + rules.trim) & (grid <= segment.stop - rules.trim)
    return _integral(rate, segment.sampling_rate, moved, inner), counts, predicted[kept], smoothed[kept]


def _integral(rate: Array, sampling_rate: float, start: float, edges: Array) -> Array:
    """Integrate a prediction, constant over each of its samples, between successive edges."""
    total = np.concatenate([[0.0], np.cumsum(rate) / sampling_rate])
    limits = start + (np.arange(rate.size + 1) - 0.5) / sampling_rate
    return np.diff(np.interp(edges, limits, total))


def _mean_of_known(values: Array) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
