"""Traces as a noisy linear read-out of the rate: ``y_t = a + g lambda_t + eps_t``, ``eps_t ~ Normal(0, sigma2)``.

No memory and no spikes: the usual Gaussian observation model, here as the plain alternative to `calcium`.
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
from nwb_calcium_lvm.observations.protocol import Sample


class GaussianParams(NamedTuple):
    """Parameters of the Gaussian model, one entry per neuron.

    Attributes
    ----------
    offset : (N,) array
        Trace at rate zero, a, in units of the trace.
    gain : (N,) array
        Trace per expected spike per frame, g, in units of the trace, > 0.
    noise_variance : (N,) array
        Variance sigma2, in squared units of the trace, > 0.
    """

    offset: Array | np.ndarray
    gain: Array | np.ndarray
    noise_variance: Array | np.ndarray


def log_likelihood(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: GaussianParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
) -> Array:
    """Return the log density of every sample, (T, N), in nats; 0 where masked.

    Arguments as in `nwb_calcium_lvm.observations.protocol.ObservationModel`; `starts` has no effect.
    """
    del starts
    observed, filled = observed_and_filled(y, mask)
    mean = jnp.asarray(params.offset) + jnp.asarray(params.gain) * jnp.exp(jnp.asarray(log_rate))
    return jnp.where(observed, normal_log_density(filled - mean, jnp.asarray(params.noise_variance)), 0.0)


def expected_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: GaussianParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
) -> Array:
    """Return the rate, (T, N): this model has no counts but their mean, which the rate fixes."""
    del params, mask, starts
    return jnp.broadcast_to(jnp.exp(jnp.asarray(log_rate)), jnp.shape(y))


def sample(key: Array, log_rate: ArrayLike, params: GaussianParams, *, starts: ArrayLike | None = None) -> Sample:
    """Draw traces at given rates, (T, N); the counts returned are the rates."""
    del starts
    rate = jnp.exp(jnp.asarray(log_rate))
    noise = jax.random.normal(key, rate.shape, rate.dtype) * jnp.sqrt(jnp.asarray(params.noise_variance))
    return Sample(jnp.asarray(params.offset) + jnp.asarray(params.gain) * rate + noise, rate)


def constrain(unconstrained: dict[str, Array]) -> GaussianParams:
    """Return parameters from unconstrained arrays: positive gain and variance."""
    return GaussianParams(
        jnp.asarray(unconstrained["offset"]),
        positive(unconstrained["gain"], AMPLITUDE_FLOOR),
        positive(unconstrained["noise_variance"], VARIANCE_FLOOR),
    )


def unconstrain(params: GaussianParams) -> dict[str, Array]:
    """Invert `constrain`."""
    return {
        "offset": jnp.asarray(params.offset),
        "gain": free_from_positive(params.gain, AMPLITUDE_FLOOR),
        "noise_variance": free_from_positive(params.noise_variance, VARIANCE_FLOOR),
    }
