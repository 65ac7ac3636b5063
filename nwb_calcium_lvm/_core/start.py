"""Starting values, where most fits of latent-variable models to calcium are won or lost.

Clustering or factorising traces, or their frame-to-frame differences, finds states of *calcium*, which outlast those
of spiking. We look at the autoregressive residual, smoothed over a few decay times, which is a rough rate of spikes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from sklearn.cluster import KMeans

_LAGS = 6  # autocovariances used for the AR start
_LONE = 5.0  # times the fifth largest jump: a jump beyond that stands alone
_MAX_CLUSTERED = 20_000  # frames shown to k-means; the rest are assigned to the nearest centre


def scored(mask: NDArray[np.bool_], first: NDArray[np.integer], order: int) -> NDArray[np.bool_]:
    """Samples that are scored, shape (time, roi): they and their ``order`` predecessors in the trial are observed.

    ``first`` holds the first frame of each trial. The first ``order`` frames of a trial, and as many after a missing
    sample, are conditioned on.
    """
    out = mask.copy()
    for lag in range(1, order + 1):
        out[lag:] &= mask[:-lag]
    for lag in range(order):
        frames = first + lag
        out[frames[frames < len(out)]] = False
    return out


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


def _blocks(n_rois: int, size: int = 32) -> Iterator[slice]:
    """Slices of a few ROIs at a time, so that temporary arrays stay small."""
    return (slice(a, a + size) for a in range(0, n_rois, size))


def smooth_within(
    values: NDArray[np.floating], kept: NDArray[np.bool_], first: NDArray[np.integer], window: int
) -> NDArray[np.floating]:
    """Running mean over ``window`` frames, within trials, over kept samples only."""
    ends = np.append(first[1:], len(values))
    out = np.empty_like(values)
    for a, b in zip(first, ends, strict=True):
        size = min(window, b - a)
        mean = uniform_filter1d(values[a:b], size, axis=0, mode="nearest")
        share = uniform_filter1d(kept[a:b].astype(float), size, axis=0, mode="nearest")
        out[a:b] = np.where(share > 1e-9, mean / np.maximum(share, 1e-9), 0.0)
    return out


def cluster(features: NDArray[np.floating], n_states: int, rng: np.random.RandomState) -> NDArray[np.integer]:
    """K-means labels (time,) of features (time, roi), each feature scaled to unit variance."""
    spread = features.std(axis=0)
    scaled = (features / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    step = max(1, -(-len(scaled) // _MAX_CLUSTERED))
    model = KMeans(n_clusters=n_states, init="k-means++", random_state=rng.randint(2**31 - 1)).fit(scaled[::step])
    return np.asarray(model.predict(scaled))


def complete(labels: NDArray[np.integer], features: NDArray[np.floating], n_states: int) -> NDArray[np.integer]:
    """Give each frame labelled -1 the state whose known frames are nearest, in features (time, roi)."""
    centres = np.stack([features[labels == k].mean(axis=0) for k in range(n_states)])
    distance = (features**2).sum(axis=1)[:, None] - 2 * features @ centres.T + (centres**2).sum(axis=1)
    return np.where(labels >= 0, labels, np.argmin(distance, axis=1))


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
