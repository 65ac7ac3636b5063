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
    (time, roi) is 1 where the sample and its past are observed, else 0. ``variance`` (time, roi) is that of what is not
    known about ``y``, on top of the emission's own; None: nothing.
    """

    y: Array
    lags: Array
    weight: Array
    variance: Array | None = None


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


class HasPrior(Protocol):
    """What has a prior on its parameters."""

    def log_prior(self, params: Any, prior: Prior) -> Array:
        """Log prior density of the parameters, up to a constant."""
        ...


class Emission(HasPrior, Protocol):
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
