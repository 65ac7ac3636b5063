"""What a trained network says of traces: means and standard deviations over draws from its posterior."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from nwb_calcium_lvm.lfads.data import Data
from nwb_calcium_lvm.lfads.network import LFADSNetwork, Pass
from nwb_calcium_lvm.lfads.objective import Model, Weights, divergences, log_likelihood

_SAMPLES = 4_000_000  # values of log rates in one call, about


class Moments(NamedTuple):
    """Mean and standard deviation over draws."""

    mean: NDArray[np.floating]
    std: NDArray[np.floating]


class Inferred(NamedTuple):
    """What is inferred of windows.

    Attributes
    ----------
    factors : Moments, (W, T, F)
    rates : Moments, (W, T, N)
        Expected spikes per frame.
    initial : Moments, (W, n_initial)
    inputs : Moments, (W, T, n_inputs)
    bound : ndarray, (W,)
        Lower bound on the log density of the window, nats in the units of the fit.
    log_likelihood : ndarray, (W, N)
        Of each neuron, the mean over draws of the rates of the log density, summed over frames.
    """

    factors: Moments
    rates: Moments
    initial: Moments
    inputs: Moments
    bound: NDArray[np.floating]
    log_likelihood: NDArray[np.floating]


def infer(
    model: Model, weights: Weights, data: Data, key: Array, n_draws: int, hidden: NDArray[np.bool_] | None = None
) -> Inferred:
    """Infer from windows, a few of them at a time.

    Parameters
    ----------
    model, weights, data
        See there.
    key : JAX random key
    n_draws : int
        Draws from the posterior.
    hidden : ndarray of bool, shape (roi,), optional
        Neurons that the encoders do not see.
    """
    n_windows, n_frames, n_rois = data.y.shape
    if hidden is not None:
        data = data._replace(inputs=jnp.where(jnp.asarray(hidden), 0.0, data.inputs))
    size = int(min(n_windows, max(1, _SAMPLES // (n_frames * n_rois))))
    parts = []
    for a in range(0, n_windows, size):
        index = np.minimum(np.arange(a, a + size), n_windows - 1)  # the last fills up: one compilation
        found = _infer(model, weights, data.take(jnp.asarray(index)), jax.random.fold_in(key, a), n_draws)
        parts.append(found)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n_windows], *parts)


@partial(jax.jit, static_argnames=("model", "n_draws"))
def _infer(model: Model, weights: Weights, data: Data, key: Array, n_draws: int) -> Inferred:
    network = nnx.merge(model.graph, weights.network)
    encoded = network.encode(data.batch(), key)

    def draw(key: Array):
        out = network.decode(encoded, data.batch(), key)
        found = log_likelihood(model, weights, data, out.log_rates)
        initial, inputs = divergences(network, data, out)
        values = (out.factors, jnp.exp(out.log_rates), out.initial_sample, out.input_sample)
        return values, (found.sum(axis=(1, 2)) - initial - inputs, found.sum(axis=1))

    def add(total, key: Array):
        values, scores = draw(key)
        firsts, seconds, sums = total
        # Squares are taken around the first draw, so that small deviations do not drown in round-off.
        firsts = jax.tree.map(lambda t, v, c: t + (v - c), firsts, values, centre)
        seconds = jax.tree.map(lambda t, v, c: t + (v - c) ** 2, seconds, values, centre)
        return (firsts, seconds, jax.tree.map(jnp.add, sums, scores)), None

    keys = jax.random.split(key, n_draws)
    centre, scores = draw(keys[0])
    zeros = jax.tree.map(jnp.zeros_like, (centre, centre, scores))
    (firsts, seconds, sums), _ = jax.lax.scan(add, zeros, keys)

    def moments(centre: Array, first: Array, second: Array) -> Moments:
        shift = first / n_draws
        variance = (second / n_draws - shift**2) * (n_draws / max(n_draws - 1, 1))
        return Moments(centre + shift, jnp.sqrt(jnp.maximum(variance, 0.0)))  # pyright: ignore[reportArgumentType]

    found = [moments(*three) for three in zip(centre, firsts, seconds, strict=True)]
    bound, by_roi = jax.tree.map(lambda s: s / n_draws, sums)
    factors, rates, initial, drawn = found
    return Inferred(factors, rates, initial, drawn, bound, by_roi)


def forecast(
    model: Model, weights: Weights, data: Data, key: Array, n_draws: int, n_frames: int
) -> tuple[Moments, Moments]:
    """Factors (W, n_frames, F) and expected spikes per frame (W, n_frames, N) after the end of each window."""
    factors, rates = _forecast(model, weights, data, key, n_draws, n_frames)
    return tuple(Moments(np.asarray(x.mean(0)), np.asarray(x.std(0))) for x in (factors, rates))  # pyright: ignore


@partial(jax.jit, static_argnames=("model", "n_draws", "n_frames"))
def _forecast(model: Model, weights: Weights, data: Data, key: Array, n_draws: int, n_frames: int):
    network = nnx.merge(model.graph, weights.network)
    encoded = network.encode(data.batch(), key)

    def draw(key: Array) -> tuple[Array, Array]:
        key_past, key_future = jax.random.split(key)
        out = network.decode(encoded, data.batch(), key_past)
        drawn = _future_inputs(network, data, out, key_future, n_frames)
        factors = network.run_on(out.last, drawn)
        return factors, jnp.exp(network.rates_of(factors, data.session))

    return jax.lax.map(draw, jax.random.split(key, n_draws))


def _future_inputs(network: LFADSNetwork, data: Data, out: Pass, key: Array, n_frames: int) -> Array:
    n_windows = len(data.session)
    if not network.shape.n_inputs:
        return jnp.zeros((n_windows, n_frames, 0))
    last = jnp.maximum(data.valid.sum(axis=1) - 1, 0)
    start = out.input_sample[jnp.arange(n_windows), last]
    return network.input_prior.draw(key, start, (n_windows, n_frames))


@partial(jax.jit, static_argnames=("graph", "n_trials", "n_frames"))
def generate(graph, network, session: int, key: Array, n_trials: int, n_frames: int) -> tuple[Array, Array]:
    """Draw factors (trial, n_frames, F) and log rates (trial, n_frames, N) from the priors."""
    net = nnx.merge(graph, network)
    key_initial, key_inputs = jax.random.split(key)
    prior = net.prior_of_initial()
    initial = prior.mean + jnp.exp(0.5 * prior.log_variance) * jax.random.normal(
        key_initial, (n_trials, net.shape.n_initial)
    )
    drawn = jnp.zeros((n_trials, n_frames, 0))
    if net.shape.n_inputs:
        drawn = net.input_prior.draw(key_inputs, None, (n_trials, n_frames))
    factors = net.run_on(net.to_generator(initial), drawn)
    return factors, net.rates_of(factors, jnp.full(n_trials, session))
