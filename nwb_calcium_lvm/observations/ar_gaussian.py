"""The calcium model with the spike counts replaced by their mean.

``y_t = sum_i alpha_i y_{t-i} + b + g lambda_t + eps_t``, ``eps_t ~ Normal(0, sigma2)``: right about the decay of the
indicator and wrong about the spikes, which makes it the fairest cheap rival of `calcium`, and its limit when single
spikes are far below the noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from nwb_calcium_lvm.observations._common import (
    AMPLITUDE_FLOOR,
    VARIANCE_FLOOR,
    free_from_positive,
    normal_log_density,
    observed_and_filled,
    positive,
)
from nwb_calcium_lvm.observations.autoregression import autoregress, innovations, stable_ar, unconstrain_ar, usable
from nwb_calcium_lvm.observations.protocol import Sample


class ARGaussianParams(NamedTuple):
    """Parameters of the autoregressive Gaussian model, one row or entry per neuron.

    Attributes
    ----------
    ar_coefs : (N, p) array
        Autoregressive coefficients alpha, most recent lag first, per frame.
    gain : (N,) array
        Step of the trace per expected spike, g, in units of the trace, > 0.
    noise_variance : (N,) array
        Variance sigma2 of the noise inside the autoregression, in squared units of the trace, > 0.
    intercept : (N,) array
        Intercept b, in units of the trace.
    """

    ar_coefs: Array | np.ndarray
    gain: Array | np.ndarray
    noise_variance: Array | np.ndarray
    intercept: Array | np.ndarray


def log_likelihood(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: ARGaussianParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
) -> Array:
    """Return the log density of every sample given its past, (T, N), in nats.

    Arguments as in `nwb_calcium_lvm.observations.protocol.ObservationModel`. 0 where the sample or one of its p
    predecessors is missing or lies before the segment's start.
    """
    observed, filled = observed_and_filled(y, mask)
    ok = usable(observed, jnp.shape(params.ar_coefs)[-1], starts)
    innovation = jnp.where(ok, innovations(filled, params.ar_coefs, params.intercept), 0.0)
    residual = innovation - jnp.asarray(params.gain) * jnp.exp(jnp.asarray(log_rate))
    return jnp.where(ok, normal_log_density(residual, jnp.asarray(params.noise_variance)), 0.0)


def expected_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: ARGaussianParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
) -> Array:
    """Return the rate, (T, N): this model has no counts but their mean, which the rate fixes."""
    del params, mask, starts
    return jnp.broadcast_to(jnp.exp(jnp.asarray(log_rate)), jnp.shape(y))


def sample(key: Array, log_rate: ArrayLike, params: ARGaussianParams, *, starts: ArrayLike | None = None) -> Sample:
    """Draw traces at given rates, (T, N); the counts returned are the rates.

    A segment's past is the stationary mean at its first frame's rate; the autoregression must be stable.
    """
    rate = jnp.exp(jnp.asarray(log_rate))
    noise = jax.random.normal(key, rate.shape, rate.dtype) * jnp.sqrt(jnp.asarray(params.noise_variance))
    drive = jnp.asarray(params.intercept) + jnp.asarray(params.gain) * rate
    return Sample(autoregress(drive + noise, drive, params.ar_coefs, starts), rate)


def constrain(unconstrained: dict[str, Array]) -> ARGaussianParams:
    """Return parameters from unconstrained arrays: stable autoregression, positive gain and variance."""
    return ARGaussianParams(
        stable_ar(unconstrained["ar_coefs"]),
        positive(unconstrained["gain"], AMPLITUDE_FLOOR),
        positive(unconstrained["noise_variance"], VARIANCE_FLOOR),
        jnp.asarray(unconstrained["intercept"]),
    )


def unconstrain(params: ARGaussianParams) -> dict[str, Array]:
    """Invert `constrain`."""
    return {
        "ar_coefs": unconstrain_ar(params.ar_coefs),
        "gain": free_from_positive(params.gain, AMPLITUDE_FLOOR),
        "noise_variance": free_from_positive(params.noise_variance, VARIANCE_FLOOR),
        "intercept": jnp.asarray(params.intercept),
    }
