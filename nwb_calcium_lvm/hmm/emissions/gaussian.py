"""Gaussian emissions, with and without autoregression; the Gaussian one is the autoregressive one of order 0.

    y_t = Σ_i α_i y_{t-i} + μ_k + ε_t,   ε_t ~ N(0, σ²_k)   given z_t = k,

per ROI, with the AR coefficients shared by all states. It is what the calcium model becomes when spikes are too many,
or too small, to be told apart: mean c λ_k + b and variance σ² + c² λ_k.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from nwb_calcium_lvm._core.regression import step_to_stable
from nwb_calcium_lvm.hmm.emissions.protocol import Chunk, Prior
from nwb_calcium_lvm.observations.autoregression import stable_ar, unconstrain_ar

_LOG_2PI = 1.8378770664093453


class Params(NamedTuple):
    """μ and σ², each (state, roi), and α (roi, order), which has no columns in the plain Gaussian model."""

    means: Array
    variances: Array
    ar_coefs: Array


class Statistics(NamedTuple):
    """Sums over frames weighted by γ; axes (state, roi), φ = [y_{t-1} .. y_{t-p}]."""

    occupancy: Array
    y: Array
    y_y: Array
    lag: Array  # (order, state, roi)
    lag_y: Array  # (order, state, roi)
    lag_lag: Array  # (order, order, state, roi)


@dataclass(frozen=True)
class GaussianEmission:
    """Independent Gaussians per state and ROI on the AR(``order``) residual."""

    order: int = 0

    def _innovations(self, params: Params, chunk: Chunk) -> Array:
        if self.order == 0:
            return chunk.y
        return chunk.y - jnp.einsum("ni,itn->tn", params.ar_coefs, chunk.lags)

    def log_likelihood(self, params: Params, chunk: Chunk) -> Array:
        """Σ_n log N(e_tn; μ_kn, σ²_kn), by multiplying out the square: three matrix products."""
        e = self._innovations(params, chunk)
        weight, precision = chunk.weight, 1.0 / params.variances
        square = (weight * e**2) @ precision.T - 2 * (weight * e) @ (params.means * precision).T
        constant = params.means**2 * precision + jnp.log(params.variances) + _LOG_2PI
        return -0.5 * (square + weight @ constant.T)

    def statistics(self, params: Params, chunk: Chunk, probs: Array) -> Statistics:
        """Expected sufficient statistics of the chunk."""
        w, y = chunk.weight, chunk.y
        return Statistics(
            occupancy=probs.T @ w,
            y=probs.T @ (w * y),
            y_y=probs.T @ (w * y**2),
            lag=jnp.einsum("tk,itn->ikn", probs, w * chunk.lags),
            lag_y=jnp.einsum("tk,itn->ikn", probs, w * y * chunk.lags),
            lag_lag=jnp.einsum("tk,itn,jtn->ijkn", probs, w * chunk.lags, chunk.lags),
        )

    def maximise(self, params: Params, statistics: Statistics, prior: Prior) -> Params:
        """(α, μ) jointly given the old variances, then the variances (a conditional maximisation)."""
        s, kappa = statistics, prior.frames
        n = jnp.maximum(kappa + s.occupancy, 1e-300)
        ar_coefs = self._regression(params, s, prior) if self.order else params.ar_coefs
        of_lags = jnp.einsum("ni,ikn->kn", ar_coefs, s.lag)
        means = (kappa * prior.mean + s.y - of_lags) / n
        # Σ γ (e - μ)², expanded around the new means; the prior's frames have e = prior.mean ± sd.
        e_e = (
            s.y_y
            - 2 * jnp.einsum("ni,ikn->kn", ar_coefs, s.lag_y)
            + jnp.einsum("ni,ijkn,nj->kn", ar_coefs, s.lag_lag, ar_coefs)
        )
        spread = e_e - 2 * means * (s.y - of_lags) + means**2 * s.occupancy
        prior_spread = kappa * ((prior.mean - means) ** 2 + prior.variance)
        return Params(means, jnp.maximum((spread + prior_spread) / n, prior.floor), ar_coefs)

    def _regression(self, params: Params, s: Statistics, prior: Prior) -> Array:
        """Weighted least squares for α with the means profiled out, then as far towards it as poles stay stable."""
        precision = 1.0 / params.variances
        n = jnp.maximum(prior.frames + s.occupancy, 1e-300)
        total = prior.frames * prior.mean + s.y
        gram = jnp.einsum("kn,ijkn->nij", precision, s.lag_lag - s.lag[:, None] * s.lag[None] / n)
        target = jnp.einsum("kn,ikn->ni", precision, s.lag_y - s.lag * total / n)
        eye = jnp.eye(self.order)
        gram = gram + eye * (
            prior.ar_precision.T[:, None, :] + 1e-12 * jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
        )
        target = target + prior.ar_precision.T * prior.ar_mean.T
        best = jnp.linalg.solve(gram + 1e-300 * eye, target[..., None])[..., 0]
        return step_to_stable(params.ar_coefs, jnp.where(jnp.isfinite(best), best, params.ar_coefs))

    def log_prior(self, params: Params, prior: Prior) -> Array:
        """κ frames of the ROI's mean and variance in every state; Gaussian on α."""
        misfit = (params.means - prior.mean) ** 2 + prior.variance
        states = -0.5 * prior.frames * (jnp.log(params.variances) + misfit / params.variances)
        ar = -0.5 * prior.ar_precision.T * (params.ar_coefs - prior.ar_mean.T) ** 2
        return states.sum() + ar.sum()

    def activity(self, params: Params, chunk: Chunk, probs: Array) -> tuple[Array, Array]:
        """Mean and variance of the part of the trace that the state explains."""
        del chunk
        mean = probs @ params.means
        return mean, probs @ params.means**2 - mean**2

    def n_parameters(self, n_states: int, n_rois: int) -> int:
        """2 K N means and variances; α per ROI."""
        return 2 * n_states * n_rois + self.order * n_rois

    def unconstrain(self, params: Params) -> Params:
        """Logs of variances, logits of the AR parametrisation."""
        free = unconstrain_ar(params.ar_coefs) if self.order else params.ar_coefs
        return Params(params.means, jnp.log(params.variances), free)

    def constrain(self, free: Params) -> Params:
        """Inverse of :meth:`unconstrain`."""
        ar_coefs = stable_ar(free.ar_coefs) if self.order else free.ar_coefs
        return Params(free.means, jnp.exp(free.variances), ar_coefs)
