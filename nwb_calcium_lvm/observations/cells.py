"""Calcium parameters of single cells: the most probable ones under the filter of `calcium_noisy`.

Recordings are cut into pieces of one length, each with some frames before it to settle the filter, and all pieces of
all cells are filtered side by side: few steps in time and one compilation, whatever the recording's length.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.special import gammaln

from nwb_calcium_lvm.observations import calcium_noisy, starting
from nwb_calcium_lvm.observations._climb import descend
from nwb_calcium_lvm.observations.autoregression import stable_ar, unconstrain_ar
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams, Posterior
from nwb_calcium_lvm.observations.pieces import Cut, Pieces, bucket

log = logging.getLogger(__name__)

_LENGTHS = (128, 256, 512, 1024)  # frames of a piece
_BEFORE = 64  # frames before each piece that are filtered and not scored
_LANES = 2048  # pieces side by side
_FLOOR = 1e-7  # of variances, in variances of the trace
_STEP = 1e-3  # of the differences of gradients that give standard errors
_SETTLE = 256  # frames on each side of a piece that is smoothed
_SAMPLES = 2_000_000  # smoothed side by side, some 30 numbers each
_WINDOW = 9  # counts summed; noise of sd up to a spike


class CellPrior(NamedTuple):
    """Weak beliefs about a cell, normal in logarithms: mean and standard deviation of each.

    Attributes
    ----------
    decay, rise : (float, float)
        Of the logs of the decay and rise times, in frames.
    rate : (float, float)
        Of the log of spikes per frame; not used where rates are given.
    amplitude : float
        Standard deviation of the log of the spike amplitude around its starting value.
    """

    decay: tuple[float, float] = (np.log(10.0), 2.0)
    rise: tuple[float, float] = (np.log(2.0), 1.0)
    rate: tuple[float, float] = (np.log(0.05), 2.0)
    amplitude: float = 1.0


class CellFit(NamedTuple):
    """Parameters of cells, and how they were found.

    Attributes
    ----------
    params : CalciumNoisyParams
        In units of the traces.
    log_rate : (N,) array
        Log of the expected spikes per frame, if it was looked for; else NaN.
    errors : dict of str to (N, ...) array, or None
        Standard error of each parameter by its name (and of ``rate``), from the curvature at the optimum.
    log_likelihood : (N,) array
        Nats of the pieces that were looked at, per scored sample.
    converged : (N,) array of bool
    n_calls : int
        Evaluations of the filter and its gradient.
    """

    params: CalciumNoisyParams
    log_rate: NDArray[np.floating]
    errors: dict[str, NDArray[np.floating]] | None
    log_likelihood: NDArray[np.floating]
    converged: NDArray[np.bool_]
    n_calls: int


class CellPosterior(NamedTuple):
    """What whole traces say, each (time, roi): the fields of `calcium_noisy.Posterior`, as NumPy arrays."""

    count_mean: NDArray[np.floating]
    count_variance: NDArray[np.floating]
    input_mean: NDArray[np.floating]
    calcium_mean: NDArray[np.floating]
    calcium_variance: NDArray[np.floating]
    cavity_mean: NDArray[np.floating]
    cavity_variance: NDArray[np.floating]
    log_evidence: NDArray[np.floating]


class Layout(NamedTuple):
    """Which columns of the unknowns (N, P) hold what; static. Optional ones are -1."""

    order: int
    rate: int
    vary: int
    drift: int

    @property
    def size(self) -> int:
        """Number of unknowns of a cell."""
        return self.order + 4 + (self.rate >= 0) + (self.vary >= 0) + (self.drift >= 0)


def fit_cells(
    y: NDArray[np.floating],
    mask: NDArray[np.bool_],
    first: NDArray[np.integer],
    *,
    ar_order: int = 1,
    log_rate: NDArray[np.floating] | None = None,
    start: CalciumNoisyParams | None = None,
    prior: CellPrior | None = None,
    vary_amplitude: bool = False,
    drift: bool = False,
    max_calls: int = 80,
    tolerance: float = 1e-6,
    max_frames: int = 30_000,
    errors: bool = False,
) -> CellFit:
    """Find the calcium parameters of every cell.

    Parameters
    ----------
    y : ndarray, shape (time, roi)
        Traces.
    mask : ndarray of bool, shape (time, roi)
        True where observed.
    first : ndarray of int
        First frame of every segment.
    ar_order : {1, 2}
        Order of the autoregression.
    log_rate : ndarray, shape (time, roi), optional
        Log of the expected spikes per frame. Default: one unknown rate per cell.
    start : CalciumNoisyParams, optional
        Where to start, in units of the traces. Default: :func:`start_cells`.
    prior : CellPrior, optional
        Default: a weak one.
    vary_amplitude, drift : bool
        Whether spikes vary in amplitude, and whether the baseline wanders.
    max_calls : int
        Most evaluations of the filter.
    tolerance : float
        A cell has settled when a step gains less than this, in nats per scored sample.
    max_frames : int
        Of longer recordings, evenly spaced pieces of this many frames in all are looked at.
    errors : bool
        Compute standard errors too.

    Returns
    -------
    CellFit
    """
    prior = prior or CellPrior()
    with jax.enable_x64(True):
        scaled, middle, sd = starting.standardise(np.asarray(y, float), mask)
        if start is None:
            begin, rate = start_cells(scaled, mask, first, ar_order, prior, vary_amplitude=vary_amplitude, drift=drift)
        else:
            begin, rate = rescaled(start, -middle / sd, 1.0 / sd), np.full(y.shape[1], 0.05)
        layout = _layout(ar_order, log_rate is None, vary_amplitude, drift)
        unknowns = _pack(begin, np.log(rate), layout)
        n_rois = y.shape[1]
        cut = Cut(len(y), first, _LENGTHS, _BEFORE, max_frames=max_frames)
        block = max(1, _LANES // cut.n_pieces)
        found = [
            _fit_block(
                cut.take(scaled, mask, log_rate, np.arange(a, min(a + block, n_rois)), min(block, bucket(n_rois))),
                unknowns[a : a + block],
                layout,
                prior,
                max_calls,
                tolerance,
                errors,
            )
            for a in range(0, n_rois, block)
        ]
        at, values, settled, calls, spread = (list(column) for column in zip(*found, strict=True))
        at = np.concatenate(at)
        params, rates = jax.tree.map(np.asarray, _unpack(at, layout))
    params = rescaled(params, middle, sd)
    likelihood = np.concatenate(values) - np.log(sd)
    return CellFit(
        params,
        rates if log_rate is None else np.full(n_rois, np.nan),
        _errors(at, np.concatenate(spread), layout, sd) if errors else None,
        likelihood,
        np.concatenate(settled),
        int(np.sum(calls)),
    )


def start_cells(
    y: NDArray[np.floating],
    mask: NDArray[np.bool_],
    first: NDArray[np.integer],
    ar_order: int,
    prior: CellPrior,
    *,
    vary_amplitude: bool = False,
    drift: bool = False,
) -> tuple[CalciumNoisyParams, NDArray[np.floating]]:
    """Return starting parameters and spikes per frame (roi,) of standardised traces, without iterating.

    The autoregression from autocovariances at lags that white noise leaves alone; the noise of the residual from its
    lower half, split by its autocovariance at lag 1, ``-alpha tau2``; amplitude and rate from variance and skew above.
    """
    ar_coefs = np.array([_within(coefs, prior) for coefs in starting.ar_start(y, mask, first, ar_order)])
    e, kept = starting.residual(y, mask, first, ar_coefs)
    intercept, amplitude, noise = starting.spike_start(e, kept)
    centred = np.where(kept, e - e.sum(axis=0) / np.maximum(kept.sum(axis=0), 1), 0.0).astype(float)
    both = kept[1:] & kept[:-1]
    lagged = (centred[1:] * centred[:-1] * both).sum(axis=0) / np.maximum(both.sum(axis=0), 1)
    gain = 1.0 + (ar_coefs**2).sum(axis=1)  # variance of the residual per variance of white noise on the trace
    white = np.clip(-lagged / np.maximum(ar_coefs[:, 0], 0.1), 0.1 * noise / gain, 0.9 * noise / gain)
    inside = np.maximum(noise - gain * white, 0.02 * noise)
    spread = np.where(kept, centred**2, 0.0).sum(axis=0) / np.maximum(kept.sum(axis=0), 1)
    rate = np.clip((spread - noise) / amplitude**2, 1e-3, 3.0)
    left = np.maximum(1.0 - ar_coefs.sum(axis=1), 0.02)
    params = CalciumNoisyParams(
        ar_coefs,
        amplitude,
        inside,
        white,
        np.clip(intercept / left, -2.0, 1.0),
        0.1 * amplitude**2 if vary_amplitude else None,
        np.full(len(amplitude), 1e-5) if drift else None,
    )
    return params, rate


@partial(jax.jit, static_argnames="window")
def _posterior(pieces: Pieces, log_rate: Array, params: CalciumNoisyParams, window: int) -> Posterior:
    def one(y: Array, observed: Array, log_rate: Array, starts: Array) -> Posterior:
        return calcium_noisy.posterior(y, log_rate, params, observed, starts=starts, window=window)

    return jax.vmap(one, in_axes=1, out_axes=1)(pieces.y, pieces.observed, log_rate, pieces.starts)


def infer_cells(
    y: NDArray[np.floating],
    mask: NDArray[np.bool_],
    first: NDArray[np.integer],
    params: CalciumNoisyParams,
    log_rate: NDArray[np.floating],
    *,
    window: int = calcium_noisy.WINDOW,
) -> CellPosterior:
    """Return spike counts and calcium given whole traces, as float32 arrays (time, roi).

    Parameters
    ----------
    y, mask, first
        As in :func:`fit_cells`.
    params : CalciumNoisyParams
        In units of the traces.
    log_rate : ndarray, shape (roi,) or (time, roi)
        Log of the expected spikes per frame.
    window : int
        Number of counts summed.
    """
    n_frames, n_rois = y.shape
    cut = Cut(n_frames, first, (256, 1024, 4096), _SETTLE, _SETTLE)
    block = max(1, _SAMPLES // (cut.n_pieces * len(cut.frames)))
    per_frame = np.broadcast_to(log_rate, y.shape)
    out = [np.empty(y.shape, np.float32) for _ in CellPosterior._fields]
    with jax.enable_x64(True):
        for a in range(0, n_rois, block):
            rois = np.arange(a, min(a + block, n_rois))
            width = min(block, bucket(n_rois))
            pieces = cut.take(np.asarray(y, float), mask, per_frame, rois, width)
            padded = np.concatenate([rois, np.full(width - len(rois), rois[-1])])
            found = _posterior(pieces, pieces.log_rate, jax.tree.map(lambda p, at=padded: p[at], params), window)
            for target, part in zip(out, found, strict=True):
                target[:, rois] = cut.join(np.asarray(part))[:, : len(rois)]
    return CellPosterior(*out)


def _within(ar_coefs: NDArray[np.floating], prior: CellPrior) -> NDArray[np.floating]:
    """Move the time constants to within a factor of 5 of what is believed; the rise, which noise hides, right there."""
    poles = np.sort(np.roots(np.concatenate([[1.0], -ar_coefs])).real)[::-1]
    poles = np.concatenate([poles, np.zeros(len(ar_coefs) - len(poles))])
    decay = np.exp(prior.decay[0])
    poles[0] = np.clip(poles[0], np.exp(-5.0 / decay), np.exp(-0.2 / decay))
    if len(poles) > 1:
        poles[1] = min(np.exp(-1.0 / np.exp(prior.rise[0])), 0.9 * poles[0])
    return -np.poly(poles)[1:]


def count_limits(
    posterior: CellPosterior, params: CalciumNoisyParams, log_rate: NDArray[np.floating], alpha: float
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return the ends of a central interval of the spike counts that holds at least 1 - alpha, each (time, roi).

    The posterior of a count is the product of its Poisson law and the cavity, which :func:`infer_cells` returns.

    Parameters
    ----------
    posterior : CellPosterior
    params : CalciumNoisyParams
    log_rate : ndarray, shape (roi,)
    alpha : float
        Share outside.
    """
    mean, total = np.asarray(posterior.cavity_mean, float), np.asarray(posterior.cavity_variance, float)
    total = total + np.asarray(params.noise_variance)
    varied = 0.0 if params.amplitude_variance is None else np.asarray(params.amplitude_variance)
    amplitude = np.asarray(params.spike_amplitude)
    likely = posterior.count_mean + 6.0 * np.sqrt(posterior.count_variance) + 2.0
    largest = int(np.ceil(np.max(likely, initial=2.0)))

    def log_weight(count: int) -> NDArray[np.floating]:
        spread = total + count * varied
        poisson = count * log_rate - gammaln(count + 1.0)
        return poisson - 0.5 * ((mean - amplitude * count) ** 2 / spread + np.log(spread))

    reference = log_weight(0)
    for count in range(1, largest + 1):
        reference = np.maximum(reference, log_weight(count))
    whole = sum(np.exp(log_weight(count) - reference) for count in range(largest + 1))
    low, high = np.full(mean.shape, np.nan), np.full(mean.shape, float(largest))
    share = np.zeros(mean.shape)
    for count in range(largest + 1):
        share = share + np.exp(log_weight(count) - reference) / whole
        low = np.where(np.isnan(low) & (share >= alpha / 2), count, low)
        high = np.where((share >= 1 - alpha / 2) & (high > count), count, high)
    return low, high


# -- Unknowns ---------------------------------------------------------------------------------------------------------


def _layout(order: int, rate: bool, vary: bool, drift: bool) -> Layout:
    columns = iter(range(order + 4, order + 7))
    return Layout(order, *(next(columns) if wanted else -1 for wanted in (rate, vary, drift)))


def _pack(params: CalciumNoisyParams, log_rate: NDArray[np.floating], layout: Layout) -> NDArray[np.floating]:
    positive = [params.spike_amplitude, params.noise_variance, params.measurement_variance]
    columns = [np.asarray(unconstrain_ar(params.ar_coefs)).T, *(np.log(np.maximum(p, _FLOOR))[None] for p in positive)]
    columns.append(np.asarray(params.baseline)[None])
    optional = {layout.rate: log_rate}
    if layout.vary >= 0:
        optional[layout.vary] = np.log(np.maximum(np.asarray(params.amplitude_variance), _FLOOR))
    if layout.drift >= 0:
        optional[layout.drift] = np.log(np.maximum(np.asarray(params.drift_variance), _FLOOR))
    columns += [np.asarray(optional[i])[None] for i in sorted(optional) if i >= 0]
    return np.concatenate(columns).T.astype(float)


def _unpack(unknowns: Any, layout: Layout) -> tuple[CalciumNoisyParams, Any]:
    """Return parameters and log rates (N,) of unknowns (N, P)."""
    p = layout.order
    above = [jnp.exp(unknowns[:, p + i]) for i in range(3)]
    params = CalciumNoisyParams(
        stable_ar(unknowns[:, :p]),
        above[0],
        _FLOOR + above[1],
        _FLOOR + above[2],
        unknowns[:, p + 3],
        jnp.exp(unknowns[:, layout.vary]) if layout.vary >= 0 else None,
        jnp.exp(unknowns[:, layout.drift]) if layout.drift >= 0 else None,
    )
    return params, unknowns[:, layout.rate] if layout.rate >= 0 else None


def rescaled(params: CalciumNoisyParams, shift: Any, scale: Any) -> CalciumNoisyParams:
    """Return the parameters of ``shift + scale y``."""
    squared = scale**2
    return CalciumNoisyParams(
        np.asarray(params.ar_coefs),
        np.asarray(params.spike_amplitude) * scale,
        np.asarray(params.noise_variance) * squared,
        np.asarray(params.measurement_variance) * squared,
        np.asarray(params.baseline) * scale + shift,
        None if params.amplitude_variance is None else np.asarray(params.amplitude_variance) * squared,
        None if params.drift_variance is None else np.asarray(params.drift_variance) * squared,
    )


# -- The function that is minimised -----------------------------------------------------------------------------------


def _fit_block(
    pieces: Pieces,
    unknowns: NDArray[np.floating],
    layout: Layout,
    prior: CellPrior,
    max_calls: int,
    tolerance: float,
    errors: bool,
) -> tuple[Any, ...]:
    n_cells, width = len(unknowns), pieces.y.shape[2]
    padded = np.concatenate([unknowns, np.repeat(unknowns[-1:], width - n_cells, axis=0)])
    around = jnp.asarray(padded[:, layout.order])

    def function(at: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        value, gradient = _value_and_gradient(jnp.asarray(at), pieces, around, layout, prior)
        return np.asarray(value), np.asarray(gradient)

    n_samples = np.maximum(np.asarray((pieces.observed & pieces.inner[:, :, None]).sum(axis=(0, 1))), 1)
    found = descend(function, padded, tolerance * n_samples, max_calls)
    log.debug("%d cells in %d calls, %d settled", n_cells, found.n_calls, found.settled[:n_cells].sum())
    curvature = _curvature(function, found.unknowns) if errors else np.zeros((width, 0))
    likelihood = -np.asarray(_negative_likelihood(jnp.asarray(found.unknowns), pieces, layout)) / n_samples
    return (
        found.unknowns[:n_cells],
        likelihood[:n_cells],
        found.settled[:n_cells],
        found.n_calls,
        curvature[:n_cells],
    )


@partial(jax.jit, static_argnames="layout")
def _value_and_gradient(
    unknowns: Array, pieces: Pieces, around: Array, layout: Layout, prior: CellPrior
) -> tuple[Array, Array]:
    """Return minus the log posterior of every cell (N,), and its gradient (N, P)."""

    def total(unknowns: Array) -> tuple[Array, Array]:
        each = _negative_likelihood(unknowns, pieces, layout) - _log_prior(unknowns, around, layout, prior)
        return each.sum(), each  # no cell knows of another, so that the gradient of the sum is that of each

    (_, each), gradient = jax.value_and_grad(total, has_aux=True)(unknowns)
    return each, gradient


@partial(jax.jit, static_argnames="layout")
def _negative_likelihood(unknowns: Array, pieces: Pieces, layout: Layout) -> Array:
    params, rate = _unpack(unknowns, layout)
    n_frames, n_pieces, n_cells = pieces.y.shape
    log_rate = pieces.log_rate if rate is None else rate

    def one(y: Array, observed: Array, log_rate: Array, starts: Array, inner: Array) -> Array:
        nats = calcium_noisy.log_likelihood(y, log_rate, params, observed, starts=starts, window=_WINDOW)
        return -jnp.where(inner[:, None], nats, 0.0).sum(axis=0)

    log_rate = jnp.broadcast_to(log_rate, (n_frames, n_pieces, n_cells))
    return jax.vmap(one, in_axes=1)(pieces.y, pieces.observed, log_rate, pieces.starts, pieces.inner).sum(axis=0)


def _log_prior(unknowns: Array, around: Array, layout: Layout, prior: CellPrior) -> Array:
    p = layout.order
    nats = -0.5 * ((unknowns[:, p] - around) / prior.amplitude) ** 2
    if p <= 2:
        decay = jnp.log(-1.0 / jax.nn.log_sigmoid(unknowns[:, 0]))
        nats = nats - 0.5 * ((decay - prior.decay[0]) / prior.decay[1]) ** 2
    if p == 2:
        rise = jnp.log(-1.0 / (jax.nn.log_sigmoid(unknowns[:, 0]) + jax.nn.log_sigmoid(unknowns[:, 1])))
        nats = nats - 0.5 * ((rise - prior.rise[0]) / prior.rise[1]) ** 2
    if layout.rate >= 0:
        nats = nats - 0.5 * ((unknowns[:, layout.rate] - prior.rate[0]) / prior.rate[1]) ** 2
    # Variances that nothing asks for go to zero and would never arrive.
    vanishing = [p + 1, p + 2, *(i for i in (layout.vary, layout.drift) if i >= 0)]
    return nats - 0.5 * sum(((unknowns[:, i] + 5.0) / 5.0) ** 2 for i in vanishing)


# -- Standard errors --------------------------------------------------------------------------------------------------


def _curvature(function: Any, at: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the second derivatives (N, P, P), by central differences of gradients."""
    columns = []
    for i in range(at.shape[1]):
        shift = np.zeros_like(at)
        shift[:, i] = _STEP
        columns.append((function(at + shift)[1] - function(at - shift)[1]) / (2 * _STEP))
    found = np.stack(columns, axis=2)
    return 0.5 * (found + np.swapaxes(found, 1, 2))


def _errors(
    at: NDArray[np.floating], curvature: NDArray[np.floating], layout: Layout, sd: NDArray[np.floating]
) -> dict[str, NDArray[np.floating]]:
    """Return standard errors by name, in units of the traces; NaN where the optimum is not one."""
    values, vectors = np.linalg.eigh(np.nan_to_num(curvature))
    good = np.all(values > 0, axis=1)
    inverse = np.einsum("nij,nj,nkj->nik", vectors, 1.0 / np.where(values > 0, values, 1.0), vectors)
    p = layout.order
    with jax.enable_x64(True):
        slopes = np.asarray(jax.vmap(jax.jacobian(lambda u: stable_ar(u[None])[0]))(jnp.asarray(at[:, :p])))
    of_ar = np.einsum("nij,njk,nik->ni", slopes, inverse[:, :p, :p], slopes)
    free = np.sqrt(np.diagonal(inverse, axis1=1, axis2=2))
    found = {
        "ar_coefs": np.sqrt(of_ar),
        "spike_amplitude": np.exp(at[:, p]) * free[:, p] * sd,
        "noise_variance": np.exp(at[:, p + 1]) * free[:, p + 1] * sd**2,
        "measurement_variance": np.exp(at[:, p + 2]) * free[:, p + 2] * sd**2,
        "baseline": free[:, p + 3] * sd,
    }
    if layout.rate >= 0:
        found["rate"] = np.exp(at[:, layout.rate]) * free[:, layout.rate]
    if layout.vary >= 0:
        found["amplitude_variance"] = np.exp(at[:, layout.vary]) * free[:, layout.vary] * sd**2
    if layout.drift >= 0:
        found["drift_variance"] = np.exp(at[:, layout.drift]) * free[:, layout.drift] * sd**2
    return {name: np.where(good if v.ndim == 1 else good[:, None], v, np.nan) for name, v in found.items()}
