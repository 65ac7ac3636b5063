"""States and calcium filtered together: a normalised density of traces with measurement noise.

At every frame the belief is a distribution over states times one Gaussian per neuron for its calcium. A sample is taken
in by summing over states and spike counts; what comes out is replaced by the belief of that form with the same state
probabilities, means and covariances (assumed-density filtering). The evidences of the frames multiply to a density that
integrates to 1, so that held-out traces can be compared with other models'.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.special import gammaln, logsumexp

from nwb_calcium_lvm.hmm.data import Data
from nwb_calcium_lvm.hmm.em import Model
from nwb_calcium_lvm.hmm.emissions.calcium_noisy import CalciumNoisyEmission
from nwb_calcium_lvm.hmm.propagation import stationary
from nwb_calcium_lvm.observations import _state_space as space
from nwb_calcium_lvm.observations._state_space import State

_RATE_FLOOR = 1e-12
_LOG_2PI = 1.8378770664093453


class Filtered(NamedTuple):
    """p(state | trace up to now), (time, state), and log p(counted samples of a frame | all before), (time,)."""

    probs: Array
    log_evidence: Array


@partial(jax.jit, static_argnames="emission")
def filter_together(emission: CalciumNoisyEmission, model: Model, data: Data, counted: Array) -> Filtered:
    """Filter.

    ``counted`` (time, roi) marks samples whose density is to be told. Samples before them serve to know calcium by; of
    states only those say something that have as many observed samples before them as calcium has a memory of.
    """
    chain, params = model
    dyn = emission.dynamics(params)
    rates = jnp.maximum(params.rates, _RATE_FLOOR)
    counts = jnp.arange(emission.max_spikes + 1, dtype=rates.dtype)
    poisson = jnp.exp(
        counts[:, None] * jnp.log(rates).T[:, None, :] - rates.T[:, None, :] - gammaln(counts + 1)[:, None]
    )
    amplitude, noise = params.spike_amplitude, params.noise_variance
    tiny = jnp.finfo(rates.dtype).tiny
    # Before a segment calcium is about where the rates hold it.
    level = amplitude * (stationary(chain) @ rates) / (1.0 - params.ar_coefs.sum(axis=1))
    rest = space.before(dyn, level)

    def step(
        carry: tuple[Array, State, Array], frame: tuple[Array, ...]
    ) -> tuple[tuple[Array, State, Array], Filtered]:
        before, state, n_seen = carry
        y, is_seen, is_counted, is_start = frame
        prior = jnp.where(is_start, chain.initial_probs, before @ chain.transition_matrix)
        state = jax.tree.map(lambda new, old: jnp.where(is_start, new, old), rest, state)
        n_seen = jnp.where(is_start, 0, n_seen)
        predicted = space.predict(dyn, state)
        error, variance = space.innovation(dyn, predicted, y.astype(rates.dtype))
        total = variance + noise
        nearest = jnp.clip(jnp.round(error / amplitude), 0, emission.max_spikes)
        top = -0.5 * (error - amplitude * nearest) ** 2 / total
        misfit = error[:, None] - amplitude[:, None] * counts
        likelihood = jnp.exp(-0.5 * misfit**2 / total[:, None] - top[:, None])  # (roi, count)
        evidence = jnp.maximum(jnp.einsum("nr,nrk->nk", likelihood, poisson), tiny)
        log_evidence = jnp.log(evidence) + (top - 0.5 * (_LOG_2PI + jnp.log(total)))[:, None]
        informs = is_seen & (n_seen >= emission.order)
        log_prior = jnp.log(prior)
        told = logsumexp(log_prior + jnp.where(is_counted[:, None], log_evidence, 0.0).sum(axis=0))
        probs = jax.nn.softmax(log_prior + jnp.where(informs[:, None], log_evidence, 0.0).sum(axis=0))
        # The state as all other neurons see it, then this neuron's count.
        others = probs / jnp.where(informs[:, None], evidence / evidence.max(axis=1, keepdims=True), 1.0)
        posterior = likelihood * jnp.einsum("nk,nrk->nr", others, poisson)
        posterior = posterior / jnp.maximum(posterior.sum(axis=1, keepdims=True), tiny)
        mean = posterior @ counts
        spread = jnp.maximum(posterior @ counts**2 - mean**2, 0.0)
        slope = (amplitude * mean - error) / total
        curvature = 1.0 / total - (amplitude / total) ** 2 * spread
        with_sample = space.update(dyn, predicted, error, variance, slope, curvature)
        rate = probs @ rates
        own = noise + amplitude**2 * (rate + probs @ rates**2 - rate**2)
        without = space.enter(predicted, amplitude * rate, own)
        state = jax.tree.map(lambda a, b: jnp.where(is_seen, a, b), with_sample, without)
        return (probs, state, n_seen + is_seen), Filtered(probs, told)

    start = (chain.initial_probs, rest, jnp.zeros(rates.shape[1], int))
    _, out = lax.scan(step, start, (data.y, data.weight, counted, data.starts))
    return out._replace(log_evidence=jnp.where(data.valid, out.log_evidence, 0.0))
