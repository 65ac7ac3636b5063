"""What the tables of an NWB file say: which ROIs are cells, what is known of each, and when the trials were."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.io._classes import DynamicTableRegion, NwbObject, VectorIndex

_ACCEPTED = ("iscell", "is_accepted", "accepted", "Accepted", "keep", "valid_roi")
_MASKS = {"image_mask", "pixel_mask", "voxel_mask"}
_WIDEST = 16  # a 2-D column wider than this is an image or a trace, not a fact about the ROI


def plain_columns(table: NwbObject, rows: NDArray[np.integer]) -> dict[str, NDArray[Any]]:
    """Return the columns of one value, or a few, per row, at the given rows; masks and ragged columns are skipped."""
    found: dict[str, NDArray[Any]] = {}
    for name in table.colnames:
        column = table[name]
        if name in _MASKS or isinstance(column, VectorIndex | DynamicTableRegion):
            continue
        shape = np.shape(column.data)
        if len(shape) > 2 or (len(shape) == 2 and shape[1] > _WIDEST):
            continue
        values = np.asarray(column.data[:])
        if values.dtype.kind in "OS":
            items = [v.decode() if isinstance(v, bytes) else v for v in values.ravel().tolist()]
            if not all(isinstance(v, str) for v in items):
                continue
            values = np.array(items, dtype=str).reshape(values.shape)
        if values.dtype.kind in "biufU":
            found[name] = values[rows]
    return found


def accepted_rois(columns: dict[str, NDArray[Any]], accepted: bool | str) -> NDArray[np.bool_] | None:
    """Return whether each ROI is a cell by the file's own column, shape (roi,); None where nothing says so.

    Parameters
    ----------
    columns : dict of str to ndarray
        As :func:`plain_columns` gives them.
    accepted : bool or str
        True: by the first known column there is. False: keep all. A name: by that column.

    Notes
    -----
    CaImAn's ``accepted`` and ``rejected`` are what someone sorted by hand. Where nobody did both are empty; that says
    nothing, and what its evaluation chose is in ``keep``.
    """
    if accepted is False:
        return None
    if isinstance(accepted, str) and accepted not in columns:
        raise DataError(f"accepted={accepted!r} is no column of the table of ROIs. It has: {', '.join(columns)}.")
    known = [n for n in _ACCEPTED if n in columns]
    if {"accepted", "rejected"} <= set(columns) and not (
        _flags(columns["accepted"]) | _flags(columns["rejected"])
    ).any():
        known.remove("accepted")
    name = accepted if isinstance(accepted, str) else next(iter(known), None)
    if name is None:
        return None
    keep = _flags(columns[name])
    if not keep.any():
        raise DataError(
            f"None of the {len(keep)} ROIs is accepted as a cell by the column {name!r}. Curate the ROIs, or pass "
            "accepted=False to read all."
        )
    return keep


def _flags(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a column of truth values as such, its first column where it has several."""
    values = values if values.ndim == 1 else values[:, 0]
    if values.dtype.kind == "U":
        return np.isin(np.char.lower(values), ["true", "yes", "1", "accepted"])
    return np.nan_to_num(values.astype(float)) > 0


def trial_table(nwbfile: NwbObject, name: str | None) -> dict[str, NDArray[Any]] | None:
    """Return an intervals table as columns (``start_time``, ``stop_time``, ``id`` and others of one value per row).

    The default ``"trials"`` may be absent; any other name must be there.
    """
    if name is None:
        return None
    tables = dict(nwbfile.intervals or {})
    for known in ("trials", "epochs", "invalid_times"):
        if getattr(nwbfile, known) is not None:
            tables[known] = getattr(nwbfile, known)
    if name not in tables:
        if name == "trials":
            return None
        raise DataError(
            f"trials={name!r} is not an intervals table of the file. It has: {', '.join(tables) or 'none'}."
        )
    table = tables[name]
    n = len(table)
    if n == 0:
        return None
    columns = plain_columns(table, np.arange(n))
    return {"id": np.asarray(table.id[:])} | {k: v for k, v in columns.items() if v.ndim == 1}
