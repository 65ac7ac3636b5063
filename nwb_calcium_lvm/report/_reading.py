"""What of a file a report looks at: every ROI once, a block at a time, and of each result the frames that are shown.

Memory is that of one block, of the frames shown, and of one number per frame, however long the recording.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.plotting._overview import shown_frames
from nwb_calcium_lvm.plotting._time import variability
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.report._quality import Quality, joined, quality_of
from nwb_calcium_lvm.result import InferenceResult, NamedArray

_MOST_BYTES = 2**31  # of traces that are read: minutes, on most disks
_FRAMES = 1200  # shown of a recording without results
_KEPT = 96  # ROIs whose traces are kept: those that vary most for their noise


@dataclass(frozen=True)
class Traces:
    """What was seen of the traces.

    Attributes
    ----------
    recording : Recording
        Shown frames of the kept ROIs.
    frames : ndarray of int
        Which frames of the file these are.
    clock : Recording
        Clock, trials and metadata of the whole recording, on an ROI that means nothing.
    n_rois : int
        ROIs in the file, of those that are read.
    quality : Quality
    notes : list of str
        What was left out, and what the reader warned of.
    """

    recording: Recording
    frames: NDArray[np.integer]
    clock: Recording
    n_rois: int
    quality: Quality
    notes: list[str] = field(default_factory=list)

    def at(self, times: NDArray[np.floating], roi_ids: NDArray[Any]) -> Recording | None:
        """Return the kept ROIs among ``roi_ids`` at these times, or None where there are no such traces."""
        clock = self.clock.timestamps[self.frames]
        nearest = np.clip(np.searchsorted(clock, times), 0, len(clock) - 1)
        before = np.maximum(nearest - 1, 0)
        nearest = np.where(np.abs(clock[before] - times) < np.abs(clock[nearest] - times), before, nearest)
        off = np.abs(clock[nearest] - times).max(initial=0.0)
        known = set(map(str, roi_ids.tolist()))
        rois = np.array([str(roi) in known for roi in self.recording.roi_ids.tolist()])
        if not rois.any() or off > 0.75 / (self.clock.sampling_rate or 1.0):
            return None
        return Recording(
            self.recording.dff[np.ix_(nearest, np.flatnonzero(rois))],
            mask=self.recording.mask[np.ix_(nearest, np.flatnonzero(rois))],
            roi_ids=self.recording.roi_ids[rois],
            units=self.recording.units,
            sampling_rate=self.recording.sampling_rate,
            segments=Segments(np.array([[0, len(times)]])),
        )


def read_traces(path: Path, results: Mapping[str, InferenceResult], options: Mapping[str, Any]) -> Traces:
    """Read the traces of an NWB file as far as a report needs them.

    Raises
    ------
    DataError
        As :func:`nwb_calcium_lvm.read_nwb`.
    """
    from nwb_calcium_lvm.io import stream_nwb

    with warnings.catch_warnings(record=True) as caught, tempfile.TemporaryDirectory() as scratch:
        warnings.simplefilter("always")
        stream = stream_nwb(path, **options, scratch=scratch)
        clock = stream.frames
        frames = _frames_needed(clock, results)
        parts: list[Quality] = []
        kept: list[Recording] = []
        taken = 0
        for block in stream:
            parts.append(quality_of(block))
            kept = _most_variable([*kept, _cut(block, frames)])
            taken += 4 * block.n_frames * block.n_rois
            if taken >= _MOST_BYTES:
                break
    if not kept:
        raise DataError(f"No ROI of {path} carries a signal: all are constant or were never observed.")
    n_seen = sum(len(part.roi_ids) for part in parts)
    notes = list(dict.fromkeys(str(w.message) for w in caught if w.category.__name__ == "DataWarning"))
    roi_ids = stream.roi_ids
    if taken >= _MOST_BYTES and n_seen < len(roi_ids):
        notes.append(f"The file is large: quality is that of the first {n_seen:,} of {len(roi_ids):,} ROIs.")
        roi_ids = np.concatenate([part.roi_ids for part in parts])
    whole = _concatenated(kept)
    return Traces(whole, frames, clock, len(stream.roi_ids), joined(parts, roi_ids), notes)


def _frames_needed(clock: Recording, results: Mapping[str, InferenceResult]) -> NDArray[np.integer]:
    """Frames of the file that the results' pictures show; without results, from the middle on."""
    times = clock.timestamps
    wanted = [np.searchsorted(times, shown - 1e-6) for shown in map(_shown_times, results.values()) if len(shown)]
    if not wanted:
        first = max(0, (clock.n_frames - _FRAMES) // 2)
        wanted = [np.arange(first, min(first + _FRAMES, clock.n_frames))]
    frames = np.unique(np.concatenate(wanted))
    return frames[(frames >= 0) & (frames < clock.n_frames)]


def _shown_times(result: InferenceResult) -> NDArray[np.floating]:
    try:
        return np.asarray(result.time[slice(*shown_frames(result))], float)
    except (ValueError, TypeError, LookupError):  # of an odd shape; its section says so
        return np.zeros(0)


def _cut(block: Recording, frames: NDArray[np.integer]) -> Recording:
    spread = variability(np.where(block.mask, block.dff, np.nan))
    best = np.sort(np.argsort(-spread, kind="stable")[:_KEPT])
    return Recording(
        block.dff[np.ix_(frames, best)].astype(np.float32),
        mask=block.mask[np.ix_(frames, best)],
        roi_ids=block.roi_ids[best],
        units=block.units,
        sampling_rate=block.sampling_rate,
        roi_metadata={"variability": spread[best]},
        segments=Segments(np.array([[0, len(frames)]])),
    )


def _most_variable(parts: list[Recording]) -> list[Recording]:
    whole = _concatenated(parts)
    if whole.n_rois <= _KEPT:
        return [whole]
    best = np.sort(np.argsort(-whole.roi_metadata["variability"], kind="stable")[:_KEPT])
    return [whole.isel(roi=best)]


def _concatenated(parts: Sequence[Recording]) -> Recording:
    first = parts[0]
    return Recording(
        np.concatenate([p.dff for p in parts], axis=1),
        mask=np.concatenate([p.mask for p in parts], axis=1),
        roi_ids=np.concatenate([p.roi_ids for p in parts]),
        units=first.units,
        sampling_rate=first.sampling_rate,
        roi_metadata={"variability": np.concatenate([p.roi_metadata["variability"] for p in parts])},
        segments=first.segments,
    )


def part_of(result: InferenceResult, first: int, stop: int, rois: NDArray[np.integer] | None = None) -> InferenceResult:
    """Return some frames (and ROIs, by number) of a result, in memory."""

    def cut(array: NamedArray) -> NamedArray:
        if array.dims[:1] != ("time",):
            return array
        values = np.asarray(array.values[first:stop])
        if rois is not None and array.dims[1:2] == ("roi",):
            values = values[:, rois]
        return array._replace(values=values)

    def of_rois(array: NamedArray) -> NamedArray:
        if rois is None or array.dims[:1] != ("roi",):
            return array
        return array._replace(values=np.asarray(array.values)[rois])

    segments = Segments.from_frames(np.arange(first, stop), result.segments)
    return replace(
        result,
        arrays={name: cut(array) for name, array in result.arrays.items()},
        parameters={name: of_rois(array) for name, array in result.parameters.items()},
        time=np.asarray(result.time[first:stop]),
        roi_ids=result.roi_ids if rois is None else result.roi_ids[rois],
        segments=segments,
        roi_metadata={},
        spikes=None,
    )


def rois_in(result: InferenceResult, recording: Recording) -> NDArray[np.integer]:
    """Return which ROIs of a result the ROIs of a recording are, in the recording's order."""
    place = {str(roi): i for i, roi in enumerate(result.roi_ids.tolist())}
    return np.array([place[str(roi)] for roi in recording.roi_ids.tolist()])
