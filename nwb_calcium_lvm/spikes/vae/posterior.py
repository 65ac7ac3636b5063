"""What the posterior holds beside marginals: whole spike trains, and the traces that they explain."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm.spikes.chunks import chunks_of, padded_shape
from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel, fluorescence
from nwb_calcium_lvm.spikes.vae.inference import Shown, around, as_units
from nwb_calcium_lvm.spikes.vae.recognition import RecognitionConfig, Seen
from nwb_calcium_lvm.spikes.vae.training import Network

Array = NDArray[np.floating]

_VALUES = 2**23  # numbers of counts, and of features, held at once


class Draws(NamedTuple):
    """Spike trains of some units in one segment.

    Attributes
    ----------
    units, frames : slice
        Which units, and which frames of the clock.
    counts : (draw, unit, time, source) array of int8
    """

    units: slice
    frames: slice
    counts: NDArray[np.int8]


def draws_of(
    shown: Shown, network: Network, config: RecognitionConfig, model: GenerativeModel, n: int, seed: int
) -> Iterator[Draws]:
    """Yield ``n`` spike trains from the posterior of every unit, some units and one segment at a time."""
    views, conditions = as_units(shown, model)
    key = jax.random.key(seed)
    for number, (a, b) in enumerate(shown.clock.bounds):
        size = max(1, min(_VALUES // (n * (b - a)), 1024 // n, len(views)))
        for first in range(0, len(views), size):
            units = slice(first, min(first + size, len(views)))
            rows = np.arange(first, first + size).clip(max=len(views) - 1)  # one program for all
            logits, features = _look(views[rows, a:b], conditions[rows], network, config)
            own = jax.random.fold_in(jax.random.fold_in(key, number), first)
            drawn = _draw(network.params, jnp.asarray(logits), jnp.asarray(features), own, network.graph, n)
            yield Draws(units, slice(a, b), np.asarray(drawn)[:, : units.stop - first].astype(np.int8))


def _look(views: Array, conditions: Array, network: Network, config: RecognitionConfig) -> tuple[Array, Array]:
    reach, stride = around(config)
    shape = padded_shape(views.shape[0], views.shape[1], stride)
    out: list[Array] = []
    for chunk in chunks_of(views, conditions, reach, reach, stride):
        seen = _seen(network.params, jnp.asarray(chunk.window), jnp.asarray(chunk.conditions), network.graph)
        found = [np.asarray(v)[:, chunk.inside] for v in (seen.logits, seen.features)]
        if not out:
            out = [np.empty((*shape, *v.shape[2:]), np.float32) for v in found]
        for whole, part in zip(out, found, strict=True):
            whole[chunk.rows, chunk.frames] = part
    return out[0][: len(views), : views.shape[1]], out[1][: len(views), : views.shape[1]]


@partial(jax.jit, static_argnames=("graph",))
def _seen(params: Any, views: jax.Array, conditions: jax.Array, graph: Any) -> Seen:
    return nnx.merge(graph, params)(views, conditions)


@partial(jax.jit, static_argnames=("graph", "n"))
def _draw(params: Any, logits: jax.Array, features: jax.Array, key: jax.Array, graph: Any, n: int) -> jax.Array:
    made = nnx.merge(graph, params)
    n_units = len(logits)
    repeated = Seen(jnp.tile(logits, (n, 1, 1, 1)), jnp.tile(features, (n, 1, 1)), jnp.zeros((n * n_units, 0)))
    counts, _ = made.sample(repeated, key)
    return counts.reshape(n, n_units, *counts.shape[1:])


def denoised(
    shown: Shown,
    network: Network,
    config: RecognitionConfig,
    model: GenerativeModel,
    log_values: Array,
    substeps: int,
    n: int,
    seed: int,
) -> tuple[Array, Array]:
    """Return mean and sd over the posterior of the noiseless trace, (time, roi), as the network sees traces.

    Its level and its scale are those of the recording, by least squares over a segment: amplitudes found in a pass are
    right but for a factor.
    """
    n_channels = model.n_channels
    mean, sd = (np.full(shown.traces.shape, np.nan) for _ in range(2))
    for part in draws_of(shown, network, config, model, n, seed):
        values = jnp.asarray(log_values[part.units])
        counts = jnp.asarray(part.counts, jnp.float32)
        clean = np.asarray(_clean(model, counts, values, 1.0 / shown.clock.rate, substeps, jax.random.key(seed)))
        columns = slice(part.units.start * n_channels, part.units.stop * n_channels)
        over = clean.transpose(0, 2, 1, 3).reshape(n, part.frames.stop - part.frames.start, -1)
        level, gain = _fitted(shown.traces[part.frames, columns], over.mean(axis=0))
        mean[part.frames, columns] = level + gain * over.mean(axis=0)
        sd[part.frames, columns] = gain * over.std(axis=0)
    return mean, sd


def _fitted(traces: Array, clean: Array) -> tuple[Array, Array]:
    """Return level and gain (not negative) with which clean traces come nearest to noisy ones, each (roi,)."""
    centred = clean - clean.mean(axis=0)
    power = (centred**2).sum(axis=0)
    gain = np.maximum((centred * traces).sum(axis=0), 0.0) / np.maximum(power, 1e-12)
    gain = np.where(power > 1e-12, gain, 1.0)
    return traces.mean(axis=0) - gain * clean.mean(axis=0), gain


@partial(jax.jit, static_argnames=("model", "substeps"))
def _clean(
    model: GenerativeModel, counts: jax.Array, log_values: jax.Array, step: float, substeps: int, key: jax.Array
) -> jax.Array:
    keys = jax.random.split(key, len(counts))
    return jax.vmap(lambda c, k: fluorescence(model, c, log_values, step, substeps, k))(counts, keys)
