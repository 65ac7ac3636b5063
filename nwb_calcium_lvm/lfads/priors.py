"""Priors of what LFADS infers, and how far posteriors are from them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

_TIME_CONSTANT = 10.0  # frames, before training


class Normal(NamedTuple):
    """Independent normal variables by mean and log variance, of one shape."""

    mean: Array
    log_variance: Array

    def draw(self, key: Array) -> Array:
        """Draw a sample, reparametrised."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise


def divergence(posterior: Normal, prior: Normal) -> Array:
    """Kullback-Leibler divergence of normal variables in nats, elementwise."""
    ratio = jnp.exp(posterior.log_variance - prior.log_variance)
    distance = (posterior.mean - prior.mean) ** 2 * jnp.exp(-prior.log_variance)
    return 0.5 * (ratio + distance - 1.0 + prior.log_variance - posterior.log_variance)


class AutoregressivePrior(nnx.Module):
    """``u_t = φ u_{t-1} + noise`` for each input, stationary, with learned time constant and variance."""

    def __init__(self, n: int, variance: float):
        self.log_time_constant = nnx.Param(jnp.full(n, jnp.log(_TIME_CONSTANT)))  # frames
        self.log_variance = nnx.Param(jnp.full(n, jnp.log(variance)))

    def memory(self) -> Array:
        """φ, what is left of an input a frame later, (n,)."""
        return jnp.exp(-jnp.exp(-self.log_time_constant[...]))

    def divergence(self, posterior: Normal, sample: Array) -> Array:
        """Divergence of every frame's posterior from the prior given the frame before, (B, T, n), in nats.

        Its mean over samples of the frames before is the divergence of the whole posterior.
        """
        memory = self.memory()
        expected = jnp.concatenate([jnp.zeros_like(sample[:, :1]), memory * sample[:, :-1]], axis=1)
        first = jnp.arange(sample.shape[1])[:, None] == 0
        # log(1 - φ²) from the time constant, exact for long ones too.
        step = self.log_variance[...] + jnp.log(-jnp.expm1(-2.0 * jnp.exp(-self.log_time_constant[...])))
        return divergence(posterior, Normal(expected, jnp.where(first, self.log_variance[...], step)))

    def draw(self, key: Array, start: Array | None, shape: tuple[int, int]) -> Array:
        """Draw inputs (B, T, n) that go on from those of the frame before, (B, n), or begin anew."""
        n_batch, n_frames = shape
        noise = jax.random.normal(key, (n_frames, n_batch, len(self.log_variance[...])))
        sd, memory = jnp.exp(0.5 * self.log_variance[...]), self.memory()
        step = sd * jnp.sqrt(1.0 - memory**2)

        def advance(state: Array, fresh: Array) -> tuple[Array, Array]:
            state = memory * state + step * fresh
            return state, state

        if start is None:
            key_start = jax.random.fold_in(key, 1)
            start = sd * jax.random.normal(key_start, noise.shape[1:])
        return jnp.swapaxes(jax.lax.scan(advance, start, noise)[1], 0, 1)
