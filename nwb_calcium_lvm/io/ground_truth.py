"""Recordings with known spikes: the public CASCADE ground-truth layout and Spikefinder's tables."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.provenance import Segments, Source
from nwb_calcium_lvm.recording import Recording

_TICKS_PER_SECOND = 1e4  # events_AP counts tenths of a millisecond
_SHORTEST = 4.0  # s; segments under it hold too little for a baseline
_FEWEST_FRAMES = 8
_PAUSE = 10.0  # s put between the segments of a neuron, whose own clocks may each begin at 0
_SPIKEFINDER_RATE = 100.0


@dataclass(frozen=True)
class GroundTruth:
    """One neuron whose fluorescence and spikes were recorded together.

    Parameters
    ----------
    recording : Recording
        One ROI; its segments lie apart on one clock.
    spikes : ndarray, shape (n,)
        Spike times in s on the recording's clock, sorted.
    neuron : str
        Name, unique within the folder.
    dataset : str
        Name of the set it belongs to.
    segment_numbers : tuple of int
        Position in the file of each segment that was kept.
    """

    recording: Recording
    spikes: NDArray[np.floating]
    neuron: str
    dataset: str
    segment_numbers: tuple[int, ...]

    def spikes_in(self, segment: int) -> NDArray[np.floating]:
        """Return the spikes that belong to a segment, those within half a pause of it included."""
        times = self.recording.timestamps
        start, stop = self.recording.segments.bounds[segment]
        inside = (self.spikes >= times[start] - _PAUSE / 2) & (self.spikes < times[stop - 1] + _PAUSE / 2)
        return self.spikes[inside]


def read_ground_truth(folder: str | Path) -> list[GroundTruth]:
    """Read every data set under a folder, or one data set, in CASCADE's layout.

    Parameters
    ----------
    folder : str or Path
        A folder of ``.mat`` files (one data set, one file per neuron), or a folder of such folders.

    Returns
    -------
    list of GroundTruth
        Sorted by data set and file. Segments whose clock runs backward or that are under 4 s are left out, NaN too,
        each with one warning.

    Raises
    ------
    DataError
        If there is no such file, or none can be used.
    """
    root = Path(folder).expanduser()
    files = sorted(root.glob("*.mat")) or sorted(root.glob("*/*.mat"))
    if not files:
        raise DataError(
            f"{root} holds no .mat files, nor folders with such files. Expected CASCADE's Ground_truth folder or one "
            "data set of it."
        )
    neurons = [neuron for file in files if (neuron := read_ground_truth_file(file)) is not None]
    if not neurons:
        raise DataError(f"None of the {len(files)} files under {root} holds a segment that can be used.")
    return neurons


def read_ground_truth_file(path: str | Path) -> GroundTruth | None:
    """Read one neuron in CASCADE's layout; None (and a warning) where no segment of it can be used."""
    path = Path(path)
    kept: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    left_out: list[str] = []
    for number, segment in enumerate(_segments_of(path)):
        times, values, spikes, reason = _segment(segment)
        if reason:
            left_out.append(f"{number} ({reason})")
        else:
            kept.append((number, times, values, spikes))
    if left_out:
        shown = ", ".join(left_out[:4]) + (", ..." if len(left_out) > 4 else "")
        warnings.warn(
            f"{path.parent.name}/{path.name}: {len(left_out)} of {len(left_out) + len(kept)} segments are left out: "
            f"{shown}.",
            DataWarning,
            stacklevel=3,
        )
    if not kept:
        return None
    return _join(kept, path)


def read_spikefinder(calcium: str | Path, spikes: str | Path | None = None) -> list[GroundTruth]:
    """Read a Spikefinder table, one neuron per column, its padding cut off.

    Parameters
    ----------
    calcium : str or Path
        Such as ``1.train.calcium.csv`` (or ``.csv.gz``): 100 Hz, of unknown unit.
    spikes : str or Path, optional
        Spike counts per sample. Default: the file of the same name with ``spikes`` in place of ``calcium``.
    """
    import pandas as pd

    calcium = Path(calcium).expanduser()
    spikes = Path(spikes) if spikes is not None else calcium.with_name(calcium.name.replace("calcium", "spikes"))
    for path in (calcium, spikes):
        if not path.is_file():
            raise DataError(f"{path} does not exist. Expected a Spikefinder table, N.train.calcium.csv or .csv.gz.")
    traces, counts = pd.read_csv(calcium), pd.read_csv(spikes)
    if list(traces.columns) != list(counts.columns):
        raise DataError(f"{calcium.name} has columns {list(traces)[:5]} and {spikes.name} {list(counts)[:5]}.")
    name = f"spikefinder-{calcium.name.split('.')[0]}"
    out = []
    for column in traces.columns:
        # The table is as long as its longest neuron; a table of counts may be some samples shorter or longer.
        x = traces[column].to_numpy(float)
        y = counts[column].to_numpy(float)
        n = min(_end(x), _end(y))
        if n < _FEWEST_FRAMES:
            continue
        frames = np.repeat(np.arange(n), np.nan_to_num(y[:n]).astype(int))
        observed = np.isfinite(x[:n]) & np.isfinite(y[:n])
        recording = Recording(
            x[:n, None],
            sampling_rate=_SPIKEFINDER_RATE,
            roi_ids=[str(column)],
            mask=observed[:, None],
            units="unknown",
            source=Source("spikefinder", calcium),
            metadata={"dataset": name},
        )
        out.append(GroundTruth(recording, frames / _SPIKEFINDER_RATE, f"{name}/{column}", name, (0,)))
    return out


def _end(values: NDArray[np.floating]) -> int:
    """Number of samples before the padding."""
    known = np.flatnonzero(np.isfinite(values))
    return int(known[-1]) + 1 if len(known) else 0


def _segments_of(path: Path) -> list[Any]:
    from scipy.io import loadmat

    try:
        content = loadmat(path, squeeze_me=True, struct_as_record=False)
        return list(np.atleast_1d(content["CAttached"]))
    except KeyError as error:
        raise DataError(f"{path} has no variable CAttached; expected a file of CASCADE's ground truth.") from error
    except (OSError, ValueError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path} could not be read as a MATLAB file ({error}).") from error


def _segment(segment: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], str]:
    """Return times, dF/F and spike times of a segment, and why it cannot be used (empty if it can)."""
    missing = [name for name in ("fluo_mean", "fluo_time", "events_AP") if not hasattr(segment, name)]
    empty = np.zeros(0)
    if missing:
        return empty, empty, empty, f"no {', '.join(missing)}"
    values = np.atleast_1d(segment.fluo_mean).astype(float)
    times = np.atleast_1d(segment.fluo_time).astype(float)
    if values.ndim != 1 or values.size < _FEWEST_FRAMES:
        return empty, empty, empty, "too few frames"
    n = min(values.size, times.size)  # some files hold more samples than times
    values, times = values[:n], times[:n]
    known = np.isfinite(values) & np.isfinite(times)
    values, times = values[known], times[known]
    if (np.diff(times) <= 0).any():
        return empty, empty, empty, "its clock runs backward"
    if times.size < _FEWEST_FRAMES or times[-1] - times[0] < _SHORTEST:
        return empty, empty, empty, f"under {_SHORTEST:g} s"
    events = np.atleast_1d(segment.events_AP).astype(float) / _TICKS_PER_SECOND
    return times, values, np.sort(events[np.isfinite(events)]), ""


def _join(kept: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]], path: Path) -> GroundTruth:
    """Put the segments of a neuron on one clock, a pause between them, each spike staying with its segment."""
    clock, spikes, bounds = [], [], []
    shift, frames = 0.0, 0
    for number, times, _, events in kept:
        first = number == kept[0][0]
        shift = 0.0 if first else clock[-1][-1] + _PAUSE - times[0]
        near = (events >= times[0] - _PAUSE / 2) & (events < times[-1] + _PAUSE / 2)
        clock.append(times + shift)
        spikes.append(events[near] + shift)
        bounds.append((frames, frames + len(times)))
        frames += len(times)
    recording = Recording(
        np.concatenate([values for _, _, values, _ in kept])[:, None],
        timestamps=np.concatenate(clock),
        segments=Segments(np.array(bounds)),
        roi_ids=[path.stem],
        source=Source("ground_truth", path),
        metadata={"dataset": path.parent.name},
    )
    name = f"{path.parent.name}/{path.stem}"
    numbers = tuple(number for number, *_ in kept)
    return GroundTruth(recording, np.sort(np.concatenate(spikes)), name, path.parent.name, numbers)
