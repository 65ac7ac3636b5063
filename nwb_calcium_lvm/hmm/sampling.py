"""Sessions drawn from a fitted CalciumHMM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

_WARM_UP = 500  # frames thrown away, so that calcium has forgotten where it began


def sample_session(
    estimator: Any, n: int, rng: np.random.RandomState
) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.floating]]:
    """Draw traces (time, roi), states (time,) and spikes (time, roi); no spikes: an array without columns."""
    if n < 1:
        raise ValueError(f"n={n!r}; expected at least one frame.")
    states = _path(estimator.initial_probs_, estimator.transition_matrix_, n, rng)
    if estimator.observation == "poisson":
        spikes = rng.poisson(estimator.spikes_per_frame_[states]).astype(float)
        return spikes, states, spikes
    warm = np.concatenate([np.repeat(states[:1], _WARM_UP), states])
    if hasattr(estimator, "spike_amplitude_"):
        spikes = rng.poisson(estimator.spikes_per_frame_[warm]).astype(float)
        sd = np.sqrt(estimator.noise_variance_)
        intercept = estimator.baseline_ * (1.0 - estimator.ar_coefs_.sum(axis=1))
        drive = intercept + estimator.spike_amplitude_ * spikes + sd * rng.standard_normal(spikes.shape)
    else:
        spikes = np.zeros((len(warm), 0))
        means, sds = estimator.means_[warm], np.sqrt(estimator.variances_[warm])
        drive = means + sds * rng.standard_normal(means.shape)
    traces = np.stack(
        [lfilter([1.0], np.concatenate([[1.0], -a]), d) for a, d in zip(estimator.ar_coefs_, drive.T, strict=True)],
        axis=1,
    )
    if hasattr(estimator, "measurement_variance_"):
        traces += np.sqrt(estimator.measurement_variance_) * rng.standard_normal(traces.shape)
    return traces[_WARM_UP:], states, spikes[_WARM_UP:]


def _path(initial: NDArray[np.floating], transition: NDArray[np.floating], n: int, rng: Any) -> NDArray[np.integer]:
    cumulative = np.cumsum(transition, axis=1)
    draws = rng.random_sample(n)
    states = np.empty(n, int)
    states[0] = min(int(np.searchsorted(np.cumsum(initial), draws[0])), len(initial) - 1)
    for t in range(1, n):
        states[t] = min(int(np.searchsorted(cumulative[states[t - 1]], draws[t])), len(initial) - 1)
    return states
