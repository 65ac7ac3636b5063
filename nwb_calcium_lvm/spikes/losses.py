"""What a spike network is trained to lower; every loss leaves out what has no weight."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def correlation(rates: jax.Array, targets: jax.Array, weight: jax.Array) -> jax.Array:
    """Return the Pearson correlation over time of each example, shape (example,); 0 where either is constant."""
    total = jnp.maximum(weight.sum(-1, keepdims=True), 1.0)
    a = (rates - (weight * rates).sum(-1, keepdims=True) / total) * weight
    b = (targets - (weight * targets).sum(-1, keepdims=True) / total) * weight
    scale = jnp.sqrt((a * a).sum(-1) * (b * b).sum(-1) + 1e-8)
    return (a * b).sum(-1) / scale


def pearson_loss(rates: jax.Array, targets: jax.Array, weight: jax.Array) -> jax.Array:
    """Return 1 - r, averaged over the examples that hold a spike."""
    spiking = ((targets * weight).max(-1) > 0).astype(rates.dtype)
    r = correlation(rates, targets, weight)
    return ((1.0 - r) * spiking).sum() / jnp.maximum(spiking.sum(), 1.0)


def squared_loss(rates: jax.Array, targets: jax.Array, weight: jax.Array, spread: jax.Array) -> jax.Array:
    """Return the squared error over the variance of the neuron's target: 1 for a constant, 0 for the truth."""
    error = (weight * (rates - targets) ** 2).sum(-1) / spread
    return error.sum() / jnp.maximum(weight.sum(), 1.0)


def entropy_loss(rates: jax.Array, targets: jax.Array, weight: jax.Array, rate: float) -> jax.Array:
    """Return the cross-entropy of "a spike here", the output taken as a logit."""
    spike = (targets / rate > 0.5 / rate).astype(rates.dtype)
    terms = jnp.logaddexp(0.0, rates) - spike * rates
    return (weight * terms).sum() / jnp.maximum(weight.sum(), 1.0)
