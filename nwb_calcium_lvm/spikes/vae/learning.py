"""From recordings to what networks learn from: worlds like them to dream of, snippets, spikes that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.clocks import count_over
from nwb_calcium_lvm.spikes.traces import noise_level_of
from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel
from nwb_calcium_lvm.spikes.vae.inference import Shown, as_units, cell_parameters, count_moments, limits_of
from nwb_calcium_lvm.spikes.vae.recognition import RecognitionConfig
from nwb_calcium_lvm.spikes.vae.simulation import World
from nwb_calcium_lvm.spikes.vae.training import KnownSpikes, Network
from nwb_calcium_lvm.spikes.vae.wake import Cells, Snippets

Array = NDArray[np.floating]

_LENGTH, _BEFORE, _AFTER = 300, 100, 50  # frames of a snippet, and of its ends that count for nothing
_KNOWN_LENGTH = 512  # frames of a stretch whose spikes are known
_FEWEST = 32  # frames without which a segment teaches nothing
_WIDEST = 1.5  # times its usual spread, most that data may widen a prior


class Population(NamedTuple):
    """What is found about the cells of recordings together.

    Attributes
    ----------
    centre, spread : (parameter,) arrays
        Prior of the parameters' logarithms.
    world : World
    """

    centre: Array
    spread: Array
    world: World


def population(
    shown: list[Shown], network: Network, config: RecognitionConfig, model: GenerativeModel, world: World
) -> Population:
    """Return the prior and the world that these recordings suggest: what a network should dream of to read them."""
    means, sds, rates = [], [], []
    for item in shown:
        mean, sd = cell_parameters(item, network, config, model)
        means.append(mean)
        sds.append(sd)
        rates.append(np.nanmean(count_moments(item, network, config, model)[0], axis=0) * item.clock.rate)
    mean, sd = np.concatenate(means), np.concatenate(sds)
    log_rate = np.log(np.maximum(np.concatenate(rates), 0.01))
    usual = np.asarray(model.spreads())
    spread = np.sqrt(np.mean(sd**2, axis=0) + np.var(mean, axis=0))
    near = replace(
        like_recordings(shown, world),
        mean_rate=float(np.exp(np.median(log_rate))),
        rate_spread=float(np.clip(np.std(log_rate), 0.7, world.rate_spread)),
    )
    return Population(mean.mean(axis=0), np.clip(spread, 0.3 * usual, _WIDEST * usual), near)


def like_recordings(shown: list[Shown], world: World) -> World:
    """Return the world with the frame rates and the noise of recordings."""
    level = np.concatenate([noise_level_of(item.scale.noise / item.scale.divisor, item.clock.rate) for item in shown])
    speeds = [item.clock.rate for item in shown]
    return replace(
        world,
        frame_rates=(0.95 * min(speeds), 1.05 * max(speeds)),
        noise_levels=(max(0.8 * float(np.min(level)), 0.05), max(1.25 * float(np.max(level)), 0.1)),
    )


def start_cells(shown: Shown, model: GenerativeModel, mean_rate: float) -> Cells:
    """Return cells at the prior, their noise and baseline as measured, their amplitude by the size of transients."""
    n = model.n_channels
    n_units = shown.traces.shape[1] // n
    values = np.tile(np.asarray(model.medians()), (n_units, 1))
    noise = np.maximum(np.asarray(shown.told.noise), 1e-4)
    if "amplitude" in model.names:
        large = np.quantile(shown.traces, 0.995, axis=0).reshape(n_units, n).max(axis=1)
        values[:, model.names.index("amplitude")] = np.log(np.maximum(0.5 * large, 2.0 * noise.max(axis=1)))
    rate = np.full(n_units, np.log(mean_rate / shown.clock.rate))
    return Cells(*(jnp.asarray(a, jnp.float32) for a in (values, np.log(noise), np.zeros_like(noise), rate)))


def snippets_of(shown: Shown, model: GenerativeModel, n: int, stride: int) -> Callable[[np.random.Generator], Snippets]:
    """Return what draws ``n`` random snippets of random units."""
    views, conditions = as_units(shown, model)
    traces, seen = _traces_and_mask(shown, model)
    bounds = [(a, b) for a, b in shown.clock.bounds if b - a >= _FEWEST]
    if not bounds:
        raise DataError(
            f"No segment has {_FEWEST} frames; the longest of {len(shown.clock.bounds)} has "
            f"{max(b - a for a, b in shown.clock.bounds)}. Expected recordings of some seconds."
        )
    length = min(_LENGTH, max(b - a for a, b in bounds)) // stride * stride
    before, after = (_BEFORE, _AFTER) if length == _LENGTH else (length // 4, length // 8)
    bounds = [(a, b) for a, b in bounds if b - a >= length]
    room = np.array([b - a - length + 1 for a, b in bounds], float)

    def draw(rng: np.random.Generator) -> Snippets:
        unit = rng.integers(len(views), size=n)
        which = rng.choice(len(bounds), size=n, p=room / room.sum())
        first = np.array([bounds[w][0] + rng.integers(int(room[w])) for w in which])
        frames = first[:, None] + np.arange(length)
        mask = seen[unit[:, None], frames]
        mask[:, :before] = 0.0
        mask[:, length - after :] = 0.0
        taken = views[unit[:, None], frames], conditions[unit], traces[unit[:, None], frames], mask, unit
        return Snippets(*map(jnp.asarray, taken))

    return draw


def whole_snippets(shown: Shown, model: GenerativeModel, length: int, stride: int) -> list[Snippets]:
    """Return all units of each stretch of at most ``length`` frames of each segment, every observed frame counting."""
    views, conditions = as_units(shown, model)
    traces, seen = _traces_and_mask(shown, model)
    out = []
    for a, b in shown.clock.bounds:
        for start in range(a, b, length):
            stop = min(start + length, b)
            pad = (0, -(stop - start) % stride if stop - start < length else 0)
            # One length for all but the last, filled up to whole strides.
            window = [np.pad(v[:, start:stop], ((0, 0), pad, (0, 0)), mode="edge") for v in (views, traces)]
            mask = np.pad(seen[:, start:stop], ((0, 0), pad))
            unit = np.arange(len(views))
            out.append(Snippets(*map(jnp.asarray, (window[0], conditions, window[1], mask, unit))))
    return out


def _traces_and_mask(shown: Shown, model: GenerativeModel) -> tuple[Array, Array]:
    """Return traces (unit, time, channel), and 1 where all of a unit's were observed, (unit, time)."""
    n_frames, n = len(shown.traces), model.n_channels
    traces = shown.traces.reshape(n_frames, -1, n).transpose(1, 0, 2)
    seen = shown.clock.mask.reshape(n_frames, -1, n).all(axis=2).T
    return np.asarray(traces, np.float32), np.asarray(seen, np.float32)


def known_spikes(
    shown: list[Shown],
    model: GenerativeModel,
    recordings: list[Recording],
    spikes: list[list[Array | None]],
    delay: float,
    n: int,
    stride: int,
) -> Callable[[np.random.Generator], KnownSpikes] | None:
    """Return what draws ``n`` random stretches of units whose spikes are known; None where none is.

    Parameters
    ----------
    shown : list of Shown
    model : GenerativeModel
    recordings : list of Recording
        Whose they are.
    spikes : list of list of array or None
        Times of each ROI of each recording, in s; None where they are not known.
    delay : float
        By which calcium is seen after a spike, s.
    n, stride : int
    """
    units = [
        u for item, r, s in zip(shown, recordings, spikes, strict=True) for u in _known_units(item, model, r, s, delay)
    ]
    units = [u for u in units if u[0].shape[0] >= stride]
    if not units:
        return None
    length = min(_KNOWN_LENGTH, max(len(u[0]) for u in units)) // stride * stride

    def draw(rng: np.random.Generator) -> KnownSpikes:
        rows = []
        for pick in rng.integers(len(units), size=n):
            views, conditions, counts, mask = units[pick]
            first = rng.integers(max(len(views) - length, 0) + 1)
            part = [a[first : first + length] for a in (views, counts, mask)]
            short = length - len(part[0])
            views, counts = (np.pad(a, ((0, short), (0, 0)), mode="edge") for a in part[:2])
            rows.append((views, conditions, counts, np.pad(part[2], (0, short))))
        return KnownSpikes(*(jnp.asarray(np.stack(column)) for column in zip(*rows, strict=True)))

    return draw


def _known_units(
    shown: Shown, model: GenerativeModel, recording: Recording, spikes: list[Array | None], delay: float
) -> list[tuple[Array, Array, Array, Array]]:
    """Return views, conditions, counts and mask of every segment of every unit whose spikes are known."""
    n = model.n_channels
    rois = shown.rois.reshape(-1, n)
    views, conditions = as_units(shown, model)
    seen = _traces_and_mask(shown, model)[1]
    out = []
    for (i, j), (_, edges) in zip(shown.clock.bounds, limits_of(recording, shown), strict=True):
        for unit, own in enumerate(rois):
            known = [spikes[roi] for roi in own]
            if any(k is None for k in known):
                continue
            counts = np.stack([count_over(np.sort(np.asarray(k)) + delay, edges) for k in known], axis=-1)
            out.append((views[unit, i:j], conditions[unit], counts.astype(np.float32), seen[unit, i:j]))
    return out


def common_indicator(recordings: list[Recording]) -> Indicator | None:
    """Return the indicator of all recordings; None where they say none, or several."""
    found = {r.indicator for r in recordings}
    return found.pop() if len(found) == 1 else None
