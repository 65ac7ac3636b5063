"""Spike counts seen as they are: ``y_t ~ Poisson(lambda_t)``, for electrophysiology, simulations and upper bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln
from jax.typing import ArrayLike

from nwb_calcium_lvm.observations._common import observed_and_filled
from nwb_calcium_lvm.observations.protocol import Sample


class PoissonParams(NamedTuple):
    """The Poisson model has no parameters beside the rates; this stands where the other models have theirs."""


def log_likelihood(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: PoissonParams | None = None,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
) -> Array:
    """Return the log probability of every count, (T, N), in nats; 0 where masked.

    Arguments as in `nwb_calcium_lvm.observations.protocol.ObservationModel`; `y` are counts per frame, `starts` has no
    effect. Counts are not checked: values that are no whole number give the formula's value.
    """
    del params, starts
    observed, counts = observed_and_filled(y, mask)
    log_rate = jnp.asarray(log_rate)
    return jnp.where(observed, counts * log_rate - jnp.exp(log_rate) - gammaln(counts + 1), 0.0)


def expected_counts(
    y: ArrayLike,
    log_rate: ArrayLike,
    params: PoissonParams | None = None,
    mask: ArrayLike | None = None,
    *,
    starts: ArrayLike | None = None,
) -> Array:
    """Return the counts themselves, (T, N), and the rate where masked."""
    del params, starts
    observed, counts = observed_and_filled(y, mask)
    return jnp.where(observed, counts, jnp.exp(jnp.asarray(log_rate)))


def sample(
    key: Array, log_rate: ArrayLike, params: PoissonParams | None = None, *, starts: ArrayLike | None = None
) -> Sample:
    """Draw counts at given rates, (T, N); `y` and `counts` are the same."""
    del params, starts
    rate = jnp.exp(jnp.asarray(log_rate))
    counts = jax.random.poisson(key, rate).astype(rate.dtype)
    return Sample(counts, counts)


def constrain(unconstrained: dict[str, Array]) -> PoissonParams:
    """Return the empty parameters."""
    del unconstrained
    return PoissonParams()


def unconstrain(params: PoissonParams) -> dict[str, Array]:
    """Return no arrays."""
    del params
    return {}
