"""The calcium hidden Markov model written out plainly, without our package: what its speed and states are held against.

The likelihood forms every (time, state, neuron, count) term and sums the counts by logsumexp, then runs the forward
filter; gradients are JAX's. That is how the published scripts of the model do it. Of six ways to write the sum (library
logsumexp with counts last or first, nested vmap, recomputation, ...) this is the fastest, and no other takes clearly
less memory.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, logsumexp


class Parameters(NamedTuple):
    """Unconstrained parameters: N neurons, K states."""

    ar_coef: jax.Array  # (N,), per frame
    offset: jax.Array  # (N,), added in each frame
    amplitude: jax.Array  # (N,), dF/F per spike
    log_variance: jax.Array  # (N,)
    log_rates: jax.Array  # (K, N), log expected spikes per frame
    initial_logits: jax.Array  # (K,)
    transition_logits: jax.Array  # (K, K)


def state_log_likelihood(p, traces, max_count=9):
    """Return log p(y_t | y_t-1, state), shape (T - 1, K), from traces (T, N)."""
    counts = jnp.arange(max_count + 1.0)
    innovations = traces[1:] - p.ar_coef * traces[:-1] - p.offset
    deviation = innovations[:, None, :, None] - p.amplitude[:, None] * counts  # (T, 1, N, R)
    variance = jnp.exp(p.log_variance)[:, None]
    gaussian = -0.5 * (jnp.log(2 * jnp.pi * variance) + deviation**2 / variance)
    poisson = p.log_rates[..., None] * counts - jnp.exp(p.log_rates)[..., None] - gammaln(counts + 1)  # (K, N, R)
    terms = gaussian + poisson
    highest = jax.lax.stop_gradient(terms.max(-1, keepdims=True))
    return (jnp.log(jnp.exp(terms - highest).sum(-1)) + highest[..., 0]).sum(-1)


def _log_chain(p):
    return jax.nn.log_softmax(p.initial_logits), jax.nn.log_softmax(p.transition_logits, axis=1)


def log_likelihood(p, traces, max_count=9):
    """Return log p(y_2..T | y_1): a scalar in nats."""
    initial, transition = _log_chain(p)
    emission = state_log_likelihood(p, traces, max_count)

    def step(message, frame):
        return logsumexp(message[:, None] + transition, axis=0) + frame, None

    message, _ = jax.lax.scan(step, initial + emission[0], emission[1:])
    return logsumexp(message)


def smoothed_probabilities(p, traces, max_count=15):
    """Return p(state_t | all traces), shape (T - 1, K): of the frames that have a frame before them."""
    initial, transition = _log_chain(p)
    emission = state_log_likelihood(p, traces, max_count)

    def forward(message, frame):
        following = logsumexp(message[:, None] + transition, axis=0) + frame
        return following, following

    def backward(message, frame):
        previous = logsumexp(transition + frame + message, axis=1)
        return previous, previous

    first = initial + emission[0]
    _, ahead = jax.lax.scan(forward, first, emission[1:])
    last = jnp.zeros_like(first)
    _, behind = jax.lax.scan(backward, last, emission[1:], reverse=True)
    joint = jnp.concatenate([first[None], ahead]) + jnp.concatenate([behind, last[None]])
    return jax.nn.softmax(joint, axis=1)


value_and_gradient = jax.jit(jax.value_and_grad(log_likelihood), static_argnames="max_count")
