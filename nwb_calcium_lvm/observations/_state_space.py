"""Linear calcium behind measurement noise: forward and backward messages, and what they say of each frame's input.

The calcium of a neuron is a state ``X_t`` of d numbers, ``X_t = A X_{t-1} + e u_t + q_t``, where the scalar input
``u_t`` (spikes and process noise) enters the first of them, ``e = (1, 0, ..)``; a sample is ``y_t = b + h X_t + w_t``
with white noise of variance ``tau2``, and ``h e = 1``. Given a Gaussian stand-in for the law of every input (a *site*),
all is Gaussian: a Kalman filter runs forward, an information filter backward, and together they give the *cavity* of an
input, ``Normal(u_t; mean, variance)``: what the whole trace says of it, its own law left out.

Matrices are kept as (d, d, N) and multiplied entry by entry: d is 1 to 3, and neurons are many.

References: Rauch, Tung and Striebel (1965); Minka (2001), Expectation propagation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

_VAGUE = 1e3  # variance of calcium before a segment, in squared spikes plus the noise's variance
_UNROLL = 4  # frames per turn of a loop over time


class Dynamics(NamedTuple):
    """How calcium goes on by itself, per neuron.

    Attributes
    ----------
    transition : (d, d, N) array
        A: the autoregression's companion matrix, and 1 for a drifting baseline, which is the last state.
    drift : (N,) array or None
        Variance of a step of the drifting baseline per frame; None: there is none.
    measurement_variance : (N,) array
        tau2, variance of the white noise on top of calcium.
    baseline : (N,) array
        b.
    vague : (N,) array
        Variance of calcium before a segment's first frame.
    """

    transition: Array
    drift: Array | None
    measurement_variance: Array
    baseline: Array
    vague: Array


class Sites(NamedTuple):
    """Gaussian stand-ins for the laws of the inputs: mean and variance, each (T, N)."""

    mean: Array
    variance: Array


class Tilted(NamedTuple):
    """What a law of the input makes of what is otherwise known of it, ``Normal(u; mean, variance)``.

    Attributes
    ----------
    log_evidence : array
        Log of the integral of the law over that normal density, nats.
    count_mean, count_variance : array
        Posterior moments of the spike count.
    slope, curvature : array
        First derivative of `log_evidence` by the normal's mean, and minus the second: the input's posterior has mean
        ``mean + variance slope`` and variance ``variance (1 - variance curvature)``.
    """

    log_evidence: Array
    count_mean: Array
    count_variance: Array
    slope: Array
    curvature: Array


class State(NamedTuple):
    """Mean (d, N) and covariance (d, d, N) of the state."""

    mean: Array
    covariance: Array


class Messages(NamedTuple):
    """What forward and backward messages say, each (T, N).

    Attributes
    ----------
    cavity_mean, cavity_variance : array
        Of each input, given the whole trace and all other inputs' sites.
    error, error_variance : array
        Of the sample against its prediction from the past, the frame's own input left out.
    calcium_mean, calcium_variance : array
        Of ``h X_t``, given the whole trace and all sites; without the baseline ``b``.
    """

    cavity_mean: Array
    cavity_variance: Array
    error: Array
    error_variance: Array
    calcium_mean: Array
    calcium_variance: Array


def dynamics(
    ar_coefs: Array,
    spike_amplitude: Array,
    measurement_variance: Array,
    baseline: Array,
    drift: Array | None,
) -> Dynamics:
    """Build :class:`Dynamics` from parameters per neuron; ``ar_coefs`` (N, p)."""
    n_neurons, order = ar_coefs.shape
    size = order + (drift is not None)
    transition = jnp.zeros((size, size, n_neurons), ar_coefs.dtype).at[0, :order].set(ar_coefs.T)
    for i in range(1, order):
        transition = transition.at[i, i - 1].set(1.0)
    if drift is not None:
        transition = transition.at[-1, -1].set(1.0)
    vague = _VAGUE * (spike_amplitude**2 + measurement_variance)
    return Dynamics(transition, drift, measurement_variance, baseline, vague)


# -- One frame --------------------------------------------------------------------------------------------------------


def seen(parts: Array, drifts: bool) -> Array:
    """Return h applied to the first axis: calcium, and the drift of the baseline where there is one."""
    return parts[0] + parts[-1] if drifts else parts[0]


def before(dyn: Dynamics, level: Array) -> State:
    """Return the state before a segment's first frame: somewhere around ``level`` (N,)."""
    size, _, n_neurons = dyn.transition.shape
    order = size - (dyn.drift is not None)
    mean = jnp.zeros((size, n_neurons), level.dtype).at[:order].set(level)
    covariance = jnp.zeros((size, size, n_neurons), level.dtype)
    for i in range(order):
        covariance = covariance.at[i, i].set(dyn.vague)
    if dyn.drift is not None:
        covariance = covariance.at[-1, -1].set(100.0 * dyn.drift)
    return State(mean, covariance)


def predict(dyn: Dynamics, state: State) -> State:
    """Go on by one frame, without input."""
    mean = (dyn.transition * state.mean[None]).sum(axis=1)
    half = _product(dyn.transition, state.covariance)
    covariance = _product(half, jnp.swapaxes(dyn.transition, 0, 1))
    if dyn.drift is not None:
        covariance = covariance.at[-1, -1].add(dyn.drift)
    return State(mean, covariance)


def innovation(dyn: Dynamics, predicted: State, y: Array) -> tuple[Array, Array]:
    """Return what the sample says of the frame's input given the past: mean and variance, each (N,)."""
    drifts = dyn.drift is not None
    error = y - dyn.baseline - seen(predicted.mean, drifts)
    return error, dyn.measurement_variance + seen(seen(predicted.covariance, drifts), drifts)


def update(dyn: Dynamics, predicted: State, error: Array, variance: Array, slope: Array, curvature: Array) -> State:
    """Take in a frame's sample and the law of its input (see :class:`Tilted`), keeping mean and covariance."""
    gain = seen(jnp.swapaxes(predicted.covariance, 0, 1), dyn.drift is not None) / variance
    left = -gain.at[0].add(-1.0)  # what an input moves the state by, once the sample is known
    mean = (predicted.mean + left * (variance * slope)).at[0].add(error)
    spread = variance * (1.0 - variance * curvature)
    covariance = predicted.covariance - _outer(gain) * variance + _outer(left) * spread
    return State(mean, covariance)


def enter(predicted: State, mean: Array, variance: Array) -> State:
    """Add an input of that mean and variance, where there is no sample."""
    return State(predicted.mean.at[0].add(mean), predicted.covariance.at[0, 0].add(variance))


def _product(a: Array, b: Array) -> Array:
    return (a[:, :, None] * b[None]).sum(axis=1)


def _outer(a: Array) -> Array:
    return a[:, None] * a[None]


# -- All frames -------------------------------------------------------------------------------------------------------


def messages(dyn: Dynamics, y: Array, observed: Array, starts: Array, sites: Sites) -> Messages:
    """Run both filters and combine them.

    Parameters
    ----------
    dyn : Dynamics
    y : (T, N) array
        Traces, finite everywhere.
    observed : (T, N) array of bool
        True where the sample counts.
    starts : (T,) array of bool
        True at the first frame of every segment; also at frame 0.
    sites : Sites
        Stand-ins for the laws of the inputs, variances positive.
    """
    predicted, error, error_variance = _forward(dyn, y, observed, starts, sites)
    precision, information = _backward(dyn, y, observed, starts, sites)
    drifts = dyn.drift is not None
    # Frames first: (T, d, N) and (T, d, d, N) become lists of (T, N).
    mean, covariance = _vector(predicted.mean), _matrix(predicted.covariance)
    precision, information = _matrix(precision), _vector(information)
    cavity_mean, cavity_variance = _cavity(mean, covariance, precision, information)
    with_input = [list(row) for row in covariance]
    with_input[0][0] = with_input[0][0] + sites.variance
    moved = [mean[0] + sites.mean, *mean[1:]]
    calcium = _smoothed(moved, with_input, precision, information, drifts)
    return Messages(cavity_mean, cavity_variance, error, error_variance, *calcium)


def _forward(dyn: Dynamics, y: Array, observed: Array, starts: Array, sites: Sites) -> tuple[State, Array, Array]:
    """Return predictions without the frame's own input, and the sample's error and its variance, for all frames."""
    rest = before(dyn, jnp.zeros_like(dyn.baseline))

    def step(state: State, frame: tuple[Array, Array, Array, Array, Array]) -> tuple[State, Any]:
        sample, is_seen, is_start, mean, variance = frame
        state = jax.tree.map(lambda new, old: jnp.where(is_start, new, old), rest, state)
        predicted = predict(dyn, state)
        error, spread = innovation(dyn, predicted, sample)
        total = spread + variance
        with_sample = update(dyn, predicted, error, spread, (mean - error) / total, 1.0 / total)
        without = enter(predicted, mean, variance)
        state = jax.tree.map(lambda a, b: jnp.where(is_seen, a, b), with_sample, without)
        return state, (predicted, error, spread)

    _, out = lax.scan(step, rest, (y, observed, starts, sites.mean, sites.variance), unroll=_UNROLL)
    return out


def _backward(dyn: Dynamics, y: Array, observed: Array, starts: Array, sites: Sites) -> tuple[Array, Array]:
    """Return what a frame's sample and later ones say of its state: precision (T, d, d, N), and that times the mean."""
    drifts = dyn.drift is not None
    size, _, n_neurons = dyn.transition.shape
    h = jnp.zeros((size, 1), y.dtype).at[0].set(1.0)
    h = h.at[-1].set(1.0) if drifts else h
    back = jnp.swapaxes(dyn.transition, 0, 1)

    def step(later: tuple[Array, Array], frame: tuple[Array, Array, Array, Array, Array]) -> tuple[Any, Any]:
        sample, is_seen, is_start, mean, variance = frame
        precision, information = later
        weight = jnp.where(is_seen, 1.0 / dyn.measurement_variance, 0.0)
        precision = precision + _outer(h) * weight
        information = information + h * (weight * (sample - dyn.baseline))
        here = (precision, information)
        precision, information = _forget(precision, information, 0, mean, variance)
        if dyn.drift is not None:
            precision, information = _forget(precision, information, size - 1, 0.0, dyn.drift)
        precision = _product(_product(back, precision), dyn.transition)
        information = (back * information[None]).sum(axis=1)
        # What precedes a segment's first frame learns nothing from it.
        earlier = (jnp.where(is_start, 0.0, precision), jnp.where(is_start, 0.0, information))
        return earlier, here

    nothing = (jnp.zeros((size, size, n_neurons), y.dtype), jnp.zeros((size, n_neurons), y.dtype))
    frames = (y, observed, starts, sites.mean, sites.variance)
    _, out = lax.scan(step, nothing, frames, reverse=True, unroll=_UNROLL)
    return out


def _forget(precision: Array, information: Array, i: int, mean: Any, variance: Array) -> tuple[Array, Array]:
    """Integrate an input of that mean and variance out of the i-th state."""
    column = precision[:, i]
    information = information - column * mean
    share = variance / (1.0 + variance * precision[i, i])
    return precision - _outer(column) * share, information - column * (share * information[i])


# -- Where the two meet -----------------------------------------------------------------------------------------------

Entries = list[Array]
Rows = list[list[Array]]


def _vector(a: Array) -> Entries:
    return [a[:, i] for i in range(a.shape[1])]


def _matrix(a: Array) -> Rows:
    return [[a[:, i, j] for j in range(a.shape[2])] for i in range(a.shape[1])]


def _cavity(mean: Entries, covariance: Rows, precision: Rows, information: Entries) -> tuple[Array, Array]:
    """Return mean and variance of the input: the state is ``mean + e u + noise``, the rest of the trace has a say.

    With P the covariance, L the precision: the state but for the input integrated out leaves ``(1 + L P)^-1 L``.
    """
    row = _solve_transposed(_one_plus(precision, covariance), 0)
    weight = sum((r * line[0] for r, line in zip(row, precision, strict=True)), jnp.zeros_like(mean[0]))
    surprise = [x - _dot(line, mean) for x, line in zip(information, precision, strict=True)]
    # Nothing may be known of an input: the last frame's, if it is not observed.
    weight = jnp.maximum(weight, jnp.finfo(weight.dtype).tiny ** 0.25)
    return _dot(row, surprise) / weight, 1.0 / weight


def _smoothed(
    mean: Entries, covariance: Rows, precision: Rows, information: Entries, drifts: bool
) -> tuple[Array, Array]:
    """Return mean and variance of ``h X``: a state of that mean and covariance, and the later trace."""
    surprise = [x - _dot(line, mean) for x, line in zip(information, precision, strict=True)]
    system = _one_plus(precision, covariance)
    total = mean[0] + mean[-1] if drifts else mean[0]
    ahead = [line[0] + line[-1] if drifts else line[0] for line in covariance]  # P h
    # (1 + P L)^-1 P h, by the transpose of (1 + L P)
    gain = _solve_full(_transpose(system), ahead)
    variance = gain[0] + gain[-1] if drifts else gain[0]
    return total + _dot(gain, surprise), jnp.maximum(variance, 0.0)


def _dot(a: Entries, b: Entries) -> Array:
    return sum((x * y for x, y in zip(a[1:], b[1:], strict=True)), a[0] * b[0])


def _transpose(a: Rows) -> Rows:
    return [list(column) for column in zip(*a, strict=True)]


def _one_plus(a: Rows, b: Rows) -> Rows:
    """1 + A B."""
    columns = _transpose(b)
    return [[_dot(line, column) + float(i == j) for j, column in enumerate(columns)] for i, line in enumerate(a)]


def _solve_transposed(a: Rows, i: int) -> Entries:
    """Return the i-th row of the inverse of A."""
    unit = [jnp.full_like(a[0][0], float(j == i)) for j in range(len(a))]
    return _solve_full(_transpose(a), unit)


def _solve_full(a: Rows, b: Entries) -> Entries:
    """Solve A x = b by elimination, written out; the pivots of 1 + A B with both positive are at least about 1."""
    a, b = [list(line) for line in a], list(b)
    size = len(b)
    for k in range(size):
        for i in range(k + 1, size):
            factor = a[i][k] / a[k][k]
            for j in range(k + 1, size):
                a[i][j] = a[i][j] - factor * a[k][j]
            b[i] = b[i] - factor * b[k]
    for k in range(size - 1, -1, -1):
        rest = sum((a[k][j] * b[j] for j in range(k + 1, size)), jnp.zeros_like(b[k]))
        b[k] = (b[k] - rest) / a[k][k]
    return b
