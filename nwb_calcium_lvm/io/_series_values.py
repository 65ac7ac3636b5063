"""The numbers of a series: which ROIs, how many frames, in blocks and scaled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.io.nwb_series import Candidate

_BLOCK = 64 * 2**20  # bytes read at a time, so that columns left out never fill the memory
_TAIL = 256  # frames looked at together, from the end


def frames_recorded(pair: Sequence[Candidate]) -> int:
    """Return the number of frames before those that hold nothing.

    Suite2p fills up a plane that was recorded for fewer frames than the first with zeros, in the traces and in the
    neuropil; as raw light they would be a deep drop at the end of every trace.

    Parameters
    ----------
    pair : sequence of Candidate
        Traces, and their neuropil where they have one; traces alone are taken as they are.
    """
    n_frames = min(c.n_frames for c in pair)
    if len(pair) < 2:
        return n_frames
    for end in range(n_frames, 0, -_TAIL):
        tail = slice(max(0, end - _TAIL), end)
        filled = np.any([_frames(c, tail).any(axis=1) for c in pair], axis=0)
        if filled.any():
            return tail.start + int(np.flatnonzero(filled)[-1]) + 1
    return n_frames


def read_values(candidate: Candidate, rois: NDArray[np.integer], n_frames: int) -> NDArray[np.floating]:
    """Read the given ROIs of a series, block by block, as ``data * conversion + offset``; float32 stays float32.

    Returns
    -------
    ndarray, shape (time, roi)
        The first ``n_frames`` frames.
    """
    out = np.empty((n_frames, len(rois)), dtype_of(candidate))
    copy_values(
        candidate, rois, n_frames, out, max(1, _BLOCK // max(1, len(candidate.rows) * _stored(candidate).itemsize))
    )
    return out


def copy_values(candidate: Candidate, rois: NDArray[np.integer], n_frames: int, out: Any, step: int) -> None:
    """Put the given ROIs of a series into ``out``, ``step`` frames at a time; see :func:`read_values`."""
    series, dtype = candidate.series, dtype_of(candidate)
    offset = float(getattr(series, "offset", None) or 0.0)
    conversion = 1.0 if series.conversion is None else float(series.conversion)
    for a in range(0, n_frames, step):
        b = min(a + step, n_frames)
        values = _frames(candidate, slice(a, b))[:, rois].astype(dtype, copy=False)
        if conversion != 1.0:
            values = values * dtype.type(conversion)
        if offset != 0.0:
            values = values + dtype.type(offset)
        out[a:b] = values


def dtype_of(candidate: Candidate) -> np.dtype[Any]:
    """Return the type in which the numbers of a series are read: float32 where that holds them, else float64."""
    stored = _stored(candidate)
    small = stored.kind in "iub" and stored.itemsize <= 2
    return (
        stored if stored.kind == "f" and stored.itemsize >= 4 else np.dtype("f4" if small or stored == "f2" else "f8")
    )


def _stored(candidate: Candidate) -> np.dtype[Any]:
    data = candidate.series.data
    return np.dtype(getattr(data, "dtype", np.asarray(data).dtype))


def _frames(candidate: Candidate, frames: slice) -> NDArray[Any]:
    """Return some frames of a series as stored, (time, roi)."""
    data = candidate.series.data
    if len(candidate.shape) == 1:
        return np.asarray(data[frames])[:, None]
    return np.asarray(data[:, frames]).T if candidate.transposed else np.asarray(data[frames])
