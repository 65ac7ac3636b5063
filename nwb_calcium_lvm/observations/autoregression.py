"""The autoregressive part that the calcium models share: lags, which samples have a full past, stable coefficients.

Symbols: ``t`` frame, ``n`` neuron (ROI), ``p`` order, ``alpha`` (N, p) autoregressive coefficients, most recent lag
first, so that ``y_t = sum_i alpha_i y_{t-i} + ...``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike


def lagged(y: ArrayLike, order: int) -> Array:
    """Stack the ``order`` previous samples of every sample.

    Parameters
    ----------
    y : (T, N) array
        Traces. Neither gaps nor trial borders are looked at: `usable` says where the result means something.
    order : int
        Number of lags p; 0 gives an empty first axis.

    Returns
    -------
    (p, T, N) array
        ``[i - 1, t]`` is ``y[t - i]``, zero before the start.
    """
    y = jnp.asarray(y)
    shifted = [jnp.zeros_like(y).at[lag:].set(y[:-lag]) for lag in range(1, order + 1)]
    return jnp.stack(shifted) if shifted else jnp.zeros((0, *y.shape), y.dtype)


def usable(mask: ArrayLike, order: int, starts: ArrayLike | None = None) -> Array:
    """Mark the samples whose density given the past is defined.

    Parameters
    ----------
    mask : (T, N) array of bool
        True where the sample was observed.
    order : int
        Autoregressive order p.
    starts : (T,) array of bool, optional
        True at the first frame of every segment (trial, or piece after a break of the clock); the first frame is
        one whether or not it is marked.

    Returns
    -------
    (T, N) array of bool
        True where the sample and its p predecessors were observed and lie in one segment. The first p frames of a
        segment are thus conditioned on, not modelled, and one missing sample takes p + 1 samples out.
    """
    mask = jnp.asarray(mask, bool)
    ok = jnp.logical_and(mask, jnp.all(lagged(mask, order), axis=0))
    if starts is None or order == 0:
        return ok
    starts = jnp.asarray(starts, bool)[:, None]
    near_start = jnp.logical_or(starts, jnp.any(lagged(starts, order - 1), axis=0))
    return jnp.logical_and(ok, ~near_start)


def innovations(y: ArrayLike, ar_coefs: ArrayLike, intercept: ArrayLike) -> Array:
    """Subtract from every sample what its past and the intercept predict: ``e_t = y_t - sum_i alpha_i y_{t-i} - b``.

    Parameters
    ----------
    y : (T, N) array
        Traces, finite everywhere (put any finite number where samples are missing).
    ar_coefs : (N, p) array
        Autoregressive coefficients, per frame.
    intercept : (N,) array
        Intercept b, in units of `y`.

    Returns
    -------
    (T, N) array
        Innovations in units of `y`; meaningful where `usable` is true.
    """
    y, ar_coefs = jnp.asarray(y), jnp.asarray(ar_coefs)
    # A sum of products and no matrix product: accelerators may round the factors of those to fewer bits.
    predicted = jnp.sum(lagged(y, ar_coefs.shape[-1]) * ar_coefs.T[:, None, :], axis=0)
    return y - predicted - jnp.asarray(intercept)


@jax.jit
def autoregress(drive: ArrayLike, mean_drive: ArrayLike, ar_coefs: ArrayLike, starts: ArrayLike | None = None) -> Array:
    """Run ``y_t = sum_i alpha_i y_{t-i} + drive_t``.

    Parameters
    ----------
    drive : (T, N) array
        Everything that is not memory: intercept, spikes and noise, in units of the trace.
    mean_drive : (T, N) array
        Its mean. A segment starts from the past that this mean, held constant, would have led to.
    ar_coefs : (N, p) array
        Coefficients of a stable autoregression.
    starts : (T,) array of bool, optional
        True at the first frame of every segment.

    Returns
    -------
    (T, N) array
        Traces.
    """
    drive, mean_drive, ar_coefs = jnp.asarray(drive), jnp.asarray(mean_drive), jnp.asarray(ar_coefs)
    order = ar_coefs.shape[-1]
    marked = jnp.zeros(drive.shape[0], bool) if starts is None else jnp.asarray(starts, bool)
    stationary = mean_drive / (1 - jnp.sum(ar_coefs, axis=-1))

    def step(past: Array, frame: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        driven, is_start, level = frame
        past = jnp.where(is_start, level[:, None], past)
        y = jnp.sum(ar_coefs * past, axis=-1) + driven
        return jnp.concatenate([y[:, None], past], axis=-1)[:, :order], y

    past = jnp.zeros((drive.shape[1], order), drive.dtype)
    return jax.lax.scan(step, past, (drive, marked.at[0].set(True), stationary))[1]


def stable_ar(unconstrained: ArrayLike) -> Array:
    """Map free numbers to the coefficients of a stable autoregression.

    Parameters
    ----------
    unconstrained : (N, p) array
        Any real numbers.

    Returns
    -------
    (N, p) array
        Order 1: a pole in (0, 1), the logistic of the free number. Order 2: two real poles ``d`` and ``r`` with
        ``0 < r < d < 1`` (decay and rise, no oscillation). Higher orders: any stable autoregression, through its
        partial autocorrelations ``tanh(u)`` and the Durbin-Levinson recursion.
    """
    free = jnp.asarray(unconstrained)
    order = free.shape[-1]
    if order <= 1:
        return jax.nn.sigmoid(free)
    if order == 2:
        slow = jax.nn.sigmoid(free[..., 0])
        fast = slow * jax.nn.sigmoid(free[..., 1])
        return jnp.stack([slow + fast, -slow * fast], axis=-1)
    partial = jnp.tanh(free)
    coefs = partial[..., :1]
    for k in range(1, order):
        last = partial[..., k : k + 1]
        coefs = jnp.concatenate([coefs - last * coefs[..., ::-1], last], axis=-1)
    return coefs


def unconstrain_ar(ar_coefs: ArrayLike) -> Array:
    """Invert `stable_ar`.

    Parameters
    ----------
    ar_coefs : (N, p) array
        Coefficients. Those outside the range of `stable_ar` are moved to its border: complex poles (order 2) to their
        real part, poles or partial autocorrelations on or beyond the border a little inside it.

    Returns
    -------
    (N, p) array
        Unconstrained numbers, always finite for finite coefficients.
    """
    coefs = jnp.asarray(ar_coefs)
    order = coefs.shape[-1]
    if order <= 1:
        return _logit(coefs)
    if order == 2:
        half = coefs[..., 0] / 2
        spread = jnp.sqrt(jnp.maximum(half**2 + coefs[..., 1], 0.0))
        slow, fast = half + spread, half - spread
        # The ratio is to the pole that `stable_ar` will use, that is after clipping.
        free = _logit(slow)
        return jnp.stack([free, _logit(fast / jax.nn.sigmoid(free))], axis=-1)
    border = 1 - 4 * jnp.finfo(coefs.dtype).eps
    partial = []
    for k in range(order - 1, -1, -1):
        last = jnp.clip(coefs[..., k : k + 1], -border, border)
        partial.append(last)
        head = coefs[..., :k]
        coefs = (head + last * head[..., ::-1]) / (1 - last**2)
    return jnp.arctanh(jnp.concatenate(partial[::-1], axis=-1))


def _logit(probability: Array) -> Array:
    tiny = 4 * jnp.finfo(probability.dtype).eps
    inside = jnp.clip(probability, tiny, 1 - tiny)
    return jnp.log(inside) - jnp.log1p(-inside)


def poles(ar_coefs: ArrayLike) -> np.ndarray:
    """Return the poles of autoregressions, largest modulus first.

    Parameters
    ----------
    ar_coefs : (N, p) array
        Coefficients.

    Returns
    -------
    (N, p) NumPy array of complex
        Roots of ``z**p - alpha_1 z**(p-1) - ... - alpha_p``; stable if all lie inside the unit circle. Computed on the
        host in float64: this is for reports and checks, not for use inside ``jax.jit``.
    """
    coefs = np.asarray(ar_coefs, np.float64)
    order = coefs.shape[-1]
    companion = np.zeros((*coefs.shape[:-1], order, order))
    companion[..., 1:, :-1] = np.eye(max(order - 1, 0))
    if order:
        companion[..., 0, :] = coefs
    roots = np.linalg.eigvals(companion).astype(np.complex128)
    return np.take_along_axis(roots, np.argsort(-np.abs(roots), axis=-1, kind="stable"), axis=-1)


def decay_time(ar_coefs: ArrayLike) -> np.ndarray:
    """Return the decay time constant in frames, ``-1 / log`` of the largest pole's modulus.

    Parameters
    ----------
    ar_coefs : (N, p) array
        Coefficients.

    Returns
    -------
    (N,) NumPy array
        Frames (times the frame interval: seconds); infinite for a pole on or outside the unit circle, 0 for no memory.
    """
    moduli = np.abs(poles(ar_coefs))
    largest = moduli.max(axis=-1, initial=0.0)
    with np.errstate(divide="ignore"):
        return np.where(largest < 1, -1 / np.log(np.minimum(largest, 1.0)), np.inf)
