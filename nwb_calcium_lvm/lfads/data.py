"""Sessions as the compiled functions want them: windows of all sessions in arrays of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from nwb_calcium_lvm.lfads.network import Batch
from nwb_calcium_lvm.lfads.windows import Windows
from nwb_calcium_lvm.observations.starting import scored


class Data(NamedTuple):
    """Windows of all sessions; W windows, T frames, N neurons of the widest session.

    Attributes
    ----------
    y : (W, T, N) array
        Traces in the units of the fit, 0 where not observed.
    inputs : (W, T, N) array
        What the encoders see.
    observed, scored : (W, T, N) array of bool
        Samples that were observed, and those whose density given their past is defined.
    valid : (W, T) array of bool
        Frames that are of the recording.
    session : (W,) array of int
    """

    y: Array
    inputs: Array
    observed: Array
    scored: Array
    valid: Array
    session: Array

    def take(self, index: Any) -> Data:
        """Return the windows of that index."""
        return jax.tree.map(lambda a: a[index], self)

    def batch(self, hidden: Array | None = None) -> Batch:
        """Return what the network reads, ``hidden`` samples (W, T, N) or (W, 1, N) taken out."""
        inputs = self.inputs if hidden is None else jnp.where(hidden, 0.0, self.inputs)
        return Batch(inputs, self.valid, self.session)


class Session(NamedTuple):
    """One session's traces; see :class:`nwb_calcium_lvm.lfads.parameters.Start`."""

    y: NDArray[np.floating]
    innovations: NDArray[np.floating]
    mask: NDArray[np.bool_]
    windows: Windows


def gather(sessions: Sequence[Session], order: int, n_rois: int, numbers: Sequence[int] | None = None) -> Data:
    """Cut sessions into windows and put them into arrays; ``numbers`` says which sessions these are."""
    length = max(s.windows.length for s in sessions)
    parts = []
    for number, (y, innovations, mask, windows) in enumerate(sessions):
        width = ((0, 0), (0, length - windows.length), (0, n_rois - y.shape[1]))
        valid = np.pad(windows.valid, width[:2])
        observed = np.pad(windows.cut(mask) & windows.valid[..., None], width)
        kept = np.stack([scored(m, np.zeros(1, int), order) for m in observed]) & valid[..., None]
        name = number if numbers is None else numbers[number]
        parts.append(
            (
                np.pad(windows.cut(y.astype(np.float32)), width),
                np.pad(np.clip(windows.cut(innovations.astype(np.float32)), -_CLIP, _CLIP), width),
                observed,
                kept,
                valid,
                np.full(len(windows), name, np.int32),
            )
        )
    return Data(*(jnp.asarray(np.concatenate(column)) for column in zip(*parts, strict=True)))


_CLIP = 8.0  # sd of the encoders' input; beyond, an artefact


def stack_rois(values: Sequence[Any], n_rois: int) -> Any:
    """Stack per-neuron arrays (roi, ...) of sessions as (session, N, ...), the last neuron filling up."""

    def pad(a: Any) -> NDArray[Any]:
        a = np.asarray(a)
        return a[np.minimum(np.arange(n_rois), len(a) - 1)]

    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack([pad(a) for a in leaves]), jnp.float32), *values)
