"""Non-negative deconvolution of AR(1) calcium, exact, by pooling of neighbours (NumPy and SciPy only).

The problem, for each trace y with decay factor g per frame and penalty λ:

    minimise  ½ Σ_t (y_t - c_t)² + λ Σ_t s_t    subject to    s_t = c_t - g c_{t-1} ≥ 0,  c_0 = s_0 ≥ 0

A penalty is the same as lowering y by λ (1 - g) and its last frame by λ. With c_t = g^t u_t what remains is an isotonic
regression: u may only rise. Frames over which it stays level are a pool, in which calcium just decays. Since g^t leaves
the range of numbers, stretches are solved one by one and their pools joined as in OASIS: a pool that would begin lower
than the one before it has decayed to is merged with that one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Array = NDArray[np.floating]

_BISECTIONS = 12
_LARGEST_EXPONENT = 150.0  # of the growth that undoes the decay within a stretch
_ROUNDING = 1e-9
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
    calcium = np.empty((n, n_rois))
    for roi in range(n_rois):
        value, length = _pools(lowered[:, roi], float(np.log(decay[roi])))
        age = np.arange(n) - np.repeat(np.cumsum(length) - length, length)
        calcium[:, roi] = np.repeat(np.maximum(value, 0.0), length) * decay[roi] ** age
    spikes = calcium.copy()
    spikes[1:] -= decay * calcium[:-1]
    # Within a pool the difference is rounding; only at its start is it a spike.
    return Deconvolved(calcium, np.where(spikes > _ROUNDING * calcium.max(axis=0, initial=0.0), spikes, 0.0))


def _pools(trace: Array, log_decay: float) -> tuple[Array, NDArray[np.integer]]:
    """Return the first value and the length of each pool of one trace."""
    n = max(int(_LARGEST_EXPONENT / -log_decay), 1)
    value: list[float] = []
    length: list[int] = []
    for first in range(0, len(trace), n):
        part = trace[first : first + n]
        growth = np.exp(-log_decay * np.arange(len(part)))
        found = isotonic_regression(part * growth, weights=growth**-2)
        starts = found.blocks[:-1]
        _join(value, length, found.x[starts] / growth[starts], np.diff(found.blocks), log_decay)
    return np.array(value), np.array(length)


def _join(value: list[float], length: list[int], more: Array, lengths: NDArray[np.integer], log_decay: float) -> None:
    """Add the pools of the next stretch, merging those at the seam that calcium could not have decayed between."""

    def weight(size: int) -> float:
        return np.expm1(2 * size * log_decay) / np.expm1(2 * log_decay)  # Σ g^(2j) over the pool

    for k in range(len(more)):
        value.append(float(more[k]))
        length.append(int(lengths[k]))
        merged = False
        while len(value) > 1 and value[-2] * np.exp(length[-2] * log_decay) > value[-1]:
            merged = True
            v, size = value.pop(), length.pop()
            fade = np.exp(length[-1] * log_decay)
            before, after = weight(length[-1]), weight(size)
            value[-1] = (before * value[-1] + after * fade * v) / (before + after * fade**2)
            length[-1] += size
        if not merged:  # the pools after this one fit each other already
            value.extend(more[k + 1 :].tolist())
            length.extend(lengths[k + 1 :].tolist())
            return


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
