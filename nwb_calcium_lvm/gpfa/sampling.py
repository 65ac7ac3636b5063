"""Sessions drawn from a fitted CalciumGPFA."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.gpfa import kernels
from nwb_calcium_lvm.gpfa.learned import weights_of
from nwb_calcium_lvm.observations.autoregression import autoregress
from nwb_calcium_lvm.simulate import smooth_path


def sample_session(
    estimator: Any, n: int, rng: np.random.RandomState
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Draw traces (time, roi), latents (time, latent) and spikes (time, roi); no spikes: an array without columns."""
    if n < 1:
        raise ValueError(f"n={n!r}; expected at least one frame.")
    processes = np.column_stack([_path(estimator.kernel, n, scale, rng) for scale in estimator.timescales_frames_])
    weights = weights_of(estimator)
    eta = processes @ weights.loadings.T + weights.offset
    latents = processes @ estimator.mixing_.T
    with jax.enable_x64(True):
        if not estimator.observation.endswith("gaussian"):
            key = jax.random.key(rng.randint(2**31 - 1))
            drawn = observations.get(estimator.observation).sample(key, eta, weights.params)
            return np.asarray(drawn.y), latents, np.asarray(drawn.counts)
        noise = np.sqrt(weights.params.noise_variance) * rng.standard_normal(eta.shape)
        traces = np.asarray(autoregress(eta + noise, eta, weights.params.ar_coefs))
    return traces, latents, np.zeros((n, 0))


def _path(kernel: str, n: int, timescale: float, rng: np.random.RandomState) -> NDArray[np.floating]:
    """One Gaussian process (time,): by its stochastic differential equation, or on a circle (RBF)."""
    if kernel == "rbf":
        return smooth_path(n, timescale, rng)
    with jax.enable_x64(True):
        moves = jax.tree.map(
            lambda a: np.asarray(a)[0, :, :, 0], kernels.transitions(kernel, np.array([timescale]), np.ones(1))
        )
    state = _root(kernels.stationary(kernel)) @ rng.standard_normal(len(moves.matrix))
    pushes = rng.standard_normal((n, len(state))) @ _root(moves.noise).T
    out = np.empty(n)
    for t in range(n):
        state = moves.matrix @ state + pushes[t] if t else state
        out[t] = state[0]
    return out


def _root(covariance: NDArray[np.floating]) -> NDArray[np.floating]:
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))
