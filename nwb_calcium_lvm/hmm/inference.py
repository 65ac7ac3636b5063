"""Exact inference in a discrete-state Markov chain, given how well each state explains each frame.

Model-free: nothing here knows what was observed. All trials lie end to end along one time axis; ``starts`` marks the
first frame of each, where the chain begins anew from its initial distribution.

Recursions follow Rabiner (1989), Proc. IEEE 77:257, and Bishop (2006), section 13.2, in the normalised form.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax


class Chain(NamedTuple):
    """The Markov chain: initial probabilities (state,) and transition matrix (state, state), rows sum to 1."""

    initial_probs: Array
    transition_matrix: Array


class Filtered(NamedTuple):
    """p(z_t | y_1..t), p(z_t | y_1..t-1), both (time, state), and log p(y_t | y_<t), (time,)."""

    filtered: Array
    predicted: Array
    log_evidence: Array


class Smoothed(NamedTuple):
    """p(z_t | y) (time, state); expected transition counts (state, state) and starts (state,); log p(y)."""

    probs: Array
    transitions: Array
    initial: Array
    log_likelihood: Array


def forward(chain: Chain, log_likelihoods: Array, starts: Array) -> Filtered:
    """Filter: Bishop eq. 13.59 with the message normalised at every frame.

    Parameters
    ----------
    chain : Chain
    log_likelihoods : Array, shape (time, state)
        log p(y_t | z_t = k, past of y).
    starts : Array of bool, shape (time,)
        True at the first frame of each trial.
    """

    def step(previous: Array, frame: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        log_lik, start = frame
        predicted = jnp.where(start, chain.initial_probs, previous @ chain.transition_matrix)
        # In logs, so that a state which the chain rules out never hides one that the data all but rule out.
        joint = jnp.log(predicted) + log_lik
        top = jnp.max(joint)
        weights = jnp.exp(joint - jnp.where(jnp.isfinite(top), top, 0.0))
        total = weights.sum()
        filtered = weights / jnp.where(total > 0, total, 1.0)
        return filtered, (filtered, predicted, jnp.log(total) + top)

    _, (filtered, predicted, evidence) = lax.scan(step, chain.initial_probs, (log_likelihoods, starts))
    return Filtered(filtered, predicted, evidence)


def smooth(chain: Chain, log_likelihoods: Array, starts: Array, valid: Array) -> Smoothed:
    """Smoother: p(z_t | all of y) and the expected number of transitions (Bishop eqs. 13.33 and 13.43).

    ``valid`` (time,) is False for frames that only pad the axis; they count for nothing.
    """
    passed = forward(chain, log_likelihoods, starts)

    def step(carry: tuple[Array, Array], frame: tuple[Array, Array, Array, Array, Array]):
        ratio, transitions = carry  # ratio: p(z_{t+1} | y) / p(z_{t+1} | y_1..t)
        filtered, predicted, start_next, start, is_valid = frame
        pairs = filtered[:, None] * chain.transition_matrix * ratio[None, :]
        probs = jnp.where(start_next, filtered, pairs.sum(axis=1))
        probs = probs / jnp.maximum(probs.sum(), jnp.finfo(probs.dtype).tiny)
        transitions = transitions + jnp.where(start_next, 0.0, pairs)
        ratio = jnp.where(predicted > 0, probs / jnp.where(predicted > 0, predicted, 1.0), 0.0)
        return (ratio, transitions), (probs, jnp.where(start & is_valid, probs, 0.0))

    # What follows the last frame, and every padded frame, counts as the start of another trial.
    ends = jnp.append(starts[1:] | ~valid[1:], True)
    n_states = chain.initial_probs.shape[0]
    zero = jnp.zeros((n_states, n_states), log_likelihoods.dtype)
    frames = (passed.filtered, passed.predicted, ends, starts, valid)
    (_, transitions), (probs, initial) = lax.scan(step, (jnp.ones(n_states, zero.dtype), zero), frames, reverse=True)
    log_likelihood = jnp.where(valid, passed.log_evidence, 0.0).sum()
    return Smoothed(probs * valid[:, None], transitions, initial.sum(axis=0), log_likelihood)


def viterbi(chain: Chain, log_likelihoods: Array, starts: Array) -> Array:
    """Return the most probable path of each trial, shape (time,)."""
    log_initial, log_transition = jnp.log(chain.initial_probs), jnp.log(chain.transition_matrix)

    def step(score: Array, frame: tuple[Array, Array]) -> tuple[Array, Array]:
        log_lik, start = frame
        routes = score[:, None] + log_transition
        origin = jnp.where(start, jnp.argmax(score), jnp.argmax(routes, axis=0))
        best = jnp.where(start, log_initial, jnp.max(routes, axis=0)) + log_lik
        top = jnp.max(best)
        return best - jnp.where(jnp.isfinite(top), top, 0.0), origin

    last, origins = lax.scan(step, log_initial, (log_likelihoods, starts))

    def back(state: Array, origin: Array) -> tuple[Array, Array]:
        return origin[state], state

    _, path = lax.scan(back, jnp.argmax(last), origins, reverse=True)
    return path
