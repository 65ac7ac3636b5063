"""A scan over time whose matrices get their gradients from all frames at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Product = Callable[[str, Array], Array]
Step = Callable[[Product, Any, Any, Any], tuple[Any, Any]]


def recur(
    step: Step, kernels: dict[str, Array], constants: Any, start: Any, frames: Any, *, reverse: bool = False
) -> tuple[Any, Any]:
    """Run a recurrent network over time.

    Differentiating ``jax.lax.scan`` adds to the gradient of every matrix at every frame: a small product and a sum as
    large as the matrix. Here only what the products gave is differentiated frame by frame; the matrices' gradients are
    one large product over all frames and windows afterwards.

    Parameters
    ----------
    step : callable
        ``step(product, constants, carry, frame)`` returns the next carry and what to stack over time. It multiplies
        by a matrix with ``product(name, x)``, once per name, x (B, in).
    kernels : dict of str to (in, out) array
        The matrices. Products are computed in their type, and returned in x's.
    constants : pytree of array
        All else that is learned and the same in every frame; ``step`` may not close over what is differentiated.
    start : pytree of array
        The first carry.
    frames : pytree of (T, ...) array
    reverse : bool
        Whether to run from the last frame to the first.

    Returns
    -------
    last, stacked : pytree
        As ``jax.lax.scan`` returns them.
    """
    return _recur(step, reverse, kernels, constants, start, frames)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _recur(step: Step, reverse: bool, kernels: dict[str, Array], constants: Any, start: Any, frames: Any):
    found, _ = _run(step, reverse, kernels, constants, start, frames, None)
    return found


def _run(step: Step, reverse: bool, kernels: dict[str, Array], constants: Any, start: Any, frames: Any, shifts: Any):
    """Scan; ``shifts`` are added to the products. Also return what was multiplied, by name, (T, B, in)."""

    def body(carry: Any, at: tuple[Any, Any]) -> tuple[Any, tuple[Any, dict[str, Array]]]:
        frame, shift = at
        multiplied: dict[str, Array] = {}

        def product(name: str, x: Array) -> Array:
            assert name not in multiplied, "one product per matrix and frame"
            multiplied[name] = x
            out = times(x, kernels[name])
            return out if shift is None else out + shift[name]

        carry, out = step(product, constants, carry, frame)
        return carry, (out, multiplied)

    last, (stacked, multiplied) = jax.lax.scan(body, start, (frames, shifts), reverse=reverse)
    return (last, stacked), multiplied


def times(x: Array, kernel: Array) -> Array:
    """Multiply x (B, in) by a matrix, in the matrix's type."""
    return (x.astype(kernel.dtype) @ kernel).astype(x.dtype)


def _forward(step: Step, reverse: bool, kernels: dict[str, Array], constants: Any, start: Any, frames: Any):
    n_frames = len(jax.tree.leaves(frames)[0])
    n_windows = len(jax.tree.leaves(start)[0])
    shifts = {name: jnp.zeros((n_frames, n_windows, k.shape[1])) for name, k in kernels.items()}

    def run(constants: Any, start: Any, frames: Any, shifts: Any):
        return _run(step, reverse, kernels, constants, start, frames, shifts)

    found, pull, multiplied = jax.vjp(run, constants, start, frames, shifts, has_aux=True)
    return found, (pull, multiplied, kernels)


def _backward(step: Step, reverse: bool, kept: Any, cotangent: Any):
    del step, reverse
    pull, multiplied, kernels = kept
    constants, start, frames, shifts = pull(cotangent)
    of_kernels = {
        name: jnp.einsum("tbi,tbj->ij", multiplied[name], shifts[name]).astype(k.dtype) for name, k in kernels.items()
    }
    return of_kernels, constants, start, frames


_recur.defvjp(_forward, _backward)
