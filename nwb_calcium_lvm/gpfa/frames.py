"""One frame of the filter and of the smoother of latents in state space; see :mod:`.kalman` for the symbols."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from nwb_calcium_lvm.gpfa.kernels import Transitions, state_size, stationary


class Sites(NamedTuple):
    """Gaussian sites on the latents: precision W (T, D, D), linear term h (T, D); zero where nothing was observed."""

    precision: Array
    linear: Array


class State(NamedTuple):
    """A normal state: mean (p, D) and covariance (p, D, p, D)."""

    mean: Array
    covariance: Array


class Step(NamedTuple):
    """What the way back needs of a frame: the predicted state, and gain G and score e of its site.

    G (D, D) is (W^-1 + V)^-1, e (D,) the derivative of log Z_t with respect to the predicted latents.
    """

    predicted: State
    gain: Array
    score: Array


class Adjoint(NamedTuple):
    """What the way back carries from a frame to the one before.

    ``vector`` (p, D) is minus the gradient of log Z with respect to the predicted mean, ``matrix`` (p, D, p, D) what is
    missing from the outer product of ``vector`` to twice the gradient with respect to the predicted covariance.
    """

    vector: Array
    matrix: Array


def rest(kernel: str, n_latents: int) -> State:
    """The stationary state, which every trial starts from."""
    p = state_size(kernel)
    mean = jnp.zeros((p, n_latents), jnp.float64)
    covariance = jnp.asarray(stationary(kernel))[:, None, :, None] * jnp.eye(n_latents)[None, :, None, :]
    return State(mean, covariance)


def predict(matrix: Array, noise: Array, state: State) -> State:
    """Move the state over one step; every latent by itself, so that this is elementwise in pairs of latents."""
    half = (matrix[:, :, :, None, None] * state.covariance[None]).sum(axis=1)
    moved = (half[:, :, None] * matrix[None, None]).sum(axis=3)
    n = matrix.shape[-1]
    return State(
        (matrix * state.mean[None]).sum(axis=1), moved + noise.transpose(0, 2, 1)[..., None] * jnp.eye(n)[None, :, None]
    )


def see(predicted: State, site: Sites, factor: Array) -> tuple[Step, Array]:
    """Look at the site of a frame, ``factor`` the lower factor of its precision: the step, and log Z_t in nats."""
    m, v = predicted.mean[0], predicted.covariance[0, :, 0, :]
    n = m.shape[0]
    root = jnp.linalg.cholesky(jnp.eye(n) + factor.T @ v @ factor)
    solved = jax.scipy.linalg.solve_triangular(root, factor.T, lower=True)
    gain = solved.T @ solved
    error = site.linear - site.precision @ m
    score = error - gain @ (v @ error)
    value = site.linear @ m - 0.5 * m @ site.precision @ m + 0.5 * error @ (v @ score)
    return Step(predicted, gain, score), value - jnp.log(jnp.diagonal(root)).sum()


def update(step: Step) -> State:
    """Take in a site: m + P H' e and P - P H' G H P."""
    predicted = step.predicted
    p, n = predicted.mean.shape
    covariance = predicted.covariance.reshape(p * n, p * n)
    reach = covariance[:, :n]
    mean = predicted.mean.reshape(-1) + reach @ step.score
    covariance = covariance - reach @ step.gain @ reach.T
    return State(mean.reshape(p, n), covariance.reshape(p, n, p, n))


def through(step: Step) -> Array:
    """What an update does to errors of the predicted state, I - P H' G H, (S, S)."""
    p, n = step.predicted.mean.shape
    reach = step.predicted.covariance.reshape(p * n, p * n)[:, :n]
    return jnp.eye(p * n) - jnp.pad(reach @ step.gain, ((0, 0), (0, p * n - n)))


def go_back(step: Step, matrix: Array, late: Adjoint) -> Adjoint:
    """Carry the adjoint of the next frame back through the transition to it, ``matrix``, and through the update."""
    p, n = step.predicted.mean.shape
    size = p * n
    back = matrix.transpose(1, 0, 2)
    vector = (back * late.vector[None]).sum(axis=1).reshape(-1)
    middle = predict(back, jnp.zeros_like(back), State(late.vector, late.matrix)).covariance.reshape(size, size)
    inner = through(step)
    vector = inner.T @ vector - jnp.pad(step.score, (0, size - n))
    middle = inner.T @ middle @ inner + jnp.pad(step.gain, ((0, size - n), (0, size - n)))
    middle = 0.5 * (middle + middle.T)
    return Adjoint(vector.reshape(p, n), middle.reshape(p, n, p, n))


def smoothed(step: Step, own: Adjoint) -> tuple[Array, Array]:
    """Posterior mean (D,) and covariance (D, D) of the latents from the frame's own adjoint."""
    p, n = step.predicted.mean.shape
    covariance = step.predicted.covariance.reshape(p * n, p * n)
    reach = covariance[:, :n]
    mean = step.predicted.mean[0] - reach.T @ own.vector.reshape(-1)
    spread = covariance[:n, :n] - reach.T @ own.matrix.reshape(p * n, p * n) @ reach
    return mean, 0.5 * (spread + spread.T)


def slopes(step: Step, matrix: Array, late: Adjoint) -> Transitions:
    """Gradients of log Z with respect to the transition to the next frame, blocks of single latents only."""
    updated = update(step)
    by_covariance = 0.5 * (late.vector[:, :, None, None] * late.vector[None, None] - late.matrix)
    half = (matrix[:, :, :, None, None] * updated.covariance[None]).sum(axis=1)
    by_matrix = 2 * jnp.einsum("idke,kejd->ijd", by_covariance, half) - late.vector[:, None] * updated.mean[None]
    return Transitions(by_matrix, jnp.einsum("idjd->ijd", by_covariance))
