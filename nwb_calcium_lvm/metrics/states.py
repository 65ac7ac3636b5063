"""How well inferred states and rates agree with known ones, and what a path of states looks like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from nwb_calcium_lvm.provenance import Segments


def confusion_matrix(
    true: ArrayLike, found: ArrayLike, n_true: int | None = None, n_found: int | None = None
) -> NDArray[np.integer]:
    """Count the frames of each true state (row) in each found state (column).

    Parameters
    ----------
    true, found : array_like of int, same shape
        States, from 0.
    n_true, n_found : int, optional
        Numbers of states. Default: one more than the largest label.
    """
    a, b = _pair(true, found)
    rows = _count(a, n_true, "n_true")
    columns = _count(b, n_found, "n_found")
    counts = np.zeros((rows, columns), int)
    np.add.at(counts, (a, b), 1)
    return counts


def match_states(true: ArrayLike, found: ArrayLike, n_states: int | None = None) -> NDArray[np.integer]:
    """Return the true state that each found state stands for, so that ``match[found]`` can be compared with ``true``.

    The pairing is the one with most frames in agreement (Hungarian method). Where more states were found than there
    are, the ones left over get the labels that follow, so that they agree with nothing.

    Parameters
    ----------
    true, found : array_like of int, same shape
        States, from 0. Use the training half, and apply the match to the test half.
    n_states : int, optional
        Number of states of the model that found them; needed where some were never visited.

    Returns
    -------
    ndarray of int, shape (n_states,)

    Examples
    --------
    >>> match = match_states([0, 0, 1, 1, 2], [2, 2, 0, 0, 1])
    >>> match.tolist()
    [1, 2, 0]
    """
    n_true = _count(_labels(true, "true"), None, "true")
    n_found = _count(_labels(found, "found"), n_states, "n_states")
    counts = confusion_matrix(true, found, n_true, n_found)
    rows, columns = linear_sum_assignment(-counts)
    match = np.full(n_found, -1)
    match[columns] = rows
    left_over = match < 0
    match[left_over] = n_true + np.arange(left_over.sum())
    return match


def state_accuracy(true: ArrayLike, found: ArrayLike, match: ArrayLike | None = None) -> float:
    """Return the fraction of frames whose state was found.

    Parameters
    ----------
    true, found : array_like of int, same shape
        States, from 0.
    match : array_like of int, shape (state,), optional
        From :func:`match_states`. Default: matched on these very frames, which flatters a poor model a little.
    """
    a, b = _matched(true, found, match)
    return float(np.mean(a == b))


def state_correlation(true: ArrayLike, found: ArrayLike, match: ArrayLike | None = None) -> float:
    """Return the Pearson correlation of state labels after matching.

    Labels are treated as numbers, so this depends on their order; it is the score of Keeley and colleagues' simulated
    experiment, whose states follow one another in a chain. :func:`state_accuracy` does not depend on the order.

    Parameters
    ----------
    true, found, match
        As in :func:`state_accuracy`.

    Returns
    -------
    float
        NaN where either path never leaves one state.
    """
    a, b = _matched(true, found, match)
    return _pearson(a.astype(float), b.astype(float))


class RateAgreement(NamedTuple):
    """Agreement of estimated with true rates."""

    overall: float
    per_roi: NDArray[np.floating]


def rate_correlation(true: ArrayLike, estimated: ArrayLike) -> RateAgreement:
    """Return Pearson correlations of rates, over all samples at once and for each ROI over time.

    Parameters
    ----------
    true, estimated : array_like, shape (time, roi) or (state, roi)
        Rates in the same unit, or proportional ones.
    """
    a, b = np.asarray(true, float), np.asarray(estimated, float)
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(
            f"true has shape {a.shape} and estimated {b.shape}; expected the same shape, (time, roi) or (state, roi)."
        )
    return RateAgreement(
        _pearson(a.ravel(), b.ravel()), np.array([_pearson(a[:, i], b[:, i]) for i in range(a.shape[1])])
    )


class DwellTimes(NamedTuple):
    """Visits to states: which state, and how long, in s (or frames)."""

    state: NDArray[np.integer]
    duration: NDArray[np.floating]

    def mean(self, n_states: int) -> NDArray[np.floating]:
        """Return the mean duration of each state's visits, shape (state,); NaN for a state never visited."""
        visits = np.bincount(self.state, minlength=n_states)
        total = np.bincount(self.state, weights=self.duration, minlength=n_states)
        return np.divide(total, visits, out=np.full(len(visits), np.nan), where=visits > 0)


def dwell_times(states: ArrayLike, sampling_rate: float | None = None, segments: Segments | None = None) -> DwellTimes:
    """Return the length of every visit to a state.

    Parameters
    ----------
    states : array_like of int, shape (time,) or (trial, time)
        Path of states; trials are separate.
    sampling_rate : float, optional
        Frames per second; durations are in frames without it.
    segments : Segments, optional
        Runs of frames without a gap: no visit reaches over one.
    """
    path = np.asarray(states)
    breaks = np.zeros(path.size, bool)
    if path.ndim == 2:
        breaks[:: path.shape[1]] = True
    elif segments is not None:
        breaks[segments.bounds[:, 0]] = True
    path = _labels(path.ravel(), "states")
    breaks[0] = True
    breaks[1:] |= np.diff(path) != 0
    starts = np.flatnonzero(breaks)
    lengths = np.diff(np.append(starts, len(path)))
    return DwellTimes(path[starts], lengths / (sampling_rate or 1.0))


def occupancy(states: ArrayLike, n_states: int | None = None) -> NDArray[np.floating]:
    """Return the fraction of frames in each state, shape (state,)."""
    path = _labels(np.ravel(states), "states")
    return np.bincount(path, minlength=_count(path, n_states, "n_states")) / len(path)


def fraction_in_states(states: ArrayLike, n_states: int | None = None) -> NDArray[np.floating]:
    """Return the fraction of trials in each state over the time of the trial, shape (time, state).

    Parameters
    ----------
    states : array_like, shape (trial, time) of int, or (trial, time, state) of probabilities
        States, or their posterior probabilities, which are averaged.
    n_states : int, optional
        Number of states.
    """
    values = np.asarray(states)
    if values.ndim == 3:
        return values.mean(axis=0)
    if values.ndim != 2:
        raise ValueError(f"states has shape {values.shape}; expected (trial, time) or (trial, time, state).")
    return (_labels(values, "states")[..., None] == np.arange(_count(values, n_states, "n_states"))).mean(axis=0)


class Peak(NamedTuple):
    """Where a curve is highest and how wide it is there, in the unit of its time axis."""

    time: float
    height: float
    width: float


def peak_and_width(curve: ArrayLike, time: ArrayLike, *, level: float = 0.5) -> Peak:
    """Return the peak of a curve and its width at a fraction of its height.

    Crossings are placed between samples by linear interpolation; a curve that stays above the level up to an end of
    the axis is as wide as the axis on that side. A curve that never rises above 0 has no peak: NaN.

    Parameters
    ----------
    curve : array_like, shape (time,)
        Such as the fraction of trials in a state, :func:`fraction_in_states`.
    time : array_like, shape (time,)
        Increasing.
    level : float
        Fraction of the peak's height above 0 at which the width is taken.
    """
    y, t = np.asarray(curve, float), np.asarray(time, float)
    if y.ndim != 1 or y.shape != t.shape:
        raise ValueError(f"curve has shape {y.shape} and time {t.shape}; expected one value per time, (time,).")
    top = int(np.argmax(y))
    if not y[top] > 0:
        return Peak(float("nan"), float(y[top]), float("nan"))
    threshold = level * y[top]
    below = y < threshold
    left, right = np.flatnonzero(below[:top]), np.flatnonzero(below[top:])
    start = t[0] if len(left) == 0 else _crossing(t, y, left[-1], threshold)
    stop = t[-1] if len(right) == 0 else _crossing(t, y, top + right[0] - 1, threshold)
    return Peak(float(t[top]), float(y[top]), float(stop - start))


def one_standard_error_choice(scores: ArrayLike) -> int:
    """Return the row of the simplest model that is within one standard error of the best.

    Parameters
    ----------
    scores : array_like, shape (model, fold)
        Held-out scores, higher is better; models from simple to complex. NaN folds are left out.
    """
    values = np.asarray(scores, float)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"scores has shape {values.shape}; expected (model, fold), both above 0.")
    mean, error = np.nanmean(values, axis=1), standard_error(values)
    best = int(np.nanargmax(mean))
    return int(np.flatnonzero(mean >= mean[best] - error[best])[0])


def standard_error(scores: ArrayLike) -> NDArray[np.floating]:
    """Return the standard error over folds, shape (model,); 0 where there is one fold."""
    values = np.asarray(scores, float)
    n = np.sum(np.isfinite(values), axis=1)
    deviation = values - np.nanmean(values, axis=1, keepdims=True)
    variance = np.nansum(deviation**2, axis=1) / np.maximum(n - 1, 1)
    return np.sqrt(variance / np.maximum(n, 1))


def _crossing(t: NDArray[np.floating], y: NDArray[np.floating], i: int, level: float) -> float:
    """Return where the line from sample i to i + 1 crosses the level."""
    return float(t[i] + (t[i + 1] - t[i]) * (level - y[i]) / (y[i + 1] - y[i]))


def _matched(
    true: ArrayLike, found: ArrayLike, match: ArrayLike | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    a, b = _pair(true, found)
    labels = match_states(a, b) if match is None else np.asarray(match)
    if b.max() >= len(labels):
        raise ValueError(
            f"found has state {b.max()} but match has {len(labels)} entries. Match with "
            "match_states(true, found, n_states=...), n_states being that of the model."
        )
    return a, labels[b]


def _pair(true: ArrayLike, found: ArrayLike) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    a, b = np.asarray(true), np.asarray(found)
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"true has shape {a.shape} and found {b.shape}; expected the same shape, not empty.")
    return _labels(a.ravel(), "true"), _labels(b.ravel(), "found")


def _labels(states: ArrayLike, name: str) -> NDArray[np.integer]:
    labels = np.asarray(states)
    whole = labels.astype(int)
    if labels.size == 0 or np.any(whole != labels) or whole.min() < 0:
        raise ValueError(
            f"{name} of dtype {labels.dtype} and shape {labels.shape} are not state labels; expected whole numbers "
            "from 0. From probabilities, take the argmax over states."
        )
    return whole


def _count(labels: NDArray[np.integer], n_states: int | None, name: str) -> int:
    seen = int(labels.max()) + 1
    if n_states is not None and n_states < seen:
        raise ValueError(f"{name}={n_states} but there is a state {seen - 1}; expected at least {seen}.")
    return seen if n_states is None else n_states


def _pearson(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt(np.sum(a**2) * np.sum(b**2))
    return float(np.sum(a * b) / scale) if scale > 0 else float("nan")
