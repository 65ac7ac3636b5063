"""Variational EM: one pass over the latents and one over the neurons a step, each compiled once.

``bound = sum_n E_q[log p(y_n | x)] (or its lower bound) - KL(q || p)``, with q the posterior under Gaussian sites. The
sites are moved to the tangent of the first term (conjugate-computation variational inference, Khan and Lin 2017): then
q has moved along the natural gradient.
"""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array, lax

from nwb_calcium_lvm.gpfa import fourier, kalman
from nwb_calcium_lvm.gpfa.data import CHUNK, Data, block_at
from nwb_calcium_lvm.gpfa.frames import Sites
from nwb_calcium_lvm.gpfa.kalman import Clock, Posterior
from nwb_calcium_lvm.gpfa.readouts import Latents, Prior, Readout, Weights

_CHUNKS_AT_ONCE = 32  # at most: memory is about 30 matrices of all latents' states for each frame


class Seen(NamedTuple):
    """All neurons' view of the latents.

    Attributes
    ----------
    bound : scalar
        Sum over neurons of the bound on E_q[log p(y | x)], nats.
    log_prior : scalar
        Of the weights, up to a constant.
    by_roi : (block, B) array
        The bound of each neuron.
    weights : Weights
        Improved, or as they were.
    target : Sites
        Where the sites should go.
    """

    bound: Array
    log_prior: Array
    by_roi: Array
    weights: Weights
    target: Sites


class Outcome(NamedTuple):
    """A smoothing pass and what the neurons say to it."""

    posterior: Posterior
    divergence: Array
    seen: Seen

    @property
    def bound(self) -> Array:
        """The evidence lower bound, nats."""
        return self.seen.bound - self.divergence


@partial(jax.jit, static_argnames=("readout", "learn"))
def view(
    readout: Readout, weights: Weights, data: Data, latents: Latents, prior: Prior, counted: Array, *, learn: bool
) -> Seen:
    """Run over the blocks of neurons; ``weights`` and the prior's arrays have a leading axis of blocks.

    ``counted`` (block, B) is False for neurons that only fill up the last block.
    """
    n_frames, n_latents = latents.mean.shape
    zero = (jnp.zeros((n_frames, n_latents, n_latents)), jnp.zeros((n_frames, n_latents)))
    shared = (prior.loading_precision, prior.frames)

    def one(total: tuple[Array, Array], part: tuple) -> tuple[tuple[Array, Array], tuple]:
        mine, arrays, own, real = part
        block = block_at(data.blocks, arrays)
        block = block._replace(scored=block.scored & real)
        here = Prior(*shared, *own)
        look = readout.look(mine, block, latents, here, learn=learn)
        own_prior = jnp.where(real, readout.log_prior(mine, here), 0.0).sum()
        moved = (total[0] + look.precision, total[1] + look.linear)
        return moved, (jnp.where(real, look.bound, 0.0), own_prior, look.weights)

    blocks = data.blocks
    parts = (weights, (blocks.y, blocks.observed, blocks.scored), tuple(prior[2:]), counted)
    (precision, linear), (bound, log_prior, new) = lax.scan(one, zero, parts)
    return Seen(bound.sum(), log_prior.sum(), bound, new, Sites(precision, linear))


class Machine(Protocol):
    """How latents are found under Gaussian sites: the state-space or the Fourier engine, on one recording's clock."""

    def smooth(self, log_timescale: Array, sites: Sites) -> tuple[Posterior, Array, Any]:
        """Return the posterior, KL(q || p) in nats, and whatever :meth:`slope` needs."""
        ...

    def slope(self, log_timescale: Array, posterior: Posterior, target: Sites, more: Any) -> Array:
        """Return the derivative of the bound by the log time scales, (D,)."""
        ...


class KalmanMachine(NamedTuple):
    """State space: the exact posterior under the sites."""

    kernel: str
    clock: Clock

    def smooth(self, log_timescale: Array, sites: Sites) -> tuple[Posterior, Array, Any]:
        """See :class:`Machine`."""
        chunk, at_once = pace(len(sites.linear), jax.default_backend())
        posterior = kalman.smooth(self.kernel, log_timescale, self.clock, sites, chunk=chunk, at_once=at_once)
        return posterior, divergence(posterior, sites), None

    def slope(self, log_timescale: Array, posterior: Posterior, target: Sites, more: Any) -> Array:
        """See :class:`Machine`; the smoother has it from the way back."""
        return posterior.gradient


class FourierMachine(NamedTuple):
    """Circles: independent Fourier coefficients."""

    grid: fourier.Grid
    sizes: fourier.Sizes

    def smooth(self, log_timescale: Array, sites: Sites) -> tuple[Posterior, Array, Any]:
        """See :class:`Machine`."""
        posterior, coefficients, distance = fourier.smooth(log_timescale, self.grid, sites, sizes=self.sizes)
        return posterior, distance, coefficients

    def slope(self, log_timescale: Array, posterior: Posterior, target: Sites, more: Any) -> Array:
        """See :class:`Machine`."""
        return fourier.slope(log_timescale, more, posterior, target, self.grid, sizes=self.sizes)


def pace(n_frames: int, backend: str) -> tuple[int, bool]:
    """Frames of a chunk, and whether they are smoothed at once: where a step is long only because of what waits.

    On a processor one frame after another is faster (`benchmarks/gpfa_speed.py` measures both).
    """
    if backend == "cpu":
        return CHUNK, False
    n_chunks = n_frames // CHUNK
    return CHUNK * max(k for k in range(1, _CHUNKS_AT_ONCE + 1) if n_chunks % k == 0), True


def attempt(
    machine: Machine,
    readout: Readout,
    weights: Weights,
    log_timescale: Array,
    sites: Sites,
    data: Data,
    prior: Prior,
    counted: Array,
    *,
    learn: bool,
) -> Outcome:
    """Smooth with the sites, evaluate the bound, improve the weights, and say where the sites should go next.

    Separate compiled functions, since latents do not depend on the neurons nor neurons on the kernel: a fit of another
    population compiles only what is new.
    """
    posterior, distance, more = machine.smooth(log_timescale, sites)
    latents = Latents(posterior.mean, posterior.covariance)
    seen = view(readout, weights, data, latents, prior, counted, learn=learn)
    slope = machine.slope(log_timescale, posterior, seen.target, more)
    return Outcome(posterior._replace(gradient=slope), distance, seen)


@jax.jit
def divergence(posterior: Posterior, sites: Sites) -> Array:
    """KL(q || p) of the exact posterior under the sites: their expected log less log Z, nats."""
    mean, covariance = posterior.mean, posterior.covariance
    second = covariance + mean[:, :, None] * mean[:, None, :]
    return (sites.linear * mean).sum() - 0.5 * (sites.precision * second).sum() - posterior.log_evidence


def first_sites(
    readout: Readout, weights: Weights, data: Data, latents: Latents, prior: Prior, counted: Array
) -> Sites:
    """Sites from a guess of the latents."""
    return view(readout, weights, data, latents, prior, counted, learn=False).target


@jax.jit
def blend(old: Sites, new: Sites, fraction: Array) -> Sites:
    """Go this fraction of the way from the old sites to the new; both stay positive semidefinite."""
    return jax.tree.map(lambda a, b: a + fraction * (b - a), old, new)


def to_device(tree: Any) -> Any:
    """Arrays of a tree on the device; call it under x64."""
    return jax.tree.map(jnp.asarray, tree)
