"""A result as one object of the extension ndx-calcium-lvm: which array becomes which type, under which name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.io._build import Place
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._clock import Clock, clock_of, why_no_clock
from nwb_calcium_lvm.io._plain import storable, stored_name
from nwb_calcium_lvm.io._spike_table import add_spikes, spike_names
from nwb_calcium_lvm.io._tables import Table, visits, windows
from nwb_calcium_lvm.io.archive import header_text
from nwb_calcium_lvm.result import InferenceResult, NamedArray

# Names that are taken among what a result holds, and among the parameters of its model; hdmf lets no array have the
# name of an attribute of its group.
_OF_GROUPS = frozenset({"namespace", "neurodata_type", "object_id"})
BOUTS, SEGMENTS, SOURCE, TIME = "bouts", "segments", "source", "time"
RESULT_NAMES = frozenset(
    {"model", "segments", "roi_parameters", "roi_metadata", "roi_ids", "segment_bounds", "trial_ids", "trials"}
    | {"software_versions", "metadata_json", BOUTS, SOURCE, TIME}
    | {"description", "time_unit", "sampling_rate", "is_regular", *_OF_GROUPS}
    | {f"{SOURCE}_{i:0{width}d}" for width in (1, 2, 3) for i in range(10**width)}
)
MODEL_NAMES = frozenset(
    {"hyperparameters_json", "details_json", "objective_history", "estimator_state", "source_series"}
    | {"model_class", "description", "software", "software_version", "random_seed", "n_iterations", "converged"}
    | {"objective", "log_likelihood", "fit_datetime", *_OF_GROUPS}
)
STATE_NAMES = frozenset({"header_json", "format", *_OF_GROUPS})
OF_ROI = "roi_metadata."  # begins the name of a fact about ROIs that cannot be a column

# Facts about a fit that have a field of their own: key in the result, field, kind of value.
MODEL_FIELDS = (
    ("name", "model_class", str),
    ("description", "description", str),
    ("random_state", "random_seed", int),
    ("n_iter", "n_iterations", int),
    ("objective", "objective", str),
    ("log_likelihood", "log_likelihood", float),
    ("fit_datetime", "fit_datetime", str),
)

_CONTINUOUS = {("time", "latent"), ("time", "factor")}
_COUNTS = {"spikes", "spikes/frame"}


@dataclass(frozen=True)
class Item:
    """An array with the name and the type it has in the file."""

    key: str
    name: str
    kind: str
    array: NamedArray

    @property
    def over_time(self) -> bool:
        """Whether it is a time series."""
        return self.kind != "LabeledArray"

    @property
    def of_rois(self) -> bool:
        """Whether it is a time series of ROIs."""
        return self.kind in ("SpikeRateSeries", "SpikeCountSeries", "InferredRoiSeries")


@dataclass(frozen=True)
class ExtensionLayout:
    """Everything that is written for one result.

    Parameters
    ----------
    name : str
        Of the result in its module.
    result : InferenceResult
        What is written.
    clock : Clock or None
        None where NWB has no way to say when the frames were; arrays are then stored with their times beside them.
    items : list of Item
        What was inferred.
    bouts, segments : Table or None
        Visits to states, and the windows of time.
    columns, loose : dict of str to NamedArray
        Parameters per ROI that are columns of a table, and all other parameters.
    facts, loose_facts : dict of str to ndarray
        What the source says of each ROI: columns of a table, and what can be none.
    notes : list of str
        What the user should know.
    """

    name: str
    result: InferenceResult
    clock: Clock | None
    items: list[Item]
    bouts: Table | None
    segments: Table | None
    columns: dict[str, NamedArray]
    loose: dict[str, NamedArray]
    facts: dict[str, NDArray[Any]]
    loose_facts: dict[str, NDArray[Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Names of the objects in the module."""
        return [self.name, *spike_names(self.name, self.result)]

    @property
    def n_bytes(self) -> int:
        """Size at most, uncompressed."""
        arrays = [item.array.values for item in self.items] + [p.values for p in self.result.parameters.values()]
        arrays += [] if self.result.fitted is None else list(self.result.fitted.arrays.values())
        arrays += [c.values for t in (self.bouts, self.segments) if t is not None for c in t.columns]
        return sum(_n_bytes(a) for a in arrays) + np.asarray(self.result.time).nbytes

    def lines(self, room: str) -> list[str]:
        """Say what is written, an object a line."""
        top = f"{room}/{self.name}"
        lines = [f"{top}: CalciumLVMResults"]
        lines += [f"{top}/{i.name}: {i.kind}, {_size(i.array.values)}, {i.array.unit}" for i in self.items]
        for table, kind in ((self.bouts, "DiscreteStateIntervals"), (self.segments, "SegmentIntervals")):
            lines += [] if table is None else [f"{top}/{table.name}: {kind}, {len(table)} rows"]
        if self.columns:
            names = ", ".join(self.columns)
            lines.append(f"{top}/roi_parameters: CalciumParametersTable, {len(self.result.roi_ids)} rows, {names}")
        lines += [f"{top}/model/{key}: LabeledArray, {_size(a.values)}" for key, a in self.loose.items()]
        lines += [f"{room}/{name}: Units, {len(self.result.roi_ids)} rows" for name in self.names[1:]]
        if self.result.fitted is not None:
            lines.append(f"{top}/model/estimator_state: EstimatorState, {len(self.result.fitted.arrays)} arrays")
        return lines

    def add(self, place: Place) -> None:
        """Add the result to an open file."""
        from nwb_calcium_lvm.io._extension_build import add_result  # it needs the types, and makes objects of them

        add_result(self, place)
        add_spikes(self.name, self.result, place)

    def problems(self, room: NwbObject) -> list[str]:
        """Say what of the result is not there, or not whole, in the module of a file."""
        found = room.data_interfaces.get(self.name)
        if found is None:
            return [self.name]
        there = {**found.inferred_series, **found.inferred_roi_series, **found.labeled_arrays}
        missing = [i.name for i in self.items if i.name not in there]
        wrong = [i.name for i in self.items if i.name in there and _n_values(there[i.name].data) != _n_values(i.array)]
        return missing + wrong + [n for n in self.names[1:] if n not in room.data_interfaces]


def extension_layout(result: InferenceResult, label: str) -> ExtensionLayout:
    """Lay out a result as one object.

    Raises
    ------
    DataError
        If its arrays contradict its time or its ROIs, or are of a kind that NWB cannot hold.
    """
    # Registers the types, which has to be before a file is opened.
    import ndx_calcium_lvm  # noqa: F401

    notes: list[str] = []
    reason = why_no_clock(result)
    if reason:
        notes.append(f"Stored as plain arrays with their times beside them, not as time series. {reason}")
    clock = None if reason else clock_of(result)
    items = list(_items(result, timed=clock is not None))
    columns, loose = _parameters(result)
    facts = {k: storable(k, v) for k, v in result.roi_metadata.items()}
    loose_facts = {k: v for k, v in facts.items() if not _fits_table(k, v, len(result.roi_ids))}
    bouts = None if clock is None else visits(result, clock, label)
    segments = None if clock is None else replace(windows(result, clock, label), name=SEGMENTS)
    return ExtensionLayout(
        name=label,
        result=replace(result, fitted=_checked_state(result, notes)),
        clock=clock,
        items=items,
        bouts=bouts if bouts is not None and len(bouts) > 1 else None,  # a table of one row is bad practice
        segments=segments if segments is not None and len(segments) > 1 else None,
        columns=columns,
        loose=loose,
        facts={k: v for k, v in facts.items() if k not in loose_facts},
        loose_facts=loose_facts,
        notes=notes,
    )


# -- Arrays -----------------------------------------------------------------------------------------------------------


def _items(result: InferenceResult, timed: bool) -> Iterator[Item]:
    for key, array in result.arrays.items():
        shape, dims = np.shape(array.values), array.dims
        wrong = len(shape) != len(dims)
        for axis, n in (("time", len(result.time)), ("roi", len(result.roi_ids))):
            wrong |= any(d == axis and size != n for d, size in zip(dims, shape, strict=False))
        if wrong:
            raise DataError(
                f"The array {key!r} has shape {shape} and axes {dims}. Expected a name for each axis, "
                f"{len(result.time)} frames along time and {len(result.roi_ids)} ROIs along roi."
            )
        dtype = getattr(array.values, "dtype", None)
        kind = storable(key, np.zeros(0, dtype) if dtype is not None and dtype.kind != "O" else array.values).dtype.kind
        yield Item(key, stored_name(key, RESULT_NAMES), _type(array, kind) if timed else "LabeledArray", array)
    if not timed or not any(a.dims[:1] == ("time",) for a in result.arrays.values()):
        time = NamedArray(np.asarray(result.time, float), ("time",), result.time_unit, "Time of each frame.")
        yield Item(TIME, TIME, "LabeledArray", time)


def _type(array: NamedArray, kind: str) -> str:
    dims, numeric = array.dims, kind in "iuf"
    if dims[:1] != ("time",):
        return "LabeledArray"
    if dims == ("time", "roi") and numeric:
        if array.unit == "Hz":
            return "SpikeRateSeries"
        return "SpikeCountSeries" if array.unit in _COUNTS else "InferredRoiSeries"
    if dims == ("time",) and kind == "i" and array.unit == "state":
        return "DiscreteStateSeries"
    if dims == ("time", "state") and numeric and array.unit == "probability":
        return "StateProbabilitySeries"
    return "LatentSeries" if dims in _CONTINUOUS and numeric else "InferredSeries"


# -- Parameters -------------------------------------------------------------------------------------------------------


def _parameters(result: InferenceResult) -> tuple[dict[str, NamedArray], dict[str, NamedArray]]:
    """Parameters that are columns of a table of ROIs, and all others."""
    columns: dict[str, NamedArray] = {}
    loose: dict[str, NamedArray] = {}
    n_rois = len(result.roi_ids)
    for key, array in result.parameters.items():
        array = array._replace(values=storable(key, array.values))
        if key.startswith(OF_ROI):
            raise DataError(f"The parameter {key!r} cannot be named so; names with {OF_ROI!r} are taken.")
        if array.values.ndim != len(array.dims):
            raise DataError(f"The parameter {key!r} has shape {array.values.shape} and axes {array.dims}.")
        if array.dims[:1] == ("roi",) and len(array.values) != n_rois:
            raise DataError(f"The parameter {key!r} has {len(array.values)} entries along 'roi'; expected {n_rois}.")
        per_roi = array.dims[:1] == ("roi",) and _fits_table(key, array.values, n_rois)
        (columns if per_roi else loose)[key] = array
    return columns, loose


def _fits_table(key: str, values: NDArray[Any], n_rois: int) -> bool:
    """Whether values can be a column of which validators have nothing to say, and hdmf nothing to change."""
    from nwb_calcium_lvm.io._classes import DynamicTable

    if n_rois < 2 or values.size == 0 or stored_name(key, ()) != key or hasattr(DynamicTable, key) or key in _COLUMNS:
        return False
    if values.dtype.kind == "f" and np.isnan(values).all():
        return False
    pair = set(np.unique(values[:200]).tolist()) if values.dtype.itemsize > 1 else set()
    return len(pair) != 2 or {str(v).lower() for v in pair} not in _FLAGS


# Columns that every table has, or ours; and what reads as yes and no.
_COLUMNS = {"id", "roi", "roi_id", "name", "description", "colnames", "columns", *_OF_GROUPS}
_FLAGS = [{"0", "1"}, {"0.0", "1.0"}, {"yes", "no"}, {"y", "n"}, {"true", "false"}, {"t", "f"}, {"hit", "miss"}]


def _checked_state(result: InferenceResult, notes: list[str]) -> Any:
    """The estimator's state, if it can be stored: its header has to be JSON, since nothing else restores it exactly."""
    if result.fitted is None:
        return None
    try:
        header_text(result.fitted.header)
    except TypeError as error:
        notes.append(f"The estimator is not stored, so from_nwb cannot restore it: {error}.")
        return None
    return result.fitted


# -- Sizes ------------------------------------------------------------------------------------------------------------


def _n_values(array: Any) -> int:
    values = array.values if isinstance(array, NamedArray) else array
    return int(np.prod(np.shape(values)))


def _n_bytes(values: Any) -> int:
    return _n_values(values) * np.dtype(getattr(values, "dtype", "f8")).itemsize


def _size(values: Any) -> str:
    return " x ".join(str(n) for n in np.shape(values)) or "a number"
