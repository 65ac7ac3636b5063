"""Quasi-Newton descent of many small problems side by side.

Each of N problems has P unknowns and a function of its own, but all are computed at once, so that a step costs one call
whatever N is. Libraries search along a line for one function at a time.

Reference: Nocedal and Wright (2006), Numerical Optimization, chapter 6 (BFGS, its first scaling, Armijo's rule).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

_LONGEST = 1.0  # of a step in any unknown; all are logarithms or alike
_ARMIJO = 1e-4
_SHORTEST = 1e-6  # share of a step at which a line search is given up: rounding hides any gain


class Descent(NamedTuple):
    """Where it ended: unknowns (N, P), values (N,), whether each settled (N,), and how many calls it took."""

    unknowns: Array
    values: Array
    settled: NDArray[np.bool_]
    n_calls: int


def descend(
    function: Callable[[Array], tuple[Array, Array]], start: Array, tolerance: Array, max_calls: int
) -> Descent:
    """Minimise N functions of P unknowns each.

    Parameters
    ----------
    function : callable
        From unknowns (N, P) to values (N,) and gradients (N, P).
    start : ndarray, shape (N, P)
    tolerance : ndarray, shape (N,)
        A problem is settled when a full step lowers its value by less than this.
    max_calls : int
        Most calls of the function.
    """
    n_problems, n_unknowns = start.shape
    at, (value, gradient) = start, function(start)
    value, gradient = np.where(np.isfinite(value), value, np.inf), np.nan_to_num(gradient)
    inverse = np.tile(np.eye(n_unknowns), (n_problems, 1, 1))
    share, fresh, settled = np.ones(n_problems), np.ones(n_problems, bool), np.zeros(n_problems, bool)
    calls = 1
    while calls < max_calls and not settled.all():
        direction = -np.einsum("nij,nj->ni", inverse, gradient)
        longest = np.abs(direction).max(axis=1)
        step = direction * (share * np.minimum(1.0, _LONGEST / np.maximum(longest, 1e-300)))[:, None]
        new_value, new_gradient = function(at + step)
        calls += 1
        usable = np.isfinite(new_value) & np.isfinite(new_gradient).all(axis=1)
        slope = np.einsum("ni,ni->n", gradient, step)
        better = usable & (new_value <= value + _ARMIJO * slope)
        # Not from steps that are taken back: curvature far from here, where a step went too far, spoils what is known.
        inverse = _bfgs(inverse, step, np.where(better[:, None], new_gradient - gradient, 0.0), fresh)
        fresh &= ~better
        gain = np.where(better, value - new_value, np.inf)
        full = share >= 1.0
        settled |= (better & full & (gain < tolerance)) | (~better & (share < _SHORTEST))
        share = np.where(better, np.minimum(1.0, 4.0 * share), share / 4.0)
        at = np.where(better[:, None], at + step, at)
        value, gradient = np.where(better, new_value, value), np.where(better[:, None], new_gradient, gradient)
    return Descent(at, value, settled & np.isfinite(value), calls)


def _bfgs(inverse: Array, step: Array, change: Array, fresh: NDArray[np.bool_]) -> Array:
    """Update the inverse Hessians (N, P, P), where the step met upward curvature; scale those that are still new."""
    curvature = np.einsum("ni,ni->n", step, change)
    upward = curvature > 1e-12 * np.linalg.norm(step, axis=1) * np.linalg.norm(change, axis=1)
    upward &= curvature > 0
    eye = np.eye(step.shape[1])
    squared = np.maximum(np.einsum("ni,ni->n", change, change), 1e-300)
    scaled = np.where((fresh & upward)[:, None, None], eye * (curvature / squared)[:, None, None], inverse)
    rho = (1.0 / np.where(upward, curvature, 1.0))[:, None, None]
    left = eye - rho * step[:, :, None] * change[:, None, :]
    updated = left @ scaled @ np.swapaxes(left, 1, 2) + rho * step[:, :, None] * step[:, None, :]
    return np.where(upward[:, None, None], updated, inverse)
