"""Training of recognition networks: by dreams from the prior, one compiled step each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel
from nwb_calcium_lvm.spikes.vae.objectives import TRAIT_SHARE, gaussian_loss, sleep_loss
from nwb_calcium_lvm.spikes.vae.recognition import Recognition, RecognitionConfig
from nwb_calcium_lvm.spikes.vae.simulation import Dream, World, dream
from nwb_calcium_lvm.spikes.vae.views import conditions_of, views_of

_AVERAGING = 0.995


class Network(NamedTuple):
    """A recognition network: how it is built, and its weights."""

    graph: Any
    params: Any


class KnownSpikes(NamedTuple):
    """Stretches of traces whose spikes are known.

    Attributes
    ----------
    views, conditions
        What the network sees.
    counts : (snippet, time, source) array
    mask : (snippet, time) array
        1 where a frame counts.
    """

    views: jax.Array
    conditions: jax.Array
    counts: jax.Array
    mask: jax.Array


class Sleeping(NamedTuple):
    """Weights, their running average and the optimiser in the middle of training."""

    params: Any
    average: Any
    optimiser: Any


def build(config: RecognitionConfig, model: GenerativeModel, seed: int) -> Network:
    """Return a network with its first weights."""
    return Network(*nnx.split(_recognition(config, model, seed), nnx.Param))


def shaped(config: RecognitionConfig, model: GenerativeModel) -> Network:
    """Return a network whose weights are only shapes, to put trained ones into; nothing is computed."""
    return Network(*nnx.split(nnx.eval_shape(lambda: _recognition(config, model, 0)), nnx.Param))


def _recognition(config: RecognitionConfig, model: GenerativeModel, seed: int) -> Recognition:
    return Recognition(config, model.n_channels, len(model.names) + 1, nnx.Rngs(seed))


def optimiser_of(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Return AdamW whose rate rises over the first steps and falls over the others."""
    rise = min(100, max(steps // 10, 1), max(steps - 1, 1))
    schedule = optax.warmup_cosine_decay_schedule(
        learning_rate / 20, learning_rate, rise, max(steps, rise + 1), learning_rate / 100
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))


def sleep(
    network: Network,
    model: GenerativeModel,
    world: World,
    steps: int,
    seed: int,
    *,
    centre: Any = None,
    spread: Any = None,
    learning_rate: float = 2e-3,
    known: Callable[[np.random.Generator], KnownSpikes] | None = None,
    report: Callable[[int, float], None] | None = None,
    every: int = 100,
) -> tuple[Network, NDArray[np.floating]]:
    """Train a network on dreams, every second step on spikes that are ``known`` where there are any.

    Returns
    -------
    network
        With the running average of its weights.
    history : ndarray, shape (check, 2)
        Steps, and the mean loss since the check before.
    """
    centre = model.medians() if centre is None else jnp.asarray(centre)
    spread = model.spreads() if spread is None else jnp.asarray(spread)
    optimiser = optimiser_of(learning_rate, steps)
    state = Sleeping(network.params, network.params, optimiser.init(network.params))
    key, losses, total = jax.random.key(seed), [], jnp.zeros(())
    rng = np.random.default_rng(seed)
    for i in range(steps):
        if known is not None and i % 2:
            state, loss = _known_step(state, known(rng), network.graph, learning_rate, steps)
        else:
            drawn = dream(jax.random.fold_in(key, i), model, world, centre, spread)
            state, loss = _sleep_step(state, drawn, network.graph, learning_rate, steps)
        total = total + loss
        if (i + 1) % every == 0 or i + 1 == steps:
            losses.append((i + 1, float(total) / ((i % every) + 1)))
            total = jnp.zeros(())
            if report is not None:
                report(*losses[-1])
    return Network(network.graph, state.average), np.array(losses).reshape(-1, 2)


@partial(jax.jit, static_argnames=("graph", "learning_rate", "steps"))
def _sleep_step(
    state: Sleeping, drawn: Dream, graph: Any, learning_rate: float, steps: int
) -> tuple[Sleeping, jax.Array]:
    views = views_of(drawn.traces, drawn.told.noise)

    def loss_of(params: Any) -> jax.Array:
        made = nnx.merge(graph, params)
        seen = made(views, conditions_of(drawn.told))
        return sleep_loss(made, seen, drawn.counts) + TRAIT_SHARE * gaussian_loss(seen.pooled, drawn.traits).mean()

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    return _updated(state, gradient, learning_rate, steps), loss


@partial(jax.jit, static_argnames=("graph", "learning_rate", "steps"))
def _known_step(
    state: Sleeping, known: KnownSpikes, graph: Any, learning_rate: float, steps: int
) -> tuple[Sleeping, jax.Array]:
    def loss_of(params: Any) -> jax.Array:
        made = nnx.merge(graph, params)
        return sleep_loss(made, made(known.views, known.conditions), known.counts, known.mask)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    return _updated(state, gradient, learning_rate, steps), loss


def _updated(state: Sleeping, gradient: Any, learning_rate: float, steps: int) -> Sleeping:
    update, optimiser = optimiser_of(learning_rate, steps).update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, update)
    average = jax.tree.map(lambda a, b: _AVERAGING * a + (1.0 - _AVERAGING) * b, state.average, params)
    return Sleeping(params, average, optimiser)
