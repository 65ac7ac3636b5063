"""Non-negative deconvolution of AR(1) calcium, exact, by pooling of neighbours; all traces in step (NumPy only).

The problem, for each trace y with decay factor g per frame and penalty λ:

    minimise  ½ Σ_t (y_t - c_t)² + λ Σ_t s_t    subject to    s_t = c_t - g c_{t-1} ≥ 0,  c_0 = s_0 ≥ 0

A penalty is the same as lowering y by λ (1 - g) and its last frame by λ. What remains is a regression that may only
jump upward from its own decay: frames are taken in one by one, and a pool of frames that would make the calcium fall
faster than it decays is merged with the pool before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_BISECTIONS = 12
_SHORTEST_DECAY, _LONGEST_DECAY = 0.05, 5.0  # s
_LAGS = 0.5  # s of autocovariance that the decay is found from


class Deconvolved(NamedTuple):
    """Calcium and what drives it, each (time, roi), in the unit of the trace."""

    calcium: Array
    spikes: Array


def deconvolve(traces: Array, decay: Array, penalty: Array) -> Deconvolved:
    """Solve the problem above exactly for every trace.

    Parameters
    ----------
    traces : ndarray, shape (time, roi)
        Baseline taken off, no NaN.
    decay : ndarray, shape (roi,)
        g, in (0, 1).
    penalty : ndarray, shape (roi,)
        λ, 0 or more.
    """
    n, n_rois = traces.shape
    lowered = traces - penalty * (1.0 - decay)
    lowered[-1] = traces[-1] - penalty
    value, length = _pools(lowered, np.log(decay))
    calcium = np.zeros((n, n_rois))
    for roi in range(n_rois):
        sizes = length[:, roi][length[:, roi] > 0]
        starts = np.cumsum(sizes) - sizes
        age = np.arange(n) - np.repeat(starts, sizes)
        calcium[:, roi] = np.repeat(np.maximum(value[: len(sizes), roi], 0.0), sizes) * decay[roi] ** age
    spikes = calcium.copy()
    spikes[1:] -= decay * calcium[:-1]
    # Within a pool the difference is rounding; only at its start is it a spike.
    return Deconvolved(calcium, np.where(spikes > 1e-9 * np.abs(calcium).max(axis=0, initial=1e-300), spikes, 0.0))


def _pools(traces: Array, log_decay: Array) -> tuple[Array, NDArray[np.integer]]:
    """Return first value and length of each pool; rows are a stack per ROI, length 0 beyond its top."""
    n, n_rois = traces.shape
    value, weight = np.zeros((n + 1, n_rois)), np.zeros((n + 1, n_rois))
    length = np.zeros((n + 1, n_rois), int)
    size = np.zeros(n_rois, int)  # of each stack
    taken = np.zeros(n_rois, int)  # frames taken in
    rois = np.arange(n_rois)
    while len(rois):
        top = size[rois] - 1
        below = np.maximum(top - 1, 0)
        step = np.exp(log_decay[rois] * length[below, rois])
        violates = (top >= 1) & (value[below, rois] * step > value[top, rois])
        a, i, f = rois[violates], below[violates], step[violates]
        heavy = weight[i, a] + weight[i + 1, a] * f**2
        value[i, a] = (weight[i, a] * value[i, a] + weight[i + 1, a] * f * value[i + 1, a]) / heavy
        weight[i, a] = heavy
        length[i, a] += length[i + 1, a]
        length[i + 1, a] = 0
        size[a] -= 1
        pushes = ~violates & (taken[rois] < n)
        b = rois[pushes]
        value[size[b], b] = traces[taken[b], b]
        weight[size[b], b] = 1.0
        length[size[b], b] = 1
        size[b] += 1
        taken[b] += 1
        rois = rois[violates | pushes]
    return value, length


def penalty_for_noise(traces: Array, decay: Array, noise: Array) -> Array:
    """Return the penalty of each trace at which what is left over is as large as its noise, by bisection.

    Parameters
    ----------
    traces, decay
        As in :func:`deconvolve`.
    noise : ndarray, shape (roi,)
        Standard deviation of the noise of a frame.
    """
    wanted = noise**2
    low = np.zeros(traces.shape[1])
    high = np.maximum(np.abs(traces).max(axis=0), noise) / (1.0 - decay)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        left_over = np.mean((traces - deconvolve(traces, decay, middle).calcium) ** 2, axis=0)
        low, high = np.where(left_over < wanted, middle, low), np.where(left_over < wanted, high, middle)
    return low


def decay_factor(traces: Array, rate: float) -> Array:
    """Return the decay factor per frame of each trace from its autocovariance, shape (roi,).

    By the ratio of covariances at neighbouring lags of 1 and more, which white noise does not change:
    Σ γ_k γ_{k+1} / Σ γ_k². Kept within decay times of 0.05 to 5 s.
    """
    n = len(traces)
    lags = min(max(round(_LAGS * rate), 2), max(n // 4, 2))
    centred = traces - traces.mean(axis=0)
    covariance = np.array([np.mean(centred[k:] * centred[: n - k], axis=0) for k in range(1, lags + 2)])
    square = np.sum(covariance[:-1] ** 2, axis=0)
    product = np.sum(covariance[:-1] * covariance[1:], axis=0)
    ratio = np.divide(product, square, out=np.zeros_like(square), where=square > 0)
    shortest, longest = np.exp(-1.0 / (np.array([_SHORTEST_DECAY, _LONGEST_DECAY]) * rate))
    return np.clip(ratio, shortest, longest)
