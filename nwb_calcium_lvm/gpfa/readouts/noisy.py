r"""Fluorescence with noise on top of calcium: the Poisson readout of :mod:`.spikes` on the likelihood of a filter.

The density of a sample depends on all of its past, so that ``log p(y | eta)`` of a whole trace is that of the filter of
:mod:`~nwb_calcium_lvm.observations.calcium_noisy`. Its slope by eta_t, plus the rate, is the expected count of frame t
given all of the trace: the derivative runs back through the filter, as a smoother does. All else is as in
:mod:`.spikes`, but for two approximations: the filter's belief about calcium is made normal after each frame, hence
``log Z`` is convex, and a step of the weights sure to go up, only as far as that holds; and the mean rate, not its
spread, drives calcium through frames that are not scored (in gaps). The counts of single frames may come out below
zero; they are kept, since only the slope as it is leads up.

Traces are cut into pieces that are filtered side by side, each with some frames before it to settle the filter.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from nwb_calcium_lvm.gpfa.readouts.protocol import Block
from nwb_calcium_lvm.gpfa.readouts.spikes import SpikeReadout
from nwb_calcium_lvm.observations import calcium_noisy

_LENGTH = 256  # frames of a piece
_BEFORE = 64  # frames before it
_MOST = 5.0  # log of spikes per frame: beyond it there is only the penalty of the rate, which no sum over counts needs


@dataclass(frozen=True)
class NoisyReadout(SpikeReadout):
    """Calcium with measurement noise; its parameters are not learned here, but by the plan, at given rates."""

    name: str = "calcium_noisy"
    order: int = 1

    @property
    def monotone(self) -> bool:
        """See :class:`~nwb_calcium_lvm.gpfa.readouts.protocol.Readout`."""
        return False

    def log_likelihood(self, eta: Array, params: Any, block: Block) -> Array:
        """Log density of each sample given its past, (T, B), filtered in pieces."""
        within = jnp.minimum(eta, _MOST)
        parts = [pieces(a) for a in (block.y, within, block.observed, block.starts)]

        def one(y: Array, eta: Array, observed: Array, starts: Array) -> Array:
            return calcium_noisy.log_likelihood(y, eta, params, observed, starts=starts)

        nats = jax.vmap(one)(*parts)[:, _BEFORE:]
        return nats.reshape(-1, nats.shape[2])[: len(eta)] - (jnp.exp(eta) - jnp.exp(within))


def pieces(values: Array) -> Array:
    """Cut (T, ...) into (piece, frame, ...), each with frames before it; zeros, or False, beyond the ends."""
    fill = [(0, 0)] * (values.ndim - 1)
    whole = jnp.pad(values, [(0, -len(values) % _LENGTH), *fill]).reshape(-1, _LENGTH, *values.shape[1:])
    before = jnp.pad(whole[:-1, -_BEFORE:], [(1, 0), (0, 0), *fill])
    return jnp.concatenate([before, whole], axis=1)
