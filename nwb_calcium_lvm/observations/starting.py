"""Starting values of calcium parameters, robust against measurement noise; shared by all models.

White noise on top of calcium touches the autocovariance of a trace at lag 0 only, and that of the autoregressive
residual at the first p lags. Spikes push the residual up and only up. From these the parameters follow at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_LAGS = 6  # autocovariances used for the AR start
_LONE = 5.0  # times the fifth largest jump: a jump beyond that stands alone


def standardise(
    traces: NDArray[np.floating], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Return traces with mean 0 and sd 1 over observed samples, 0 elsewhere, and the mean and sd (roi,) taken out."""
    n = np.maximum(mask.sum(axis=0), 1)
    mean = traces.sum(axis=0, where=mask, dtype=np.float64) / n
    out = traces - mean.astype(traces.dtype)
    out[~mask] = 0.0
    sd = np.sqrt(np.einsum("tn,tn->n", out, out, dtype=np.float64) / n)
    out /= sd.astype(traces.dtype)
    # What rounding in single precision left of the mean is part of what was taken out.
    return out, mean.astype(traces.dtype).astype(float), sd.astype(traces.dtype).astype(float)


def scored(mask: NDArray[np.bool_], first: NDArray[np.integer], order: int) -> NDArray[np.bool_]:
    """Samples that are scored, shape (time, roi); see :func:`pack`."""
    out = mask.copy()
    for lag in range(1, order + 1):
        out[lag:] &= mask[:-lag]
    for lag in range(order):
        frames = first + lag
        out[frames[frames < len(out)]] = False
    return out


def ar_start(
    y: NDArray[np.floating], mask: NDArray[np.bool_], first: NDArray[np.integer], order: int
) -> NDArray[np.floating]:
    """AR coefficients (roi, order) from autocovariances at lags above 0, which white measurement noise leaves alone.

    Solves γ_k = Σ_i α_i γ_{k-i} for k = order + 1 .. order + 6 by least squares, then moves poles into [0, 0.98].
    ``y`` (time, roi) is centred, and 0 where not observed.
    """
    covariance = _autocovariance(y, mask, first, order + _LAGS)
    rows = range(order + 1, order + _LAGS + 1)
    design = np.stack([[covariance[k - i] for i in range(1, order + 1)] for k in rows], axis=-1)  # (order, roi, k)
    design = np.moveaxis(design, 0, -1)  # (roi, k, order)
    target = np.stack([covariance[k] for k in rows], axis=-1)  # (roi, k)
    gram = np.einsum("nki,nkj->nij", design, design)
    gram += np.eye(order) * (1e-6 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-12)
    coefs = np.linalg.solve(gram, np.einsum("nki,nk->ni", design, target)[..., None])[..., 0]
    return _real_poles(coefs)


def _autocovariance(
    y: NDArray[np.floating], mask: NDArray[np.bool_], first: NDArray[np.integer], n_lags: int
) -> NDArray[np.floating]:
    """Mean of y_t y_{t-k} over pairs in one trial with all between them observed, (lag, roi), for k = 0 .. n_lags."""
    out = np.empty((n_lags + 1, y.shape[1]))
    for lag in range(n_lags + 1):
        pairs = scored(mask, first, lag)[lag:]
        product = np.einsum("tn,tn,tn->n", y[lag:], y[: max(0, len(y) - lag)], pairs)
        out[lag] = product / np.maximum(pairs.sum(axis=0), 1)
    return out


def _real_poles(ar_coefs: NDArray[np.floating]) -> NDArray[np.floating]:
    """Move each pole to the real axis and into [0, 0.98]."""
    order = ar_coefs.shape[1]
    out = np.empty_like(ar_coefs)
    for n, coefs in enumerate(ar_coefs):
        poles = np.clip(np.roots(np.concatenate([[1.0], -coefs])).real, 0.0, 0.98)
        poles = np.concatenate([poles, np.zeros(order - len(poles))])
        out[n] = -np.poly(poles)[1:]
    return out


def residual(
    y: NDArray[np.floating], mask: NDArray[np.bool_], first: NDArray[np.integer], ar_coefs: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Autoregressive residual (time, roi), 0 where it is not scored, and the mask of scored samples."""
    order = ar_coefs.shape[1]
    e = y.astype(np.float32)  # it serves only to start from
    for block in _blocks(y.shape[1]):
        for i in range(1, order + 1):
            e[i:, block] -= (ar_coefs[block, i - 1] * y[:-i, block]).astype(np.float32)
    kept = scored(mask, first, order)
    e[~kept] = 0.0
    return e, kept


def spike_start(
    e: NDArray[np.floating], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Intercept, spike amplitude and noise variance, each (roi,), from the skew of the residual.

    Spikes only push the residual up, so that its lower half shows the noise; then variance and third cumulant above
    the noise give the amplitude: κ₂ - ν² = c² λ and κ₃ = c³ λ.
    """
    parts = [_spike_start(np.where(kept[:, b], e[:, b], np.nan).astype(float)) for b in _blocks(e.shape[1])]
    middle, amplitude, noise = (np.concatenate(column) for column in zip(*parts, strict=True))
    return middle, amplitude, noise


def _spike_start(
    values: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """:func:`spike_start` of a few ROIs, with NaN for what is not scored."""
    middle = np.nanmedian(values, axis=0)
    # A frame that towers over all others is an artefact, or a burst that need not set the size of a spike.
    values = np.minimum(values, middle + _LONE * fifth_largest(values, middle))
    spread = np.nanvar(values, axis=0)
    below = np.where(values <= middle, values - middle, np.nan)
    noise = np.maximum(np.nanmean(below**2, axis=0), 1e-4 * spread)
    centred = values - np.nanmean(values, axis=0)
    excess = np.maximum(spread - noise, 0.0)
    third = np.nanmean(centred**3, axis=0)
    top = np.nanmax(values, axis=0) - middle
    with np.errstate(divide="ignore", invalid="ignore"):
        amplitude = np.where((third > 0) & (excess > 0), third / excess, np.inf)
    sd = np.sqrt(noise)
    # Between two noise sds, below which single spikes cannot be told apart, and the largest jump.
    amplitude = np.clip(amplitude, np.minimum(2.0 * sd, top), np.maximum(top, 2.0 * sd))
    return middle, np.maximum(amplitude, 1e-3), np.maximum(noise, 1e-8)


def fifth_largest(values: NDArray[np.floating], middle: NDArray[np.floating]) -> NDArray[np.floating]:
    """Fifth largest value of each column above ``middle``, NaN left out; the largest where there are fewer than ten."""
    filled = np.where(np.isnan(values), -np.inf, values)
    rank = 5 if len(values) >= 10 else 1
    return np.partition(filled, -rank, axis=0)[-rank] - middle


def lone_peaks(e: NDArray[np.floating], kept: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """ROI and frame of each residual that is more than five times the fifth largest of its ROI: likely artefacts."""
    found = []
    for block in _blocks(e.shape[1]):
        values = np.where(kept[:, block], e[:, block], np.nan)
        middle = np.nanmedian(values, axis=0)
        beyond = np.nanmax(values, axis=0) - middle > _LONE * fifth_largest(values, middle)
        found += [(block.start + int(i), int(np.nanargmax(values[:, i]))) for i in np.flatnonzero(beyond)]
    return found


def _blocks(n_rois: int, size: int = 32) -> Iterator[slice]:
    """Slices of a few ROIs at a time, so that temporary arrays stay small."""
    return (slice(a, a + size) for a in range(0, n_rois, size))
