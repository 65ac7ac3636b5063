"""Worlds to dream of: spikes, indicators, noise and baselines drawn from priors, as traces a network learns to read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel, averaged
from nwb_calcium_lvm.spikes.vae.views import Told, levels_of, standard_of


@dataclass(frozen=True)
class World:
    """What is simulated around a generative model.

    Parameters
    ----------
    frame_rates : (float, float)
        Slowest and fastest, Hz; drawn evenly in the logarithm.
    noise_levels : (float, float)
        ν in %/√Hz, likewise. In units of the amplitude of a spike instead, where ``relative_noise``.
    relative_noise : bool
    mean_rate : float
        Median over units of spikes per s.
    rate_spread : float
        Standard deviation over units of its logarithm.
    modulation : float
        Largest standard deviation over time of a unit's log rate; 0 for a Poisson process.
    varying_amplitude : float
        Largest coefficient of variation from spike to spike.
    shot_noise : float
        Largest share of the noise's variance that grows with fluorescence.
    drift, neuropil : float
        Largest sd of slow wandering of the baseline, and of faster contamination, over that of the noise.
    substeps : int
        Parts of a frame in which spikes fall.
    silence : int
        Frames before the first that is shown, in which calcium comes to its usual level.
    unit_lost : float
        Share of units whose traces lose their unit.
    indicator_told, traits_told : float
        Shares of units of which the network is told what their indicator says, and what a look at the whole trace says.
    n_units, n_frames : int
        Units dreamed of at a time, and frames shown of each.
    """

    frame_rates: tuple[float, float] = (5.0, 80.0)
    noise_levels: tuple[float, float] = (0.4, 9.0)
    relative_noise: bool = False
    mean_rate: float = 0.6
    rate_spread: float = 1.2
    modulation: float = 2.0
    varying_amplitude: float = 0.4
    shot_noise: float = 0.8
    drift: float = 0.7
    neuropil: float = 0.5
    substeps: int = 3
    silence: int = 96
    unit_lost: float = 0.2
    indicator_told: float = 0.25
    traits_told: float = 0.45
    n_units: int = 32
    n_frames: int = 512


class Dream(NamedTuple):
    """Simulated units.

    Attributes
    ----------
    traces : (unit, time, channel) array
        Baseline taken off, as the network sees them.
    told : Told
    counts : (unit, time, source) array
    traits : (unit, trait) array
        Parameters and mean rate, in units of their prior.
    """

    traces: jax.Array
    told: Told
    counts: jax.Array
    traits: jax.Array


@partial(jax.jit, static_argnames=("model", "world"))
def dream(
    key: jax.Array,
    model: GenerativeModel,
    world: World,
    centre: jax.Array,
    spread: jax.Array,
) -> Dream:
    """Simulate units.

    Parameters
    ----------
    key : PRNG key
    model, world
    centre, spread : (parameter,) arrays
        Prior of the parameters' logarithms.
    """
    keys = iter(jax.random.split(key, 24))
    n, n_units, n_frames = model.n_channels, world.n_units, world.n_frames

    def even(low: float, high: float) -> jax.Array:
        return jax.random.uniform(next(keys), (n_units,), minval=low, maxval=high)

    def evenly_in_log(limits: tuple[float, float]) -> jax.Array:
        return jnp.exp(even(math.log(limits[0]), math.log(limits[1])))

    rate = evenly_in_log(world.frame_rates)
    step = 1.0 / rate
    log_values = centre + spread * jax.random.normal(next(keys), (n_units, len(model.names)))
    counts, fine = _spikes(next(keys), world, n_units, world.silence + n_frames, n, step, even)
    # Spikes of unequal size: a gamma of mean 1 for each, or what its sum is for several.
    variation = even(0.0, world.varying_amplitude)[:, None, None] + 1e-3
    shape = fine / variation**2
    sizes = jnp.where(fine > 0, jax.random.gamma(next(keys), jnp.maximum(shape, 1e-3)) * variation**2, 0.0)
    clean = averaged(model, sizes, log_values, step, world.substeps)
    if world.relative_noise:
        amplitude = jnp.exp(log_values[:, model.names.index("amplitude")]) if "amplitude" in model.names else 1.0
        sd = evenly_in_log(world.noise_levels) * amplitude
    else:
        nu = evenly_in_log(world.noise_levels)
        sd = nu * jnp.sqrt(rate) / 95.387
    sd = sd[:, None, None]
    shot = even(0.0, world.shot_noise)[:, None, None]
    own = sd * jnp.sqrt(1.0 + shot * jnp.maximum(clean, 0.0) / (0.5 + sd))
    noisy = clean + own * jax.random.normal(next(keys), clean.shape)
    for largest, slowest, fastest in ((world.drift, 60.0, 8.0), (world.neuropil, 2.0, 0.3)):
        size = even(0.0, largest)[:, None, None] * sd
        noisy = noisy + size * _wander(next(keys), clean.shape, evenly_in_log((fastest, slowest)), step)
    noisy, counts = noisy[:, world.silence :], counts[:, world.silence :]
    baseline, size, noise = levels_of(noisy)
    lost = (even(0.0, 1.0) < world.unit_lost).astype(noisy.dtype)
    divisor = jnp.where(lost[:, None] > 0, jnp.maximum(size, 1e-3), 1.0)
    if "amplitude" in model.names:  # which is in the unit of the traces
        log_values = log_values.at[:, model.names.index("amplitude")].add(-jnp.log(divisor.max(axis=1)))
    mean_rate = counts.sum(axis=2).mean(axis=1) * rate
    traits = standard_of(model, log_values, jnp.log(mean_rate + 0.02))
    told = Told(noise / divisor, rate, lost, *_believed(next(keys), model, world, traits))
    return Dream((noisy - baseline[:, None]) / divisor[:, None], told, counts, traits)


def _believed(key: jax.Array, model: GenerativeModel, world: World, traits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and sd of what a network is told of traits: nothing, what the indicator suggests, or all, roughly."""
    which, how_well, error = jax.random.split(key, 3)
    kind = jax.random.uniform(which, (len(traits), 1))
    sd = jnp.exp(jax.random.uniform(how_well, traits.shape, minval=math.log(0.05), maxval=math.log(3.0)))
    of_indicator = jnp.array([name in ("decay", "rise", "amplitude") for name in (*model.names, "rate")])
    by_indicator = (kind < world.indicator_told) & of_indicator
    # What is seen of a trait with this error leaves, with its prior, a belief.
    seen = traits + sd * jax.random.normal(error, traits.shape)
    told = by_indicator | (kind >= 1.0 - world.traits_told)
    return jnp.where(told, seen / (1.0 + sd**2), 0.0), jnp.where(told, sd / jnp.sqrt(1.0 + sd**2), 1.0)


def _spikes(
    key: jax.Array,
    world: World,
    n_units: int,
    n_frames: int,
    n_sources: int,
    step: jax.Array,
    even: Callable[[float, float], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Return counts per frame and per part of a frame: Poisson with a rate that wanders, fast or slowly."""
    a, b, c = jax.random.split(key, 3)
    n_fine = n_frames * world.substeps
    mean = math.log(world.mean_rate) + world.rate_spread * jax.random.normal(a, (n_units, 1, n_sources))
    mean = jnp.minimum(mean, math.log(20.0))
    sd = even(0.0, world.modulation)[:, None, None]
    fine_step = step / world.substeps
    wandering = _wander(b, (n_units, n_fine, n_sources), jnp.exp(even(math.log(0.03), math.log(3.0))), fine_step)
    log_rate = mean + sd * wandering - 0.5 * sd**2
    expected = jnp.minimum(jnp.exp(log_rate), 150.0) * fine_step[:, None, None]
    fine = jax.random.poisson(c, expected).astype(expected.dtype)
    counts = fine.reshape(n_units, n_frames, world.substeps, n_sources).sum(axis=2)
    return counts, fine


def _wander(key: jax.Array, shape: tuple[int, ...], time: jax.Array, step: jax.Array) -> jax.Array:
    """Return an Ornstein-Uhlenbeck process of unit variance along the second axis."""
    keep = jnp.exp(-step / time)[:, None]
    first, rest = jax.random.split(key)
    noise = jax.random.normal(rest, shape)

    def advance(x: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = keep * x + jnp.sqrt(1.0 - keep**2) * e
        return x, x

    start = jax.random.normal(first, (shape[0], shape[2]))
    return jax.lax.scan(advance, start, noise.swapaxes(0, 1))[1].swapaxes(0, 1)
