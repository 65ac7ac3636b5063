"""What training maximises: a lower bound on the log density of the traces, per scored sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.lfads.data import Data
from nwb_calcium_lvm.lfads.network import LFADSNetwork, Pass
from nwb_calcium_lvm.lfads.priors import Normal, divergence


class Model(NamedTuple):
    """What does not change in training; hashable, so that functions are compiled for it once.

    Attributes
    ----------
    graph : nnx.GraphDef
        The network without its weights.
    observation : str
        Name of the observation model.
    whole : bool
        Whether coordinated dropout hides whole neurons instead of single samples: where what the encoders see of
        neighbouring frames is not independent given the rates, a hidden sample could be read off its neighbours.
    """

    graph: Any
    observation: str
    whole: bool


class Weights(NamedTuple):
    """What is learned.

    Attributes
    ----------
    network : pytree
    observation : dict of str to (session, N, ...) array
        Unconstrained parameters of the observation model.
    """

    network: Any
    observation: dict[str, Array]


class Hyper(NamedTuple):
    """Numbers that may differ between members of a search, without compiling anew.

    Attributes
    ----------
    learning_rate : float
        Of Adam at its height.
    dropout : float
        Share of encoder outputs and generator units that are left out.
    hidden : float
        Share of samples that are hidden from the encoders and scored (coordinated dropout); 0: none is, all are.
    l2 : float
        Penalty on the mean square of the recurrent weights of generator and controller, in nats per sample.
    kl_initial, kl_inputs : float
        Weights of the divergences at the end of their ramp; 1 makes the objective a bound.
    """

    learning_rate: Any
    dropout: Any
    hidden: Any
    l2: Any
    kl_initial: Any
    kl_inputs: Any


class Terms(NamedTuple):
    """Parts of the bound of some windows, each (W,), in nats."""

    log_likelihood: Array
    initial: Array
    inputs: Array


def log_likelihood(model: Model, weights: Weights, data: Data, log_rates: Array) -> Array:
    """Log density of every sample given its past and the rates, (W, T, N)."""
    observation = observations.get(model.observation)
    params = observation.constrain(weights.observation)
    mine = jax.tree.map(lambda a: a[data.session], params)

    def one(y: Array, log_rate: Array, params: Any, observed: Array) -> Array:
        return observation.log_likelihood(y, log_rate, params, observed)

    found = jax.vmap(one)(data.y, log_rates, mine, data.observed)
    return jnp.where(data.scored, found, 0.0)


def divergences(network: LFADSNetwork, data: Data, out: Pass) -> tuple[Array, Array]:
    """Divergence of the initial conditions and of the inputs from their priors, each (W,), in nats."""
    initial = divergence(out.initial, network.prior_of_initial()).sum(axis=-1)
    if not network.shape.n_inputs:
        return initial, jnp.zeros_like(initial)
    inputs = network.input_prior.divergence(Normal(*out.inputs), out.input_sample).sum(axis=-1)
    return initial, jnp.where(data.valid, inputs, 0.0).sum(axis=1)


def terms(model: Model, weights: Weights, network: LFADSNetwork, data: Data, out: Pass) -> Terms:
    """The bound of each window from one forward pass through a network of these weights, nothing hidden."""
    total = log_likelihood(model, weights, data, out.log_rates).sum(axis=(1, 2))
    return Terms(total, *divergences(network, data, out))


def loss(weights: Weights, model: Model, data: Data, weight: Array, hyper: Hyper, ramp: Array, key: Array) -> Array:
    """What a training step makes smaller, in nats per scored sample.

    Parameters
    ----------
    weights, model, data, hyper
        See there.
    weight : (W,) array
        0 for windows that only fill up the batch.
    ramp : float
        Share of the divergences that counts already, 0 to 1.
    key : JAX random key
    """
    key_hidden, key_pass = jax.random.split(key)
    network = nnx.merge(model.graph, weights.network)
    n_windows, n_frames, n_rois = data.y.shape
    shape = (n_windows, 1 if model.whole else n_frames, n_rois)
    hidden = jax.random.bernoulli(key_hidden, hyper.hidden, shape)
    # What stays visible is made larger, so that the encoders see as much as without dropout.
    read = data._replace(inputs=data.inputs / (1.0 - hyper.hidden)).batch(hidden)
    out = network(read, key_pass, hyper.dropout)
    found = log_likelihood(model, weights, data, out.log_rates)
    # Only hidden samples teach, each standing for those that were visible; with nothing hidden all do.
    share = jnp.where(hyper.hidden > 0, hidden / jnp.maximum(hyper.hidden, 1e-6), 1.0)
    seen = weight[:, None, None] * data.scored
    n = jnp.maximum(seen.sum(), 1.0)
    initial, inputs = divergences(network, data, out)
    spent = (weight * (hyper.kl_initial * initial + hyper.kl_inputs * inputs)).sum()
    return -(share * seen * found).sum() / n + ramp * spent / n + hyper.l2 * ramp * _recurrent(network)


def _recurrent(network: LFADSNetwork) -> Array:
    """Mean square of the recurrent weights, times their number of units: 1 for a matrix that keeps lengths."""
    cells = [network.generator] + ([network.controller] if network.shape.n_inputs else [])
    return sum((jnp.sum(c.recur.kernel[...] ** 2) / (3 * c.n) for c in cells), start=jnp.zeros(()))
