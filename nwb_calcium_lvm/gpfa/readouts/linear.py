"""Sums over frames with the latents' mean and covariance, for all neurons of a block at once."""

import jax.numpy as jnp
from jax import Array

from nwb_calcium_lvm.gpfa.readouts.protocol import Latents


def seen(loadings: Array, offset: Array, latents: Latents) -> tuple[Array, Array]:
    """Mean and variance of eta = C x + d under q, each (T, B)."""
    mean = latents.mean @ loadings.T + offset
    outer = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(loadings), -1)
    spread = latents.covariance.reshape(len(mean), -1) @ outer.T
    return mean, jnp.maximum(spread, 0.0)


def sites(loadings: Array, precision: Array, linear: Array) -> tuple[Array, Array]:
    """Sum sites on eta, precision w and linear term (T, B), to sites on x: sum_n w C C' and sum_n C linear."""
    n_frames, n_latents = len(precision), loadings.shape[1]
    outer = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(loadings), -1)
    return (precision @ outer).reshape(n_frames, n_latents, n_latents), linear @ loadings


def augmented(latents: Latents) -> Latents:
    """The latents with a constant 1 as one more: then an offset is a loading."""
    n_frames = len(latents.mean)
    mean = jnp.concatenate([latents.mean, jnp.ones((n_frames, 1), latents.mean.dtype)], axis=1)
    return Latents(mean, jnp.pad(latents.covariance, ((0, 0), (0, 1), (0, 1))))


def weighted_moment(weight: Array, vectors: Array) -> Array:
    """Sum_t weight u u', (B, k, k), of vectors u (T, B, k) with weights (T, B)."""
    by_neuron = jnp.moveaxis(vectors, 1, 0)
    return jnp.einsum("bti,btj->bij", by_neuron * weight.T[..., None], by_neuron)
