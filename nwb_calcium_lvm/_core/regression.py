"""The small regressions of the calcium models' closed-form updates, and steps that keep calcium stable."""

import jax.numpy as jnp
from jax import Array


def solve_least_squares(gram: Array, target: Array) -> Array:
    """Least squares through the eigenvectors; directions the data do not determine are left at zero."""
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(gram, axis1=-2, axis2=-1), 1e-300))
    values, vectors = jnp.linalg.eigh(gram / (scale[..., :, None] * scale[..., None, :]))
    inverse = jnp.where(values > 1e-12, 1.0 / jnp.where(values > 1e-12, values, 1.0), 0.0)
    rotated = jnp.einsum("nij,ni->nj", vectors, target / scale)
    return jnp.einsum("nij,nj->ni", vectors, inverse * rotated) / scale


def step_to_stable(old: Array, new: Array) -> Array:
    """Go from stable AR coefficients ``old`` towards ``new``, both (roi, order), as far as poles stay in (0, 1).

    The expected log density, maximised over everything else, is a concave quadratic in the coefficients with its top
    at ``new``, so that any step in that direction raises it.
    """
    fractions = jnp.concatenate([jnp.linspace(1.0, 0.1, 10), 0.1 * 0.5 ** jnp.arange(1, 8), jnp.zeros(1)])
    steps = old + fractions[:, None, None] * (new - old)
    allowed = has_real_poles_inside(steps)
    first = jnp.argmax(allowed, axis=0)  # the largest allowed fraction; the last one, 0, is taken if none is
    first = jnp.where(allowed.any(axis=0), first, len(fractions) - 1)
    return jnp.take_along_axis(steps, first[None, :, None], axis=0)[0]


def has_real_poles_inside(ar_coefs: Array, limit: float = 0.9995) -> Array:
    """Whether calcium with these AR coefficients (..., order) decays without ringing: every pole real, in [0, limit].

    Orders above 2 are only asked to be stable, by the step-down recursion.
    """
    order = ar_coefs.shape[-1]
    if order == 1:
        return (ar_coefs[..., 0] >= 0) & (ar_coefs[..., 0] <= limit)
    if order == 2:
        total, product = ar_coefs[..., 0], -ar_coefs[..., 1]
        real = total**2 >= 4 * product
        # Both poles in [0, limit]: sum and product say so for the pair (d, r) and for (limit - d, limit - r).
        inside = (product >= 0) & (total >= 0) & (total <= 2 * limit)
        return real & inside & (limit**2 - limit * total + product >= 0)
    stable = jnp.ones(ar_coefs.shape[:-1], bool)
    coefs = ar_coefs
    for m in range(order, 0, -1):
        reflection = coefs[..., -1]
        stable &= jnp.abs(reflection) < limit
        if m > 1:
            divisor = jnp.where(jnp.abs(reflection) < limit, 1 - reflection**2, 1.0)[..., None]
            coefs = (coefs[..., :-1] + reflection[..., None] * coefs[..., -2::-1]) / divisor
    return stable
