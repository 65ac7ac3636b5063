"""Training of one network: a compiled step called from Python, checkpoints that a later run takes up again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm._core.pytrees import flatten, unflatten
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.spikes import losses
from nwb_calcium_lvm.spikes.configs import S2SConfig, Training
from nwb_calcium_lvm.spikes.examples import Augmentation, Batch, Cut, Neuron, draw_batch, sampling_weights
from nwb_calcium_lvm.spikes.network import S2SNetwork, context

_CLIP = 1.0  # largest norm of a gradient
_VALIDATION_BATCHES = 8

Report = Callable[[int, float, float], None]  # steps done, training loss, loss on the neurons left out (or NaN)


class Progress(NamedTuple):
    """Weights and optimiser in the middle of training."""

    params: Any
    average: Any
    best: Any
    optimiser: Any


class Trained(NamedTuple):
    """A trained network and how it came about."""

    graph: Any
    params: Any
    history: NDArray[np.floating]  # (check, 3): steps, training loss, loss on the neurons left out
    stopped_early: bool


def cut_of(config: S2SConfig) -> Cut:
    """Return how examples are cut for a configuration."""
    shape, training = config.architecture, config.training
    length = round(training.seconds * shape.rate) // shape.stride * shape.stride
    before, after = context(shape) if training.margins else (0, 0)
    if length <= before + after:
        raise DataError(
            f"seconds={training.seconds:g} leaves nothing to learn from: the network looks {before / shape.rate:.3g} s "
            f"back and {after / shape.rate:.3g} s ahead. Expected at least {(2 * (before + after)) / shape.rate:.3g} s."
        )
    return Cut(shape.rate, length, before, after, training.target_sd, training.target_reach)


def build(config: S2SConfig, seed: int) -> tuple[Any, Any]:
    """Return the graph and the first weights of a network."""
    return nnx.split(S2SNetwork(config.architecture, nnx.Rngs(seed)), nnx.Param)


def train(
    neurons: list[Neuron],
    config: S2SConfig,
    seed: int,
    *,
    start: Any = None,
    checkpoint: Path | None = None,
    report: Report | None = None,
) -> Trained:
    """Train one network.

    Parameters
    ----------
    neurons : list of Neuron
    config : S2SConfig
    seed : int
        Of the first weights, of the examples, and of which neurons are left out.
    start : pytree, optional
        Weights to start from, for fine-tuning.
    checkpoint : Path, optional
        File that is written at every check, and taken up again if it is there.
    report : callable, optional
        Called at every check.
    """
    recipe, cut = config.training, cut_of(config)
    graph, params = build(config, seed)
    params = params if start is None else start
    rng = np.random.default_rng(seed)
    learned, held = _split(neurons, recipe.left_out, rng)
    weights = sampling_weights(learned, recipe.group_power)
    validation = _validation(held, cut, recipe, rng)
    state = Progress(params, params, params, _optimiser(recipe).init(params))
    done, history, since_best = 0, [], 0
    if checkpoint is not None and checkpoint.exists():
        state, done, history, since_best = _resume(checkpoint, state, rng, config, seed)
    while done < recipe.steps and not (recipe.patience and since_best >= recipe.patience):
        n = min(recipe.check_every, recipe.steps - done)
        total = jnp.zeros(())  # stays on the device, so that the next batch is drawn while this one is computed
        for _ in range(n):
            batch = draw_batch(learned, weights, cut, config.augmentation, recipe.batch_size, rng)
            state, loss = _step(state, batch, graph, recipe, cut.rate)
            total = total + loss
        done += n
        score = _held_out(validation, state.average, graph, recipe, cut.rate)
        better = not held or not history or score < min(h[2] for h in history)
        state = state._replace(best=state.average if better else state.best)
        since_best = 0 if better else since_best + 1
        history.append((done, float(total) / n, score))
        if report is not None:
            report(*history[-1])
        if checkpoint is not None:
            _save(checkpoint, state, done, history, since_best, rng, config, seed)
    if not np.isfinite([h[1] for h in history]).all():
        raise DataError(
            "Training ended in numbers that are not finite. Lower learning_rate, or check the traces' unit."
        )
    return Trained(graph, state.best, np.array(history), done < recipe.steps)


def _split(neurons: list[Neuron], share: float, rng: np.random.Generator) -> tuple[list[Neuron], list[Neuron]]:
    """Leave some neurons out, at least one if any share is asked for and there are two."""
    n = min(max(round(share * len(neurons)), 1), len(neurons) - 1) if share > 0 else 0
    chosen = set(rng.permutation(len(neurons))[:n].tolist())
    return [x for i, x in enumerate(neurons) if i not in chosen], [neurons[i] for i in sorted(chosen)]


def _validation(held: list[Neuron], cut: Cut, recipe: Training, rng: np.random.Generator) -> list[Batch]:
    """Draw, once, the unaltered examples of the neurons left out."""
    if not held:
        return []
    plain, weights = Augmentation(resampled=0.0, noisier=0.0, unit_lost=0.0), np.full(len(held), 1.0 / len(held))
    return [draw_batch(held, weights, cut, plain, recipe.batch_size, rng) for _ in range(_VALIDATION_BATCHES)]


@partial(jax.jit, static_argnames=("graph", "recipe", "rate"))
def _step(state: Progress, batch: Batch, graph: Any, recipe: Training, rate: float) -> tuple[Progress, jax.Array]:
    """Take one step of Adam."""
    loss, gradient = jax.value_and_grad(_loss)(state.params, batch, graph, recipe, rate)
    update, optimiser = _optimiser(recipe).update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, update)
    k = recipe.averaging
    average = jax.tree.map(lambda a, b: k * a + (1.0 - k) * b, state.average, params)
    return Progress(params, average, state.best, optimiser), loss


def _loss(params: Any, batch: Any, graph: Any, recipe: Training, rate: float) -> jax.Array:
    rates = nnx.merge(graph, params)(batch.traces, batch.conditions)
    if recipe.loss == "pearson":
        return losses.pearson_loss(rates, batch.targets, batch.weight)
    if recipe.loss == "entropy":
        return losses.entropy_loss(rates, batch.targets, batch.weight, rate)
    squared = losses.squared_loss(rates, batch.targets, batch.weight, batch.spread)
    if recipe.loss == "squared":
        return squared
    return losses.pearson_loss(rates, batch.targets, batch.weight) + recipe.squared_share * squared


_loss_of_batch = jax.jit(_loss, static_argnames=("graph", "recipe", "rate"))


def _held_out(batches: list[Batch], params: Any, graph: Any, recipe: Training, rate: float) -> float:
    if not batches:
        return float("nan")
    return float(np.mean([float(_loss_of_batch(params, b, graph, recipe, rate)) for b in batches]))


def _optimiser(recipe: Training) -> optax.GradientTransformation:
    rate: Any = recipe.learning_rate
    if recipe.decay:
        rise = min(100, max(recipe.steps // 10, 1), recipe.steps - 1)  # a fall of at least one step must follow
        rate = optax.warmup_cosine_decay_schedule(rate / 20, rate, rise, recipe.steps, rate / 100)
    return optax.chain(optax.clip_by_global_norm(_CLIP), optax.adamw(rate, weight_decay=recipe.weight_decay))


# -- Checkpoints ------------------------------------------------------------------------------------------------------


def _save(
    path: Path,
    state: Progress,
    done: int,
    history: list[tuple[int, float, float]],
    since_best: int,
    rng: np.random.Generator,
    config: S2SConfig,
    seed: int,
) -> None:
    from nwb_calcium_lvm.io.archive import write_archive

    header = {
        "content": "checkpoint",
        "config": config.to_dict(),
        "seed": seed,
        "done": done,
        "since_best": since_best,
        "generator": rng.bit_generator.state,
        "history": [list(h) for h in history],
    }
    write_archive(path, header, flatten(state))


def _resume(
    path: Path, state: Progress, rng: np.random.Generator, config: S2SConfig, seed: int
) -> tuple[Progress, int, list[tuple[int, float, float]], int]:
    """Take up a checkpoint; refuse one of another configuration or seed."""
    from nwb_calcium_lvm.io.archive import read_archive

    header, arrays = read_archive(path)
    try:
        same = S2SConfig.from_dict(header["config"]) == config and header["seed"] == seed
        if same:
            state = unflatten(state, arrays)
            rng.bit_generator.state = header["generator"]
            history = [(int(a), float(b), float(c)) for a, b, c in header["history"]]
            return state, int(header["done"]), history, int(header["since_best"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is not a checkpoint of this version ({error!r}). Remove it to start anew.") from error
    raise DataError(
        f"{path} is a checkpoint of another configuration or seed. Remove it to start anew, or choose another folder."
    )
