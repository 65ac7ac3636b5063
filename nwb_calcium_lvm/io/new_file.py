"""A new NWB file for traces that were in none: a Suite2p folder, or arrays. Only what is known is written."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, NameClashError
from nwb_calcium_lvm.io import _classes as nwb
from nwb_calcium_lvm.io._build import Wrap, chunked
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._pickle import read_objects
from nwb_calcium_lvm.io._suite2p_folder import find_layout
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult

TABLE_PATH = "processing/{module}/ImageSegmentation/PlaneSegmentation"
TRACES_PATH = "processing/{module}/DfOverF"
_UNKNOWN = "unknown"
_Mask = list[tuple[int, int, float]]


def new_nwbfile(
    result: InferenceResult, recording: Recording | None, module: str, wrap: Wrap
) -> tuple[NwbObject, NDArray[np.integer]]:
    """Make an NWBFile with the ROIs of a result, and the dF/F if the recording is given.

    Returns
    -------
    nwbfile : NWBFile
        In memory.
    rows : ndarray of int, shape (roi,)
        Row of each ROI in its plane segmentation.
    """
    facts = result.metadata
    start, how = _start_time(result)
    nwbfile = nwb.NWBFile(
        session_description=str(facts.get("session_description", f"Calcium imaging, {_origin(result)}.")) + how,
        identifier=str(facts.get("identifier", uuid.uuid4())),
        session_start_time=start,
        session_id=None if facts.get("session_id") is None else str(facts["session_id"]),
    )
    table = _segmentation(nwbfile, result, module)
    rows = np.arange(len(result.roi_ids))
    if recording is not None:
        nwbfile.processing[module].add(_traces(recording, table, rows, wrap))
    return nwbfile, rows


def _origin(result: InferenceResult) -> str:
    kinds = {"suite2p": "processed by Suite2p", "array": "from arrays in memory", "nwb": "from an NWB file"}
    return kinds.get(result.source.kind, result.source.kind)


def _start_time(result: InferenceResult) -> tuple[datetime, str]:
    """Return when the session began, and what has to be said of it."""
    said = result.metadata.get("session_start_time")
    if said is not None:
        start = said if isinstance(said, datetime) else datetime.fromisoformat(str(said))
        return (start if start.tzinfo else start.replace(tzinfo=UTC)), ""
    path = result.source.path
    if path is not None:
        changed = max((p.stat().st_mtime for p in path.rglob("F.npy")), default=path.stat().st_mtime)
        return (
            datetime.fromtimestamp(changed, UTC),
            " The start time of the session is not known; the date of its processed files stands in.",
        )
    return datetime.now(UTC), " The start time of the session is not known; the time of writing stands in."


def _segmentation(nwbfile: NwbObject, result: InferenceResult, module: str) -> NwbObject:
    facts = result.metadata
    device = nwbfile.create_device(name="Microscope", description="The microscope; nothing more is known of it.")
    channel = nwb.OpticalChannel(
        name="OpticalChannel", description="The channel of the traces.", emission_lambda=float("nan")
    )
    plane = nwbfile.create_imaging_plane(
        name="ImagingPlane",
        description="The imaged plane or planes.",
        optical_channel=channel,
        device=device,
        excitation_lambda=float("nan"),
        imaging_rate=result.sampling_rate,
        indicator=str(facts.get("indicator", _UNKNOWN)),
        location=str(facts.get("location", _UNKNOWN)),
    )
    masks, told = _masks(result)
    table = nwb.PlaneSegmentation(name="PlaneSegmentation", description=told, imaging_plane=plane)
    ids = np.asarray(result.roi_ids)
    whole = ids.dtype.kind in "iu"
    for i, mask in enumerate(masks):
        table.add_roi(pixel_mask=mask, id=int(ids[i]) if whole else i)
    if not whole:
        table.add_column(name="roi_name", description="Name of the ROI.", data=[str(v) for v in ids])
    if result.source.planes is not None:
        table.add_column(
            name="plane", description="Number of the imaging plane.", data=np.asarray(result.source.planes, np.uint8)
        )
    room = nwbfile.create_processing_module(name=module, description="Processed optical physiology data.")
    images = nwb.ImageSegmentation()
    images.add_plane_segmentation(table)
    room.add(images)
    return table


def _masks(result: InferenceResult) -> tuple[list[_Mask], str]:
    """Pixels of each ROI, and a description of where they are from."""
    if result.source.kind == "suite2p" and result.source.path is not None:
        return _suite2p_masks(result, result.source.path), "ROIs of Suite2p."
    # The standard requires a mask; a pixel of weight 0 claims nothing.
    told = "ROIs of unknown position: each mask is a placeholder, one pixel of weight 0."
    return [[(0, 0, 0.0)]] * len(result.roi_ids), told


def _suite2p_masks(result: InferenceResult, folder: Path) -> list[_Mask]:
    rows, planes = result.source.table_rows, result.source.planes
    if rows is None or planes is None:
        raise DataError(f"The result does not say which ROIs of {folder} it belongs to (Source.table_rows, planes).")
    layout = find_layout(folder)
    read: dict[Path, Any] = {}
    masks: list[_Mask] = []
    for row, plane in zip(rows, planes, strict=True):
        place = layout.root if layout.combined else layout.planes[int(plane)]
        if place not in read:
            read[place] = read_objects(place / "stat.npy")
        roi = read[place][int(row)]
        pixels = zip(np.asarray(roi["xpix"]), np.asarray(roi["ypix"]), np.asarray(roi["lam"]), strict=True)
        masks.append([(int(x), int(y), float(w)) for x, y, w in pixels])
    return masks


def check_new_file(recording: Recording | None, result: InferenceResult, names: list[str]) -> None:
    """Raise unless a result, and the traces that are given with it, can be put into a new file.

    Raises
    ------
    DataError
        If the recording is not that of the result, or its traces cannot be a time series.
    NameClashError
        If the result has the name of something else in the file.
    """
    taken = sorted({"ImageSegmentation", "DfOverF"} & set(names))
    if taken:
        raise NameClashError(f"A new file has {taken[0]} beside the results. Pass another name=.")
    if recording is None:
        return
    if not np.array_equal(recording.roi_ids, result.roi_ids):
        raise DataError(
            f"The recording given as source has {recording.n_rois} ROIs and the result {len(result.roi_ids)}, or other "
            "ones. Expected the recording the result was inferred from."
        )
    if not recording.has_clock or np.any(np.diff(np.sort(recording.timestamps)) <= 0):
        raise DataError(
            "The traces of the recording given as source cannot be stored: it has no clock in s, or windows that "
            "overlap, and NWB series need increasing times. Leave out source=, or infer over a recording with a clock."
        )


def _traces(recording: Recording, table: NwbObject, rows: NDArray[np.integer], wrap: Wrap) -> NwbObject:
    times = recording.timestamps
    order = np.argsort(times, kind="stable")  # trials may be in any order
    clock: dict[str, Any] = {"timestamps": times[order]}
    if recording.is_regular and len(recording.segments) == 1 and recording.sampling_rate is not None:
        clock = {"rate": recording.sampling_rate, "starting_time": recording.starting_time}
    region = nwb.DynamicTableRegion(name="rois", data=rows, description="All ROIs of the table.", table=table)
    return nwb.RoiResponseSeries(
        name="DfOverF",
        description="dF/F that the model was fitted to; NaN where nothing was observed."
        if recording.units == "dff"
        else "Traces of unknown unit that the model was fitted to; NaN where nothing was observed.",
        data=chunked(_Observed(recording), wrap, order),
        rois=region,
        unit="dF/F" if recording.units == "dff" else "n.a.",
        **clock,
    )


class _Observed:
    """Traces of a recording, NaN where nothing was observed; made slice by slice."""

    def __init__(self, recording: Recording):
        self._recording = recording
        self.shape = recording.shape
        self.dtype = recording.dff.dtype

    def __getitem__(self, frames: slice) -> NDArray[np.floating]:
        seen, dff = self._recording.mask[frames], self._recording.dff[frames]
        return np.where(seen, dff, np.array(np.nan, self.dtype))
