"""Recordings cut into windows of one length for the network, and what it says of them put together again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.provenance import Segments

_GRAIN = 4  # windows are padded to a multiple of this many frames: few lengths, few compilations


@dataclass(frozen=True)
class Windows:
    """Where windows lie in a recording.

    Parameters
    ----------
    bounds : ndarray of int, shape (window, 2)
        First frame of each and the frame after its last. Windows of one segment may overlap; together they cover it.
    n_frames : int
        Of the recording.
    length : int
        Frames to which all are padded.
    """

    bounds: NDArray[np.integer]
    n_frames: int
    length: int

    def __len__(self) -> int:
        return len(self.bounds)

    def cut(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (time, ...) as (window, length, ...), 0 after a window's end."""
        out = np.zeros((len(self), self.length, *values.shape[1:]), values.dtype)
        for i, (a, b) in enumerate(self.bounds):
            out[i, : b - a] = values[a:b]
        return out

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which frames of each window are of the recording, (window, length)."""
        return np.arange(self.length) < (self.bounds[:, 1] - self.bounds[:, 0])[:, None]

    def join(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return values (window, length, ...) as (time, ...); where windows overlap, one fades into the other."""
        weight = self._fades()
        out = np.zeros((self.n_frames, *values.shape[2:]))
        total = np.zeros(self.n_frames)
        shape = (-1,) + (1,) * (values.ndim - 2)
        for i, (a, b) in enumerate(self.bounds):
            out[a:b] += weight[i, : b - a].reshape(shape) * values[i, : b - a]
            total[a:b] += weight[i, : b - a]
        return out / total.reshape(shape)

    def _fades(self) -> NDArray[np.floating]:
        """Weight of each frame of each window: rises over an overlap with the window before, falls over the next."""
        out = np.ones((len(self), self.length))
        for i in range(len(self) - 1):
            (_, end), (begin, _) = self.bounds[i], self.bounds[i + 1]
            shared = end - begin
            if shared > 0:
                rise = (np.arange(shared) + 0.5) / shared
                out[i + 1, :shared] *= rise
                last = end - self.bounds[i, 0]
                out[i, last - shared : last] *= 1.0 - rise
        return out


def windows_of(segments: Segments, longest: int, overlap: float) -> Windows:
    """Cut segments into windows of at most ``longest`` frames.

    Parameters
    ----------
    segments : Segments
        Trials, or runs of frames without a gap; no window spans two of them.
    longest : int
        Frames.
    overlap : float
        Share of a window that it has in common with the next, at least; windows lie evenly. 0: none overlap.
    """
    bounds: list[tuple[int, int]] = []
    for a, b in segments.bounds.tolist():
        length = min(b - a, longest)
        stride = max(1, round(length * (1.0 - overlap)))
        n = 1 + -(-(b - a - length) // stride)
        if overlap:
            starts = np.round(np.linspace(a, b - length, n)).astype(int)
            bounds += [(int(s), int(s) + length) for s in starts]
        else:
            edges = np.round(np.linspace(a, b, n + 1)).astype(int).tolist()
            bounds += list(pairwise(edges))
    found = np.array(bounds)
    widest = int((found[:, 1] - found[:, 0]).max())
    return Windows(found, int(segments.bounds[-1, 1]), _GRAIN * -(-widest // _GRAIN))
