"""How likely neurons left out are at the rates that smooth latents predict."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm._core.cosmoothing import at_constant_rate
from nwb_calcium_lvm.gpfa.activity import MOST_LOG_RATE
from nwb_calcium_lvm.gpfa.readouts import GaussianReadout

_NODES = 9  # of Gauss-Hermite quadrature over the log rate


def predictive(
    readout: Any, y: Any, mask: Any, scored: Any, starts: Any, params: Any, mean: Any, spread: Any, offset: Any
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Nats per sample (n,) of traces (time, n) at eta ~ Normal(mean, spread), and at the best constant eta."""
    with jax.enable_x64(True):
        n = np.maximum(np.asarray(scored).sum(axis=0), 1)
        if isinstance(readout, GaussianReadout):
            own, null = _gaussian(y, scored, params, mean, spread)
        else:
            own, null = _spikes(readout.name, y, mask, scored, starts, params, mean, spread, offset)
        return np.asarray(own) / n, np.asarray(null) / n


def _spikes(name: str, y: Any, mask: Any, scored: Any, starts: Any, params: Any, mean: Any, spread: Any, offset: Any):
    model = observations.get(name)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    etas = [np.minimum(mean + z * np.sqrt(spread), MOST_LOG_RATE) for z in nodes]
    values = [model.log_likelihood(y, eta, params, mask, starts=starts) for eta in etas]
    logs = jnp.stack(values) + np.log(weights / weights.sum())[:, None, None]
    own = jnp.where(scored, jax.nn.logsumexp(logs, axis=0), 0.0).sum(axis=0)
    return own, at_constant_rate(model, y, mask, scored, starts, params, offset)


def _gaussian(y: Any, scored: Any, params: Any, mean: Any, spread: Any):
    p = params.ar_coefs.shape[1]
    past = np.stack([np.roll(y, lag, axis=0) for lag in range(1, p + 1)]) if p else np.zeros((0, *y.shape))
    target = np.where(scored, y - np.einsum("itn,ni->tn", past, params.ar_coefs), 0.0)

    def total(centre: Any, variance: Any) -> Any:
        density = -0.5 * ((target - centre) ** 2 / variance + np.log(2 * np.pi * variance))
        return np.where(scored, density, 0.0).sum(axis=0)

    n = np.maximum(np.asarray(scored).sum(axis=0), 1)
    centre = target.sum(axis=0) / n
    variance = (np.where(scored, target - centre, 0.0) ** 2).sum(axis=0) / n
    return total(mean, spread + params.noise_variance), total(centre, np.maximum(variance, 1e-300))
