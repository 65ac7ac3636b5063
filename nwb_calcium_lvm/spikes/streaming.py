"""Inference over blocks of ROIs, into memory or onto disk: the same rates with the memory of one block."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._core.persistence import state_of
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.provenance import Source
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray, SpikeTimes
from nwb_calcium_lvm.spikes.inputs import Findings, frame_durations, look_at, take, together
from nwb_calcium_lvm.stream import RecordingStream

LARGE = 512 * 2**20  # bytes of traces in single precision

ARRAYS = {
    "firing_rates": ("Hz", "Spikes per second."),
    "expected_spikes": ("spikes", "Expected number of spikes in each frame."),
}


def stream_of(estimator: Any, X: Any, groups: Any, stream: bool | None, scratch: Any) -> tuple[RecordingStream, bool]:
    """Return X as a stream, and whether results are to go onto disk."""
    if isinstance(X, RecordingStream):
        if X.frames.sampling_rate is None:
            raise DataError(f"{X} says no sampling rate, and spikes per second cannot be had without one.")
        return X, stream is not False
    if isinstance(X, str | os.PathLike) and stream is not False:
        opened = open_stream(Path(X), estimator.sampling_rate, scratch)
        if stream or opened.n_bytes > LARGE:
            return opened, True
    return RecordingStream.of(take(estimator, X, groups=groups).only_one("a result")), bool(stream)


def open_stream(path: Path, rate: float | None, scratch: Any) -> RecordingStream:
    """Open an NWB file or a Suite2p folder, whichever the path is, to be read some ROIs at a time."""
    from nwb_calcium_lvm.io import stream_nwb, stream_suite2p
    from nwb_calcium_lvm.io.zarr_store import is_store

    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected an NWB file or a Suite2p folder.")
    if path.is_dir() and not is_store(path):
        return stream_suite2p(path, sampling_rate=rate)
    return stream_nwb(path, sampling_rate=rate, scratch=scratch)


def infer_stream(
    estimator: Any,
    stream: RecordingStream,
    *,
    on_disk: bool,
    scratch: Any = None,
    spikes: bool | float = False,
    verbose: int = 0,
) -> InferenceResult:
    """Infer the rates of one block after the other.

    Parameters
    ----------
    estimator : SpikeEstimator
    stream : RecordingStream
    on_disk : bool
        Whether results are put into a temporary file rather than into memory.
    scratch : path, optional
        Folder of that file.
    spikes : bool or float
        Whether to look for single spikes, or their least confidence.
    verbose : int
        1 shows a progress bar.
    """
    sink = _Disk(scratch) if on_disk else _Memory(stream.shape)
    clock, findings, blocks = stream.frames, [], []
    events = SpikeTimes([], [])
    durations = frame_durations(clock).astype(np.float32)[:, None]
    with _progress(stream.shape[1], verbose) as done, _each_warning_once():
        for block in stream:
            if spikes is False:
                rates = estimator._rates(block)
            else:
                rates, single = estimator._rates_and_spikes(block, None if spikes is True else spikes)
                events.times.extend(single.times)
                events.confidence.extend(single.confidence)
            sink.add({"firing_rates": rates, "expected_spikes": rates * durations})
            findings.append(look_at(block))
            blocks.append(_Facts(block))
            done(block.n_rois)
    everything = together(findings)
    estimator._warn_of(everything, clock)
    arrays = {k: NamedArray(v, ("time", "roi"), *ARRAYS[k]) for k, v in sink.arrays().items()}
    roi_metadata = {k: np.concatenate([b.roi_metadata[k] for b in blocks]) for k in blocks[0].roi_metadata}
    result = result_of(estimator, clock, everything, arrays, _source(stream.source, blocks), roi_metadata)
    return result if spikes is False else replace(result, spikes=events)


def result_of(
    estimator: Any,
    clock: Recording,
    found: Findings,
    arrays: dict[str, NamedArray],
    source: Source,
    roi_metadata: dict[str, NDArray[Any]],
) -> InferenceResult:
    """Return a result of arrays over a clock; of the recording nothing else is looked at."""
    return InferenceResult(
        arrays=arrays,
        parameters=estimator._parameters(found, clock.units),
        time=clock.timestamps,
        time_unit="s",
        sampling_rate=clock.sampling_rate,
        is_regular=clock.is_regular and len(clock.segments) == 1,
        roi_ids=found.roi_ids,
        segments=clock.segments,
        model=estimator._about(),
        converged=bool(np.all(getattr(estimator, "converged_", True))),
        source=source,
        metadata=clock.metadata,
        roi_metadata=roi_metadata,
        fitted=state_of(estimator),
    )


class _Facts:
    """What is kept of a block when its traces are let go."""

    def __init__(self, block: Recording):
        self.source, self.roi_metadata = block.source, block.roi_metadata


def _source(whole: Source, blocks: list[_Facts]) -> Source:
    def joined(name: str) -> NDArray[np.integer] | None:
        parts = [getattr(b.source, name) for b in blocks]
        return None if any(p is None for p in parts) else np.concatenate(parts)

    return replace(whole, table_rows=joined("table_rows"), planes=joined("planes"))


class _Memory:
    """Takes up arrays (time, roi) block by block."""

    def __init__(self, shape: tuple[int, int]):
        self._shape, self._done = shape, 0
        self._arrays: dict[str, NDArray[np.floating]] = {}

    def add(self, values: dict[str, NDArray[np.floating]]) -> None:
        first = self._done
        for name, found in values.items():
            whole = self._arrays.setdefault(name, np.empty(self._shape, np.float32))
            self._done = first + found.shape[1]
            whole[:, first : self._done] = found

    def arrays(self) -> dict[str, Any]:
        return {k: v[:, : self._done] for k, v in self._arrays.items()}


class _Disk:
    """The same in a temporary file."""

    def __init__(self, folder: Any):
        from nwb_calcium_lvm.io.scratch import Scratch

        self._file, self._names = Scratch(folder), []

    def add(self, values: dict[str, NDArray[np.floating]]) -> None:
        self._names = list(values)
        for name, found in values.items():
            self._file.add_rois(name, found)

    def arrays(self) -> dict[str, Any]:
        return {name: self._file.array(name) for name in self._names}


@contextmanager
def _progress(n_rois: int, verbose: int) -> Iterator[Any]:
    if not verbose:
        yield lambda n: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=n_rois, desc="Inferring spikes", unit="ROI", delay=1) as bar:
        yield bar.update
        bar.update(bar.total - bar.n)  # ROIs that were left out


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Let through, at the end, one of each warning that blocks gave alike."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said: set[str] = set()
    for warning in caught:
        if str(warning.message) not in said:
            said.add(str(warning.message))
            warnings.warn(warning.message, warning.category, stacklevel=4)
