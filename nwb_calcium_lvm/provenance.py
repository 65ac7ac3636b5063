"""Where a recording came from, and which of its frames follow one another without a gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Source:
    """Where a recording came from, so that results can go back to it.

    Parameters
    ----------
    kind : str
        ``"nwb"``, ``"suite2p"`` or ``"array"``.
    path : Path, optional
        The file or folder.
    series, neuropil, plane_segmentation : str, optional
        Paths inside the NWB file, such as ``"processing/ophys/Fluorescence/plane0"``.
    table_rows : ndarray of int, shape (roi,), optional
        Row of each ROI in its plane segmentation (NWB) or in the plane's ``stat.npy`` (Suite2p).
    planes : ndarray of int, shape (roi,), optional
        Imaging plane of each ROI.
    object_id : str, optional
        NWB object identifier of the series.
    """

    kind: str = "array"
    path: Path | None = None
    series: str | None = None
    neuropil: str | None = None
    plane_segmentation: str | None = None
    table_rows: NDArray[np.integer] | None = None
    planes: NDArray[np.integer] | None = None
    object_id: str | None = None

    def take(self, roi: NDArray[np.integer]) -> Source:
        """Keep the given ROIs only."""
        rows = None if self.table_rows is None else self.table_rows[roi]
        planes = None if self.planes is None else self.planes[roi]
        return replace(self, table_rows=rows, planes=planes)


@dataclass(frozen=True)
class Segments:
    """Runs of frames that follow one another without a gap; trials are segments too.

    Parameters
    ----------
    bounds : ndarray of int, shape (segment, 2)
        First frame of each segment and the frame after its last.
    trial_ids : ndarray, shape (segment,), optional
        The trial each segment belongs to, where segments are trials.
    """

    bounds: NDArray[np.integer]
    trial_ids: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.bounds)

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Frames in each segment, shape (segment,)."""
        return self.bounds[:, 1] - self.bounds[:, 0]

    def labels(self) -> NDArray[np.integer]:
        """Segment number of each frame, shape (time,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @classmethod
    def from_frames(cls, frames: NDArray[np.integer], parent: Segments) -> Segments:
        """Segments of the frames taken from ``parent``: broken where frames stop being neighbours."""
        labels = parent.labels()[frames]
        breaks = np.flatnonzero((np.diff(frames) != 1) | (np.diff(labels) != 0)) + 1
        starts = np.concatenate([[0], breaks])
        bounds = np.column_stack([starts, np.concatenate([breaks, [len(frames)]])])
        ids = None if parent.trial_ids is None else parent.trial_ids[labels[starts]]
        return cls(bounds, ids)
