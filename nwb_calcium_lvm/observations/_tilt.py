"""What a Poisson law of spikes makes of a Gaussian belief about a frame's input, spike counts summed over a window.

The input is ``u = c s + noise``, ``s ~ Poisson(lambda)``, noise of variance ``sigma2 + s omega2``; all else that is
known of it is ``Normal(u; e, V)``. The evidence is ``sum_r Normal(e; c r, S_r) Poisson(r; lambda)`` with
``S_r = V + sigma2 + r omega2``.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln

from nwb_calcium_lvm.observations._state_space import Tilted

_NEWTON_STEPS = 5


def poisson_tilt(
    window: int,
    mean: Array,
    variance: Array,
    log_rate: Array,
    spike_amplitude: Array,
    noise_variance: Array,
    amplitude_variance: Array | None,
) -> Tilted:
    """Return :class:`Tilted`, elementwise; ``window`` counts around the largest term are summed.

    Parameters
    ----------
    window : int
        Static. The terms fall at least as fast as those of a normal distribution of variance S / c².
    mean, variance : array
        e and V.
    log_rate : array
        Log of the expected spikes per frame.
    spike_amplitude, noise_variance : array
        c and sigma2.
    amplitude_variance : array or None
        omega2; None: every spike is alike, and sums need no logarithms.
    """
    total = variance + noise_variance
    if amplitude_variance is None:
        return _alike(window, mean, total, log_rate, spike_amplitude)
    return _varied(window, mean, total, log_rate, spike_amplitude, amplitude_variance)


def _mode(mean: Array, total: Array, log_rate: Array, amplitude: Array) -> Array:
    """Return the count with about the largest term, a constant to differentiation; see `calcium._mode`."""
    mean, total, log_rate, amplitude = jax.lax.stop_gradient((mean, total, log_rate, amplitude))
    clearness = amplitude**2 / total
    target = log_rate + amplitude * mean / total
    u = jnp.log(jnp.maximum(mean / amplitude, jnp.exp(log_rate)))
    for _ in range(_NEWTON_STEPS):
        pull = clearness * jnp.exp(u)
        u = u - (u + pull - target) / (1 + pull)
    return jnp.round(jnp.exp(u))


def _alike(window: int, mean: Array, total: Array, log_rate: Array, amplitude: Array) -> Tilted:
    """Sum by ratios of neighbours, ``term_{r+1} / term_r = exp(g - k r) / (r + 1)``: three exponentials in all.

    Not fewer: where single spikes are clear, the slope of a quotient of exponentials would be 0 times infinity.
    """
    mode = _mode(mean, total, log_rate, amplitude)
    clearness = amplitude**2 / total
    step = jnp.exp(-clearness)
    up = log_rate + (amplitude * (mean - amplitude * mode)) / total - 0.5 * clearness
    most = 0.25 * float(np.log(jnp.finfo(mean.dtype).max))  # reached on the side where there are no counts to sum
    weight = jnp.ones_like(mean)
    norm, first, second = weight, jnp.zeros_like(mean), jnp.zeros_like(mean)
    ratio = jnp.exp(jnp.minimum(up, most))
    for j in range(1, window - window // 2):
        weight = weight * ratio / (mode + j)
        ratio = ratio * step
        norm, first, second = norm + weight, first + j * weight, second + j**2 * weight
    weight = jnp.ones_like(mean)
    ratio = jnp.exp(jnp.minimum(-up - clearness, most))
    for j in range(1, window // 2 + 1):
        weight = weight * ratio * jnp.maximum(mode - (j - 1), 0.0)
        ratio = ratio * step
        norm, first, second = norm + weight, first - j * weight, second + j**2 * weight
    offset = first / norm
    spread = jnp.maximum(second / norm - offset**2, 0.0)
    count = mode + offset
    largest = mode * log_rate - gammaln(mode + 1) - jnp.exp(log_rate)
    largest = largest - 0.5 * ((mean - amplitude * mode) ** 2 / total + jnp.log(2 * jnp.pi * total))
    slope = (amplitude * count - mean) / total
    return Tilted(largest + jnp.log(norm), count, spread, slope, 1.0 / total - (amplitude / total) ** 2 * spread)


def _varied(
    window: int, mean: Array, total: Array, log_rate: Array, amplitude: Array, amplitude_variance: Array
) -> Tilted:
    """Sum term by term: the variance of a term grows with its count."""
    near = jnp.maximum(jax.lax.stop_gradient(mean / amplitude), 0.0)
    mode = _mode(mean, total + near * amplitude_variance, log_rate, amplitude)
    first = jnp.maximum(mode - window // 2, 0.0)

    def term(count: Array, log_factorial: Array) -> tuple[Array, Array, Array]:
        spread = total + count * amplitude_variance
        misfit = (amplitude * count - mean) / spread
        value = count * log_rate - log_factorial - 0.5 * (misfit**2 * spread + jnp.log(spread))
        return value, misfit, spread

    counts = [first + j for j in range(window)]
    log_factorials = [gammaln(first + 1)]
    for count in counts[1:]:
        log_factorials.append(log_factorials[-1] + jnp.log(jnp.maximum(count, 1.0)))
    terms = [term(count, log_factorial) for count, log_factorial in zip(counts, log_factorials, strict=True)]
    # The largest term, and not that of the guessed mode: an event of a size never seen would overflow.
    reference = jax.lax.stop_gradient(functools.reduce(jnp.maximum, [value for value, _, _ in terms]))
    sums = [jnp.zeros_like(mean) for _ in range(6)]
    for count, (value, misfit, spread) in zip(counts, terms, strict=True):
        weight = jnp.exp(value - reference)
        off = count - mode
        parts = (1.0, off, off**2, misfit, misfit**2, 1.0 / spread)
        sums = [total_ + weight * part for total_, part in zip(sums, parts, strict=True)]
    norm = sums[0]
    offset, square, slope, slope_square, sharpness = (s / norm for s in sums[1:])
    log_evidence = reference + jnp.log(norm) - jnp.exp(log_rate) - 0.5 * jnp.log(2 * jnp.pi)
    curvature = sharpness - (slope_square - slope**2)
    return Tilted(log_evidence, mode + offset, jnp.maximum(square - offset**2, 0.0), slope, curvature)
