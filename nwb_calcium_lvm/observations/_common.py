"""What the observation models share: masks, and the map between positive numbers and free ones."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

AMPLITUDE_FLOOR = 1e-4
"""Smallest spike amplitude or gain, in units of the trace (dF/F as a fraction: a hundredth of a percent)."""

VARIANCE_FLOOR = 1e-8
"""Smallest noise variance, in squared units of the trace."""


def observed_and_filled(y: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array]:
    """Return the mask of observed samples and the traces with zeros in the others, each (T, N).

    The fill comes before any arithmetic: a NaN that is only masked afterwards still poisons gradients.
    """
    y = jnp.asarray(y)
    observed = ~jnp.isnan(y) if mask is None else jnp.broadcast_to(jnp.asarray(mask, bool), y.shape)
    # Counts may come as integers; likelihoods are computed in floating point.
    filled = jnp.where(observed, y, 0)
    return observed, filled if jnp.issubdtype(y.dtype, jnp.floating) else filled.astype(jnp.result_type(float))


def positive(free: ArrayLike, floor: float) -> Array:
    """Map free numbers to numbers above `floor`: ``floor + log(1 + exp(x))``."""
    return floor + jax.nn.softplus(jnp.asarray(free))


def free_from_positive(value: ArrayLike, floor: float) -> Array:
    """Invert `positive`; values at or under the floor are taken a little above it."""
    value = jnp.asarray(value)
    above = jnp.maximum(value - floor, floor * 1e-3)
    return above + jnp.log(-jnp.expm1(-above))


def normal_log_density(residual: Array, variance: Array) -> Array:
    """Return the log density of centred normal residuals."""
    return -0.5 * (residual**2 / variance + jnp.log(2 * jnp.pi * variance))
