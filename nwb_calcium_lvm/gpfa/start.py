"""Starting latents: factor analysis of the log of the smoothed autoregressive residual, turned to separate time scales.

The residual, smoothed, is a rough rate of spikes, and its log is linear in the latents. This start does nearly all the
work where spikes are many; the model's gain shows where they are few.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._core.smoothing import smooth_within
from nwb_calcium_lvm.gpfa.kernels import covariance

_FLOOR = 0.1  # of a neuron's mean rate: smoothed rates below it are raised to it before the log
_ITERATIONS = 60


class Factors(NamedTuple):
    """Factor analysis: loadings (roi, latent), and latents (time, latent) of mean 0 and variance 1."""

    loadings: NDArray[np.floating]
    latents: NDArray[np.floating]


def log_rates(
    rate: NDArray[np.floating], kept: NDArray[np.bool_], first: NDArray[np.integer], window: int
) -> NDArray[np.floating]:
    """Log of rates (time, roi) smoothed over ``window`` frames within trials."""
    smooth = smooth_within(rate, kept, first, window)
    mean = (rate * kept).sum(axis=0) / np.maximum(kept.sum(axis=0), 1)
    return np.log(np.maximum(smooth, _FLOOR * np.maximum(mean, 1e-3)))


def factor_analysis(values: NDArray[np.floating], n_latents: int) -> Factors:
    """Maximum likelihood factor analysis of values (time, roi), by the fixed point of Joreskog and Lawley.

    Works on the covariance, so that the cost per iteration does not grow with the number of frames.
    """
    centred = values - values.mean(axis=0)
    cov = centred.T @ centred / len(centred)
    total = np.maximum(np.diag(cov), 1e-12)
    unique = 0.5 * total
    vectors = values_ = np.zeros(0)
    for _ in range(_ITERATIONS):
        scale = 1.0 / np.sqrt(unique)
        values_, vectors = np.linalg.eigh(scale[:, None] * cov * scale)
        values_, vectors = values_[::-1][:n_latents], vectors[:, ::-1][:, :n_latents]
        loadings = vectors * np.sqrt(np.maximum(values_ - 1.0, 1e-6)) / scale[:, None]
        new = np.clip(total - (loadings**2).sum(axis=1), 5e-3 * total, total)
        if np.abs(new - unique).max() < 1e-4 * total.max():
            break
        unique = new
    loadings = vectors * np.sqrt(np.maximum(values_ - 1.0, 1e-6)) * np.sqrt(unique)[:, None]
    weighted = loadings / unique[:, None]
    latents = centred @ weighted @ np.linalg.inv(np.eye(n_latents) + loadings.T @ weighted)
    return _whitened(loadings, latents)


def _whitened(loadings: NDArray[np.floating], latents: NDArray[np.floating]) -> Factors:
    """Give the latents covariance 1 without changing what the neurons see."""
    cov = latents.T @ latents / len(latents)
    values, vectors = np.linalg.eigh(cov + 1e-9 * np.trace(cov) * np.eye(len(cov)) + 1e-12 * np.eye(len(cov)))
    root = vectors * np.sqrt(values) @ vectors.T
    return Factors(loadings @ root, latents @ np.linalg.inv(root))


def separate(factors: Factors, lag: int, first: NDArray[np.integer]) -> Factors:
    """Rotate white latents so that their covariance at a lag is diagonal: slow ones first (AMUSE; Tong et al. 1991)."""
    latents = factors.latents
    pairs = np.ones(max(len(latents) - lag, 0), bool)
    trial = np.searchsorted(first, np.arange(len(latents)), side="right")
    pairs &= trial[lag:] == trial[: len(trial) - lag]
    if pairs.sum() < 2 * latents.shape[1]:
        return factors
    late, early = latents[lag:][pairs], latents[: len(latents) - lag][pairs]
    product = late.T @ early
    _, vectors = np.linalg.eigh(product + product.T)
    turn = vectors[:, ::-1]
    return Factors(factors.loadings @ turn, latents @ turn)


def timescales(
    latents: NDArray[np.floating], first: NDArray[np.integer], kernel: str, shortest: float, longest: float
) -> NDArray[np.floating]:
    """Time scales in frames, (latent,), from where the autocorrelation falls to a half."""
    ends = np.append(first[1:], len(latents))
    most = max(int((ends - first).max()), 2)
    size = 2 ** int(np.ceil(np.log2(2 * most)))
    power = np.zeros((size // 2 + 1, latents.shape[1]))
    overlap = np.zeros(most)
    for a, b in zip(first, ends, strict=True):
        power += np.abs(np.fft.rfft(latents[a:b], size, axis=0)) ** 2
        overlap[: b - a] += np.arange(b - a, 0, -1)
    correlation = np.fft.irfft(power, size, axis=0)[:most] / np.maximum(overlap, 1.0)[:, None]
    below = correlation < 0.5 * np.maximum(correlation[:1], 1e-12)
    half = np.where(below.any(axis=0), below.argmax(axis=0), most)
    ratios = np.linspace(0.5, 2.0, 301)
    at_half = ratios[np.argmin(np.abs(np.asarray(covariance(kernel, ratios, 1.0)) - 0.5))]
    return np.clip(half / at_half, shortest, longest)
