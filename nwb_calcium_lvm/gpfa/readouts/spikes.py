r"""Readouts whose spike counts are Poisson with log rate ``eta = C x + d``: fluorescence, and counts themselves.

With ``log p(y | eta) = log Z(eta) - sum exp(eta)``, ``Z`` the sum over counts without the Poisson's ``exp(-rate)``,
``log Z`` is convex in eta (a log-sum-exp of linear functions), so that E[log Z(eta)] >= log Z(E[eta]) and

``E_q[log p(y | eta)] >= log Z(mu) - sum exp(mu + v / 2)``,  mu, v mean and variance of eta under q:

in closed form, and exact where the spikes are seen. It is the bound of independent q(spikes) q(x). The gradient of
``log Z`` is the expected count, so that for any linearisation point the bound has a concave lower bound of its own,
``sum s eta - exp(eta + v / 2)``: a Poisson regression on expected counts, which the updates climb.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from nwb_calcium_lvm import observations
from nwb_calcium_lvm._core.regression import solve_least_squares, step_to_stable
from nwb_calcium_lvm.gpfa.readouts.linear import seen, sites, weighted_moment
from nwb_calcium_lvm.gpfa.readouts.protocol import Block, Latents, Look, Prior, Weights
from nwb_calcium_lvm.observations.autoregression import lagged
from nwb_calcium_lvm.observations.calcium import CalciumParams

_HALVINGS = 12
_HIDDEN = 0.7  # amplitude over noise sd from which on the likelihood's window of counts holds all that matter


@dataclass(frozen=True)
class SpikeReadout:
    """Any observation model of the registry with Poisson counts, a sample of which knows a few frames of the past."""

    name: str
    order: int = 0

    @property
    def monotone(self) -> bool:
        """See :class:`~nwb_calcium_lvm.gpfa.readouts.protocol.Readout`."""
        return True

    def log_likelihood(self, eta: Array, params: Any, block: Block) -> Array:
        """Log density of each sample given its past at log rates eta, (T, B)."""
        model = observations.get(self.name)
        return model.log_likelihood(block.y, eta, params, block.observed, starts=block.starts)

    def look(self, weights: Weights, block: Block, latents: Latents, prior: Prior, *, learn: bool) -> Look:
        """See :class:`~nwb_calcium_lvm.gpfa.readouts.protocol.Readout`."""
        mean, spread = seen(weights.loadings, weights.offset, latents)

        def log_density(eta: Array, params: Any) -> tuple[Array, Array]:
            value = jnp.where(block.scored, self.log_likelihood(eta, params, block), 0.0)
            return value.sum(), value.sum(axis=0)

        derivatives = jax.value_and_grad(log_density, argnums=(0, 1), has_aux=True)
        (_, value), (slope, by_params) = derivatives(mean, weights.params)
        rate = jnp.exp(mean)
        counts = jnp.where(block.scored, slope + rate, 0.0)
        expected = jnp.where(block.scored, jnp.exp(mean + 0.5 * spread), 0.0)
        bound = value + jnp.where(block.scored, rate - expected, 0.0).sum(axis=0)
        if learn:
            loadings, offset = _climb(weights, counts, expected, block.scored, latents, prior)
            params = self._learn(weights.params, by_params, counts, block, prior)
            weights = Weights(loadings, offset, params)
            mean, spread = seen(loadings, offset, latents)
            expected = jnp.where(block.scored, jnp.exp(mean + 0.5 * spread), 0.0)
        linear = counts - expected + expected * (mean - weights.offset)
        return Look(bound, weights, *sites(weights.loadings, expected, linear))

    def _learn(self, params: Any, by_params: Any, counts: Array, block: Block, prior: Prior) -> Any:
        if self.name == "calcium":
            return maximise_calcium(params, by_params, counts, block, prior)
        return params

    def log_prior(self, weights: Weights, prior: Prior) -> Array:
        """Normal on loadings, Gamma on the rate at x = 0, and what the parameters have."""
        loadings = -0.5 * (prior.loading_precision * weights.loadings**2).sum(axis=1)
        offset = prior.frames * (jnp.exp(prior.offset) * weights.offset - jnp.exp(weights.offset))
        return loadings + offset + _log_prior_of_params(weights.params, prior)


def _log_prior_of_params(params: Any, prior: Prior) -> Array:
    if not isinstance(params, CalciumParams):
        return jnp.zeros_like(prior.offset)
    variance = jnp.asarray(params.noise_variance)
    noise = -0.5 * prior.frames * (jnp.log(variance) + prior.variance / variance)
    return noise - 0.5 * (prior.ar_precision * (params.ar_coefs - prior.ar_mean) ** 2).sum(axis=1)


def _climb(
    weights: Weights, counts: Array, expected: Array, scored: Array, latents: Latents, prior: Prior
) -> tuple[Array, Array]:
    """One Newton step of the Poisson regression of counts (T, B) on the latents, halved until it does not go down.

    ``expected`` (T, B) are the counts that the weights expect, 0 where not scored.
    """
    n_frames, n_latents = latents.mean.shape
    ridge = jnp.append(prior.loading_precision, 0.0)
    pull, towards = prior.frames, jnp.exp(prior.offset)

    def value(theta: Array) -> Array:
        mean, spread = seen(theta[:, :-1], theta[:, -1], latents)
        fit = (counts * mean - jnp.where(scored, jnp.exp(mean + 0.5 * spread), 0.0)).sum(axis=0)
        last = theta[:, -1]
        return fit - 0.5 * (ridge * theta**2).sum(axis=1) + pull * (towards * last - jnp.exp(last))

    theta = jnp.concatenate([weights.loadings, weights.offset[:, None]], axis=1)
    # Derivatives of eta + v / 2, the log of the expected counts: m + V C by the loadings, 1 by the offset.
    reach = latents.mean[:, None] + jnp.einsum("tij,bj->tbi", latents.covariance, weights.loadings)
    reach = jnp.concatenate([reach, jnp.ones((*counts.shape, 1))], axis=2)
    constant = jnp.concatenate([latents.mean, jnp.ones((n_frames, 1))], axis=1)
    gradient = counts.T @ constant - jnp.einsum("tb,tbi->bi", expected, reach) - ridge * theta
    gradient = gradient.at[:, -1].add(pull * (towards - jnp.exp(theta[:, -1])))
    doubt = (expected.T @ latents.covariance.reshape(n_frames, -1)).reshape(-1, n_latents, n_latents)
    hessian = weighted_moment(expected, reach) + jnp.pad(doubt, ((0, 0), (0, 1), (0, 1))) + jnp.diag(ridge)
    hessian = hessian.at[:, -1, -1].add(pull * jnp.exp(theta[:, -1]))
    hessian = hessian + 1e-9 * jnp.einsum("bii->b", hessian)[:, None, None] * jnp.eye(n_latents + 1)
    step = jnp.linalg.solve(hessian, gradient[..., None])[..., 0]
    theta = backtrack(value, theta, step)
    return theta[:, :-1], theta[:, -1]


def backtrack(value: Callable[[Array], Array], start: Array, step: Array) -> Array:
    """Go from ``start`` (B, k) by ``step``, halved for each row until its ``value`` (B,) is not below the start's."""
    before = value(start)

    def worse(state: tuple[Array, Array, Array]) -> Array:
        _, good, tries = state
        return jnp.logical_and(~good.all(), tries < _HALVINGS)

    def halve(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        fraction, good, tries = state
        fraction = jnp.where(good, fraction, 0.5 * fraction)
        return fraction, good | (value(start + fraction[:, None] * step) >= before), tries + 1

    fraction = jnp.ones(len(start))
    fraction, good, _ = lax.while_loop(worse, halve, (fraction, value(start + step) >= before, jnp.zeros((), int)))
    return jnp.where(good[:, None], start + fraction[:, None] * step, start)


def maximise_calcium(
    params: CalciumParams, by_params: CalciumParams, counts: Array, block: Block, prior: Prior
) -> CalciumParams:
    """Closed form: (alpha, b, c) by least squares on expected counts, then sigma2.

    E[s^2] comes from the derivative by the amplitude: d log p / dc = sum E[s (e - c s)] / sigma2. Constraints (stable
    calcium, spikes that are not hidden in the noise) shorten steps, so that the bound does not go down.
    """
    order = params.ar_coefs.shape[1]
    weight = block.scored.astype(counts.dtype)
    y = jnp.where(block.scored, block.y, 0.0)
    past = [jnp.where(block.scored, lag, 0.0) for lag in lagged(jnp.where(block.observed, block.y, 0.0), order)]
    design = jnp.stack([*past, weight, counts], axis=-1)  # (T, B, p + 2)
    gram = jnp.einsum("tbi,tbj->bij", design, design)
    target = jnp.einsum("tbi,tb->bi", design, y)
    # Sum of E[s^2] instead of E[s]^2, from the derivative.
    old = jnp.concatenate([params.ar_coefs, params.intercept[:, None]], axis=1)
    s_e = target[:, -1] - jnp.einsum("bi,bi->b", gram[:, -1, :-1], old)
    s_s = (s_e - params.noise_variance * by_params.spike_amplitude) / params.spike_amplitude
    gram = gram.at[:, -1, -1].set(jnp.maximum(s_s, gram[:, -1, -1]))
    theta = _regression(params, gram, target, prior)
    residual = (y**2).sum(axis=0) - 2 * (theta * target).sum(axis=1) + jnp.einsum("bi,bij,bj->b", theta, gram, theta)
    n_scored = weight.sum(axis=0)
    variance = (prior.frames * prior.variance + residual) / jnp.maximum(prior.frames + n_scored, 1.0)
    variance = jnp.maximum(variance, prior.floor)
    enough = n_scored > order + 2
    return jax.tree.map(
        lambda new, given: jnp.where(enough if new.ndim == 1 else enough[:, None], new, given),
        CalciumParams(theta[:, :order], theta[:, -1], variance, theta[:, -2]),
        params,
    )


def _regression(params: CalciumParams, gram: Array, target: Array, prior: Prior) -> Array:
    """(alpha, b, c), shape (B, p + 2); the prior on alpha is weighed by the old sigma2 (a conditional step)."""
    p = params.ar_coefs.shape[1]
    precision = params.noise_variance[:, None] * prior.ar_precision
    gram = gram.at[:, jnp.arange(p), jnp.arange(p)].add(precision)
    target = target.at[:, :p].add(precision * prior.ar_mean)
    ar_coefs = step_to_stable(jnp.asarray(params.ar_coefs), solve_least_squares(gram, target)[:, :p])
    rest = target[:, p:] - jnp.einsum("bij,bj->bi", gram[:, p:, :p], ar_coefs)
    free = solve_least_squares(gram[:, p:, p:], rest)
    # A lower limit that is above the old amplitude would lower the bound.
    least = jnp.minimum(_HIDDEN * jnp.sqrt(params.noise_variance), params.spike_amplitude)
    amplitude = jnp.maximum(free[:, 1], least)
    pinned = (rest[:, 0] - gram[:, p, p + 1] * amplitude) / jnp.maximum(gram[:, p, p], 1e-300)
    intercept = jnp.where(free[:, 1] < least, pinned, free[:, 0])
    return jnp.concatenate([ar_coefs, intercept[:, None], amplitude[:, None]], axis=1)
