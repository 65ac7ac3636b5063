"""RBF processes with Gaussian sites, by FFT on a circle: exact kernel, mean-field posterior.

Each trial lies on a circle longer than itself by a few time scales, so that its ends do not meet. A latent is

``x_t = sqrt(S_0) a_0 + sum_k sqrt(2 S_k) (a_k cos w_k t + b_k sin w_k t)``,  a, b ~ Normal(0, 1),

with the kernel's spectrum S (see :func:`nwb_calcium_lvm.gpfa.kernels.spectrum`). The posterior q has independent
coefficients, those of one frequency with one variance. Under sites (W_t, h_t) its best mean solves
``(1 + F' W F) u = F' h``, by conjugate gradients with FFTs, and its best precisions are ``1 + S_k sum_t W_t``. The
posterior sd is then the same in all frames of a trial, and latents are independent in the posterior.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from nwb_calcium_lvm.gpfa.frames import Sites
from nwb_calcium_lvm.gpfa.kalman import Clock, Posterior

_MARGIN = 4.0  # time scales added to the longest trial, at most its own length
_CONJUGATE_STEPS = 200
_TOLERANCE = 1e-9


class Grid(NamedTuple):
    """Where frames lie on the circles.

    Attributes
    ----------
    place : (T,) array of int
        Row times ``length`` plus position, of each frame; padded frames lie on a row of their own.
    row : (T,) array of int
        Trial of each frame.
    """

    place: Array
    row: Array


class Sizes(NamedTuple):
    """Circles (trials, and one for padded frames), and frames around each: odd, so that no frequency is alone."""

    n_rows: int
    length: int

    @property
    def n_frequencies(self) -> int:
        """Frequencies from 0 up."""
        return (self.length + 1) // 2


def grid_for(clock: Clock, n_frames: int, timescale: float | None) -> tuple[Grid, Sizes]:
    """Lay the frames of a clock on circles.

    Parameters
    ----------
    clock : Clock
        Steps between frames; a gap takes as many frames of the circle as it lasted.
    n_frames : int
        Frames that are no padding.
    timescale : float, optional
        Longest time scale in frames. None: not known yet, and the circle is twice the longest trial.
    """
    steps = np.asarray(clock.steps)[np.asarray(clock.kind)][:n_frames]
    begins = ~np.isfinite(steps)
    row = np.cumsum(begins) - 1
    along = np.cumsum(np.where(begins, 0.0, np.maximum(np.round(np.where(begins, 0.0, steps)), 1.0)))
    along = (along - along[begins][row]).astype(int)
    longest = int(along.max()) + 1
    margin = longest if timescale is None else int(np.ceil(np.clip(_MARGIN * timescale, 0.1 * longest, longest)))
    length = _fast_odd(longest + margin)
    n_rows = int(row.max()) + 2
    n_padded = len(np.asarray(clock.kind))
    place = np.full(n_padded, (n_rows - 1) * length)
    place[:n_frames] = row * length + along
    rows = np.full(n_padded, n_rows - 1)
    rows[:n_frames] = row
    return Grid(jnp.asarray(place), jnp.asarray(rows)), Sizes(n_rows, length)


def _fast_odd(least: int) -> int:
    """Smallest odd number of this size or more whose prime factors are 3, 5 and 7."""
    powers = [3**i * 5**j * 7**k for i in range(14) for j in range(10) for k in range(8)]
    return min(p for p in powers if p >= least)


def synthesise(coefs: Array, scale: Array, grid: Grid, sizes: Sizes) -> Array:
    """Latents (T, D) of real coefficients (2, row, frequency, D) and their prior sds ``scale`` (frequency, D)."""
    factor = jnp.where(jnp.arange(sizes.n_frequencies) == 0, 1.0, 0.5**0.5)[:, None] * scale
    complex_coefs = sizes.length * factor * jax.lax.complex(coefs[0], -coefs[1])
    complex_coefs = complex_coefs.at[:, 0].set(complex_coefs[:, 0].real.astype(complex_coefs.dtype))
    waves = jnp.fft.irfft(complex_coefs, sizes.length, axis=1)
    return waves.reshape(sizes.n_rows * sizes.length, -1)[grid.place]


def prior_sd(log_timescale: Array, sizes: Sizes) -> Array:
    """Square roots of the spectrum, (frequency, D); not by a root, whose slope is infinite where S underflows."""
    omega = 2 * jnp.pi * jnp.arange(sizes.n_frequencies) / sizes.length
    raw = jnp.exp(-0.25 * (omega[:, None] * jnp.exp(log_timescale)) ** 2)
    return raw / jnp.sqrt((_count(sizes) * raw**2).sum(axis=0))


def _count(sizes: Sizes) -> Array:
    """Coefficients at each frequency, (frequency, 1): one at 0, else cosine and sine."""
    return jnp.where(jnp.arange(sizes.n_frequencies) == 0, 1.0, 2.0)[:, None]


class Coefficients(NamedTuple):
    """Mean (2, row, frequency, D) and variance (row, frequency, D) of the coefficients under q."""

    mean: Array
    variance: Array


@partial(jax.jit, static_argnames=("sizes",))
def smooth(log_timescale: Array, grid: Grid, sites: Sites, *, sizes: Sizes) -> tuple[Posterior, Coefficients, Array]:
    """Return latents and coefficients under the sites, and KL(q || p) in nats.

    The posterior's ``log_evidence`` and ``gradient`` are empty: see :func:`slope` for the latter.
    """
    n_latents = sites.linear.shape[1]
    scale = prior_sd(log_timescale, sizes)
    diagonal = jnp.einsum("tii->ti", sites.precision)
    weight = jnp.zeros((sizes.n_rows, n_latents)).at[grid.row].add(diagonal)
    precision = 1.0 + scale**2 * weight[:, None]

    def forward(coefs: Array) -> Array:
        return synthesise(coefs, scale, grid, sizes)

    shape = (2, sizes.n_rows, sizes.n_frequencies, n_latents)
    _, back = jax.vjp(forward, jnp.zeros(shape))

    def system(coefs: Array) -> Array:
        return coefs + back(jnp.einsum("tij,tj->ti", sites.precision, forward(coefs)))[0]

    target = back(sites.linear)[0]
    mean, _ = jax.scipy.sparse.linalg.cg(
        system, target, tol=_TOLERANCE, maxiter=_CONJUGATE_STEPS, M=lambda coefs: coefs / precision
    )
    variance = 1.0 / precision
    kept = _count(sizes)
    divergence = 0.5 * (mean**2).sum() + 0.5 * (kept * (variance - 1.0 - jnp.log(variance))).sum()
    coefficients = Coefficients(mean, variance)
    latents, spread = moments(log_timescale, coefficients, grid, sizes)
    covariance = spread[:, :, None] * jnp.eye(n_latents)
    return Posterior(latents, covariance, jnp.zeros(()), jnp.zeros(n_latents)), coefficients, divergence


def moments(log_timescale: Array, coefficients: Coefficients, grid: Grid, sizes: Sizes) -> tuple[Array, Array]:
    """Mean and variance of the latents, each (T, D)."""
    scale = prior_sd(log_timescale, sizes)
    mean = synthesise(coefficients.mean, scale, grid, sizes)
    spread = (_count(sizes) * scale**2 * coefficients.variance).sum(axis=1)
    return mean, spread[grid.row]


@partial(jax.jit, static_argnames=("sizes",))
def slope(
    log_timescale: Array, coefficients: Coefficients, posterior: Posterior, target: Sites, grid: Grid, *, sizes: Sizes
) -> Array:
    """Derivative of the bound by the log time scales at fixed (whitened) coefficients, (D,).

    The sites that the neurons ask for are the slopes of their bound: h - W m by the mean, and -W / 2 by the covariance.
    """
    by_mean = target.linear - jnp.einsum("tij,tj->ti", target.precision, posterior.mean)
    by_variance = -0.5 * jnp.einsum("tii->ti", target.precision)
    _, back = jax.vjp(lambda v: moments(v, coefficients, grid, sizes), log_timescale)
    return back((by_mean, by_variance))[0]
