"""Training: an epoch is one compiled scan over batches; the best weights so far are kept as it goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from nwb_calcium_lvm.lfads.data import Data
from nwb_calcium_lvm.lfads.objective import Hyper, Model, Weights, loss, terms

_NORM = 10.0  # largest norm of a gradient, in nats per sample and weight
_WARM_UP = 0.05  # share of the epochs in which the learning rate rises
_LAST_RATE = 0.05  # learning rate at the end, of its height
_PARAMETER_RATE = 0.3  # learning rate of the observation model's parameters, of the network's
_VALIDATION_SAMPLES = 4

Report = Callable[[int, float, float], None]  # epochs done, training loss, held-out bound per sample


@dataclass(frozen=True)
class Recipe:
    """How long and in what pieces to train; static.

    Parameters
    ----------
    epochs : int
        Most epochs.
    ramp : int
        Epochs in which the divergences come in, and the observation model's parameters stay as they are.
    batch_size : int
        Windows in a step.
    patience : int
        Epochs without a better held-out bound after which training ends.
    """

    epochs: int
    ramp: int
    batch_size: int
    patience: int


class State(NamedTuple):
    """Training in the middle of it.

    Attributes
    ----------
    weights, best : Weights
        Now, and where the held-out bound was highest.
    optimiser : pytree
    best_score : float
        Held-out bound in nats per sample.
    """

    weights: Weights
    best: Weights
    optimiser: Any
    best_score: Array


class Split(NamedTuple):
    """Windows to learn from and windows to choose by."""

    training: Data
    validation: Data


class Trained(NamedTuple):
    """A trained network.

    Attributes
    ----------
    weights : Weights
        The best.
    score : float
        Their held-out bound in nats per sample.
    history : ndarray, shape (epoch, 2)
        Training loss and held-out bound, in nats per sample.
    stopped_early : bool
    """

    weights: Weights
    score: float
    history: NDArray[np.floating]
    stopped_early: bool


class Keeper(Protocol):
    """Keeps training across a kill of the process."""

    def resume(self, state: State) -> tuple[State, list[tuple[float, float]]]:
        """Return the state and the history that were kept, or those given."""
        ...

    def keep(self, state: State, history: list[tuple[float, float]]) -> None:
        """Keep a state."""
        ...


def begin(weights: Weights) -> State:
    """Return the state before the first step."""
    # Buffers are donated, so that no two may be the same; and all types are those of later epochs, which would else be
    # compiled anew.
    mine, best = (jax.tree.map(lambda a: jnp.array(a, jnp.float32), weights) for _ in range(2))
    return State(mine, best, _optimiser().init(mine), jnp.array(-jnp.inf, jnp.float32))


def train(
    model: Model,
    weights: Weights,
    split: Split,
    hyper: Hyper,
    recipe: Recipe,
    key: Array,
    *,
    keeper: Keeper | None = None,
    report: Report | None = None,
) -> Trained:
    """Train until the held-out bound stops rising, or for all epochs.

    The same key gives the same weights, whether or not training was interrupted and taken up again.
    """
    state, history = begin(weights), []
    if keeper is not None:
        state, history = keeper.resume(state)
    split = _spread(split, recipe.batch_size)
    while len(history) < recipe.epochs and not _is_over(history, recipe):
        state, scores = epoch(state, split, hyper, jnp.asarray(len(history)), key, model, recipe)
        history.append((float(scores[0]), float(scores[1])))
        if report is not None:
            report(len(history), *history[-1])
        if keeper is not None:
            keeper.keep(state, history)
        if not np.isfinite(history[-1]).all():
            break
    stopped_early = len(history) < recipe.epochs
    return Trained(state.best, float(state.best_score), np.array(history).reshape(-1, 2), stopped_early)


def _is_over(history: list[tuple[float, float]], recipe: Recipe) -> bool:
    held_out = [h[1] for h in history[recipe.ramp :]]  # before, the objective still changes
    return len(held_out) > recipe.patience and int(np.argmax(held_out)) < len(held_out) - recipe.patience


@partial(jax.jit, static_argnames=("model", "recipe"), donate_argnames="state")
def epoch(
    state: State, split: Split, hyper: Hyper, number: Array, key: Array, model: Model, recipe: Recipe
) -> tuple[State, Array]:
    """Go once through the training windows; return the mean training loss and the held-out bound per sample."""
    key_order, key_steps, key_score = jax.random.split(jax.random.fold_in(key, number), 3)
    n_windows, size = len(split.training.session), recipe.batch_size
    n_steps = -(-n_windows // size)
    order = jax.random.permutation(key_order, n_windows)
    order = jnp.concatenate([order, jnp.zeros(n_steps * size - n_windows, order.dtype)]).reshape(n_steps, size)
    weight = (jnp.arange(n_steps * size) < n_windows).astype(jnp.float32).reshape(n_steps, size)
    sharding = _sharding(size)

    def step(carry: tuple[Weights, Any], at: tuple[Array, Array, Array]):
        weights, optimiser = carry
        index, mine, count = at
        data = split.training.take(index)
        if sharding is not None:
            data = jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, sharding), data)
        done = number + count / n_steps
        ramp = jnp.clip(done / max(recipe.ramp, 1), 0.0, 1.0)
        value, gradient = jax.value_and_grad(loss)(
            weights, model, data, mine, hyper, ramp, jax.random.fold_in(key_steps, count)
        )
        update: Any
        update, optimiser = _optimiser().update(gradient, optimiser)
        rate = hyper.learning_rate * _schedule(done / recipe.epochs)
        of_parameters = jnp.where(number >= recipe.ramp, _PARAMETER_RATE * rate, 0.0)
        weights = Weights(
            jax.tree.map(lambda w, u: w - rate * u, weights.network, update.network),
            jax.tree.map(lambda w, u: w - of_parameters * u, weights.observation, update.observation),
        )
        return (weights, optimiser), value

    (weights, optimiser), values = jax.lax.scan(
        step, (state.weights, state.optimiser), (order, weight, jnp.arange(n_steps))
    )
    score = held_out(model, weights, split.validation, key_score)
    # Weights of the ramp, whose objective is another one, are no candidates.
    better = (score > state.best_score) & (number + 1 >= min(recipe.ramp, recipe.epochs))
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), weights, state.best)
    state = State(weights, best, optimiser, jnp.where(better, score, state.best_score))
    return state, jnp.stack([values.mean(), score])


def held_out(model: Model, weights: Weights, data: Data, key: Array) -> Array:
    """Bound in nats per scored sample, the mean of a few draws."""

    network = nnx.merge(model.graph, weights.network)
    encoded = network.encode(data.batch(), key)

    def one(key: Array) -> Array:
        found = terms(model, weights, network, data, network.decode(encoded, data.batch(), key))
        return (found.log_likelihood - found.initial - found.inputs).sum()

    totals = jax.lax.map(one, jax.random.split(key, _VALIDATION_SAMPLES))
    return totals.mean() / jnp.maximum(data.scored.sum(), 1)


def _optimiser() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(_NORM), optax.scale_by_adam(b2=0.99, eps=1e-8))


def _schedule(progress: Array) -> Array:
    """Learning rate as a share of its height: up in a line, down in a half cosine."""
    down = _LAST_RATE + (1.0 - _LAST_RATE) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
    return jnp.minimum(progress / _WARM_UP, 1.0) * down


def _sharding(size: int) -> NamedSharding | None:
    """Spread batches over all devices, where there are several and they share a batch evenly."""
    devices = jax.devices()
    if len(devices) == 1 or size % len(devices):
        return None
    return NamedSharding(Mesh(np.array(devices), ("window",)), PartitionSpec("window"))


def _spread(split: Split, size: int) -> Split:
    """Put the windows on all devices that share the batches."""
    sharding = _sharding(size)
    if sharding is None:
        return split
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.device_put(split, everywhere)
