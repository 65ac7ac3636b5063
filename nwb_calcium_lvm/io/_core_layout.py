"""A result as core NWB types, under names that all begin with the result's: any NWB reader understands them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.io import _classes as nwb
from nwb_calcium_lvm.io._build import Place, clock_arguments, stored_column
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._clock import Clock, clock_of
from nwb_calcium_lvm.io._spike_table import add_spikes, spike_names
from nwb_calcium_lvm.io._tables import Column, Table, visits, windows
from nwb_calcium_lvm.io.nwb_series import RESULT_TABLE
from nwb_calcium_lvm.result import InferenceResult, NamedArray

_TAKEN = {"id", "name", "description", "colnames", "columns", "roi", "roi_id", "start_time", "stop_time", "tags"}


@dataclass(frozen=True)
class Series:
    """Values over time; ``of_rois`` where the second axis is the ROIs."""

    name: str
    values: Any
    unit: str
    description: str
    of_rois: bool


@dataclass(frozen=True)
class CoreLayout:
    """Everything that is written for one result."""

    name: str
    clock: Clock
    series: list[Series]
    tables: list[Table]
    result: InferenceResult
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the objects in the module."""
        series, tables = [s.name for s in self.series], [t.name for t in self.tables]
        return [*series, *tables, *spike_names(self.name, self.result)]

    @property
    def n_bytes(self) -> int:
        """Size at most, uncompressed."""
        arrays = [s.values for s in self.series] + [c.values for t in self.tables for c in t.columns]
        return sum(int(np.prod(np.shape(a))) * np.dtype(getattr(a, "dtype", "f8")).itemsize for a in arrays)

    def lines(self, room: str) -> list[str]:
        """Say what is written, an object a line."""
        lines: list[str] = []
        for series in self.series:
            kind = "RoiResponseSeries" if series.of_rois else "TimeSeries"
            size = " x ".join(str(n) for n in np.shape(series.values))
            lines.append(f"{room}/{series.name}: {kind}, {size}, {series.unit}")
        for table in self.tables:
            kind = "TimeIntervals" if table.intervals else "DynamicTable"
            lines.append(f"{room}/{table.name}: {kind}, {len(table)} rows")
        names = spike_names(self.name, self.result)
        return [*lines, *(f"{room}/{name}: Units, {len(self.result.roi_ids)} rows" for name in names)]

    def add(self, place: Place) -> None:
        """Add the result to an open file."""
        lender = place.lender(self.clock.times) if self.clock.rate is None else None
        for series in self.series:
            built = _built_series(series, self.clock, place, lender)
            place.room.add(built)
            lender = lender or built
        for table in self.tables:
            place.room.add(_built_table(table, place))
        add_spikes(self.name, self.result, place)

    def problems(self, room: NwbObject) -> list[str]:
        """Say what of the result is not there, or not whole, in the module of a file."""
        there = room.data_interfaces
        missing = [name for name in self.names if name not in there]
        return missing + [
            s.name for s in self.series if s.name in there and tuple(there[s.name].data.shape) != np.shape(s.values)
        ]


def core_layout(result: InferenceResult, label: str) -> CoreLayout:
    """Lay out a result under the names it will have.

    Raises
    ------
    DataError
        If the result has no clock in s, overlapping trials, or arrays that do not run over its time.
    """
    clock = clock_of(result)
    notes: list[str] = []
    series = [_series(key, array, label, result) for key, array in result.arrays.items()]
    tables, rest = _parameter_tables(result, label, notes)
    trials = windows(result, clock, label) if result.segments.trial_ids is not None else None
    for found in (visits(result, clock, label), trials, _history(result)):
        if found is None:
            continue
        table = replace(found, name=f"{label}_{found.name}")
        if len(table) > 1:
            tables.append(table)
        else:  # a table of one row is flagged as bad practice
            rest |= {f"{table.name.removeprefix(label + '_')}.{c.name}": c.values[0] for c in table.columns}
    written = [*(s.name for s in series), *(t.name for t in tables), label + RESULT_TABLE, *spike_names(label, result)]
    twice = sorted({name for name in written if written.count(name) > 1})
    if twice:
        raise DataError(
            f"{', '.join(twice)} would be written twice. Give the array another name, or pass schema='extension'."
        )
    facts = _facts(result, label, written, rest, notes)
    return CoreLayout(label, clock, series, [*tables, _key_values(label, facts)], result, notes)


# -- Over time --------------------------------------------------------------------------------------------------------


def _series(key: str, array: NamedArray, label: str, result: InferenceResult) -> Series:
    shape = tuple(np.shape(array.values))
    n_frames = len(result.time)
    if not array.dims or array.dims[0] != "time" or len(shape) != len(array.dims) or shape[0] != n_frames:
        raise DataError(
            f"The array {key!r} has shape {shape} and axes {array.dims}. Expected time first, {n_frames} frames."
        )
    of_rois = array.dims[1:] == ("roi",)
    if of_rois and shape[1] != len(result.roi_ids):
        raise DataError(f"The array {key!r} has {shape[1]} ROIs, but the result {len(result.roi_ids)}.")
    axes = "" if len(shape) == 1 else f" Axes: {', '.join(array.dims)}."
    return Series(
        f"{label}_{key}", array.values, array.unit or "n.a.", _sentence(array.description, key) + axes, of_rois
    )


def _history(result: InferenceResult) -> Table | None:
    history = result.model.get("objective_history")
    if history is None or np.size(history) == 0:
        return None
    values = np.asarray(history, float).ravel()
    columns = [
        Column("iteration", "Number of the iteration, from 0.", np.arange(len(values))),
        Column("objective", "The objective that the fit maximises, after the iteration.", values),
    ]
    return Table("objective_history", "The course of the fit.", columns)


# -- Parameters -------------------------------------------------------------------------------------------------------


def _parameter_tables(result: InferenceResult, label: str, notes: list[str]) -> tuple[list[Table], dict[str, Any]]:
    """One table per first axis (ROI, state, latent, ...), and what fits in none: numbers, and axes of length one."""
    groups: dict[str, list[Column]] = {}
    rest: dict[str, Any] = {}
    lengths: dict[str, int] = {"roi": len(result.roi_ids)}
    for key, array in result.parameters.items():
        values = np.asarray(array.values)
        if values.dtype.kind == "f" and values.size and np.isnan(values).all():
            notes.append(f"{key} is not written: all of it is NaN.")
            continue
        if values.ndim == 0 or values.size == 0 or len(values) == 1:
            rest[f"parameters.{key}"] = values.item() if values.size == 1 else values.tolist()
            continue
        axis = array.dims[0]
        if lengths.setdefault(axis, len(values)) != len(values):
            raise DataError(
                f"The parameter {key!r} has {len(values)} entries along {axis!r}; expected {lengths[axis]}."
            )
        column = f"{key}_value" if key in _TAKEN else key
        unit = f" Unit: {array.unit}." if array.unit else ""
        axes = f" Axes: {', '.join(array.dims)}." if values.ndim > 1 else ""
        groups.setdefault(axis, []).append(Column(column, _sentence(array.description, key) + unit + axes, values))
    if len(result.roi_ids) > 1:
        groups.setdefault("roi", []).insert(0, Column("roi_id", "Name of the ROI.", np.asarray(result.roi_ids)))
    else:
        rest["roi_id"] = np.asarray(result.roi_ids)[0]
    tables = [
        Table(f"{label}_{axis}_parameters", f"Parameters of {label}, a row per {axis}.", columns, of_rois=axis == "roi")
        for axis, columns in groups.items()
    ]
    return tables, rest


def _sentence(text: str, key: str) -> str:
    words = text.strip() or f"{key.replace('_', ' ')}, as inferred"
    return words if words.endswith((".", "!", "?")) else words + "."


# -- As NWB objects ---------------------------------------------------------------------------------------------------


def _built_series(series: Series, clock: Clock, place: Place, lender: NwbObject | None) -> NwbObject:
    arguments: dict[str, Any] = {
        "name": series.name,
        "data": place.stored(series.values, clock.order),
        "unit": series.unit,
        "description": series.description,
        **clock_arguments(clock, lender, place),
    }
    return nwb.RoiResponseSeries(rois=place.rois(), **arguments) if series.of_rois else nwb.TimeSeries(**arguments)


def _built_table(table: Table, place: Place) -> NwbObject:
    columns = [stored_column(c) for c in table.columns]
    if table.intervals:
        return nwb.TimeIntervals(name=table.name, description=table.description, columns=columns)
    if table.of_rois:
        columns = [place.rois("roi", "The ROI: its row in the plane segmentation."), *columns]
    return nwb.DynamicTable(name=table.name, description=table.description, columns=columns)


# -- Provenance -------------------------------------------------------------------------------------------------------


def _facts(
    result: InferenceResult, label: str, written: list[str], rest: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    source, model = result.source, result.model
    told = ("objective_history", "hyperparameters")
    return {
        "name": label,
        "contents": json.dumps(written),
        "converged": result.converged,
        "sampling_rate": result.sampling_rate,
        "model": {k: v for k, v in model.items() if k not in told},
        "hyperparameters": model.get("hyperparameters", {}),
        "versions": result.versions,
        "source": {
            "kind": source.kind,
            "file": None if source.path is None else source.path.name,
            "series": source.series,
            "neuropil": source.neuropil,
            "plane_segmentation": source.plane_segmentation,
            "object_id": source.object_id,
        },
        "not_written": notes or None,
        **rest,
    }


def _key_values(label: str, facts: Mapping[str, Any]) -> Table:
    """One row per fact; a value is JSON, or plain text, and never a dictionary."""
    rows = list(_flat(facts))
    columns = [
        Column("key", "What is told; a dot leads into a group of facts.", np.array([k for k, _ in rows])),
        Column("value", "The fact: a number, text or list.", np.array([v for _, v in rows])),
    ]
    return Table(label + RESULT_TABLE, f"How the results of {label} came about: model, software, source.", columns)


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            yield from _flat({str(i): v for i, v in enumerate(value)}, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    try:
        text = value if isinstance(value, str) else json.dumps(value)
    except TypeError:
        text = str(value)
    return text.replace("{", "(").replace("}", ")")
