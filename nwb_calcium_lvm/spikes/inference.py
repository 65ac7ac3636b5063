"""From traces to rates with trained networks, in chunks of bounded memory whose seams cannot be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from nwb_calcium_lvm.preprocessing import fill_missing
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.chunks import chunks_of, padded_shape
from nwb_calcium_lvm.spikes.clocks import average_over, frame_edges, grid_edges, grid_over, integrate_over
from nwb_calcium_lvm.spikes.configs import S2SConfig
from nwb_calcium_lvm.spikes.network import Architecture, context
from nwb_calcium_lvm.spikes.traces import Scale, conditions_of, scale_of

Array = NDArray[np.floating]

_ROWS = 64  # traces resampled at once, at most


class Networks(NamedTuple):
    """Trained networks of one architecture, whose rates are averaged, and the factor that calibrates them."""

    graph: Any
    members: tuple[Any, ...]
    gain: float


def seen_as(recording: Recording, config: S2SConfig) -> str:
    """Return how the traces of a recording are scaled for the networks."""
    return "zscore" if config.scaling == "zscore" else recording.units


def scale_recording(recording: Recording, config: S2SConfig) -> Scale:
    """Return baseline, divisor and noise of every trace of a recording."""
    rate = recording.sampling_rate or 1.0
    return scale_of(recording.dff, recording.mask, recording.segments, rate, seen_as(recording, config))


def rates_of(
    recording: Recording,
    networks: Networks,
    config: S2SConfig,
    lag: float,
    seen: Callable[[NDArray[np.integer], float, Array], None] | None = None,
) -> Array:
    """Return spikes per s on the recording's own clock, shape (time, roi).

    Parameters
    ----------
    recording : Recording
        With a sampling rate. Missing samples are bridged by straight lines; a trace without any sample gives NaN.
    networks : Networks
    config : S2SConfig
    lag : float
        Rates are moved later by this, in s.
    seen : callable, optional
        Shown the rates on the networks' clock on the way, segment by segment and some ROIs at a time: which ROIs, the
        first time, rates (time, roi).
    """
    rates = np.full(recording.shape, np.nan, np.float32)
    for rois, (a, b), start, found in _segment_rates(recording, networks, config):
        if seen is not None:
            seen(rois, start + lag, found)
        _, edges = _clock(recording, a, b)
        grid = grid_edges(start, len(found), config.architecture.rate)
        moved = edges - lag
        held = np.concatenate([[min(grid[0], moved[0])], grid[1:-1], [max(grid[-1], moved[-1])]])
        counts = integrate_over(found, held, moved)
        rates[a:b, rois] = counts / np.diff(edges)[:, None]
    return rates


def fine_rates(recording: Recording, networks: Networks, config: S2SConfig) -> list[tuple[float, Array]]:
    """Return, for each segment, its first time and spikes per s on the networks' clock, shape (time, roi)."""
    out: dict[int, tuple[float, Array]] = {}
    for rois, (a, _), start, found in _segment_rates(recording, networks, config):
        if a not in out:
            out[a] = start, np.full((len(found), recording.n_rois), np.nan, np.float32)
        out[a][1][:, rois] = found
    return list(out.values())


def _segment_rates(
    recording: Recording, networks: Networks, config: S2SConfig
) -> Iterator[tuple[NDArray[np.integer], tuple[int, int], float, Array]]:
    """Yield, some ROIs and one segment at a time: ROIs, first and last frame, first time, rates on the fine clock."""
    scale = scale_recording(recording, config)
    conditions = conditions_of(scale.noise / scale.divisor, scale.rate, seen_as(recording, config))
    usable = np.flatnonzero(recording.usable)
    for first in range(0, len(usable), _ROWS):
        rois = usable[first : first + _ROWS]
        filled = fill_missing(recording.dff[:, rois], recording.mask[:, rois])
        traces = (filled - scale.baseline[rois]) / scale.divisor[rois]
        for a, b in recording.segments.bounds.tolist():
            times, _ = _clock(recording, a, b)
            shown = average_over(traces[a:b], times, grid_over(times, config.architecture.rate))
            found = run_networks(shown.T, conditions[rois], networks, config.architecture).T
            yield rois, (a, b), float(times[0]), found


def _clock(recording: Recording, a: int, b: int) -> tuple[Array, Array]:
    """Return the times of a segment's frames and the limits between them."""
    times = recording.timestamps[a:b]
    if len(times) > 1:
        return times, frame_edges(times)
    half = 0.5 / (recording.sampling_rate or 1.0)
    return times, np.array([times[0] - half, times[0] + half])


def run_networks(traces: Array, conditions: Array, networks: Networks, shape: Architecture) -> Array:
    """Return rates, shape (row, time), of traces of that shape on the network's clock.

    Each chunk is computed with all the samples before and after it that its rates depend on, so that the chunks'
    limits make no difference; beyond the ends of a trace its first and last value are held.
    """
    before, after = context(shape)
    out = np.empty(padded_shape(traces.shape[0], traces.shape[1], shape.stride), np.float32)
    for chunk in chunks_of(traces, conditions, before, after, shape.stride):
        rates = _mean_rate(networks.members, jnp.asarray(chunk.window), jnp.asarray(chunk.conditions), networks.graph)
        out[chunk.rows, chunk.frames] = np.asarray(rates)[:, chunk.inside]
    return np.multiply(out[: traces.shape[0], : traces.shape[1]], networks.gain)


@partial(jax.jit, static_argnames=("graph",))
def _mean_rate(members: tuple[Any, ...], traces: jax.Array, conditions: jax.Array, graph: Any) -> jax.Array:
    rates = [nnx.merge(graph, params)(traces, conditions) for params in members]
    return jnp.mean(jnp.stack(rates), axis=0)
