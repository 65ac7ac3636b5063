"""Stationary Gaussian-process priors of the latents, each of variance 1.

Symbols: ``l`` (D,) time scale of each latent in frames, ``tau`` lag in frames. The Matern kernels are those of linear
stochastic differential equations, so that a Kalman filter works with them at a cost linear in the number of frames:
the state of latent j is ``(x, x'/a, ...)``, with ``a = sqrt(2 nu) / l``, whose transition over a step of ``s = a tau``
is ``exp(-s) (I + N s + N^2 s^2 / 2)`` with a nilpotent ``N``. Scaling the derivatives by ``a`` keeps all entries of
order one for any time scale. The RBF kernel has no such form; its spectrum is for the Fourier engine.

Source: Hartikainen and Sarkka 2010 (Kalman filtering and smoothing solutions to temporal Gaussian process models).
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

MARKOV = ("matern32", "matern52")
KERNELS = (*MARKOV, "rbf")

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)
_SHORT = 2.0  # steps ``a tau`` up to which the noise is integrated; beyond, its difference form loses no digits


class _Form(NamedTuple):
    """Decay per time scale, drift (state, state) at ``a = 1``, stationary covariance, and spectral density."""

    decay: float
    drift: np.ndarray
    stationary: np.ndarray
    density: float


_FORMS = {
    "matern32": _Form(3.0**0.5, np.array([[0.0, 1.0], [-1.0, -2.0]]), np.eye(2), 4.0),
    "matern52": _Form(
        5.0**0.5,
        np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, -3.0, -3.0]]),
        np.array([[1.0, 0.0, -1 / 3], [0.0, 1 / 3, 0.0], [-1 / 3, 0.0, 1.0]]),
        16 / 3,
    ),
}


class Transitions(NamedTuple):
    """Exact discretisation for several lengths of step.

    Attributes
    ----------
    matrix : (K, p, p, D) array
        Transition of each latent's state (p numbers) over each of K steps.
    noise : (K, p, p, D) array
        Covariance of what the step adds.
    """

    matrix: Array
    noise: Array


def covariance(kernel: str, lag: ArrayLike, timescale: ArrayLike) -> Array:
    """Return k(lag), broadcast over both arguments (frames); 1 at lag 0.

    ``matern32``: (1 + r) exp(-r), r = sqrt(3) |tau| / l. ``matern52``: (1 + r + r^2 / 3) exp(-r), r = sqrt(5) |tau|/l.
    ``rbf``: exp(-tau^2 / (2 l^2)).
    """
    ratio = jnp.abs(jnp.asarray(lag)) / jnp.asarray(timescale)
    if kernel == "rbf":
        return jnp.exp(-0.5 * ratio**2)
    r = _FORMS[kernel].decay * ratio
    return (1 + r + (r**2 / 3 if kernel == "matern52" else 0.0)) * jnp.exp(-r)


def state_size(kernel: str) -> int:
    """Numbers in the state of one latent: 2 for Matern 3/2, 3 for Matern 5/2."""
    return len(_FORMS[kernel].drift)


def stationary(kernel: str) -> np.ndarray:
    """Stationary covariance of the state of one latent, (p, p)."""
    return _FORMS[kernel].stationary


def transitions(kernel: str, timescale: ArrayLike, steps: ArrayLike) -> Transitions:
    """Return the exact transitions of D latents over K steps.

    Parameters
    ----------
    kernel : {"matern32", "matern52"}
        Kernel.
    timescale : (D,) array
        Time scales in frames.
    steps : (K,) array
        Lengths of the steps in frames; infinite: a fresh start from the stationary distribution.
    """
    form = _FORMS[kernel]
    # A step as good as infinite, where infinity itself would give NaN; then exp(-700) times any power is 0.
    scaled = form.decay * jnp.minimum(jnp.asarray(steps), 1e12)[:, None] / jnp.asarray(timescale)
    scaled = jnp.minimum(scaled, 700.0)
    matrix = _flow(form, scaled)
    # Short steps: a sum of squares, since P - A P A' would cancel to noise of the order of rounding.
    short = jnp.minimum(scaled, _SHORT)
    nodes = jnp.asarray(0.5 * (1 + _NODES))[:, None, None] * short
    pushed = _flow(form, nodes.reshape(-1, short.shape[1]))[:, :, -1].reshape(
        len(_NODES), len(short), -1, short.shape[1]
    )
    weights = 0.5 * form.density * _WEIGHTS[:, None, None] * short
    noise = jnp.einsum("gkd,gkid,gkjd->kijd", weights, pushed, pushed)
    kept = jnp.einsum("kijd,jl,kmld->kimd", matrix, form.stationary, matrix)
    return Transitions(matrix, jnp.where((scaled > _SHORT)[:, None, None], form.stationary[..., None] - kept, noise))


def _flow(form: _Form, scaled: Array) -> Array:
    """exp(F s) for steps s (K, D), shape (K, p, p, D)."""
    nilpotent = form.drift + np.eye(len(form.drift))
    out = np.eye(len(form.drift))[:, :, None] + nilpotent[:, :, None] * scaled[:, None, None]
    if len(form.drift) == 3:
        out = out + 0.5 * (nilpotent @ nilpotent)[:, :, None] * scaled[:, None, None] ** 2
    return jnp.exp(-scaled)[:, None, None] * out


def spectrum(timescale: ArrayLike, n_frames: int, *, floor: float = 0.0) -> Array:
    """Return the variances of the RBF kernel's Fourier coefficients on a circle, (n_frames // 2 + 1, D).

    They are those of a periodic process of period ``n_frames`` whose variance is exactly 1: the continuous spectrum
    ``exp(-(omega l)^2 / 2)`` at the circle's frequencies, each of the two-sided ones counted, over its sum.
    """
    omega = 2 * jnp.pi * jnp.arange(n_frames // 2 + 1) / n_frames
    raw = jnp.exp(-0.5 * (omega[:, None] * jnp.asarray(timescale)) ** 2) + floor
    count = np.full(n_frames // 2 + 1, 2.0)
    count[0] = 1.0
    if n_frames % 2 == 0:
        count[-1] = 1.0
    return raw / (count[:, None] * raw).sum(axis=0)
