"""From recordings to posteriors over counts, with a trained recognition network, in memory that chunks bound."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm.preprocessing import fill_missing
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.chunks import chunks_of, padded_shape
from nwb_calcium_lvm.spikes.clocks import frame_edges
from nwb_calcium_lvm.spikes.filtering import OnClock, on_clock
from nwb_calcium_lvm.spikes.traces import Scale, noise_of, scale_of
from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel
from nwb_calcium_lvm.spikes.vae.objectives import trait_posterior
from nwb_calcium_lvm.spikes.vae.recognition import RecognitionConfig, moments, reach
from nwb_calcium_lvm.spikes.vae.training import Network
from nwb_calcium_lvm.spikes.vae.views import Told, conditions_of, views_of

Array = NDArray[np.floating]

FASTEST = 60.0  # frames per s of the networks' clock
_LOOKS = 2  # passes for traits: the second, told what the first found, finds more; see docs/vae.md
_WINDOW = 512  # frames that say something of a cell's parameters together
_INDICATOR_ERROR = 0.6  # sd of the log of what a preset says of a cell: by cell type, temperature, expression


class Shown(NamedTuple):
    """Units of a recording as a network is shown them.

    Attributes
    ----------
    clock : OnClock
    scale : Scale
        Of each ROI.
    traces : (time, roi) array
        Gaps bridged, baseline off, over the divisor.
    told : Told
        Of each unit.
    rois : array of int
        Which of the recording's.
    """

    clock: OnClock
    scale: Scale
    traces: Array
    told: Told
    rois: NDArray[np.integer]


def show(recording: Recording, model: GenerativeModel, fastest: float = FASTEST) -> Shown:
    """Prepare what a network sees of the usable ROIs of a recording (of all of a unit, or none of it)."""
    n = model.n_channels
    usable = recording.usable.reshape(-1, n).all(axis=1).repeat(n)
    rois = np.flatnonzero(usable)
    clock = on_clock(recording, rois, _clock_rate(recording, rois, fastest))
    filled = fill_missing(clock.y, clock.mask).astype(float)
    segments = Segments(np.array(clock.bounds))
    scale = scale_of(filled, clock.mask, segments, clock.rate, recording.units)
    traces = (filled - scale.baseline) / scale.divisor
    noise = (scale.noise / scale.divisor).reshape(-1, n)
    n_units = len(noise)
    mean, sd = _of_indicator(recording, model)
    told = Told(
        jnp.asarray(noise, jnp.float32),
        jnp.full(n_units, clock.rate),
        jnp.full(n_units, float(recording.units == "unknown")),
        jnp.tile(mean, (n_units, 1)),
        jnp.tile(sd, (n_units, 1)),
    )
    return Shown(clock, scale, traces, told, rois)


def _of_indicator(recording: Recording, model: GenerativeModel) -> tuple[jax.Array, jax.Array]:
    """Return mean and sd of what the indicator says of traits; its amplitude says nothing of traces of unknown unit."""
    n = len(model.names) + 1
    mean, sd = np.zeros(n), np.ones(n)
    given = recording.indicator
    if given is not None:
        known = {"decay": given.decay_time, "rise": max(given.rise_time, 0.01), "amplitude": given.amplitude}
        if recording.units == "unknown":
            del known["amplitude"]
        for i, (name, prior) in enumerate(model.parameters.items()):
            if name in known:
                error = _INDICATOR_ERROR / prior.spread
                mean[i] = math.log(known[name] / prior.median) / prior.spread / (1.0 + error**2)
                sd[i] = error / math.sqrt(1.0 + error**2)
    return jnp.asarray(mean, jnp.float32), jnp.asarray(sd, jnp.float32)


def informed(shown: Shown, network: Network, config: RecognitionConfig, model: GenerativeModel) -> Shown:
    """Return the same units, the network told of each what passes over its whole trace say of its traits.

    Windows are taken for independent here, which makes the network surer of traits than it should be. On recordings
    that is worth more than it costs on dreams; see docs/vae.md.
    """
    for _ in range(_LOOKS):
        mean, sd = traits_of(shown, network, config, model, 1.0)
        told = shown.told._replace(mean=jnp.asarray(mean, jnp.float32), sd=jnp.asarray(sd, jnp.float32))
        shown = shown._replace(told=told)
    return shown


def _clock_rate(recording: Recording, rois: NDArray[np.integer], fastest: float) -> float:
    """Return the fastest clock to use; that of the frames most traces were made of, where these were interpolated."""
    own = recording.sampling_rate or 1.0
    if len(rois) == 0:
        return fastest
    rates = noise_of(recording.dff[:, rois], recording.mask[:, rois], recording.segments, own)[1]
    return float(min(fastest, np.median(rates) if np.median(rates) < own else np.inf))


def count_moments(shown: Shown, network: Network, config: RecognitionConfig, model: GenerativeModel) -> Any:
    """Return mean and variance of the spikes of each frame of the clock, both (time, roi)."""
    mean, variance = (np.full(shown.traces.shape, np.nan, np.float32) for _ in range(2))
    views, conditions = as_units(shown, model)
    margin, stride = around(config)
    for a, b in shown.clock.bounds:
        part = views[:, a:b]
        out = np.empty((2, *padded_shape(part.shape[0], part.shape[1], stride), model.n_channels), np.float32)
        for chunk in chunks_of(part, conditions, margin, margin, stride):
            found = _moments(network.params, jnp.asarray(chunk.window), jnp.asarray(chunk.conditions), network.graph)
            for i in range(2):
                out[i, chunk.rows, chunk.frames] = np.asarray(found[i])[:, chunk.inside]
        kept = out[:, : part.shape[0], : b - a].transpose(0, 2, 1, 3).reshape(2, b - a, -1)
        mean[a:b], variance[a:b] = kept
    return mean, variance


def around(config: RecognitionConfig) -> tuple[int, int]:
    """Return the frames before and after a chunk that its posterior depends on, and the stride they are whole in."""
    stride = 1 if config.published else config.stride
    return -(-reach(config) // stride) * stride, stride


def as_units(shown: Shown, model: GenerativeModel) -> tuple[Array, Array]:
    """Return views (unit, time, view · channel) and conditions (unit, condition)."""
    n_frames = len(shown.traces)
    units = shown.traces.reshape(n_frames, -1, model.n_channels).transpose(1, 0, 2).astype(np.float32)
    return np.asarray(views_of(jnp.asarray(units), shown.told.noise)), np.asarray(conditions_of(shown.told))


@partial(jax.jit, static_argnames=("graph",))
def _moments(params: Any, views: jax.Array, conditions: jax.Array, graph: Any) -> tuple[jax.Array, jax.Array]:
    return moments(nnx.merge(graph, params)(views, conditions).logits)


def traits_of(
    shown: Shown, network: Network, config: RecognitionConfig, model: GenerativeModel, power: float
) -> tuple[Array, Array]:
    """Return mean and sd of each unit's traits, in units of their prior, (unit, trait), from all of its windows.

    Each of n windows says as much more than what was known before; together they say n to the ``power`` times as much.
    """
    views, conditions = as_units(shown, model)
    before = np.asarray(shown.told.sd, float) ** -2
    first = before * np.asarray(shown.told.mean, float)
    windows = _windows(views, shown.clock.bounds, config)
    more, weighted = np.zeros_like(before), np.zeros_like(before)
    for window in windows:
        mean, log_sd = _traits(network.params, jnp.asarray(window), jnp.asarray(conditions), network.graph)
        found = np.exp(-2.0 * np.asarray(log_sd, float))
        says = found > before
        more += np.where(says, found - before, 0.0)
        weighted += np.where(says, found * np.asarray(mean) - first, 0.0)
    share = float(max(len(windows), 1)) ** (power - 1.0)
    precision = before + share * more
    return (first + share * weighted) / precision, 1.0 / np.sqrt(precision)


def cell_parameters(
    shown: Shown, network: Network, config: RecognitionConfig, model: GenerativeModel
) -> tuple[Array, Array]:
    """Return mean and sd of the logarithms of each unit's parameters, (unit, parameter).

    n windows say √n times as much as one: what misleads a network in one window of a trace does so in the others. The
    sd then is about right on dreams.
    """
    mean, sd = (a[:, :-1] for a in traits_of(shown, network, config, model, 0.5))
    spread = np.asarray(model.spreads())
    return np.asarray(model.medians()) + spread * mean, spread * sd


def _windows(views: Array, bounds: list[tuple[int, int]], config: RecognitionConfig) -> list[Array]:
    stride = 1 if config.published else config.stride
    out = []
    for a, b in bounds:
        length = min(_WINDOW, max((b - a) // stride, 1) * stride)
        for start in range(a, max(b - length, a) + 1, length):
            window = views[:, start : min(start + length, b)]
            if window.shape[1] < length:
                window = np.pad(window, ((0, 0), (0, length - window.shape[1]), (0, 0)), mode="edge")
            out.append(window)
    return out


@partial(jax.jit, static_argnames=("graph",))
def _traits(params: Any, views: jax.Array, conditions: jax.Array, graph: Any) -> tuple[jax.Array, jax.Array]:
    return trait_posterior(nnx.merge(graph, params)(views, conditions).pooled)


def limits_of(recording: Recording, shown: Shown) -> list[tuple[Array, Array]]:
    """Return the limits of the recording's own frames and of the clock's in each segment, s."""
    out = []
    for i, (a, b) in enumerate(recording.segments.bounds):
        times = recording.timestamps[a:b]
        half = 0.5 / (recording.sampling_rate or 1.0)
        own = frame_edges(times) if b - a > 1 else np.array([times[0] - half, times[0] + half])
        out.append((own, own if shown.clock.edges is None else shown.clock.edges[i]))
    return out
