"""Plain values turned into NWB objects in a file that is open for writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.io import _classes as nwb
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._clock import Clock
from nwb_calcium_lvm.io._tables import Column

_CHUNK_VALUES = 2**16  # 1024 frames of 64 ROIs: measured, see docs/benchmarks.md
_CHUNK_ROIS = 64
_BUFFER_BYTES = 32 * 2**20

Wrap = Callable[[Any, tuple[int, ...]], NwbObject]  # an iterator of slices and the shape of chunks -> compressed data
Tick = Callable[[int], object]  # is told of bytes written


def wrap_hdf5(slices: Any, chunks: tuple[int, ...]) -> NwbObject:
    """Have values written to HDF5 compressed, in chunks of a shape."""
    return nwb.H5DataIO(data=slices, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True)


@dataclass(frozen=True)
class Place:
    """Where in an open file a result goes, and what it refers to there.

    Parameters
    ----------
    nwbfile : NWBFile
        Open for writing.
    module : str
        Processing module, made if it is not there.
    table : PlaneSegmentation
        The ROIs.
    rows : ndarray of int, shape (roi,)
        The row of each ROI of the result in that table.
    sources : list of TimeSeries
        The traces the result was inferred from, as far as they are in this file.
    folder : Path
        The folder the file will be in.
    wrap : callable
        Has values written compressed and in chunks, as the format of the file wants it.
    tick : callable
        Is told how many bytes have been written.
    """

    nwbfile: NwbObject
    module: str
    table: NwbObject
    rows: NDArray[np.integer]
    sources: list[NwbObject]
    folder: Path
    wrap: Wrap = wrap_hdf5
    tick: Tick = lambda n: None

    @property
    def room(self) -> NwbObject:
        """The processing module."""
        room = self.nwbfile.processing.get(self.module)
        if room is not None:
            return room
        return self.nwbfile.create_processing_module(name=self.module, description="Processed optical physiology data.")

    def rois(
        self,
        name: str = "rois",
        description: str = "The ROIs the columns belong to, as in the source.",
        positions: NDArray[np.integer] | slice = slice(None),
    ) -> NwbObject:
        """Return a region of the table of ROIs, by default all ROIs of the result."""
        return nwb.DynamicTableRegion(name=name, data=self.rows[positions], description=description, table=self.table)

    def lender(self, times: NDArray[np.floating]) -> NwbObject | None:
        """Return a source whose timestamps are the given times, to share them."""
        for series in self.sources:
            stamps = series.timestamps
            if stamps is not None and len(stamps) == len(times) and np.array_equal(np.asarray(stamps[:], float), times):
                return series
        return None

    def stored(self, values: Any, order: NDArray[np.integer] | None = None) -> NwbObject:
        """Wrap values so that they are written slice by slice; see :func:`chunked`."""
        return chunked(values, self.wrap, order, self.tick)


def chunked(
    values: Any, wrap: Wrap, order: NDArray[np.integer] | None = None, tick: Tick = lambda n: None
) -> NwbObject:
    """Wrap values so that they are written slice by slice, in chunks that suit both frames and ROIs."""
    shape = tuple(int(n) for n in np.shape(values))
    inner = tuple(min(n, _CHUNK_ROIS) for n in shape[1:])
    frames = max(1, min(shape[0], _CHUNK_VALUES // max(1, int(np.prod(inner)))))
    buffer_frames = max(frames, _BUFFER_BYTES // (8 * max(1, int(np.prod(shape[1:])))) // frames * frames)
    chunks = (frames, *inner)
    slices = _Slices(
        values=values,
        order=order,
        tick=tick,
        chunk_shape=chunks,
        buffer_shape=(min(buffer_frames, shape[0]), *shape[1:]),
    )
    return wrap(slices, chunks)


def clock_arguments(clock: Clock, lender: NwbObject | None, place: Place) -> dict[str, Any]:
    """Return how a TimeSeries is told its times: by rate, as those of another series, or one by one."""
    if clock.rate is not None:
        return {"rate": float(clock.rate), "starting_time": float(clock.times[0])}
    if lender is not None:
        return {"timestamps": lender}
    return {"timestamps": place.wrap(clock.times, (min(len(clock.times), _CHUNK_VALUES),))}


def stored_column(column: Column) -> NwbObject:
    """Return a column of a table."""
    return nwb.VectorData(name=column.name, description=column.description, data=plain(column.compact()))


def plain(values: NDArray[Any]) -> Any:
    """Return text as hdmf takes it, a list; everything else as it is."""
    return values.astype(str).tolist() if values.dtype.kind in "OSU" else values


class _Slices(nwb.GenericDataChunkIterator):
    """Hands an array to hdmf in slices of frames, put in order; only one slice is in memory at a time."""

    def __init__(self, *, values: Any, order: NDArray[np.integer] | None, tick: Tick, **shapes: Any):
        self._values = values
        self._order = order
        self._tick = tick
        super().__init__(**shapes)

    def _get_data(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        frames, others = selection[0], selection[1:]
        if self._order is None:
            found = np.asarray(self._values[frames])[(slice(None), *others)]
        else:
            wanted = self._order[frames]
            breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
            runs = [np.asarray(self._values[run[0] : run[-1] + 1]) for run in np.split(wanted, breaks)]
            found = np.concatenate(runs)[(slice(None), *others)]
        self._tick(found.nbytes)
        return found

    def _get_maxshape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in np.shape(self._values))

    def _get_dtype(self) -> np.dtype[Any]:
        dtype = getattr(self._values, "dtype", None)
        return np.dtype(np.asarray(self._values[:1]).dtype if dtype is None else dtype)
