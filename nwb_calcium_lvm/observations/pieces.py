"""Long recordings in pieces of one length, so that all are worked on side by side and compiled for once.

A piece has some frames before and after it that are only there to settle a filter or smoother.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray


class Pieces(NamedTuple):
    """Cut traces of some cells.

    Attributes
    ----------
    y, observed, log_rate : (frame, piece, N) array
        Traces, 0 where not observed; which samples count; log of the expected spikes per frame, (1, 1, 1) if not given.
    starts, inner : (frame, piece) array of bool
        First frames of segments, and frames that belong to the piece itself.
    """

    y: Array
    observed: Array
    log_rate: Array
    starts: Array
    inner: Array


class Cut:
    """Where traces are cut.

    Parameters
    ----------
    n_frames : int
    first : ndarray of int
        First frame of every segment.
    lengths : tuple of int
        Allowed lengths of a piece, rising; the last is taken for all longer recordings.
    before, after : int
        Frames on each side of a piece that settle the filter.
    max_frames : int, optional
        Only so many frames, in pieces evenly spaced over the recording.
    """

    def __init__(
        self,
        n_frames: int,
        first: NDArray[np.integer],
        lengths: tuple[int, ...],
        before: int,
        after: int = 0,
        *,
        max_frames: int | None = None,
    ):
        self.n_frames = n_frames
        self.length = next((n for n in lengths if n >= n_frames), lengths[-1])
        self.before = before
        every = np.arange(0, n_frames, self.length)
        wanted = len(every) if max_frames is None else min(len(every), max(1, max_frames // self.length))
        self.begins = every[np.linspace(0, len(every) - 1, wanted).round().astype(int)]
        self.n_pieces = bucket(len(self.begins))
        frames = self.begins + np.arange(-before, self.length + after)[:, None]
        frames = np.pad(frames, ((0, 0), (0, self.n_pieces - len(self.begins))), constant_values=-1)
        self.inside = (frames >= 0) & (frames < n_frames)
        self.frames = np.clip(frames, 0, n_frames - 1)
        marked = np.zeros(n_frames, bool)
        marked[first] = True
        self.starts = marked[self.frames] & self.inside
        self.starts[0] = True
        self.inner = self.inside.copy()
        self.inner[:before] = False
        self.inner[before + self.length :] = False

    def take(
        self,
        y: NDArray[np.floating],
        mask: NDArray[np.bool_],
        log_rate: NDArray[np.floating] | None,
        rois: NDArray[np.integer],
        width: int,
    ) -> Pieces:
        """Return the pieces of some cells, the last of them repeated up to ``width`` cells."""
        rois = np.concatenate([rois, np.full(max(0, width - len(rois)), rois[-1])])
        at = (self.frames[:, :, None], rois[None, None, :])
        observed = mask[at] & self.inside[:, :, None]
        rate = np.zeros((1, 1, 1)) if log_rate is None else np.asarray(log_rate)[at]
        return Pieces(
            jnp.asarray(np.where(observed, y[at], 0.0)),
            jnp.asarray(observed),
            jnp.asarray(rate),
            jnp.asarray(self.starts),
            jnp.asarray(self.inner),
        )

    def join(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Put what was computed for all pieces, (frame, piece, N), end to end, (time, N)."""
        own = values[self.before : self.before + self.length, : len(self.begins)]
        return own.swapaxes(0, 1).reshape(-1, values.shape[2])[: self.n_frames]


def bucket(n: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16 ..: few sizes, few compilations."""
    power = 1
    while 2 * power < n:
        power *= 2
    return n if n <= 4 else (3 * power // 2 if n <= 3 * power // 2 else 2 * power)
