"""What the HMM asks of an observation model; one file beside this one implements each.

An emission is a frozen, hashable description (sizes only), so that it can be a static argument of a compiled
function; everything that is learned lies in its ``Params``. Per-state quantities have shape (state, roi).
"""

from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array


class Chunk(NamedTuple):
    """Some consecutive frames.

    ``y`` (time, roi) is the trace, ``lags`` (order, time, roi) its past y_{t-1} .. y_{t-order}, and ``weight``
    (time, roi) is 1 where the sample and its past are observed, else 0.
    """

    y: Array
    lags: Array
    weight: Array


class Prior(NamedTuple):
    """Conjugate priors, told as if ``frames`` more frames of an average state had been seen.

    ``mean`` (roi,) and ``variance`` (roi,) are those of such frames; ``floor`` (roi,) bounds variances from below;
    the AR coefficients are Gaussian with ``ar_mean`` and ``ar_precision`` (order, roi); ``transitions``
    (state, state) and ``initial`` (state,) are pseudo-counts. All zero: maximum likelihood.
    """

    frames: Array
    mean: Array
    variance: Array
    floor: Array
    ar_mean: Array
    ar_precision: Array
    transitions: Array
    initial: Array


class Emission(Protocol):
    """p(y_t | past, state), its expected sufficient statistics, and their maximiser."""

    @property
    def order(self) -> int:
        """How many past frames an observation depends on."""
        ...

    def log_likelihood(self, params: Any, chunk: Chunk) -> Array:
        """Sum over ROIs of log p(y_t | past, state), shape (time, state)."""
        ...

    def statistics(self, params: Any, chunk: Chunk, probs: Array) -> Any:
        """Sums over the chunk that :meth:`maximise` needs, given p(state | data) of shape (time, state)."""
        ...

    def maximise(self, params: Any, statistics: Any, prior: Prior) -> Any:
        """Parameters that do not lower the expected log joint density, and raise it where it can be raised."""
        ...

    def log_prior(self, params: Any, prior: Prior) -> Array:
        """Log prior density of the parameters, up to a constant."""
        ...

    def activity(self, params: Any, chunk: Chunk, probs: Array) -> tuple[Array, Array]:
        """Posterior mean and variance of the activity in each frame, both (time, roi).

        Activity is spikes per frame where the model has spikes, and the mean of the trace where it has none.
        """
        ...

    def n_parameters(self, n_states: int, n_rois: int) -> int:
        """Free parameters, for information criteria."""
        ...

    def unconstrain(self, params: Any) -> Any:
        """Map to unbounded values, for gradient descent."""
        ...

    def constrain(self, free: Any) -> Any:
        """Inverse of :meth:`unconstrain`."""
        ...


def autoregressive_moments(chunk: Chunk, weight: Array) -> tuple[Array, Array]:
    """Weighted sums of φφᵀ (roi, order+1, order+1) and φy (roi, order+1), with φ = [y_{t-1} .. y_{t-p}, 1]."""
    design = [*chunk.lags, jnp.ones_like(chunk.y)]
    # Sums of products, a few per ROI: cheaper than a product of matrices that small.
    gram = [[(weight * one * two).sum(axis=0) for two in design] for one in design]
    target = [(weight * one * chunk.y).sum(axis=0) for one in design]
    return jnp.moveaxis(jnp.array(gram), -1, 0), jnp.array(target).T


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
