"""Content turned into NWB objects in a file that pynwb has open for writing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.io import _classes as nwb
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._content import Clock, Column, Content, Series, Table

_CHUNK_VALUES = 2**17  # about a megabyte of float64 per chunk
_CHUNK_ROIS = 64
_BUFFER_BYTES = 32 * 2**20


def add_content(
    nwbfile: NwbObject,
    content: Content,
    module: str,
    table: NwbObject,
    rows: NDArray[np.integer],
    clock_series: NwbObject | None,
) -> None:
    """Add a result to an open file.

    Parameters
    ----------
    nwbfile : NWBFile
        Open for writing.
    content : Content
        What to add.
    module : str
        Processing module, made if it is not there.
    table : PlaneSegmentation
        The ROIs.
    rows : ndarray of int, shape (roi,)
        The row of each ROI of the result in that table.
    clock_series : TimeSeries or None
        A series with the very timestamps of the result, to share them.
    """
    room = nwbfile.processing.get(module)
    if room is None:
        room = nwbfile.create_processing_module(name=module, description="Processed optical physiology data.")
    lender = clock_series
    for series in content.series:
        built = _series(series, content.clock, table, rows, lender)
        room.add(built)
        lender = lender if lender is not None else built
    for plain in content.tables:
        room.add(_table(plain, table, rows))


def _series(
    series: Series, clock: Clock, table: NwbObject, rows: NDArray[np.integer], lender: NwbObject | None
) -> NwbObject:
    arguments: dict[str, Any] = {
        "name": series.name,
        "data": stored(series.values, clock.order),
        "unit": series.unit,
        "description": series.description,
    }
    if clock.rate is not None:
        arguments |= {"rate": float(clock.rate), "starting_time": float(clock.times[0])}
    elif lender is not None:
        arguments["timestamps"] = lender
    else:
        arguments["timestamps"] = nwb.H5DataIO(clock.times, compression="gzip")
    if not series.of_rois:
        return nwb.TimeSeries(**arguments)
    region = nwb.DynamicTableRegion(
        name="rois", data=rows, description="The ROIs the columns belong to, as in the source.", table=table
    )
    return nwb.RoiResponseSeries(rois=region, **arguments)


def _table(table: Table, rois: NwbObject, rows: NDArray[np.integer]) -> NwbObject:
    columns = [_column(c) for c in table.columns]
    if table.intervals:
        return nwb.TimeIntervals(name=table.name, description=table.description, columns=columns)
    if table.of_rois:
        region = nwb.DynamicTableRegion(
            name="roi", data=rows, description="The ROI: its row in the plane segmentation.", table=rois
        )
        columns = [region, *columns]
    return nwb.DynamicTable(name=table.name, description=table.description, columns=columns)


def _column(column: Column) -> NwbObject:
    values = column.compact()
    if values.dtype.kind in "OSU":
        values = [str(v) for v in values.tolist()]
    return nwb.VectorData(name=column.name, description=column.description, data=values)


def stored(values: Any, order: NDArray[np.integer] | None = None) -> NwbObject:
    """Wrap values so that they are written compressed, slice by slice, in chunks that suit both frames and ROIs."""
    shape = tuple(int(n) for n in np.shape(values))
    inner = tuple(min(n, _CHUNK_ROIS) for n in shape[1:])
    frames = max(1, min(shape[0], _CHUNK_VALUES // max(1, int(np.prod(inner)))))
    buffer_frames = max(frames, _BUFFER_BYTES // (8 * max(1, int(np.prod(shape[1:])))) // frames * frames)
    slices = _Slices(
        values=values,
        order=order,
        chunk_shape=(frames, *inner),
        buffer_shape=(min(buffer_frames, shape[0]), *shape[1:]),
    )
    return nwb.H5DataIO(data=slices, compression="gzip", compression_opts=4, shuffle=True)


class _Slices(nwb.GenericDataChunkIterator):
    """Hands an array to hdmf in slices of frames, put in order; only one slice is in memory at a time."""

    def __init__(self, *, values: Any, order: NDArray[np.integer] | None, **shapes: Any):
        self._values = values
        self._order = order
        super().__init__(**shapes)

    def _get_data(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        frames, others = selection[0], selection[1:]
        if self._order is None:
            return np.asarray(self._values[frames])[(slice(None), *others)]
        wanted = self._order[frames]
        breaks = np.flatnonzero(np.diff(wanted) != 1) + 1
        runs = [np.asarray(self._values[run[0] : run[-1] + 1]) for run in np.split(wanted, breaks)]
        return np.concatenate(runs)[(slice(None), *others)]

    def _get_maxshape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in np.shape(self._values))

    def _get_dtype(self) -> np.dtype[Any]:
        return np.dtype(getattr(self._values, "dtype", np.asarray(self._values[:1]).dtype))
