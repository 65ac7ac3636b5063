"""How a recognition network sees traces, simulated and recorded alike: baseline off, in dF/F and over noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel

_LOW, _HIGH = 0.2, 0.98  # quantiles that stand for the baseline and for the size of transients
_LOW_OF_NOISE = 0.8416  # the lower of them lies this many standard deviations of white noise below its mean
_STEP_OF_NOISE = 0.95387  # median absolute step between frames of white noise of unit sd
RATE = math.log(0.6), 1.2  # median and spread of the logarithm of a unit's mean rate, Hz
_DFF, _OVER_NOISE = 0.3, 3.0  # what is small and what is large in each view


class Told(NamedTuple):
    """What a network is told of units beside their traces.

    Attributes
    ----------
    noise : (unit, channel) array
        Standard deviation of a frame's noise, in the unit of the traces as the network sees them.
    rate : (unit,) array
        Frames per s.
    unknown : (unit,) array
        1 where the traces' unit is not known.
    mean, sd : (unit, trait) arrays
        What is believed of the unit's traits (see :func:`standard_of`): 0 and 1 where nothing is.
    """

    noise: jax.Array
    rate: jax.Array
    unknown: jax.Array
    mean: jax.Array
    sd: jax.Array


def standard_of(model: GenerativeModel, log_values: jax.Array, log_rate: jax.Array) -> jax.Array:
    """Return the traits of units in units of their prior: parameters of the model, then the mean rate (Hz)."""
    of_model = (log_values - model.medians()) / model.spreads()
    return jnp.concatenate([of_model, ((log_rate - RATE[0]) / RATE[1])[..., None]], axis=-1)


def levels_of(traces: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return baseline, size of transients and noise of simulated traces (unit, time, channel), each (unit, channel).

    The baseline is the 20 % quantile, raised by what white noise lowers it; as of recordings, see
    :func:`nwb_calcium_lvm.spikes.traces.scale_of`.
    """
    noise = jnp.median(jnp.abs(jnp.diff(traces, axis=1)), axis=1) / _STEP_OF_NOISE
    low, high = jnp.quantile(traces, jnp.array([_LOW, _HIGH]), axis=1)
    baseline = low + _LOW_OF_NOISE * noise
    return baseline, high - baseline, noise


def views_of(traces: jax.Array, noise: jax.Array) -> jax.Array:
    """Return both views of traces without their baseline, (unit, time, 2 · channel)."""
    over = traces / jnp.maximum(noise, 1e-6)[:, None]
    return jnp.concatenate([jnp.arcsinh(traces / _DFF), jnp.arcsinh(over / _OVER_NOISE)], axis=-1)


def conditions_of(told: Told) -> jax.Array:
    """Return what the network is told as numbers of order one, (unit, condition)."""
    nu = 100.0 * _STEP_OF_NOISE * told.noise.mean(axis=-1) / jnp.sqrt(told.rate)
    level = jnp.log(jnp.clip(nu, 0.05, 50.0) / 2.0)
    speed = jnp.log(jnp.clip(told.rate, 1.0, 200.0) / 30.0)
    return jnp.concatenate([jnp.stack([level, speed, told.unknown], axis=-1), told.mean, jnp.log(told.sd)], axis=-1)
