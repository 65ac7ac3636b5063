"""Calcium emission: AR(p) fluorescence driven by unseen Poisson spikes, summed out over a grid of counts.

    y_t = Σ_i α_i y_{t-i} + b + c s_t + ε_t,   s_t | z_t = k ~ Poisson(λ_k),   ε_t ~ N(0, σ²)

With the innovation e_t = y_t - Σ α_i y_{t-i} - b, the likelihood of a state is a product of two small tables,

    p(y_t | past, k) = Σ_r G_tr H_kr,   G_tr = N(e_t; c r, σ²),   H_kr = Poisson(r; λ_k),

so that all states and counts of an ROI are one matrix product, and nothing of shape (time, state, roi, count) exists.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import softplus
from jax.scipy.special import gammaln

from nwb_calcium_lvm._core.regression import solve_least_squares, step_to_stable
from nwb_calcium_lvm.hmm.emissions.protocol import Chunk, Prior, autoregressive_moments
from nwb_calcium_lvm.observations.autoregression import stable_ar, unconstrain_ar

_RATE_FLOOR = 1e-12  # spikes per frame; keeps log rates finite
_LOG_2PI = 1.8378770664093453


class Params(NamedTuple):
    """λ (state, roi) in spikes per frame; α (roi, order); c, σ² and b, each (roi,)."""

    rates: Array
    ar_coefs: Array
    spike_amplitude: Array
    noise_variance: Array
    intercept: Array


class Statistics(NamedTuple):
    """Expected sums over frames; ``s`` is the spike count and φ = [y_{t-1} .. y_{t-p}, 1]."""

    occupancy: Array  # (state, roi): Σ γ
    spikes: Array  # (state, roi): Σ γ E[s | state]
    gram: Array  # (roi, order + 1, order + 1): Σ φφᵀ
    design_y: Array  # (roi, order + 1): Σ φy
    design_s: Array  # (roi, order + 1): Σ φE[s]
    s_y: Array  # (roi,): Σ E[s] y
    s_s: Array  # (roi,): Σ E[s²]
    y_y: Array  # (roi,): Σ y²
    samples: Array  # (roi,): number of samples


@dataclass(frozen=True)
class CalciumEmission:
    """The calcium observation model with counts 0 .. ``max_spikes`` and AR order ``order``."""

    order: int = 1
    max_spikes: int = 10
    amplitude_floor: float = 1e-3

    def _tables(self, params: Params, chunk: Chunk) -> tuple[Array, Array, Array]:
        """G (roi, time, count) over its largest entry, the log of that entry (roi, time), and H (roi, count, state)."""
        e = (chunk.y - jnp.einsum("ni,itn->tn", params.ar_coefs, chunk.lags) - params.intercept).T
        c, variance = params.spike_amplitude[:, None], params.noise_variance[:, None]
        variance = variance if chunk.variance is None else variance + chunk.variance.T
        nearest = jnp.clip(jnp.round(e / c), 0, self.max_spikes)
        top = -0.5 * (e - c * nearest) ** 2 / variance
        counts = jnp.arange(self.max_spikes + 1, dtype=e.dtype)
        misfit = e[..., None] - c[..., None] * counts
        likelihood = jnp.exp(-0.5 * misfit**2 / variance[..., None] - top[..., None])
        rates = jnp.maximum(params.rates, _RATE_FLOOR).T[:, None, :]
        poisson = jnp.exp(counts[:, None] * jnp.log(rates) - rates - gammaln(counts + 1.0)[:, None])
        return likelihood, top - 0.5 * (_LOG_2PI + jnp.log(variance)), poisson

    def log_likelihood(self, params: Params, chunk: Chunk) -> Array:
        """L_tk = Σ_n log Σ_r G_tnr H_knr, with one batched matrix product over ROIs."""
        likelihood, top, poisson = self._tables(params, chunk)
        evidence = self._evidence(likelihood, poisson)
        weight = chunk.weight.T
        # A plain sum: a matrix product over ROIs would have to store the logs first.
        return (weight[..., None] * jnp.log(evidence)).sum(axis=0) + (weight * top).sum(axis=0)[:, None]

    def _evidence(self, likelihood: Array, poisson: Array) -> Array:
        """Σ_r G_tr H_kr, (roi, time, state); never 0, since a trace far beyond the grid must not end in NaN."""
        return jnp.maximum(jnp.einsum("ntr,nrk->ntk", likelihood, poisson), jnp.finfo(likelihood.dtype).tiny)

    def _responsibilities(self, params: Params, chunk: Chunk, probs: Array) -> tuple[Array, Array, Array]:
        """Return γ / evidence (roi, time, state), G, H: their product is the joint posterior of state and count."""
        likelihood, _, poisson = self._tables(params, chunk)
        evidence = self._evidence(likelihood, poisson)
        return probs * chunk.weight.T[..., None] / evidence, likelihood, poisson

    def _moments(self, ratio: Array, likelihood: Array, poisson: Array) -> tuple[Array, Array]:
        """E[s] and E[s²], both (roi, time): the posterior of the count, summed over states, in one product."""
        counts = jnp.arange(self.max_spikes + 1, dtype=ratio.dtype)
        posterior = likelihood * jnp.einsum("ntk,nrk->ntr", ratio, poisson)
        return posterior @ counts, posterior @ counts**2

    def statistics(self, params: Params, chunk: Chunk, probs: Array) -> Statistics:
        """Expected sufficient statistics of the chunk."""
        ratio, likelihood, poisson = self._responsibilities(params, chunk, probs)
        mean, square = self._moments(ratio, likelihood, poisson)
        counts = jnp.arange(self.max_spikes + 1, dtype=ratio.dtype)
        by_state = jnp.einsum("ntk,ntr->nrk", ratio, likelihood) * poisson
        gram, design_y = autoregressive_moments(chunk, chunk.weight)
        spikes = mean.T  # zero where the sample is masked
        return Statistics(
            occupancy=probs.T @ chunk.weight,
            spikes=jnp.einsum("r,nrk->kn", counts, by_state),
            gram=gram,
            design_y=design_y,
            design_s=jnp.concatenate(
                [jnp.einsum("itn,tn->ni", chunk.lags, spikes), spikes.sum(axis=0)[:, None]], axis=1
            ),
            s_y=(spikes * chunk.y).sum(axis=0),
            s_s=square.sum(axis=1),
            y_y=(chunk.weight * chunk.y**2).sum(axis=0),
            samples=chunk.weight.sum(axis=0),
        )

    def maximise(self, params: Params, statistics: Statistics, prior: Prior) -> Params:
        """Closed form: rates, then (α, b, c) by least squares, then σ²; constraints never lower the objective."""
        s = statistics
        rates = (prior.frames * prior.mean + s.spikes) / jnp.maximum(prior.frames + s.occupancy, 1e-300)
        theta = self._regression(params, s, prior)
        ar_coefs, intercept, amplitude = theta[:, : self.order], theta[:, self.order], theta[:, -1]
        gram, target = _normal_equations(s)
        residual = s.y_y - 2 * jnp.einsum("ni,ni->n", theta, target) + jnp.einsum("ni,nij,nj->n", theta, gram, theta)
        variance = (prior.frames * prior.variance + residual) / jnp.maximum(prior.frames + s.samples, 1.0)
        return Params(
            jnp.maximum(rates, _RATE_FLOOR), ar_coefs, amplitude, jnp.maximum(variance, prior.floor), intercept
        )

    def _regression(self, params: Params, s: Statistics, prior: Prior) -> Array:
        """θ = (α, b, c), shape (roi, order + 2): A⁻¹v, with the prior on α weighed by the old σ² (conditional step)."""
        p = self.order
        gram, target = _normal_equations(s)
        precision = params.noise_variance[:, None] * prior.ar_precision.T
        gram = gram.at[:, jnp.arange(p), jnp.arange(p)].add(precision)
        target = target.at[:, :p].add(precision * prior.ar_mean.T)
        best = solve_least_squares(gram, target)[:, :p]
        ar_coefs = step_to_stable(params.ar_coefs, best)
        rest = solve_least_squares(gram[:, p:, p:], target[:, p:] - jnp.einsum("nij,nj->ni", gram[:, p:, :p], ar_coefs))
        too_small = rest[:, 1] < self.amplitude_floor
        pinned = jnp.full_like(rest[:, 1], self.amplitude_floor)
        alone = target[:, p] - jnp.einsum("nj,nj->n", gram[:, p, :p], ar_coefs) - gram[:, p, p + 1] * pinned
        intercept = jnp.where(too_small, alone / jnp.maximum(gram[:, p, p], 1e-300), rest[:, 0])
        amplitude = jnp.where(too_small, pinned, rest[:, 1])
        return jnp.concatenate([ar_coefs, intercept[:, None], amplitude[:, None]], axis=1)

    def log_prior(self, params: Params, prior: Prior) -> Array:
        """Gamma(1 + κ m, κ) on rates, scaled inverse chi-squared on σ², Gaussian on α; κ is ``prior.frames``."""
        rates = prior.frames * (prior.mean * jnp.log(params.rates) - params.rates)
        variance = -0.5 * prior.frames * (jnp.log(params.noise_variance) + prior.variance / params.noise_variance)
        ar = -0.5 * prior.ar_precision.T * (params.ar_coefs - prior.ar_mean.T) ** 2
        return rates.sum() + variance.sum() + ar.sum()

    def activity(self, params: Params, chunk: Chunk, probs: Array) -> tuple[Array, Array]:
        """Posterior mean and variance of spikes per frame; where nothing is observed, those of the rates alone."""
        mean, square = self._moments(*self._responsibilities(params, chunk, probs))
        prior_mean = probs @ params.rates
        prior_variance = prior_mean + probs @ params.rates**2 - prior_mean**2
        seen = chunk.weight > 0
        return jnp.where(seen, mean.T, prior_mean), jnp.where(seen, (square - mean**2).T, prior_variance)

    def n_parameters(self, n_states: int, n_rois: int) -> int:
        """K N rates; α, b, c and σ² per ROI."""
        return n_states * n_rois + (self.order + 3) * n_rois

    def unconstrain(self, params: Params) -> Params:
        """Logs of rates, inverse softplus of c and σ², logits of the AR parametrisation."""
        return Params(
            jnp.log(jnp.maximum(params.rates, _RATE_FLOOR)),
            unconstrain_ar(params.ar_coefs),
            _inverse_softplus(jnp.maximum(params.spike_amplitude - self.amplitude_floor, self.amplitude_floor)),
            jnp.log(params.noise_variance),
            params.intercept,
        )

    def constrain(self, free: Params) -> Params:
        """Inverse of :meth:`unconstrain`."""
        return Params(
            jnp.exp(free.rates),
            stable_ar(free.ar_coefs),
            softplus(free.spike_amplitude) + self.amplitude_floor,
            jnp.exp(free.noise_variance),
            free.intercept,
        )


def _normal_equations(s: Statistics) -> tuple[Array, Array]:
    """A (roi, order + 2, order + 2) and v (roi, order + 2) of the regression of y on [φ, s]."""
    top = jnp.concatenate([s.gram, s.design_s[:, :, None]], axis=2)
    bottom = jnp.concatenate([s.design_s, s.s_s[:, None]], axis=1)[:, None, :]
    return jnp.concatenate([top, bottom], axis=1), jnp.concatenate([s.design_y, s.s_y[:, None]], axis=1)


def _inverse_softplus(x: Array) -> Array:
    return x + jnp.log(-jnp.expm1(-x))
