"""Expectation-maximisation for any emission, compiled once per shape, with memory bounded by chunks of time."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nwb_calcium_lvm.hmm.data import Data, chunk_at
from nwb_calcium_lvm.hmm.emissions.protocol import Emission, HasPrior, Prior
from nwb_calcium_lvm.hmm.inference import Chain, Filtered, Smoothed, forward, smooth, viterbi

BLOCK = 5  # EM steps between two looks of the host at the objective


class Model(NamedTuple):
    """Everything that is learned: the Markov chain and the emission's parameters."""

    chain: Chain
    params: Any


def state_likelihoods(emission: Emission, params: Any, data: Data, chunk: int) -> Array:
    """Return log p(y_t | past, state) summed over ROIs, shape (time, state), a chunk at a time."""
    n_frames = data.weight.shape[0]

    def one(_: None, start: Array) -> tuple[None, Array]:
        return None, emission.log_likelihood(params, chunk_at(data, start, chunk))

    _, table = lax.scan(one, None, jnp.arange(0, n_frames, chunk))
    return table.reshape(n_frames, -1)


def expected_statistics(emission: Emission, params: Any, data: Data, probs: Array, chunk: int) -> Any:
    """Sum the emission's statistics over chunks; ``probs`` (time, state) is the smoothed posterior."""

    def of(start: Array) -> Any:
        part = lax.dynamic_slice_in_dim(probs, start, chunk)
        return emission.statistics(params, chunk_at(data, start, chunk), part)

    def add(total: Any, start: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, of(start)), None

    starts = jnp.arange(0, data.weight.shape[0], chunk)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of, starts[0]))
    total, _ = lax.scan(add, zeros, starts)
    return total


def update_chain(smoothed: Smoothed, prior: Prior) -> Chain:
    """Maximise the expected log density over the chain; the prior's pseudo-counts are added to the expected ones."""

    def normalise(counts: Array) -> Array:
        total = counts.sum(axis=-1, keepdims=True)
        return jnp.where(total > 0, counts / jnp.where(total > 0, total, 1.0), 1.0 / counts.shape[-1])

    return Chain(normalise(smoothed.initial + prior.initial), normalise(smoothed.transitions + prior.transitions))


def log_prior(emission: HasPrior, model: Model, prior: Prior) -> Array:
    """Log prior density of the chain and of the emission's parameters, up to a constant."""

    def dirichlet(counts: Array, probs: Array) -> Array:
        return jnp.where(counts > 0, counts * jnp.log(jnp.where(counts > 0, probs, 1.0)), 0.0).sum()

    chain = dirichlet(prior.transitions, model.chain.transition_matrix)
    return chain + dirichlet(prior.initial, model.chain.initial_probs) + emission.log_prior(model.params, prior)


def em_step(emission: Emission, model: Model, data: Data, prior: Prior, chunk: int) -> tuple[Model, Array, Array]:
    """One EM step: the new model, and the log-likelihood and log posterior of the old one."""
    table = state_likelihoods(emission, model.params, data, chunk)
    smoothed = smooth(model.chain, table, data.starts, data.valid)
    statistics = expected_statistics(emission, model.params, data, smoothed.probs, chunk)
    new = Model(update_chain(smoothed, prior), emission.maximise(model.params, statistics, prior))
    return new, smoothed.log_likelihood, smoothed.log_likelihood + log_prior(emission, model, prior)


@partial(jax.jit, static_argnames=("emission", "chunk"))
def em_block(
    emission: Emission, model: Model, data: Data, prior: Prior, n_steps: Array, *, chunk: int
) -> tuple[Model, Array, Array]:
    """Run ``n_steps`` <= BLOCK steps; histories have shape (BLOCK,), with NaN where no step was taken."""
    blank = jnp.full(BLOCK, jnp.nan, jnp.float64)

    def body(i: Array, carry: tuple[Model, Array, Array]) -> tuple[Model, Array, Array]:
        model, likelihoods, posteriors = carry
        model, likelihood, posterior = em_step(emission, model, data, prior, chunk)
        return model, likelihoods.at[i].set(likelihood), posteriors.at[i].set(posterior)

    return lax.fori_loop(0, n_steps, body, (model, blank, blank))


@partial(jax.jit, static_argnames=("emission", "chunk"))
def infer_states(emission: Emission, model: Model, data: Data, *, chunk: int) -> Smoothed:
    """Smoothed state probabilities and log-likelihood."""
    table = state_likelihoods(emission, model.params, data, chunk)
    return smooth(model.chain, table, data.starts, data.valid)


@partial(jax.jit, static_argnames=("emission", "chunk"))
def filter_states(emission: Emission, model: Model, data: Data, *, chunk: int) -> Filtered:
    """Filtered state probabilities."""
    return forward(model.chain, state_likelihoods(emission, model.params, data, chunk), data.starts)


@partial(jax.jit, static_argnames=("emission", "chunk"))
def decode_states(emission: Emission, model: Model, data: Data, *, chunk: int) -> Array:
    """Most probable path of each trial."""
    return viterbi(model.chain, state_likelihoods(emission, model.params, data, chunk), data.starts)


@partial(jax.jit, static_argnames=("emission", "chunk"))
def infer_activity(emission: Emission, params: Any, data: Data, probs: Array, *, chunk: int) -> tuple[Array, Array]:
    """Posterior mean and variance of each ROI's activity, both (time, roi), single precision to halve the memory."""

    def one(_: None, start: Array) -> tuple[None, tuple[Array, Array]]:
        part = lax.dynamic_slice_in_dim(probs, start, chunk)
        mean, variance = emission.activity(params, chunk_at(data, start, chunk), part)
        return None, (mean.astype(jnp.float32), variance.astype(jnp.float32))

    _, (mean, variance) = lax.scan(one, None, jnp.arange(0, data.weight.shape[0], chunk))
    shape = data.weight.shape
    return mean.reshape(shape), variance.reshape(shape)
