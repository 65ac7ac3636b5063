"""The objects of the extension, made and put into an open file in the order that hdmf needs.

An object is in its file before anything refers to it; else it would become the child of what refers to it first.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ndx_calcium_lvm as ndx
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.io import _classes as nwb
from nwb_calcium_lvm.io._build import Place, clock_arguments, stored_column
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._extension_layout import (
    MODEL_FIELDS,
    MODEL_NAMES,
    OF_ROI,
    SOURCE,
    STATE_NAMES,
    ExtensionLayout,
    Item,
)
from nwb_calcium_lvm.io._plain import NO_DESCRIPTION, NO_NAME, NO_UNIT, as_stored, storable, stored_name, to_json
from nwb_calcium_lvm.io._tables import Table
from nwb_calcium_lvm.io.archive import FORMAT, VERSION, header_text
from nwb_calcium_lvm.io.nwb_read import JOIN
from nwb_calcium_lvm.io.nwb_series import object_at
from nwb_calcium_lvm.result import FittedState, InferenceResult, NamedArray

_SOFTWARE = "nwb_calcium_lvm"
_SMALL = 2**20  # bytes; larger arrays are chunked and compressed


def add_result(layout: ExtensionLayout, place: Place) -> None:
    """Add a result to an open file."""
    result = layout.result
    model = result.model
    results = ndx.CalciumLVMResults(
        name=layout.name,
        description=f"What {model.get('name') or 'a model'} inferred. {model.get('description', '')}".strip(),
        model=_model(layout, place),
        time_unit=result.time_unit,
        sampling_rate=None if result.sampling_rate is None else float(result.sampling_rate),
        is_regular=bool(result.is_regular),
        roi_ids=_listed("roi_ids", result.roi_ids),
        segment_bounds=_bounds(layout),
        trial_ids=None if result.segments.trial_ids is None else _listed("trial_ids", result.segments.trial_ids),
        software_versions=[[k, v] for k, v in result.versions.items()] or None,
        metadata_json=to_json(result.metadata),
    )
    place.room.add(results)
    _add_arrays(layout, results, place)
    results.add_trace_sources(_sources(result, place))
    if layout.segments is not None:
        results.segments = _intervals(ndx.SegmentIntervals, layout.segments)
    _add_tables(layout, results, place)
    trials = _trials(result, place)
    if trials is not None:
        results.trials = trials


# -- Arrays -----------------------------------------------------------------------------------------------------------


def _add_arrays(layout: ExtensionLayout, results: NwbObject, place: Place) -> None:
    by_key = {item.key: item for item in layout.items}
    # What others refer to comes first: standard deviations, then probabilities, then all else.
    ranks = dict.fromkeys(by_key, 2)
    ranks |= {k: 1 for k, i in by_key.items() if i.kind == "StateProbabilitySeries"}
    ranks |= {k: 0 for k in by_key if k.endswith("_std") and _std_of(k.removesuffix("_std"), by_key)}
    links = {"model": results.model, "source_series": place.sources[0] if len(place.sources) == 1 else None}
    built: dict[str, NwbObject] = {}
    lender = place.lender(layout.clock.times) if layout.clock is not None and layout.clock.rate is None else None
    for item in sorted(layout.items, key=lambda i: (ranks[i.key], -len(i.key))):
        if not item.over_time:
            results.add_labeled_arrays(_labeled(item.name, item.array, place))
            continue
        std = _std_of(item.key, by_key)
        references = {"posterior_std": None if std is None else built[std]}
        if item.kind == "DiscreteStateSeries":
            references["probabilities"] = next(
                (built[i.key] for i in layout.items if i.kind == "StateProbabilitySeries"), None
            )
        built[item.key] = series = _series(item, layout, place, lender, links | references)
        lender = lender or series
        add = results.add_inferred_roi_series if item.of_rois else results.add_inferred_series
        add(series)
    if layout.bouts is not None:
        intervals = _intervals(ndx.DiscreteStateIntervals, layout.bouts)
        states = built.get("states")
        if states is not None and by_key["states"].kind == "DiscreteStateSeries":
            intervals.source_series = states
        results.add_discrete_state_intervals(intervals)


def _std_of(key: str, by_key: dict[str, Item]) -> str | None:
    """Return the key of the standard deviation of an array, a series of the same axes."""
    mean, std = by_key.get(key), by_key.get(f"{key}_std")
    if mean is None or std is None or not (mean.over_time and std.over_time) or mean.array.dims != std.array.dims:
        return None
    return std.key


def _series(
    item: Item, layout: ExtensionLayout, place: Place, lender: NwbObject | None, facts: dict[str, Any]
) -> NwbObject:
    assert layout.clock is not None
    array = item.array
    return getattr(ndx, item.kind)(
        name=item.name,
        data=_over_time(array.values, layout, place),
        unit=array.unit or NO_UNIT,
        description=array.description or NO_DESCRIPTION,
        dims=list(array.dims),
        **({"rois": place.rois()} if item.of_rois else {}),
        **clock_arguments(layout.clock, lender, place),
        **facts,
    )


def _over_time(values: Any, layout: ExtensionLayout, place: Place) -> Any:
    dtype = getattr(values, "dtype", None)
    if dtype is None or dtype.kind in "OSU" or 0 in np.shape(values):
        ordered = layout.clock.ordered(values) if layout.clock is not None else np.asarray(values)
        return as_stored(storable("an array", ordered))
    return place.stored(values, None if layout.clock is None else layout.clock.order)


def _labeled(name: str, array: NamedArray, place: Place) -> NwbObject:
    values = array.values
    large = len(np.shape(values)) > 0 and getattr(values, "nbytes", _SMALL) >= _SMALL and 0 not in np.shape(values)
    kind = getattr(getattr(values, "dtype", None), "kind", "O")
    data = place.stored(values) if large and kind in "biuf" else as_stored(storable(name, values))
    return ndx.LabeledArray(
        name=name,
        data=data,
        description=array.description or NO_DESCRIPTION,
        unit=array.unit or NO_UNIT,
        dims=list(array.dims),
    )


# -- Tables -----------------------------------------------------------------------------------------------------------


def _add_tables(layout: ExtensionLayout, results: NwbObject, place: Place) -> None:
    region = (
        place.rois("roi", "The ROI: its row in the plane segmentation.") if layout.columns or layout.facts else None
    )
    if layout.columns:
        columns = [
            ndx.ParameterColumn(
                name=key,
                data=as_stored(a.values),
                description=a.description or NO_DESCRIPTION,
                unit=a.unit or NO_UNIT,
                dims=list(a.dims),
            )
            for key, a in layout.columns.items()
        ]
        ids = nwb.VectorData(
            name="roi_id", description="Name of the ROI.", data=_listed("roi_ids", layout.result.roi_ids)
        )
        results.roi_parameters = ndx.CalciumParametersTable(
            name="roi_parameters",
            description=f"Parameters of {layout.name}, a row per ROI.",
            columns=[region, ids, *columns],
        )
    if layout.facts:
        facts = [
            nwb.VectorData(name=key, description=f"{key}, as the source says.", data=as_stored(values))
            for key, values in layout.facts.items()
        ]
        results.roi_metadata = nwb.DynamicTable(
            name="roi_metadata", description="What the source says of each ROI, a row per ROI.", columns=facts
        )


def _intervals(kind: Any, table: Table) -> NwbObject:
    columns = [
        stored_column(c) if c.name != "state" else nwb.VectorData(name=c.name, description=c.description, data=c.values)
        for c in table.columns
    ]
    return kind(name=table.name, description=table.description, columns=columns)


def _bounds(layout: ExtensionLayout) -> NDArray[np.integer]:
    """First frame of each segment and the frame after its last, in the file."""
    bounds = np.asarray(layout.result.segments.bounds, np.int64)
    if layout.clock is None:
        return bounds
    first = layout.clock.places()[bounds[:, 0]]
    return np.column_stack([first, first + bounds[:, 1] - bounds[:, 0]])


def _trials(result: InferenceResult, place: Place) -> NwbObject | None:
    """The row of each segment's trial in the trials table of the file, if that has them all.

    Windows around times that someone gave, and rows of another table, have numbers too: a segment that is at no time in
    the trial of its number is not of that table.
    """
    table = place.nwbfile.trials
    if result.segments.trial_ids is None or table is None:
        return None
    rows = {value: row for row, value in enumerate(np.asarray(table.id[:]).tolist())}
    found = [rows.get(value) for value in np.asarray(result.segments.trial_ids).tolist()]
    if None in found or result.time_unit != "s":
        return None
    starts, stops = (np.asarray(table[name].data[:], float)[np.array(found)] for name in ("start_time", "stop_time"))
    times, bounds = np.asarray(result.time, float), result.segments.bounds
    if np.any((times[bounds[:, 1] - 1] < starts) | (times[bounds[:, 0]] > stops)):
        return None
    return nwb.DynamicTableRegion(name="trials", data=found, description="The trial of each segment.", table=table)


def _listed(key: str, values: Any) -> Any:
    return as_stored(storable(key, values))


# -- Model ------------------------------------------------------------------------------------------------------------


def _model(layout: ExtensionLayout, place: Place) -> NwbObject:
    result = layout.result
    details = {k: v for k, v in result.model.items() if k != "hyperparameters"}
    fields: dict[str, Any] = {}
    for key, name, kind in MODEL_FIELDS:
        value = details.get(key)
        if isinstance(value, kind) and not isinstance(value, bool) and value != "":
            fields[name] = details.pop(key)
    history = np.asarray(details.get("objective_history", ()))
    if history.ndim == 1 and history.size and history.dtype.kind in "iuf":
        fields["objective_history"] = history
        del details["objective_history"]
    more = {
        "model": details,
        "arrays": list(result.arrays),
        "parameters": list(result.parameters),
        "roi_metadata": list(result.roi_metadata),
    }
    arrays = [_labeled(stored_name(key, MODEL_NAMES), a, place) for key, a in layout.loose.items()]
    for key, values in layout.loose_facts.items():
        axes = ("roi", *(f"axis {i}" for i in range(1, values.ndim)))
        fact = NamedArray(values, axes, "", f"{key}, as the source says of each ROI.")
        arrays.append(_labeled(stored_name(OF_ROI + key, MODEL_NAMES), fact, place))
    return ndx.FittedModel(
        name="model",
        **{"model_class": NO_NAME, "description": NO_DESCRIPTION} | fields,
        software=_SOFTWARE,
        software_version=version("nwb-calcium-lvm"),
        converged=bool(result.converged),
        hyperparameters_json=to_json(result.model["hyperparameters"]) if "hyperparameters" in result.model else None,
        details_json=to_json(more),
        labeled_arrays=arrays or None,
        estimator_state=None if result.fitted is None else _state(result.fitted, place),
        source_series=place.sources[0] if len(place.sources) == 1 else None,
    )


def _state(state: FittedState, place: Place) -> NwbObject:
    arrays = [
        _labeled(
            stored_name(key, STATE_NAMES),
            NamedArray(values, tuple(f"axis {i}" for i in range(values.ndim)), "", f"{key} of the estimator."),
            place,
        )
        for key, values in state.arrays.items()
    ]
    return ndx.EstimatorState(
        name="estimator_state",
        format=f"{FORMAT} {VERSION}",
        header_json=header_text(state.header),
        labeled_arrays=arrays or None,
    )


# -- Source -----------------------------------------------------------------------------------------------------------


def _sources(result: InferenceResult, place: Place) -> list[NwbObject]:
    """One object for each series that was read."""
    source = result.source
    paths = [None] if source.series is None else source.series.split(JOIN)
    neuropil = [None] if source.neuropil is None else source.neuropil.split(JOIN)
    if len(neuropil) != len(paths):  # only some have one: nothing says which
        neuropil = [source.neuropil] + [None] * (len(paths) - 1)
    series = [None if p is None else object_at(place.nwbfile, p) for p in paths]
    positions = _positions(result, series)
    width = len(str(len(paths) - 1))
    built = []
    for i, path in enumerate(paths):
        at = positions[i]
        chosen = slice(None) if at is None else at
        rows = None if source.table_rows is None else np.asarray(source.table_rows)[chosen]
        planes = None if source.planes is None else np.asarray(source.planes)[chosen]
        n_rois = len(result.roi_ids) if at is None else len(at)
        built.append(
            ndx.TraceSource(
                name=SOURCE if len(paths) == 1 else f"{SOURCE}_{i:0{width}d}",
                kind=source.kind,
                file=_relative(source.path, place.folder),
                series_path=path,
                neuropil_path=neuropil[i],
                plane_segmentation_path=source.plane_segmentation,
                series_object_id=source.object_id if i == 0 else None,
                rois=place.rois("rois", "The ROIs in this file.", chosen) if n_rois else None,
                roi_positions=at,
                table_rows=rows,
                planes=planes,
                series=series[i] if path is not None else (place.sources[0] if place.sources else None),
                neuropil_series=None if neuropil[i] is None else object_at(place.nwbfile, str(neuropil[i])),
            )
        )
    return built


def _positions(result: InferenceResult, series: list[NwbObject | None]) -> list[NDArray[np.integer] | None]:
    """Return which ROIs are of which series; None stands for all of them."""
    if len(series) == 1:
        return [None]
    rows = result.source.table_rows
    if rows is not None and all(s is not None for s in series):
        found = [np.flatnonzero(np.isin(rows, np.asarray(s.rois.data[:]))) for s in series if s is not None]
        if np.array_equal(np.sort(np.concatenate(found)), np.arange(len(rows))):
            return list(found)
    return [None, *[np.zeros(0, np.int64)] * (len(series) - 1)]


def _relative(path: Path | None, folder: Path) -> str | None:
    """Return a path as seen from the folder of the file, so that both can move together."""
    if path is None:
        return None
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return Path(path).as_posix()
