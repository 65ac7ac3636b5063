"""Autoregressive calcium with the spike counts summed out, seen through measurement noise.

``x_t = sum_i alpha_i x_{t-i} + c s_t + eps_t``, ``s_t ~ Poisson(lambda_t)``,
``eps_t ~ Normal(0, sigma2 + s_t omega2)``, ``y_t = x_t + b + w_t``, ``w_t ~ Normal(0, tau2)``. Noise on top of calcium,
such as that of photons, does not decay with it, so the density of a sample depends on all of its past. Two
approximations, both exact as ``tau2`` goes to 0:

- `log_likelihood` filters: after every frame the belief about calcium is replaced by the normal distribution of the
  same mean and variance (assumed-density filtering). The product over frames is a normalised density of the trace.
- `posterior_counts` and `posterior` look at the whole trace (expectation propagation): the law of every frame's input
  is replaced by a normal one, refined in turn until the posterior's moments agree.

See ``docs/measurement_noise.md`` for the accuracy of both.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from nwb_calcium_lvm.observations import _state_space as space
from nwb_calcium_lvm.observations._common import (
    AMPLITUDE_FLOOR,
    VARIANCE_FLOOR,
    free_from_positive,
    normal_log_density,
    observed_and_filled,
    positive,
)
from nwb_calcium_lvm.observations._state_space import Dynamics, Messages, Sites, State, Tilted
from nwb_calcium_lvm.observations._tilt import poisson_tilt
from nwb_calcium_lvm.observations.autoregression import autoregress, stable_ar, unconstrain_ar
from nwb_calcium_lvm.observations.protocol import Sample

WINDOW = 17
PASSES = 6
_DAMPING = 0.8  # share of a new site; all sites change at once, which could otherwise swing
# Where single counts are sharp, sites that are exact from the start commit frames before their neighbours have spoken,
# and no later pass frees them. So the input's law is blurred at first: by noise of this variance, in squared spikes, a
# third of it in the next pass, and so on to none in the last.
_EASE = 0.3
_WIDEST = 1e3  # variance of a site, in squared spikes plus noise: as good as none


class CalciumNoisyParams(NamedTuple):
    """Parameters of calcium with measurement noise, one row or entry per neuron.

    Attributes
    ----------
    ar_coefs : (N, p) array
        Autoregressive coefficients alpha, most recent lag first, per frame.
    spike_amplitude : (N,) array
        Step c of calcium at one spike, in units of the trace, > 0.
    noise_variance : (N,) array
        Variance sigma2 of the noise inside the autoregression, in squared units of the trace, > 0.
    measurement_variance : (N,) array
        Variance tau2 of the white noise on top, in squared units of the trace, > 0.
    baseline : (N,) array
        The trace without spikes, b, in units of the trace. (`calcium`'s intercept is ``b (1 - sum alpha)``.)
    amplitude_variance : (N,) array or None
        Variance omega2 of the step from spike to spike, in squared units of the trace; None: all are alike.
    drift_variance : (N,) array or None
        Variance per frame of the random walk of the baseline, in squared units of the trace; None: it stays.
    """

    ar_coefs: Array | np.ndarray
    spike_amplitude: Array | np.ndarray
    noise_variance: Array | np.ndarray
    measurement_variance: Array | np.ndarray
    baseline: Array | np.ndarray
    amplitude_variance: Array | np.ndarray | None = None
    drift_variance: Array | np.ndarray | None = None


class Posterior(NamedTuple):
    """What a whole trace says, each (T, N).

    Attributes
    ----------
    count_mean, count_variance : array
        Spikes per frame.
    input_mean : array
        What enters calcium in the frame, spikes and noise inside the autoregression, in units of the trace.
    calcium_mean, calcium_variance : array
        Of the trace without measurement noise, baseline included, in units of the trace.
    cavity_mean, cavity_variance : array
        What is known of the input but for its own law, a normal density, in units of the trace.
    log_evidence : array
        Contributions of the frames to the log density of the trace by expectation propagation, nats. Their sum is
        closer to the truth than `log_likelihood`'s, but not that of a normalised density.
    """

    count_mean: Array
    count_variance: Array
    input_mean: Array
    calcium_mean: Array
    calcium_variance: Array
    cavity_mean: Array
    cavity_variance: Array
    log_evidence: Array


# -- Filtering --------------------------------------------------------------------------------------------------------


def log_likelihood(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumNoisyParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> Array:
    """Return the log density of every sample given its past and the rates, spike counts and calcium summed out.

    Parameters
    ----------
    y : (T, N) array
        Traces.
    log_rate : (T, N) array, or broadcastable to it
        Natural logarithm of the expected spikes per frame, finite.
    params : CalciumNoisyParams
        Parameters per neuron.
    mask : (T, N) array of bool, optional
        True where observed; None: wherever `y` is not NaN.
    starts : (T,) array of bool, optional
        True at the first frame of every segment; None: one segment.
    window : int
        Number of counts summed, static.

    Returns
    -------
    (T, N) array
        Nats; 0 where the sample is missing, and for the first p observed samples of a segment, which are conditioned
        on. Samples after a gap count: calcium is carried over it.
    """
    return filtered(y, log_rate, params, mask, starts=starts, window=window).log_evidence


@partial(jax.jit, static_argnames="window")
def filtered(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumNoisyParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> Posterior:
    """Return what is known at every frame from the trace up to it; arguments are those of `log_likelihood`."""
    y, observed, marked, log_rate = _prepare(y, log_rate, mask, starts)
    params = _cast(params, y.dtype)
    dyn = _dynamics(params)
    drifts = dyn.drift is not None

    # What is kept for the derivative is the state alone; the sums over counts are done again.
    @jax.checkpoint
    def step(state: State, frame: tuple[Array, Array, Array, Array]) -> tuple[State, Posterior]:
        sample, is_seen, is_start, log_rate = frame
        begin = space.before(dyn, _stationary(params, log_rate))
        state = jax.tree.map(lambda new, old: jnp.where(is_start, new, old), begin, state)
        predicted = space.predict(dyn, state)
        error, variance = space.innovation(dyn, predicted, sample)
        tilted = _tilt(window, params, error, variance, log_rate)
        with_sample = space.update(dyn, predicted, error, variance, tilted.slope, tilted.curvature)
        rate = jnp.exp(log_rate)
        without = space.enter(predicted, *_input_moments(params, rate))
        state = jax.tree.map(lambda a, b: jnp.where(is_seen, a, b), with_sample, without)
        level = space.seen(state.mean, drifts) + params.baseline
        spread = space.seen(space.seen(state.covariance, drifts), drifts)
        expected, _ = _input_moments(params, rate)
        out = Posterior(
            jnp.where(is_seen, tilted.count_mean, rate),
            jnp.where(is_seen, tilted.count_variance, rate),
            jnp.where(is_seen, error + variance * tilted.slope, expected),
            level,
            jnp.maximum(spread, 0.0),
            error,
            variance,
            jnp.where(is_seen, tilted.log_evidence, 0.0),
        )
        return state, out

    begin = space.before(dyn, jnp.zeros_like(y[0]))
    _, out = lax.scan(step, begin, (y, observed, marked, log_rate))
    scored = _scored(observed, marked, jnp.shape(params.ar_coefs)[-1])
    return out._replace(log_evidence=jnp.where(scored, out.log_evidence, 0.0))


# -- The whole trace --------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("window", "passes"))
def posterior(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumNoisyParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
    passes: int = PASSES,
) -> Posterior:
    """Return spike counts and calcium given the whole trace and the rates, by expectation propagation.

    Arguments are those of `log_likelihood`; ``passes`` is how often all frames are refined, static.
    """
    y, observed, marked, log_rate = _prepare(y, log_rate, mask, starts)
    params = _cast(params, y.dtype)
    dyn, rate = _dynamics(params), jnp.exp(log_rate)

    def refine(i: Array, sites: Sites) -> Sites:
        found = space.messages(dyn, y, observed, marked, sites)
        eased = jnp.where(i < passes - 2, _EASE / 3.0**i, 0.0).astype(y.dtype)
        softer = params._replace(noise_variance=params.noise_variance + eased * params.spike_amplitude**2)
        tilted = _tilt(window, softer, found.cavity_mean, found.cavity_variance, log_rate)
        return next_sites(sites, found, tilted, widest(params), own)

    own = first_sites(params, rate)
    sites = lax.fori_loop(0, passes - 1, refine, own)
    found = space.messages(dyn, y, observed, marked, sites)
    tilted = _tilt(window, params, found.cavity_mean, found.cavity_variance, log_rate)
    scored = _scored(observed, marked, jnp.shape(params.ar_coefs)[-1])
    return Posterior(
        tilted.count_mean,
        tilted.count_variance,
        found.cavity_mean + found.cavity_variance * tilted.slope,
        found.calcium_mean + params.baseline,
        found.calcium_variance,
        found.cavity_mean,
        found.cavity_variance,
        tilted.log_evidence + evidence_of_sites(found, sites, observed, scored),
    )


def posterior_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumNoisyParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> tuple[Array, Array]:
    """Return mean and variance of the spike counts given the whole trace and the rates, each (T, N)."""
    found = posterior(y, log_rate, params, mask, starts=starts, window=window)
    return found.count_mean, found.count_variance


def expected_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: CalciumNoisyParams,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
    window: int = WINDOW,
) -> Array:
    """Return the posterior mean of the spike counts, (T, N); see `posterior`."""
    return posterior(y, log_rate, params, mask, starts=starts, window=window).count_mean


# -- Sites ------------------------------------------------------------------------------------------------------------


def first_sites(params: CalciumNoisyParams, rate: Array) -> Sites:
    """Return the normal laws with the moments of the inputs' own, at rates (T, N) per frame."""
    return Sites(*_input_moments(params, rate))


def widest(params: CalciumNoisyParams) -> Array:
    """Return the largest variance of a site, (N,); where a count is torn between two, it would be negative."""
    return _WIDEST * (jnp.asarray(params.spike_amplitude) ** 2 + jnp.asarray(params.noise_variance))


def next_sites(sites: Sites, found: Messages, tilted: Tilted, largest: Array, own: Sites) -> Sites:
    """Return sites that, together with the cavities, have the moments of the tilted posteriors; damped.

    The site's variance is ``1/J - V`` for curvature J and cavity variance V; its mean keeps the tilted mean. Where next
    to nothing is known of an input that difference is lost to rounding, and the site is the law's ``own`` moments.
    """
    sharp = tilted.curvature > 1.0 / (found.cavity_variance + largest)
    exact = 1.0 / jnp.where(sharp, tilted.curvature, 1.0) - found.cavity_variance
    smallest = jnp.finfo(exact.dtype).eps * found.cavity_variance + jnp.finfo(exact.dtype).tiny ** 0.5
    variance = jnp.where(sharp, jnp.maximum(exact, smallest), largest)
    mean = found.cavity_mean + tilted.slope * (variance + found.cavity_variance)
    precision = _DAMPING / variance + (1.0 - _DAMPING) / sites.variance
    weighted = _DAMPING * mean / variance + (1.0 - _DAMPING) * sites.mean / sites.variance
    unknown = found.cavity_variance * jnp.finfo(exact.dtype).eps ** 0.5 > own.variance
    return Sites(jnp.where(unknown, own.mean, weighted / precision), jnp.where(unknown, own.variance, 1.0 / precision))


def evidence_of_sites(found: Messages, sites: Sites, observed: Array, scored: Array) -> Array:
    """Return what has to be added to the tilted log evidences for the log density of the trace, (T, N).

    The density of the trace under the sites, frame by frame, over that of the sites under the cavities.
    """
    ahead = normal_log_density(found.error - sites.mean, found.error_variance + sites.variance)
    apart = normal_log_density(found.cavity_mean - sites.mean, found.cavity_variance + sites.variance)
    return jnp.where(observed & scored, ahead, 0.0) - apart


# -- Parts ------------------------------------------------------------------------------------------------------------


def _prepare(
    y: ArrayLike, log_rate: ArrayLike, mask: ArrayLike | None, starts: ArrayLike | None
) -> tuple[Array, Array, Array, Array]:
    observed, filled = observed_and_filled(y, mask)
    marked = jnp.zeros(filled.shape[0], bool) if starts is None else jnp.asarray(starts, bool)
    log_rate = jnp.broadcast_to(jnp.asarray(log_rate, filled.dtype), filled.shape)
    return filled, observed, marked.at[0].set(True), log_rate


def _cast(params: CalciumNoisyParams, dtype: np.dtype) -> CalciumNoisyParams:
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), params)


def _dynamics(params: CalciumNoisyParams) -> Dynamics:
    return space.dynamics(
        jnp.asarray(params.ar_coefs),
        jnp.asarray(params.spike_amplitude),
        jnp.asarray(params.measurement_variance),
        jnp.asarray(params.baseline),
        None if params.drift_variance is None else jnp.asarray(params.drift_variance),
    )


def _tilt(window: int, params: CalciumNoisyParams, mean: Array, variance: Array, log_rate: Array) -> Tilted:
    amplitude, noise = (jnp.broadcast_to(jnp.asarray(a), mean.shape) for a in params[1:3])
    varied = params.amplitude_variance
    varied = None if varied is None else jnp.broadcast_to(jnp.asarray(varied), mean.shape)
    return poisson_tilt(window, mean, variance, log_rate, amplitude, noise, varied)


def _input_moments(params: CalciumNoisyParams, rate: Array) -> tuple[Array, Array]:
    """Return mean and variance of a frame's input at a rate per frame."""
    amplitude = jnp.asarray(params.spike_amplitude)
    of_a_spike = amplitude**2
    if params.amplitude_variance is not None:
        of_a_spike = of_a_spike + jnp.asarray(params.amplitude_variance)
    return amplitude * rate, jnp.asarray(params.noise_variance) + of_a_spike * rate


def _stationary(params: CalciumNoisyParams, log_rate: Array) -> Array:
    """Return the level that calcium settles at, (N,)."""
    through = jnp.asarray(params.spike_amplitude) * jnp.exp(log_rate)
    return through / (1.0 - jnp.asarray(params.ar_coefs).sum(axis=-1))


def _scored(observed: Array, marked: Array, order: int) -> Array:
    """Mark observed samples with ``order`` observed ones before them in their segment, gaps or not."""
    running = jnp.cumsum(observed, axis=0)
    before_segment = lax.cummax(jnp.where(marked[:, None], running - observed, 0), axis=0)
    return observed & (running - before_segment > order)


# -- Drawing and free parameters --------------------------------------------------------------------------------------


def sample(key: Array, log_rate: ArrayLike, params: CalciumNoisyParams, *, starts: ArrayLike | None = None) -> Sample:
    """Draw traces and spike counts at given rates, each (T, N).

    A segment's past is the stationary mean at its first frame's rate; a drifting baseline starts each at ``b``.
    """
    log_rate = jnp.asarray(log_rate)
    params = _cast(params, log_rate.dtype)
    keys = jax.random.split(key, 4)
    rate = jnp.exp(log_rate)
    counts = jax.random.poisson(keys[0], rate).astype(rate.dtype)
    variance = jnp.asarray(params.noise_variance)
    if params.amplitude_variance is not None:
        variance = variance + counts * params.amplitude_variance
    noise = jax.random.normal(keys[1], rate.shape, rate.dtype) * jnp.sqrt(variance)
    amplitude = jnp.asarray(params.spike_amplitude)
    calcium = autoregress(amplitude * counts + noise, amplitude * rate, params.ar_coefs, starts)
    level = params.baseline + _walk(keys[2], params.drift_variance, rate, starts)
    white = jax.random.normal(keys[3], rate.shape, rate.dtype) * jnp.sqrt(jnp.asarray(params.measurement_variance))
    return Sample(calcium + level + white, counts)


def _walk(key: Array, variance: ArrayLike | None, like: Array, starts: ArrayLike | None) -> Array | float:
    if variance is None:
        return 0.0
    steps = jax.random.normal(key, like.shape, like.dtype) * jnp.sqrt(jnp.asarray(variance))
    walk = jnp.cumsum(steps, axis=0)
    marked = jnp.zeros(like.shape[0], bool) if starts is None else jnp.asarray(starts, bool)
    last_start = lax.cummax(jnp.where(marked, jnp.arange(like.shape[0]), 0))
    return walk - (walk - steps)[last_start]


def constrain(unconstrained: dict[str, Array]) -> CalciumNoisyParams:
    """Return parameters from unconstrained arrays: stable autoregression, positive amplitude and variances."""
    optional = {
        name: positive(unconstrained[name], VARIANCE_FLOOR)
        for name in ("amplitude_variance", "drift_variance")
        if name in unconstrained
    }
    return CalciumNoisyParams(
        stable_ar(unconstrained["ar_coefs"]),
        positive(unconstrained["spike_amplitude"], AMPLITUDE_FLOOR),
        positive(unconstrained["noise_variance"], VARIANCE_FLOOR),
        positive(unconstrained["measurement_variance"], VARIANCE_FLOOR),
        jnp.asarray(unconstrained["baseline"]),
        **optional,
    )


def unconstrain(params: CalciumNoisyParams) -> dict[str, Array]:
    """Invert `constrain`; parameters that are None have no entry."""
    free = {
        "ar_coefs": unconstrain_ar(params.ar_coefs),
        "spike_amplitude": free_from_positive(params.spike_amplitude, AMPLITUDE_FLOOR),
        "noise_variance": free_from_positive(params.noise_variance, VARIANCE_FLOOR),
        "measurement_variance": free_from_positive(params.measurement_variance, VARIANCE_FLOOR),
        "baseline": jnp.asarray(params.baseline),
    }
    for name in ("amplitude_variance", "drift_variance"):
        value = getattr(params, name)
        if value is not None:
            free[name] = free_from_positive(value, VARIANCE_FLOOR)
    return free
