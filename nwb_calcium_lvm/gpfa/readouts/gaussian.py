"""Traces, or their autoregressive residual, as a noisy linear read-out of the latents: the classical GPFA.

``y_t = sum_i alpha_i y_{t-i} + C x_t + d + eps_t``, ``eps_t ~ Normal(0, sigma2)``. The bound is exact here.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from nwb_calcium_lvm._core.regression import solve_least_squares, step_to_stable
from nwb_calcium_lvm.gpfa.readouts.linear import augmented, seen, sites
from nwb_calcium_lvm.gpfa.readouts.protocol import Block, Latents, Look, Numbers, Prior, Weights
from nwb_calcium_lvm.observations.autoregression import lagged


class LinearParams(NamedTuple):
    """AR coefficients (B, p), per frame, and variance of the noise (B,)."""

    ar_coefs: Numbers
    noise_variance: Numbers


@dataclass(frozen=True)
class GaussianReadout:
    """Linear read-out with an autoregression of this order; 0: of the trace itself."""

    order: int = 0

    @property
    def monotone(self) -> bool:
        """See :class:`~nwb_calcium_lvm.gpfa.readouts.protocol.Readout`."""
        return True

    def look(self, weights: Weights, block: Block, latents: Latents, prior: Prior, *, learn: bool) -> Look:
        """See :class:`~nwb_calcium_lvm.gpfa.readouts.protocol.Readout`."""
        mean, spread = seen(weights.loadings, weights.offset, latents)
        y = jnp.where(block.scored, block.y, 0.0)
        past = lagged(jnp.where(block.observed, block.y, 0.0), self.order)
        past = jnp.where(block.scored, past, 0.0)
        variance = weights.params.noise_variance
        target = y - jnp.einsum("itb,bi->tb", past, weights.params.ar_coefs)
        misfit = ((target - mean) ** 2 + spread) / variance + jnp.log(2 * jnp.pi * variance)
        bound = -0.5 * jnp.where(block.scored, misfit, 0.0).sum(axis=0)
        if learn:
            weights = _maximise(weights, y, past, block.scored, latents, prior)
            target = y - jnp.einsum("itb,bi->tb", past, weights.params.ar_coefs)
        precision = jnp.where(block.scored, 1.0 / weights.params.noise_variance, 0.0)
        return Look(bound, weights, *sites(weights.loadings, precision, precision * (target - weights.offset)))

    def log_prior(self, weights: Weights, prior: Prior) -> Array:
        """Normal on loadings and on the AR coefficients, scaled inverse chi-squared on the variance."""
        params = weights.params
        loadings = -0.5 * (prior.loading_precision * weights.loadings**2).sum(axis=1)
        noise = jnp.log(params.noise_variance) + prior.variance / params.noise_variance
        ar = (prior.ar_precision * (params.ar_coefs - prior.ar_mean) ** 2).sum(axis=1)
        return loadings - 0.5 * (prior.frames * noise + ar)


def _maximise(weights: Weights, y: Array, past: Array, scored: Array, latents: Latents, prior: Prior) -> Weights:
    """Regress y on its past, the latents and 1, with what is not known of the latents; then the noise.

    The priors on alpha and C are weighed by the old sigma2 (a conditional step).
    """
    space, p = augmented(latents), len(past)
    weight = scored.astype(y.dtype)
    mine = jnp.broadcast_to(space.mean[:, None], (*y.shape, space.mean.shape[1])) * weight[..., None]
    design = jnp.concatenate([jnp.moveaxis(past, 0, -1), mine], axis=-1)
    gram = jnp.einsum("tbi,tbj->bij", design, design)
    doubt = (weight.T @ space.covariance.reshape(len(y), -1)).reshape(-1, *space.covariance.shape[1:])
    gram = gram.at[:, p:, p:].add(doubt)
    target = jnp.einsum("tbi,tb->bi", design, y)
    old = weights.params.noise_variance
    ridge = old[:, None] * jnp.concatenate(
        [prior.ar_precision, jnp.broadcast_to(jnp.append(prior.loading_precision, 0.0), (len(old), mine.shape[2]))],
        axis=1,
    )
    ridged = gram + ridge[:, :, None] * jnp.eye(ridge.shape[1])
    aimed = target.at[:, :p].add(ridge[:, :p] * prior.ar_mean)
    ar_coefs = step_to_stable(weights.params.ar_coefs, solve_least_squares(ridged, aimed)[:, :p]) if p else past[:, 0].T
    rest = aimed[:, p:] - jnp.einsum("bij,bj->bi", ridged[:, p:, :p], ar_coefs)
    theta = jnp.concatenate([ar_coefs, solve_least_squares(ridged[:, p:, p:], rest)], axis=1)
    residual = (y**2).sum(axis=0) - 2 * (theta * target).sum(axis=1) + jnp.einsum("bi,bij,bj->b", theta, gram, theta)
    variance = (prior.frames * prior.variance + residual) / jnp.maximum(prior.frames + weight.sum(axis=0), 1.0)
    new = Weights(theta[:, p:-1], theta[:, -1], LinearParams(ar_coefs, jnp.maximum(variance, prior.floor)))
    enough = weight.sum(axis=0) > p + 2
    return jax.tree.map(lambda a, b: jnp.where(enough.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, weights)
