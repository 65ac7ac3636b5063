"""Gaussian processes with Gaussian sites, by Kalman filter and smoother: exact, and linear in the number of frames.

The posterior is ``q(x) = p(x) prod_t exp(h_t . x_t - x_t' W_t x_t / 2) / Z`` with a *site* (W_t, h_t) per frame, in
information form, so that W may be singular or zero (nothing observed). Symbols: ``D`` latents, ``p`` numbers in the
state of each, ``S = p D``; the state is ordered by derivative first, so that the latents are its first D entries.

Forward: the filter, with only D x D matrices factorised. Backward: the modified Bryson-Frazier smoother, which carries
the derivatives of log Z with respect to the predicted mean and covariance. It inverts no S x S matrix (the noise of one
frame underflows for long time scales) and yields the gradient of log Z with respect to the time scales on the way.

Sources: Bierman 1973 (Bryson-Frazier smoother); Koopman and Shephard 1992 (exact score for time series models in state
space form).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from nwb_calcium_lvm.gpfa import parallel
from nwb_calcium_lvm.gpfa.frames import (
    Adjoint,
    Sites,
    State,
    Step,
    go_back,
    predict,
    rest,
    see,
    slopes,
    smoothed,
    update,
)
from nwb_calcium_lvm.gpfa.kernels import Transitions, transitions


class Clock(NamedTuple):
    """Steps from frame to frame.

    Attributes
    ----------
    steps : (K,) array
        The lengths that occur, in frames; infinite for the first frame of a trial.
    kind : (T,) array of int
        Which of them leads to each frame.
    """

    steps: Any  # of NumPy on the host, of JAX in compiled code
    kind: Any


class Posterior(NamedTuple):
    """Latents given the sites.

    Attributes
    ----------
    mean : (T, D) array
        Posterior mean.
    covariance : (T, D, D) array
        Posterior covariance across latents, within a frame.
    log_evidence : scalar
        log Z in nats.
    gradient : (D,) array
        Derivative of log Z with respect to the log of the time scales.
    """

    mean: Array
    covariance: Array
    log_evidence: Array
    gradient: Array


@partial(jax.jit, static_argnames=("kernel", "chunk", "at_once"))
def smooth(
    kernel: str, log_timescale: Array, clock: Clock, sites: Sites, *, chunk: int, at_once: bool = False
) -> Posterior:
    """Return the posterior of the latents given the sites.

    Parameters
    ----------
    kernel : {"matern32", "matern52"}
        Kernel.
    log_timescale : (D,) array
        Log of the time scales in frames.
    clock : Clock
        Steps between frames.
    sites : Sites
        One per frame; the number of frames is a multiple of `chunk`.
    chunk : int
        Frames whose predicted states are held at a time: memory is O(chunk S^2 + T D^2).
    at_once : bool
        All frames of a chunk at once (:mod:`.parallel`) instead of one after another.
    """
    n_frames, n_latents = sites.linear.shape
    run, run_back = (parallel.forward, parallel.backward) if at_once else (_forward, _backward)
    moves, to_moves = jax.vjp(lambda v: transitions(kernel, jnp.exp(v), clock.steps), log_timescale)
    factors = cholesky_of_sites(sites.precision)
    cut = jax.tree.map(lambda a: a.reshape(n_frames // chunk, chunk, *a.shape[1:]), (clock.kind, sites, factors))
    start = rest(kernel, n_latents)

    def forward(state: State, part: tuple) -> tuple[State, tuple[State, Array]]:
        end, (_, log_evidence) = run(moves, state, part)
        return end, (state, log_evidence.sum())

    _, (states, log_evidence) = lax.scan(forward, start, cut)

    def backward(carry: tuple, part: tuple) -> tuple[tuple, tuple]:
        adjoint, late_kind = carry
        state, inputs = part
        _, (steps, _) = run(moves, state, inputs)
        kinds = inputs[0]
        late = jnp.append(kinds[1:], late_kind)  # which step leads from each frame to the next
        adjoint, (mean, covariance, by_step) = run_back(moves, adjoint, late, steps)
        to = jax.nn.one_hot(late, len(clock.steps), dtype=mean.dtype)
        by_kind = Transitions(*(jnp.einsum("tk,tijd->kijd", to, g) for g in by_step))
        return (adjoint, kinds[0]), (mean, covariance, by_kind)

    nothing = Adjoint(jnp.zeros_like(start.mean), jnp.zeros_like(start.covariance))
    last = (nothing, jnp.zeros((), clock.kind.dtype))
    _, (mean, covariance, by_chunk) = lax.scan(backward, last, (states, cut), reverse=True)
    gradient = to_moves(jax.tree.map(lambda a: a.sum(axis=0), by_chunk))[0]
    mean, covariance = mean.reshape(n_frames, -1), covariance.reshape(n_frames, n_latents, n_latents)
    return Posterior(mean, covariance, log_evidence.sum(), gradient)


def cholesky_of_sites(precision: Array) -> Array:
    """Lower factors (T, D, D) of precisions that may be singular: a pivot that is zero leaves its column zero."""
    n = precision.shape[-1]
    size = jnp.einsum("tii->t", precision)
    columns: list[Array] = []
    for j in range(n):
        column = precision[:, :, j] - sum((c * c[:, j : j + 1] for c in columns), jnp.zeros_like(precision[:, :, j]))
        pivot = column[:, j]
        usable = pivot > 1e-14 * size
        scaled = column / jnp.sqrt(jnp.where(usable, pivot, 1.0))[:, None]
        below = (jnp.arange(n) >= j) & usable[:, None]
        columns.append(jnp.where(below, scaled, 0.0))
    return jnp.stack(columns, axis=-1)


def _forward(moves: Transitions, state: State, inputs: tuple) -> tuple[State, tuple[Step, Array]]:
    """Run the filter over consecutive frames; return its last state, and per frame a step and log Z_t."""

    def step(state: State, frame: tuple) -> tuple[State, tuple[Step, Array]]:
        kind, site, factor = frame
        step, value = see(predict(moves.matrix[kind], moves.noise[kind], state), site, factor)
        return update(step), (step, value)

    return lax.scan(step, state, inputs)


def _backward(moves: Transitions, adjoint: Adjoint, late: Array, steps: Step) -> tuple[Adjoint, tuple]:
    """Run the smoother over consecutive frames, last to first; ``late`` (T,) is the kind of the step to the next."""

    def step(adjoint: Adjoint, frame: tuple) -> tuple[Adjoint, tuple]:
        kind, seen = frame
        own = go_back(seen, moves.matrix[kind], adjoint)
        return own, (*smoothed(seen, own), slopes(seen, moves.matrix[kind], adjoint))

    return lax.scan(step, adjoint, (late, steps), reverse=True)
