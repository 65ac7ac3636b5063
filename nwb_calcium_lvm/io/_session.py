"""Which ROIs of an NWB file a result belongs to, and whether the file is of its session at all."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import WriteError
from nwb_calcium_lvm.io._classes import NwbObject, PlaneSegmentation, RoiResponseSeries
from nwb_calcium_lvm.io.nwb_series import object_at
from nwb_calcium_lvm.result import InferenceResult

SUFFIX = "_calcium_lvm"
# A copy's identifier is the session's with this ending; both are of one session.
_COPY = re.compile(rf"{SUFFIX}_[0-9a-f]{{8}}$")


def identifier_of_copy(identifier: str) -> str:
    """Return an identifier for a copy of a session: the session's, with an ending of its own."""
    return f"{_COPY.sub('', identifier)}{SUFFIX}_{uuid.uuid4().hex[:8]}"


def same_session(one: str, other: str) -> bool:
    """Say whether two identifiers are of one session, or of copies of it."""
    return _COPY.sub("", one) == _COPY.sub("", other)


def rois_of(nwbfile: NwbObject, result: InferenceResult, base: Path) -> tuple[NwbObject, NDArray[np.integer]]:
    """Return the table of ROIs in a file and the row of each ROI of the result."""
    said = result.metadata.get("identifier")
    if said is not None and not same_session(nwbfile.identifier, str(said)):
        raise WriteError(
            f"{base} is another session (identifier {nwbfile.identifier!r}; the result's is {said!r}). Pass the file "
            "the traces came from, or a copy of it."
        )
    source = result.source
    if source.kind == "nwb" and source.plane_segmentation is not None and source.table_rows is not None:
        table = object_at(nwbfile, source.plane_segmentation)
        rows = np.asarray(source.table_rows)
        if table is not None and len(rows) == len(result.roi_ids) and rows.max() < len(table):
            return table, rows
        raise WriteError(
            f"{base} does not have the {len(rows)} ROIs of the result in {source.plane_segmentation}. Pass source=PATH "
            "of the file the traces came from."
        )
    tables = [o for o in nwbfile.objects.values() if isinstance(o, PlaneSegmentation)]
    table = tables[0] if len(tables) == 1 else None
    ids = {} if table is None else {v: i for i, v in enumerate(_names_in(table))}
    names = [str(v) for v in np.asarray(result.roi_ids).tolist()]
    if table is None or not set(names) <= set(ids) or (source.kind == "array" and len(ids) != len(names)):
        raise WriteError(
            f"The result does not say which ROIs of {base} it belongs to. Read the traces with read_nwb({base.name!r}) "
            "so that it does, or pass a new path."
        )
    if not _fits_clock(nwbfile, table, result):
        raise WriteError(
            f"{base} is of another recording: none of its series has frames when the result has them, from "
            f"{np.min(result.time):.6g} to {np.max(result.time):.6g} s. Pass the file of this recording, or a new path."
        )
    return table, np.array([ids[n] for n in names])


def _fits_clock(nwbfile: NwbObject, table: NwbObject, result: InferenceResult) -> bool:
    """Whether some series of the ROIs runs at the result's rate and holds its time: numbers of ROIs say little."""
    series = [o for o in nwbfile.objects.values() if isinstance(o, RoiResponseSeries) and o.rois.table is table]
    if result.time_unit != "s" or not series:
        return True
    for one in series:
        n_frames = np.shape(one.data)[0] if np.shape(one.data) else 1
        times = None if one.timestamps is None else np.asarray(one.timestamps[:], float)
        step = 1.0 / one.rate if times is None else float(np.median(np.diff(times))) if len(times) > 1 else np.inf
        first = float(one.starting_time) if times is None else times[0]
        last = first + (n_frames - 1) * step if times is None else times[-1]
        same_rate = result.sampling_rate is None or abs(result.sampling_rate * step - 1) < 0.02 or not np.isfinite(step)
        if same_rate and np.min(result.time) >= first - step and np.max(result.time) <= last + step:
            return True
    return False


def _names_in(table: NwbObject) -> list[str]:
    column = "roi_name" if "roi_name" in table.colnames else None
    values = table.id[:] if column is None else table[column].data[:]
    return [str(v) for v in np.asarray(values).tolist()]
