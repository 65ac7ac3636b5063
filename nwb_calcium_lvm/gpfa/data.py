"""Traces as the compiled functions want them: trials end to end, padded to few lengths, neurons in blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from nwb_calcium_lvm.gpfa.kalman import Clock
from nwb_calcium_lvm.gpfa.readouts import Block
from nwb_calcium_lvm.observations.starting import scored
from nwb_calcium_lvm.recording import Recording

CHUNK = 256  # frames whose filtered states are held at a time, and granularity of padding
_BLOCK_SAMPLES = 400_000  # samples of a block of neurons: a few MB for each array over them
_STEPS_PER_OCTAVE = 8  # lengths are padded to one of these per doubling: at most 12.5 % wasted, few compilations


class Data(NamedTuple):
    """All trials on one time axis.

    Attributes
    ----------
    blocks : Block
        ``y``, ``observed`` and ``scored`` of shape (block, T, B), and ``starts`` (T,).
    clock : Clock
        Steps between frames. Padded frames are trials of their own, so that nothing flows into or out of them.
    """

    blocks: Block
    clock: Clock


class Layout(NamedTuple):
    """How frames and neurons are laid out: numbers of both, padded frames, blocks, neurons in a block."""

    n_frames: int
    n_rois: int
    n_padded: int
    n_blocks: int
    width: int

    def by_block(self, values: Any) -> NDArray[Any]:
        """Arrange values (roi, ...) as (block, B, ...); the last neuron stands in for those that fill up."""
        values = np.asarray(values)
        index = np.minimum(np.arange(self.n_blocks * self.width), self.n_rois - 1)
        return values[index].reshape(self.n_blocks, self.width, *values.shape[1:])

    def by_roi(self, values: Any) -> NDArray[Any]:
        """Invert :meth:`by_block`."""
        values = np.asarray(values)
        return values.reshape(self.n_blocks * self.width, *values.shape[2:])[: self.n_rois]


def layout_for(n_frames: int, n_rois: int) -> Layout:
    """Choose lengths and blocks for this many frames and neurons."""
    n_chunks = -(-n_frames // CHUNK)
    step = max(1, 2 ** int(np.floor(np.log2(n_chunks))) // _STEPS_PER_OCTAVE)
    n_padded = CHUNK * step * (-(-n_chunks // step))
    widest = 2 ** int(np.log2(np.clip(_BLOCK_SAMPLES // n_padded, 4, 64)))
    width = min(widest, max(4, 2 ** int(np.ceil(np.log2(n_rois)))))  # few widths, few compilations
    return Layout(n_frames, n_rois, n_padded, -(-n_rois // width), width)


def steps_of(recording: Recording) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Lengths of steps (K,) in frames, and which of them leads to each frame (T,).

    Trials, and pieces of recordings without a clock, start anew; over a gap of a recording with a clock the latents run
    on for as long as the gap lasted.
    """
    first = recording.segments.bounds[:, 0]
    into = np.ones(recording.n_frames)
    into[first] = np.inf
    if recording.segments.trial_ids is None and recording.sampling_rate is not None and len(first) > 1:
        gap = (recording.timestamps[first[1:]] - recording.timestamps[first[1:] - 1]) * recording.sampling_rate
        into[first[1:]] = np.where(gap > 0, np.round(gap, 3), np.inf)
    lengths, kind = np.unique(into, return_inverse=True)
    others = lengths[(lengths != 1.0) & np.isfinite(lengths)]
    table = np.concatenate([[1.0, np.inf], others])
    order = np.array([int(np.flatnonzero(table == value)[0]) for value in lengths])
    size = 2 + (0 if len(others) == 0 else 2 ** int(np.ceil(np.log2(len(others)))))  # few lengths, few compilations
    return np.concatenate([table, np.full(size - len(table), np.inf)]), order[kind]


def pack(traces: NDArray[np.floating], recording: Recording, order: int) -> tuple[Data, Layout]:
    """Build :class:`Data` from traces (time, roi) in the units of the fit and from the recording's mask and clock."""
    n_frames, n_rois = traces.shape
    layout = layout_for(n_frames, n_rois)
    first = recording.segments.bounds[:, 0]
    kept = scored(recording.mask, first, order)

    def arrange(values: NDArray[Any], fill: Any) -> NDArray[Any]:
        out = np.full((layout.n_blocks, layout.n_padded, layout.width), fill, values.dtype)
        for i in range(n_rois):
            out[i // layout.width, :n_frames, i % layout.width] = values[:, i]
        return out

    dtype = traces.dtype if traces.dtype in (np.float32, np.float64) else np.float64
    y = arrange(np.where(recording.mask, traces, 0.0).astype(dtype), 0.0)
    starts = np.ones(layout.n_padded, bool)
    starts[:n_frames] = False
    starts[first] = True
    steps, kind = steps_of(recording)
    kinds = np.concatenate([kind, np.ones(layout.n_padded - n_frames, int)])
    block = Block(y, arrange(recording.mask, False), arrange(kept, False), starts)
    return jax.tree.map(jnp.asarray, Data(block, Clock(steps, kinds))), layout


def block_at(blocks: Block, arrays: tuple[Array, Array, Array]) -> Block:
    """One block in double precision, from its slices of ``y``, ``observed`` and ``scored``."""
    y, observed, kept = arrays
    return Block(y.astype(jnp.float64), observed, kept, blocks.starts)
