"""What of a result goes into an NWB file, under which names: plain arrays and words, no NWB objects yet."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.io.nwb_series import RESULT_TABLE
from nwb_calcium_lvm.result import InferenceResult, NamedArray

_NAME = re.compile(r"[^/\\:\x00]+")
_TAKEN = {"id", "name", "description", "colnames", "columns", "roi", "roi_id", "start_time", "stop_time", "tags"}


@dataclass(frozen=True)
class Clock:
    """When the frames of the file were: by rate, or by the time of each."""

    order: NDArray[np.integer] | None
    rate: float | None
    times: NDArray[np.floating]


@dataclass(frozen=True)
class Series:
    """Values over time; ``of_rois`` where the second axis is the ROIs."""

    name: str
    values: Any
    unit: str
    description: str
    of_rois: bool


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    description: str
    values: NDArray[Any]

    def compact(self) -> NDArray[Any]:
        """Return whole numbers from 0 to 255 in a byte each: exact, small, and not taken for flags by validators."""
        values = self.values
        if self.name in ("start_time", "stop_time") or not values.size:
            return values
        small = values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255
        binary = values.dtype.kind == "f" and set(np.unique(values).tolist()) == {0.0, 1.0}
        return values.astype(np.uint8) if small or binary else values


@dataclass(frozen=True)
class Table:
    """Rows of facts; ``of_rois`` where each row is an ROI, ``intervals`` where it is a stretch of time."""

    name: str
    description: str
    columns: list[Column]
    of_rois: bool = False
    intervals: bool = False


@dataclass(frozen=True)
class Content:
    """Everything that is written for one result."""

    name: str
    clock: Clock
    series: list[Series]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the objects, without the module."""
        return [*(s.name for s in self.series), *(t.name for t in self.tables)]

    @property
    def n_bytes(self) -> int:
        """Size at most, uncompressed."""
        arrays = [s.values for s in self.series] + [c.values for t in self.tables for c in t.columns]
        return sum(int(np.prod(np.shape(a))) * np.dtype(getattr(a, "dtype", "f8")).itemsize for a in arrays)


def content_of(result: InferenceResult, name: str | None) -> Content:
    """Lay out a result under the names it will have.

    Raises
    ------
    DataError
        If the result has no clock in s, overlapping trials, or arrays that do not run over its time.
    """
    label = name if name is not None else str(result.model.get("name", "model"))
    if not _NAME.fullmatch(label) or label != label.strip():
        raise DataError(f"name={label!r} cannot be a name in an NWB file. Expected text without '/', '\\' and ':'.")
    clock = _clock(result)
    notes: list[str] = []
    series = [_series(key, array, label, result) for key, array in result.arrays.items()]
    tables, rest = _parameter_tables(result, label, notes)
    for table in (_bouts(result, clock, label), _trials(result, clock, label), _history(result, label)):
        if table is None:
            continue
        if len(table.columns[0].values) > 1:
            tables.append(table)
        else:  # a table of one row is flagged as bad practice
            rest |= {f"{table.name.removeprefix(label + '_')}.{c.name}": c.values[0] for c in table.columns}
    written = [*(s.name for s in series), *(t.name for t in tables), label + RESULT_TABLE]
    facts = _facts(result, label, written, rest, notes)
    return Content(label, clock, series, [*tables, _key_values(label, facts)], notes)


# -- Time -------------------------------------------------------------------------------------------------------------


def _clock(result: InferenceResult) -> Clock:
    if result.time_unit != "s":
        raise DataError(
            "The result has no clock: its times are frame numbers, and NWB stores seconds. Pass sampling_rate to the "
            "estimator, or fit a Recording that has one."
        )
    times = np.asarray(result.time, float)
    order = None
    bounds = result.segments.bounds
    starts = times[bounds[:, 0]]
    if np.any(np.diff(starts) < 0):  # trials in another order than they happened
        order = np.concatenate([np.arange(*bounds[i]) for i in np.argsort(starts, kind="stable")])
        times = times[order]
    if np.any(np.diff(times) <= 0):
        i = int(np.flatnonzero(np.diff(times) <= 0)[0])
        raise DataError(
            f"Trials overlap in time: a frame at {times[i]:.6g} s is followed by one at {times[i + 1]:.6g} s. NWB "
            "series need increasing times: infer over windows that do not overlap, or over the whole recording."
        )
    return Clock(order, _rate(times, result.sampling_rate), times)


def _rate(times: NDArray[np.floating], said: float | None) -> float | None:
    """Return the rate in Hz if frames are evenly spaced to a thousandth of a frame, else None."""
    if len(times) < 2:
        return said
    step = (times[-1] - times[0]) / (len(times) - 1)
    if np.max(np.abs(times - times[0] - step * np.arange(len(times)))) > 1e-3 * step:
        return None
    return said if said is not None and abs(said * step - 1) < 1e-6 else 1.0 / step


def _ordered(values: Any, clock: Clock) -> NDArray[Any]:
    loaded = np.asarray(values[:])
    return loaded if clock.order is None else loaded[clock.order]


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


def _bouts(result: InferenceResult, clock: Clock, label: str) -> Table | None:
    """Runs of one state; none crosses from one segment to the next."""
    states = result.arrays.get("states")
    if states is None or states.dims != ("time",) or np.asarray(states.values[:1]).dtype.kind not in "iu":
        return None
    path = _ordered(states.values, clock)
    segment = result.segments.labels()
    segment = segment if clock.order is None else segment[clock.order]
    first = np.concatenate([[0], np.flatnonzero((np.diff(path) != 0) | (np.diff(segment) != 0)) + 1])
    last = np.append(first[1:], len(path)) - 1
    # A bout lasts until the frame after it, or for a frame's length where there is none or a gap comes before it.
    following = np.append(clock.times[first[1:]], np.inf)
    step = _frame_step(result, clock)
    stops = clock.times[last] + step
    unbroken = np.append(np.diff(segment[first]) == 0, False)
    stops = np.where(unbroken, following, np.minimum(stops, following))
    columns = [
        Column("start_time", "Start of the bout, in s.", clock.times[first]),
        Column("stop_time", "End of the bout, in s.", stops),
        Column("state", "The state, numbered from 0.", path[first]),
    ]
    posterior = result.arrays.get("state_probabilities")
    if posterior is not None and posterior.dims == ("time", "state"):
        own = _ordered(posterior.values, clock)[np.arange(len(path)), np.maximum(path, 0)]
        mean = np.add.reduceat(own, first) / (last - first + 1)
        columns.append(Column("mean_probability", "Mean posterior probability of the state over the bout.", mean))
    if result.segments.trial_ids is not None:
        ids = result.segments.trial_ids[segment[first]]
        columns.append(Column("trial", "The trial it is in: id in the trials table.", ids))
    kept = path[first] >= 0  # a negative number stands for no state
    columns = [Column(c.name, c.description, c.values[kept]) for c in columns]
    if not kept.any():
        return None
    return Table(f"{label}_bouts", f"Runs of frames in one state, inferred by {label}.", columns, intervals=True)


def _trials(result: InferenceResult, clock: Clock, label: str) -> Table | None:
    """The stretches of time that were trials, so that a reader can tell them from one another."""
    ids = result.segments.trial_ids
    if ids is None:
        return None
    bounds = result.segments.bounds
    starts, ends = result.time[bounds[:, 0]], result.time[bounds[:, 1] - 1] + _frame_step(result, clock)
    order = np.argsort(starts, kind="stable")
    starts, ends, ids = starts[order], ends[order], np.asarray(ids)[order]
    ends = np.minimum(ends, np.append(starts[1:], np.inf))
    columns = [
        Column("start_time", "First frame of the window, in s.", starts),
        Column("stop_time", "End of its last frame, in s.", ends),
        Column("trial", "The trial: id in the trials table.", ids),
    ]
    return Table(f"{label}_trials", f"The windows of time that {label} was applied to.", columns, intervals=True)


def _frame_step(result: InferenceResult, clock: Clock) -> float:
    if result.sampling_rate is not None:
        return 1.0 / result.sampling_rate
    return float(np.median(np.diff(clock.times))) if len(clock.times) > 1 else 1.0


def _history(result: InferenceResult, label: str) -> Table | None:
    history = result.model.get("objective_history")
    if history is None or np.size(history) == 0:
        return None
    values = np.asarray(history, float).ravel()
    columns = [
        Column("iteration", "Number of the iteration, from 0.", np.arange(len(values))),
        Column("objective", "The objective that the fit maximises, after the iteration.", values),
    ]
    return Table(f"{label}_objective_history", f"The course of the fit of {label}.", columns)


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


# -- Provenance -------------------------------------------------------------------------------------------------------


def _facts(
    result: InferenceResult, label: str, written: list[str], rest: Mapping[str, Any], notes: list[str]
) -> dict[str, Any]:
    source, model = result.source, result.model
    told = ("objective_history", "hyperparameters")
    return {
        "name": label,
        "contents": "; ".join(written),
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
