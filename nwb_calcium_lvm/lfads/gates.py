"""One frame of gated recurrent units, with a gradient that is only sums and products.

The units are those of Cho et al. (2014) as cuDNN and PyTorch compute them: the reset gate acts on what the recurrent
matrix made of the state. Differentiated by JAX, a frame keeps a dozen arrays or computes its exponentials anew; here it
keeps the few factors by which a gradient is multiplied.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

_CLIP = 5.0  # largest activation of a unit


@jax.custom_vjp
def advance(state: Array, driven: Array, recurrent: Array) -> Array:
    """Return the next state, (B, n).

    Parameters
    ----------
    state : (B, n) array
    driven : (B, 3 n) array
        What the units' matrix and bias made of the inputs of this frame: reset, keep, candidate.
    recurrent : (B, 3 n) array
        What their recurrent matrix made of the state.
    """
    return _advance(state, driven, recurrent)[0]


def _advance(state: Array, driven: Array, recurrent: Array) -> tuple[Array, tuple[Array, Array]]:
    n = state.shape[-1]
    gates = jax.nn.sigmoid(driven[:, : 2 * n] + recurrent[:, : 2 * n])
    reset, keep = gates[:, :n], gates[:, n:]
    back = recurrent[:, 2 * n :]
    candidate = jnp.tanh(driven[:, 2 * n :] + reset * back)
    after = keep * state + (1.0 - keep) * candidate
    free = jnp.abs(after) < _CLIP
    of_keep = (state - candidate) * keep * (1.0 - keep)
    of_candidate = (1.0 - keep) * (1.0 - candidate**2)
    of_reset = of_candidate * back * reset * (1.0 - reset)
    slopes = jnp.concatenate([of_reset, of_keep, of_candidate, of_candidate * reset], axis=-1)
    kept = jnp.where(free, keep, 0.0), jnp.where(jnp.tile(free, 4), slopes, 0.0)
    return jnp.clip(after, -_CLIP, _CLIP), kept


def _pull(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array, Array]:
    of_state, slopes = kept
    n = cotangent.shape[-1]
    out = jnp.tile(cotangent, 4) * slopes
    return cotangent * of_state, out[:, : 3 * n], jnp.concatenate([out[:, : 2 * n], out[:, 3 * n :]], axis=-1)


advance.defvjp(_advance, _pull)
