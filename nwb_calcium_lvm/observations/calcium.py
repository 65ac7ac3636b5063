"""Autoregressive calcium with the spike counts summed out.

``y_t = sum_i alpha_i y_{t-i} + b + c s_t + eps_t``, ``s_t ~ Poisson(lambda_t)``, ``eps_t ~ Normal(0, sigma2)``, for
every neuron. Given the rates the density of a trace is a product over frames of

``log sum_r Normal(e_t; c r, sigma2) lambda^r exp(-lambda) / r!``,  ``e_t = y_t - sum_i alpha_i y_{t-i} - b``,

whose sum over counts is taken over a window of fixed length around its largest term, so that shapes do not depend on
the data. See ``docs/observations.md`` for the accuracy and for what can be told apart from a trace.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln
from jax.typing import ArrayLike

from nwb_calcium_lvm.observations._common import (
    AMPLITUDE_FLOOR,
    VARIANCE_FLOOR,
    free_from_positive,
    observed_and_filled,
    positive,
)
from nwb_calcium_lvm.observations.autoregression import autoregress, innovations, stable_ar, unconstrain_ar, usable
from nwb_calcium_lvm.observations.protocol import Sample

NEWTON_STEPS = 8
WINDOW = 17


class CalciumParams(NamedTuple):
    """Parameters of the calcium model, one row or entry per neuron.

    Attributes
    ----------
    ar_coefs : (N, p) array
        Autoregressive coefficients alpha, most recent lag first, per frame.
    spike_amplitude : (N,) array
        Step c of the trace at one spike, in units of the trace, > 0.
    noise_variance : (N,) array
        Variance sigma2 of the noise inside the autoregression, in squared units of the trace, > 0.
    intercept : (N,) array
        Intercept b, in units of the trace; ``b / (1 - sum alpha)`` is the baseline without spikes.
    """

    ar_coefs: Array | np.ndarray
    spike_amplitude: Array | np.ndarray
    noise_variance: Array | np.ndarray
    intercept: Array | np.ndarray


class CountMoments(NamedTuple):
    """Posterior mean and variance of spike counts, each (T, N), in counts and squared counts per frame."""

    mean: Array
    variance: Array


def log_likelihood(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> Array:
    """Return the log density of every sample given its past and the rate, spike counts summed out.

    Parameters
    ----------
    y : (T, N) array
        Traces.
    log_rate : (T, N) array, or broadcastable to it
        Natural logarithm of the expected spikes per frame, finite.
    params : CalciumParams
        Parameters per neuron.
    mask : (T, N) array of bool, optional
        True where observed; None: wherever `y` is not NaN.
    starts : (T,) array of bool, optional
        True at the first frame of every segment; None: one segment.
    window : int
        Number of counts summed, static. 17 is good to 5e-7 nats while ``sigma2 <= 2 c**2``; see `window_for`.

    Returns
    -------
    (T, N) array
        Nats; 0 where the sample or one of its p predecessors is missing or lies before the segment's start.
    """
    ok, innovation, log_rate = _prepare(y, log_rate, params, mask, starts)
    amplitude, variance = _rows(params, innovation)
    return jnp.where(ok, _log_marginal(window, innovation, amplitude, variance, log_rate), 0.0)


def posterior_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> CountMoments:
    """Return mean and variance of the spike counts given the traces and the rates.

    Arguments are those of `log_likelihood`. Where the likelihood is not defined, both are the prior's: the rate.
    """
    ok, innovation, log_rate = _prepare(y, log_rate, params, mask, starts)
    amplitude, variance = _rows(params, innovation)
    _, mean, spread = _moments(window, innovation, amplitude, variance, log_rate)
    rate = jnp.exp(log_rate)
    return CountMoments(jnp.where(ok, mean, rate), jnp.where(ok, jnp.maximum(spread, 0.0), rate))


def expected_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> Array:
    """Return the posterior mean of the spike counts, (T, N); see `posterior_counts`."""
    return posterior_counts(y, log_rate, params, mask, starts=starts, window=window).mean


def _prepare(
    y: ArrayLike, log_rate: ArrayLike, params: CalciumParams, mask: ArrayLike | None, starts: ArrayLike | None
) -> tuple[Array, Array, Array]:
    """Return which samples are usable, the innovations (0 where unusable) and the log rates, each (T, N)."""
    observed, filled = observed_and_filled(y, mask)
    ok = usable(observed, jnp.shape(params.ar_coefs)[-1], starts)
    innovation = jnp.where(ok, innovations(filled, params.ar_coefs, params.intercept), 0.0)
    return ok, innovation, jnp.broadcast_to(jnp.asarray(log_rate, innovation.dtype), innovation.shape)


def _rows(params: CalciumParams, like: Array) -> tuple[Array, Array]:
    """Return spike amplitude and noise variance as (T, N), for elementwise functions."""
    return (
        jnp.broadcast_to(jnp.asarray(params.spike_amplitude, like.dtype), like.shape),
        jnp.broadcast_to(jnp.asarray(params.noise_variance, like.dtype), like.shape),
    )


def _mode(innovation: Array, amplitude: Array, variance: Array, log_rate: Array) -> Array:
    """Return the count with (about) the largest term of the sum, a constant to differentiation.

    It solves ``log r + k r = log lambda + c e / sigma2``, ``k = c**2 / sigma2``. In ``u = log r`` the left side is
    convex and increasing and the start lies above the root, so that Newton's steps go down to it.
    """
    innovation, amplitude, variance, log_rate = jax.lax.stop_gradient((innovation, amplitude, variance, log_rate))
    curvature = amplitude**2 / variance
    target = log_rate + amplitude * innovation / variance
    # The larger of the two in logarithms: a rate that underflows is still a start.
    least = jnp.finfo(innovation.dtype).tiny
    u = jnp.maximum(jnp.log(jnp.maximum(innovation / amplitude, least)), log_rate)
    for _ in range(NEWTON_STEPS):
        pull = curvature * jnp.exp(u)
        u = u - (u + pull - target) / (1 + pull)
    return jnp.round(jnp.exp(u))


@partial(jax.jit, static_argnums=0)
def _moments(
    window: int, innovation: Array, amplitude: Array, variance: Array, log_rate: Array
) -> tuple[Array, Array, Array]:
    """Return the log of the sum over counts, and mean and variance of the count under its normalised terms.

    The counts run in a loop, so that memory does not grow with the window; compiled, for calls outside ``jax.jit``.
    """
    mode = _mode(innovation, amplitude, variance, log_rate)
    first = jnp.maximum(mode - window // 2, 0.0)

    def term(step: Array, log_factorial: Array) -> tuple[Array, Array, Array]:
        count = first + step
        log_factorial = log_factorial + jnp.where(step > 0, jnp.log(jnp.maximum(count, 1.0)), 0.0)
        residual = innovation - amplitude * count
        return count, log_factorial, count * log_rate - log_factorial - 0.5 * residual**2 / variance

    def find_largest(step: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        _, log_factorial, value = term(step, carry[0])
        return log_factorial, jnp.maximum(carry[1], value)

    def add(step: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        log_factorial, total, first_moment, second_moment = carry
        count, log_factorial, value = term(step, log_factorial)
        weight = jnp.exp(value - largest)
        # Moments about the mode, not about zero, so that a small variance does not drown in round-off.
        weighted = weight * (count - mode)
        return log_factorial, total + weight, first_moment + weighted, second_moment + weighted * (count - mode)

    start, zero = gammaln(first + 1), jnp.zeros_like(innovation)
    _, largest = jax.lax.fori_loop(0, window, find_largest, (start, jnp.full_like(innovation, -jnp.inf)))
    largest = jax.lax.stop_gradient(largest)
    _, total, offset, square = jax.lax.fori_loop(0, window, add, (start, zero, zero, zero))
    offset = offset / total
    log_sum = largest + jnp.log(total) - jnp.exp(log_rate) - 0.5 * jnp.log(2 * jnp.pi * variance)
    return log_sum, mode + offset, square / total - offset**2


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_marginal(window: int, innovation: Array, amplitude: Array, variance: Array, log_rate: Array) -> Array:
    return _moments(window, innovation, amplitude, variance, log_rate)[0]


@_log_marginal.defjvp
def _log_marginal_jvp(
    window: int, primals: tuple[Array, Array, Array, Array], tangents: tuple[Array, Array, Array, Array]
) -> tuple[Array, Array]:
    # The derivatives need only the posterior's mean and variance, so that backpropagation keeps (T, N) arrays and
    # nothing per count.
    innovation, amplitude, variance, log_rate = primals
    log_sum, mean, spread = _moments(window, *primals)
    residual = innovation - amplitude * mean
    squared = residual**2 + amplitude**2 * spread
    d_innovation, d_amplitude, d_variance, d_log_rate = tangents
    tangent = (
        -residual / variance * d_innovation
        + (mean * residual - amplitude * spread) / variance * d_amplitude
        + (squared / variance - 1) / (2 * variance) * d_variance
        + (mean - jnp.exp(log_rate)) * d_log_rate
    )
    return log_sum, tangent


def window_for(params: CalciumParams, tolerance: float = 1e-6, *, largest: int = 513) -> int:
    """Return the window that sums all but about `tolerance` of the likelihood, on the host.

    The terms fall at least as fast as those of a normal distribution of variance ``sigma2 / c**2`` around the mode.

    Parameters
    ----------
    params : CalciumParams
        Concrete parameters.
    tolerance : float
        Relative error of a likelihood, about the error of its log in nats.
    largest : int
        Longest window allowed.

    Returns
    -------
    int
        At least 17, odd.

    Raises
    ------
    ValueError
        If the counts are so far below the noise that a longer window than `largest` is needed.
    """
    ratio = float(np.max(np.asarray(params.noise_variance, float) / np.asarray(params.spike_amplitude, float) ** 2))
    half = np.ceil(np.sqrt(2 * np.log(1 / tolerance) * ratio) + 0.5) if np.isfinite(ratio) else np.inf
    if not 2 * half + 1 <= largest:
        raise ValueError(
            f"sigma2 / c**2 reaches {ratio:.3g}: the sum over spike counts would need more than {largest} terms. "
            "Single spikes are far below the noise there; use observations.ar_gaussian, or a larger spike_amplitude."
        )
    return max(WINDOW, int(2 * half + 1))


def sample(key: Array, log_rate: ArrayLike, params: CalciumParams, *, starts: ArrayLike | None = None) -> Sample:
    """Draw traces and spike counts at given rates.

    Parameters
    ----------
    key : JAX random key
        Source of randomness.
    log_rate : (T, N) array
        Log of the expected spikes per frame.
    params : CalciumParams
        Parameters; the autoregression must be stable.
    starts : (T,) array of bool, optional
        True at the first frame of every segment. A segment's past is the stationary mean at its first frame's rate.

    Returns
    -------
    Sample
        Traces and counts, each (T, N).
    """
    log_rate = jnp.asarray(log_rate)
    key_counts, key_noise = jax.random.split(key)
    rate = jnp.exp(log_rate)
    counts = jax.random.poisson(key_counts, rate).astype(rate.dtype)
    amplitude, intercept = jnp.asarray(params.spike_amplitude), jnp.asarray(params.intercept)
    noise = jax.random.normal(key_noise, rate.shape, rate.dtype) * jnp.sqrt(jnp.asarray(params.noise_variance))
    drive = intercept + amplitude * counts + noise
    return Sample(autoregress(drive, intercept + amplitude * rate, params.ar_coefs, starts), counts)


def constrain(unconstrained: dict[str, Array]) -> CalciumParams:
    """Return parameters from unconstrained arrays: stable autoregression, positive amplitude and variance."""
    return CalciumParams(
        stable_ar(unconstrained["ar_coefs"]),
        positive(unconstrained["spike_amplitude"], AMPLITUDE_FLOOR),
        positive(unconstrained["noise_variance"], VARIANCE_FLOOR),
        jnp.asarray(unconstrained["intercept"]),
    )


def unconstrain(params: CalciumParams) -> dict[str, Array]:
    """Invert `constrain`."""
    return {
        "ar_coefs": unconstrain_ar(params.ar_coefs),
        "spike_amplitude": free_from_positive(params.spike_amplitude, AMPLITUDE_FLOOR),
        "noise_variance": free_from_positive(params.noise_variance, VARIANCE_FLOOR),
        "intercept": jnp.asarray(params.intercept),
    }
