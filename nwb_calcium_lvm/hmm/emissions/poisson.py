"""Poisson emission for spike counts that are known: y_t ~ Poisson(λ_k) per ROI."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln

from nwb_calcium_lvm.hmm.emissions.protocol import Chunk, Prior

_RATE_FLOOR = 1e-12


class Params(NamedTuple):
    """λ (state, roi), spikes per frame."""

    rates: Array


class Statistics(NamedTuple):
    """Σ γ and Σ γ y, each (state, roi)."""

    occupancy: Array
    spikes: Array


@dataclass(frozen=True)
class PoissonEmission:
    """Independent Poisson counts per state and ROI."""

    order: int = 0

    def log_likelihood(self, params: Params, chunk: Chunk) -> Array:
        """Σ_n log Poisson(y_tn; λ_kn)."""
        rates = jnp.maximum(params.rates, _RATE_FLOOR)
        constant = (chunk.weight * gammaln(chunk.y + 1.0)).sum(axis=1)
        return (chunk.weight * chunk.y) @ jnp.log(rates).T - chunk.weight @ rates.T - constant[:, None]

    def statistics(self, params: Params, chunk: Chunk, probs: Array) -> Statistics:
        """Expected sufficient statistics of the chunk."""
        del params
        return Statistics(probs.T @ chunk.weight, probs.T @ (chunk.weight * chunk.y))

    def maximise(self, params: Params, statistics: Statistics, prior: Prior) -> Params:
        """λ = (κ m + Σ γ y) / (κ + Σ γ)."""
        del params
        total = jnp.maximum(prior.frames + statistics.occupancy, 1e-300)
        return Params(jnp.maximum((prior.frames * prior.mean + statistics.spikes) / total, _RATE_FLOOR))

    def log_prior(self, params: Params, prior: Prior) -> Array:
        """Gamma(1 + κ m, κ) on the rates."""
        return (prior.frames * (prior.mean * jnp.log(params.rates) - params.rates)).sum()

    def activity(self, params: Params, chunk: Chunk, probs: Array) -> tuple[Array, Array]:
        """Spikes are known where observed; elsewhere the state tells their mean and variance."""
        mean = probs @ params.rates
        variance = mean + probs @ params.rates**2 - mean**2
        seen = chunk.weight > 0
        return jnp.where(seen, chunk.y, mean), jnp.where(seen, 0.0, variance)

    def n_parameters(self, n_states: int, n_rois: int) -> int:
        """K N rates."""
        return n_states * n_rois

    def unconstrain(self, params: Params) -> Params:
        """Logs of the rates."""
        return Params(jnp.log(jnp.maximum(params.rates, _RATE_FLOOR)))

    def constrain(self, free: Params) -> Params:
        """Inverse of :meth:`unconstrain`."""
        return Params(jnp.exp(free.rates))
