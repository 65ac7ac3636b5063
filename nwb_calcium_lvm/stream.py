"""A recording that need not fit into memory: handed over some ROIs at a time, each with all its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.provenance import Source
from nwb_calcium_lvm.recording import Recording

_BLOCK_BYTES = 2**25  # of one block's traces in double precision; work on it takes some ten times as much
_MOST_ROIS = 64


@dataclass(frozen=True)
class RecordingStream:
    """Blocks of ROIs of one recording, for models that take each ROI alone.

    A trace is never cut: its baseline, its noise and the filters over it need all of it.

    Parameters
    ----------
    frames : Recording
        The clock, segments, trials and metadata, on one ROI whose trace means nothing.
    roi_ids : ndarray, shape (roi,)
        Of all ROIs that may come; those that turn out to have no dF/F are left out of the blocks.
    make : callable
        Given the number of ROIs per block, returns an iterator of Recordings.
    source : Source
        Of all ROIs that may come.
    roi_metadata : dict of str to ndarray
        As far as it is known without the traces.
    """

    frames: Recording
    roi_ids: NDArray[Any]
    make: Callable[[int], Iterator[Recording]]
    source: Source = field(default_factory=Source)
    roi_metadata: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Frames, and ROIs that may come."""
        return self.frames.n_frames, len(self.roi_ids)

    @property
    def n_bytes(self) -> int:
        """Size of the traces in single precision."""
        return 4 * self.shape[0] * self.shape[1]

    @property
    def block_size(self) -> int:
        """ROIs per block: a power of two, so that few shapes occur."""
        most = max(_BLOCK_BYTES // (8 * self.shape[0]), 1)
        return min(1 << (most.bit_length() - 1), _MOST_ROIS)

    def __iter__(self) -> Iterator[Recording]:
        return self.make(self.block_size)

    def __repr__(self) -> str:
        n_frames, n_rois = self.shape
        rate = self.frames.sampling_rate
        return f"RecordingStream({n_rois} ROIs x {n_frames} frames, {'?' if rate is None else f'{rate:.4g}'} Hz)"

    @classmethod
    def of(cls, recording: Recording) -> RecordingStream:
        """Return a recording that is in memory as a stream of its parts."""

        def parts(size: int) -> Iterator[Recording]:
            for first in range(0, recording.n_rois, size):
                yield recording.isel(roi=slice(first, first + size))

        return cls(recording.isel(roi=[0]), recording.roi_ids, parts, recording.source, recording.roi_metadata)


def silent(n_frames: int) -> NDArray[np.floating]:
    """Return the trace of one ROI that means nothing, (time, roi)."""
    return np.zeros((n_frames, 1), np.float32)
