"""What recognition networks are trained for: dreams (cross-entropy), or the data (an importance-weighted bound).

The bound and its gradient are those of Speiser et al. 2017: importance weights as in Burda et al. 2016, and VIMCO (Mnih
and Rezende 2016) for the counts, which no gradient passes through.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, logsumexp

from nwb_calcium_lvm.spikes.vae.recognition import Recognition, Seen, log_prob_of

TRAIT_SHARE = 0.05  # weight of the traits' posterior beside the counts'


def sleep_loss(network: Recognition, seen: Seen, counts: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Return the mean of -log q over frames, for counts that are known; the marginals' and the sequence's added up.

    Parameters
    ----------
    network : Recognition
    seen : Seen
        What it says of the traces.
    counts : (unit, time, source) array
    mask : (unit, time) array, optional
        1 where a frame counts.
    """
    each = -log_prob_of(seen.logits, counts).sum(axis=-1)
    if network.sequence is not None:
        each = each - network.log_prob(seen, counts)
    return each.mean() if mask is None else (each * mask).sum() / jnp.maximum(mask.sum(), 1.0)


def gaussian_loss(pooled: jax.Array, standard: jax.Array) -> jax.Array:
    """Return -log q of traits in units of their prior, (unit,), but for a constant."""
    mean, log_sd = trait_posterior(pooled)
    return (0.5 * ((standard - mean) / jnp.exp(log_sd)) ** 2 + log_sd).sum(axis=-1)


def trait_posterior(pooled: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return mean and log standard deviation of traits, in units of their prior."""
    mean, log_sd = jnp.split(pooled, 2, axis=-1)
    return mean, jnp.clip(log_sd, -4.0, 0.5)


class Density(NamedTuple):
    """Log-densities of each draw of each unit, (draw, unit)."""

    data: jax.Array
    prior: jax.Array
    posterior: jax.Array

    @property
    def log_weights(self) -> jax.Array:
        """Logarithms of the importance weights."""
        return self.data + self.prior - self.posterior


def log_binomial(counts: jax.Array, per_frame: Any, max_count: int, mask: jax.Array) -> jax.Array:
    """Return the log prior of counts, (unit,): a binomial for their total, all ways of reaching it alike.

    Parameters
    ----------
    counts : (unit, time, source) array
    per_frame : float or (unit,) array
        Spikes expected per frame.
    max_count : int
        Most spikes of a frame; 1 is the paper's.
    mask : (unit, time) array
        1 where a frame counts.
    """
    slots = mask.sum(axis=1) * max_count * counts.shape[2]
    share = jnp.clip(jnp.asarray(per_frame) / max_count, 1e-6, 1.0 - 1e-6)
    total = (counts * mask[..., None]).sum(axis=(1, 2))
    choices = gammaln(slots + 1) - gammaln(total + 1) - gammaln(slots - total + 1)
    return choices + total * jnp.log(share) + (slots - total) * jnp.log1p(-share)


def log_poisson(counts: jax.Array, per_frame: Any, mask: jax.Array) -> jax.Array:
    """Return the log prior of counts under a Poisson law of every frame, (unit,)."""
    rate = jnp.broadcast_to(jnp.asarray(per_frame), counts.shape[:1])[:, None, None]
    each = counts * jnp.log(rate) - rate - gammaln(counts + 1.0)
    return (each * mask[..., None]).sum(axis=(1, 2))


def log_normal(traces: jax.Array, expected: jax.Array, noise: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the log density of traces around what the model expects, (unit,)."""
    sd = noise[:, None]
    each = -0.5 * ((traces - expected) / sd) ** 2 - jnp.log(sd) - 0.5 * jnp.log(2.0 * jnp.pi)
    return (each.sum(axis=-1) * mask).sum(axis=1)


def bound(log_weights: jax.Array) -> jax.Array:
    """Return the importance-weighted bound on the log-likelihood of each unit, (unit,), from (draw, unit)."""
    return logsumexp(log_weights, axis=0) - jnp.log(log_weights.shape[0])


def vimco_signals(log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the learning signal and the weight of each draw, (draw, unit).

    The signal is the bound less what it would be without the draw, as the paper has it: the mean of the others in its
    place is what their own sum over K - 1 amounts to.
    """
    n = log_weights.shape[0]
    weights = jax.nn.softmax(log_weights, axis=0)
    others = jnp.where(jnp.eye(n, dtype=bool)[..., None], -jnp.inf, log_weights[None])
    without = logsumexp(others, axis=1) - jnp.log(n - 1.0)
    return bound(log_weights) - without, weights


def vimco_loss(density: Density) -> jax.Array:
    """Return what has the gradient of minus the bound, averaged over units.

    Gradients reach the network through ``density.posterior`` and the generative parameters through the rest.
    """
    signal, weights = jax.lax.stop_gradient(vimco_signals(density.log_weights))
    surrogate = (weights * density.log_weights + signal * density.posterior).sum(axis=0)
    return -surrogate.mean()
