"""Learning from the traces themselves: parameters of every cell and, if wanted, the network, by importance sampling."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel, fluorescence
from nwb_calcium_lvm.spikes.vae.objectives import (
    Density,
    bound,
    log_binomial,
    log_normal,
    log_poisson,
    vimco_loss,
)
from nwb_calcium_lvm.spikes.vae.recognition import Recognition, Seen, log_prob_of
from nwb_calcium_lvm.spikes.vae.training import Network

_CLIP = 0.02  # largest norm of a gradient of the network; "important" in the authors' code
_PARAMETER_RATE = 0.015  # of the cells' parameters, whose gradients RMSprop brings to one size


class Cells(NamedTuple):
    """Parameters of units, in the unit of the traces as the network sees them.

    Attributes
    ----------
    log_values : (unit, parameter) array
    log_noise, baseline : (unit, channel) arrays
    log_rate : (unit,) array
        Logarithm of the spikes expected per frame.
    """

    log_values: jax.Array
    log_noise: jax.Array
    baseline: jax.Array
    log_rate: jax.Array


class Snippets(NamedTuple):
    """Stretches of traces.

    Attributes
    ----------
    views, conditions
        What the network sees.
    traces : (snippet, time, channel) array
    mask : (snippet, time) array
        1 where a frame counts: observed, and not in the margins.
    unit : (snippet,) array of int
        Whose they are.
    """

    views: jax.Array
    conditions: jax.Array
    traces: jax.Array
    mask: jax.Array
    unit: jax.Array


class Setting(NamedTuple):
    """What does not change during a fit.

    Attributes
    ----------
    model : GenerativeModel
    step : float
        Time between frames, s.
    n_draws : int
    max_count : int
    prior : str
        Of counts: ``"binomial"`` of their total, as published, or ``"poisson"``.
    substeps : int
        Parts of a frame in which spikes fall.
    """

    model: GenerativeModel
    step: float
    n_draws: int
    max_count: int
    prior: str = "binomial"
    substeps: int = 1


def densities(
    network: Recognition, seen: Seen, cells: Cells, snippets: Snippets, key: jax.Array, setting: Setting
) -> tuple[Density, jax.Array]:
    """Draw counts from the posterior, and return the densities and the counts, (draw, snippet, time, source).

    ``cells`` are those of the snippets, one each.
    """

    def one(k: jax.Array) -> tuple[Density, jax.Array]:
        to_draw, to_place = jax.random.split(k)
        counts = jax.lax.stop_gradient(network.sample(seen, to_draw)[0])
        posterior = (network.log_prob(seen, counts) * snippets.mask).sum(axis=1)
        clean = fluorescence(setting.model, counts, cells.log_values, setting.step, setting.substeps, to_place)
        expected = clean + cells.baseline[:, None]
        data = log_normal(snippets.traces, expected, jnp.exp(cells.log_noise), snippets.mask)
        return Density(data, _prior(counts, cells, snippets.mask, setting), posterior), counts

    # One after the other, so that memory is that of one draw and its gradients.
    return jax.lax.map(jax.checkpoint(one), jax.random.split(key, setting.n_draws))


def _prior(counts: jax.Array, cells: Cells, mask: jax.Array, setting: Setting) -> jax.Array:
    per_frame = jnp.exp(cells.log_rate)
    if setting.prior == "binomial":
        return log_binomial(counts, per_frame, setting.max_count, mask)
    return log_poisson(counts, per_frame, mask)


def bounds_of(
    network: Network, cells: Cells, snippets: Snippets, key: jax.Array, setting: Setting
) -> NDArray[np.floating]:
    """Return the importance-weighted bound on the log-likelihood of each snippet, nats."""
    return np.asarray(_bounds(network.params, cells, snippets, key, network.graph, setting), float)


@partial(jax.jit, static_argnames=("graph", "setting"))
def _bounds(params: Any, cells: Cells, snippets: Snippets, key: jax.Array, graph: Any, setting: Setting) -> jax.Array:
    made = nnx.merge(graph, params)
    seen = made(snippets.views, snippets.conditions)
    own = jax.tree.map(lambda a: a[snippets.unit], cells)
    return bound(densities(made, seen, own, snippets, key, setting)[0].log_weights)


class Awake(NamedTuple):
    """Network, cells and their optimisers in the middle of training."""

    params: Any
    cells: Cells
    optimiser: Any


def vimco(
    network: Network,
    cells: Cells,
    draw: Callable[[np.random.Generator], Snippets],
    setting: Setting,
    n_updates: int,
    seed: int,
    *,
    learning_rate: float = 1e-3,
    learn_network: bool = True,
    report: Callable[[int, float], None] | None = None,
    every: int = 50,
) -> tuple[Network, Cells, NDArray[np.floating]]:
    """Climb the importance-weighted bound by VIMCO, as published.

    Parameters
    ----------
    network, cells
        Where to start.
    draw : callable
        Returns snippets to learn from, the same number every time.
    setting : Setting
    n_updates, seed : int
    learning_rate : float
        Of the network; 0.995 times as much after every ``every`` updates.
    learn_network : bool
        False: only the cells' parameters, with the weights of the draws.
    report : callable, optional
        Told the updates done and the mean bound per frame, every ``every`` updates.

    Returns
    -------
    network, cells, history
        ``history``: updates, nats per frame.
    """
    optimiser = _optimiser(learning_rate if learn_network else 0.0, every)
    state = Awake(network.params, cells, optimiser.init((network.params, cells)))
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    history, total = [], jnp.zeros(())
    prior = (setting.model.medians(), setting.model.spreads())
    rate = learning_rate if learn_network else 0.0
    for i in range(n_updates):
        snippets = draw(rng)
        state, nats = _vimco_step(
            state, snippets, jax.random.fold_in(key, i), prior, network.graph, setting, rate, every
        )
        total = total + nats
        if (i + 1) % every == 0 or i + 1 == n_updates:
            history.append((i + 1, float(total) / (i % every + 1)))
            total = jnp.zeros(())
            if report is not None:
                report(*history[-1])
    return Network(network.graph, state.params), state.cells, np.array(history).reshape(-1, 2)


def _optimiser(learning_rate: float, every: int) -> optax.GradientTransformation:
    falling = optax.exponential_decay(learning_rate, every, 0.995, staircase=True)
    of_network = optax.chain(optax.clip_by_global_norm(_CLIP), optax.adam(falling))
    of_cells = optax.rmsprop(_PARAMETER_RATE)
    return optax.partition({"network": of_network, "cells": of_cells}, ("network", "cells"))


@partial(jax.jit, static_argnames=("graph", "setting", "learning_rate", "every"))
def _vimco_step(
    state: Awake,
    snippets: Snippets,
    key: jax.Array,
    prior: tuple[jax.Array, jax.Array],
    graph: Any,
    setting: Setting,
    learning_rate: float,
    every: int,
) -> tuple[Awake, jax.Array]:
    def loss_of(both: tuple[Any, Cells]) -> tuple[jax.Array, jax.Array]:
        params, cells = both
        made = nnx.merge(graph, params)
        seen = made(snippets.views, snippets.conditions)
        own = jax.tree.map(lambda a: a[snippets.unit], cells)
        density, counts = densities(made, seen, own, snippets, key, setting)
        standard = (own.log_values - prior[0]) / prior[1]
        loss = vimco_loss(density) + 0.5 * (standard**2).sum(axis=-1).mean()
        if made.sequence is not None:  # marginals of what the sequence draws, so that one pass gives rates
            loss = loss - _marginals(seen, counts, density.log_weights, snippets.mask)
        frames = jnp.maximum(snippets.mask.sum(), 1.0)
        return loss, bound(density.log_weights).sum() / frames

    (_, nats), gradient = jax.value_and_grad(loss_of, has_aux=True)((state.params, state.cells))
    both = (state.params, state.cells)
    update, optimiser = _optimiser(learning_rate, every).update(gradient, state.optimiser, both)
    params, cells = cast(tuple[Any, Cells], optax.apply_updates(both, update))
    return Awake(params, cells, optimiser), nats


def _marginals(seen: Seen, counts: jax.Array, log_weights: jax.Array, mask: jax.Array) -> jax.Array:
    weights = jax.lax.stop_gradient(jax.nn.softmax(log_weights, axis=0))
    each = (log_prob_of(seen.logits[None], counts).sum(axis=-1) * mask).sum(axis=-1)
    return (weights * each).sum(axis=0).mean()
