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

from nwb_calcium_lvm.gpfa.kernels import Transitions, state_size, stationary, transitions


class Sites(NamedTuple):
    """Gaussian sites on the latents: precision W (T, D, D), linear term h (T, D); zero where nothing was observed."""

    precision: Array
    linear: Array


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


class _State(NamedTuple):
    mean: Array  # (p, D)
    covariance: Array  # (p, D, p, D)


class _Step(NamedTuple):
    """What the backward pass needs of a frame: the predicted state, and gain G and score e of its site."""

    predicted: _State
    gain: Array  # (D, D): G = (W^-1 + V)^-1
    score: Array  # (D,): derivative of log Z_t with respect to the predicted latents


@partial(jax.jit, static_argnames=("kernel", "chunk"))
def smooth(kernel: str, log_timescale: Array, clock: Clock, sites: Sites, *, chunk: int) -> Posterior:
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
    """
    n_frames, n_latents = sites.linear.shape
    moves, to_moves = jax.vjp(lambda v: transitions(kernel, jnp.exp(v), clock.steps), log_timescale)
    factors = cholesky_of_sites(sites.precision)
    cut = jax.tree.map(lambda a: a.reshape(n_frames // chunk, chunk, *a.shape[1:]), (clock.kind, sites, factors))
    start = _rest(kernel, n_latents)

    def forward(state: _State, part: tuple) -> tuple[_State, tuple[_State, Array]]:
        end, (_, log_evidence) = _filter(moves, state, part)
        return end, (state, log_evidence.sum())

    _, (states, log_evidence) = lax.scan(forward, start, cut)

    def backward(carry: tuple, part: tuple) -> tuple[tuple, tuple]:
        state, inputs = part
        _, (steps, _) = _filter(moves, state, inputs)
        return _backward(moves, carry, inputs, steps)

    none = (jnp.zeros_like(start.mean), jnp.zeros_like(start.covariance), jnp.zeros((), clock.kind.dtype))
    sums = jax.tree.map(jnp.zeros_like, moves)
    _, (mean, covariance, by_chunk) = lax.scan(backward, (none, sums), (states, cut), reverse=True)
    gradient = to_moves(jax.tree.map(lambda a: a.sum(axis=0), by_chunk))[0]
    mean, covariance = mean.reshape(n_frames, -1), covariance.reshape(n_frames, n_latents, n_latents)
    return Posterior(mean, covariance, log_evidence.sum(), gradient)


@partial(jax.jit, static_argnames=("kernel", "chunk"))
def log_evidence(kernel: str, log_timescale: Array, clock: Clock, sites: Sites, *, chunk: int) -> Array:
    """Return log Z alone, by the forward pass; arguments as in :func:`smooth`."""
    del chunk
    moves = transitions(kernel, jnp.exp(log_timescale), clock.steps)
    inputs = (clock.kind, sites, cholesky_of_sites(sites.precision))
    _, (_, value) = _filter(moves, _rest(kernel, sites.linear.shape[1]), inputs, keep=False)
    return value.sum()


def _rest(kernel: str, n_latents: int) -> _State:
    """The stationary state, which every trial starts from."""
    p = state_size(kernel)
    mean = jnp.zeros((p, n_latents), jnp.float64)
    covariance = jnp.asarray(stationary(kernel))[:, None, :, None] * jnp.eye(n_latents)[None, :, None, :]
    return _State(mean, covariance)


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


def _predict(matrix: Array, noise: Array, state: _State) -> _State:
    """Move the state over one step; every latent by itself, so that this is elementwise in pairs of latents."""
    half = (matrix[:, :, :, None, None] * state.covariance[None]).sum(axis=1)
    moved = (half[:, :, None] * matrix[None, None]).sum(axis=3)
    n = matrix.shape[-1]
    return _State(
        (matrix * state.mean[None]).sum(axis=1), moved + noise.transpose(0, 2, 1)[..., None] * jnp.eye(n)[None, :, None]
    )


def _filter(moves: Transitions, state: _State, inputs: tuple, *, keep: bool = True) -> tuple[_State, tuple]:
    """Run the filter over consecutive frames; return its last state, and per frame a step and log Z_t."""

    def step(state: _State, frame: tuple) -> tuple[_State, tuple]:
        kind, site, factor = frame
        predicted = _predict(moves.matrix[kind], moves.noise[kind], state)
        m, v = predicted.mean[0], predicted.covariance[0, :, 0, :]
        n = m.shape[0]
        root = jnp.linalg.cholesky(jnp.eye(n) + factor.T @ v @ factor)
        solved = jax.scipy.linalg.solve_triangular(root, factor.T, lower=True)
        gain = solved.T @ solved
        error = site.linear - site.precision @ m
        score = error - gain @ (v @ error)
        value = site.linear @ m - 0.5 * m @ site.precision @ m + 0.5 * error @ (v @ score)
        value = value - jnp.log(jnp.diagonal(root)).sum()
        updated = _update(predicted, gain, score)
        return updated, ((_Step(predicted, gain, score) if keep else None), value)

    return lax.scan(step, state, inputs)


def _update(predicted: _State, gain: Array, score: Array) -> _State:
    """Take in a site: m + P H' e and P - P H' G H P."""
    p, n = predicted.mean.shape
    covariance = predicted.covariance.reshape(p * n, p * n)
    reach = covariance[:, :n]
    mean = predicted.mean.reshape(-1) + reach @ score
    covariance = covariance - reach @ gain @ reach.T
    return _State(mean.reshape(p, n), covariance.reshape(p, n, p, n))


def _backward(moves: Transitions, carry: tuple, inputs: tuple, steps: _Step) -> tuple[tuple, tuple]:
    """Run the smoother over consecutive frames, last to first.

    The carry holds lambda and Lambda of the frame after: minus the gradient of log Z with respect to its predicted
    mean, and what is missing from the outer product of lambda to twice the gradient with respect to its covariance.
    """
    (adjoint, sums) = carry
    kinds = inputs[0]
    p, n = steps.predicted.mean.shape[1:]
    size = p * n

    def step(carry: tuple, frame: tuple) -> tuple[tuple, tuple]:
        late_vector, late_matrix, late_kind = carry
        kind, (predicted, gain, score) = frame
        matrix = moves.matrix[late_kind]
        # Gradients with respect to the transition to the next frame, blocks of single latents only.
        updated = _update(predicted, gain, score)
        by_covariance = 0.5 * (_outer(late_vector, late_vector) - late_matrix)
        by_noise = jnp.einsum("idjd->ijd", by_covariance)
        half = (matrix[:, :, :, None, None] * updated.covariance[None]).sum(axis=1)
        by_matrix = 2 * jnp.einsum("idke,kejd->ijd", by_covariance, half) - late_vector[:, None] * updated.mean[None]
        # Through the transition, then through the update.
        back = matrix.transpose(1, 0, 2)
        vector = (back * late_vector[None]).sum(axis=1).reshape(-1)
        middle = _predict(back, jnp.zeros_like(back), _State(late_vector, late_matrix)).covariance.reshape(size, size)
        covariance = predicted.covariance.reshape(size, size)
        reach = covariance[:, :n]
        through = jnp.eye(size) - jnp.pad(reach @ gain, ((0, 0), (0, size - n)))
        vector = through.T @ vector - jnp.pad(score, (0, size - n))
        middle = through.T @ middle @ through + jnp.pad(gain, ((0, size - n), (0, size - n)))
        middle = 0.5 * (middle + middle.T)
        mean = predicted.mean[0] - reach.T @ vector
        spread = covariance[:n, :n] - reach.T @ middle @ reach
        out = (mean, 0.5 * (spread + spread.T), by_matrix, by_noise, late_kind)
        return (vector.reshape(p, n), middle.reshape(p, n, p, n), kind), out

    adjoint, (mean, covariance, by_matrix, by_noise, late) = lax.scan(step, adjoint, (kinds, steps), reverse=True)
    to = jax.nn.one_hot(late, moves.matrix.shape[0], dtype=by_matrix.dtype)
    by_kind = Transitions(jnp.einsum("tk,tijd->kijd", to, by_matrix), jnp.einsum("tk,tijd->kijd", to, by_noise))
    return (adjoint, sums), (mean, covariance, by_kind)


def _outer(a: Array, b: Array) -> Array:
    return a[:, :, None, None] * b[None, None]
