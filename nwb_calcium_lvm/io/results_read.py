"""Reading results back: the object of the extension in an NWB file turned into an InferenceResult again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.io._classes import NwbObject
from nwb_calcium_lvm.io._extension_layout import MODEL_FIELDS, MODEL_NAMES, OF_ROI, RESULT_NAMES, STATE_NAMES, TIME
from nwb_calcium_lvm.io._open import opened
from nwb_calcium_lvm.io._plain import NO_DESCRIPTION, NO_NAME, NO_UNIT, as_read, from_json, key_of
from nwb_calcium_lvm.io._spike_table import SPIKES, read_spikes
from nwb_calcium_lvm.io.archive import FORMAT
from nwb_calcium_lvm.io.nwb_read import JOIN
from nwb_calcium_lvm.io.nwb_series import RESULT_TABLE, is_result, object_path
from nwb_calcium_lvm.io.stored_array import StoredArray
from nwb_calcium_lvm.provenance import Segments, Source
from nwb_calcium_lvm.result import FittedState, InferenceResult, NamedArray

_INSIDE = ("roi_id", "roi")  # columns of the table of parameters that are no parameters


@overload
def read_results(path: str | Path, name: None = None, *, lazy: bool = False) -> dict[str, InferenceResult]: ...
@overload
def read_results(path: str | Path, name: str, *, lazy: bool = False) -> InferenceResult: ...
def read_results(
    path: str | Path, name: str | None = None, *, lazy: bool = False
) -> InferenceResult | dict[str, InferenceResult]:
    """Read results that :func:`write_nwb` wrote, as they were: arrays in the order of the result, units, parameters.

    Parameters
    ----------
    path : path
        NWB file, HDF5 or Zarr.
    name : str, optional
        Of one result; ``"module/name"`` where two modules have one of that name. Default: all.
    lazy : bool
        Leave arrays over time in the file: they are read slice by slice, as :class:`StoredArray`.

    Returns
    -------
    InferenceResult, or dict of str to InferenceResult
        The result of that name, or all by name; an empty dictionary if there is none.

    Raises
    ------
    DataError
        If there is no result of that name, or it cannot be understood; where all are read, one that cannot be is left
        out with a warning.

    Notes
    -----
    Results written with ``schema="core"`` are not read back: they lack what an InferenceResult needs, and any NWB
    reader understands them.
    """
    # Registers the types in this version, rather than those that came with the file.
    import ndx_calcium_lvm  # noqa: F401

    with opened(path) as (nwbfile, _, where):
        found = _find(nwbfile)
        if name is not None and name not in found:
            raise DataError(_nothing_of(name, found, nwbfile, path))
        file = Path(where or path)
        if name is not None:
            return _result(found[name], file, lazy)
        results: dict[str, InferenceResult] = {}
        for key, obj in found.items():
            try:
                results[key] = _result(obj, file, lazy)
            except DataError as error:  # the others are worth having
                warnings.warn(f"{error} It is left out.", DataWarning, stacklevel=2)
    return results


def _find(nwbfile: NwbObject) -> dict[str, NwbObject]:
    paths = {object_path(o, nwbfile): o for o in nwbfile.objects.values() if is_result(o)}
    names = [o.name for o in paths.values()]
    return {
        o.name if names.count(o.name) == 1 else path.removeprefix("processing/"): o for path, o in sorted(paths.items())
    }


def _nothing_of(name: str, found: Mapping[str, Any], nwbfile: NwbObject, path: Any) -> str:
    there = ", ".join(found) or "none"
    plain = [n for m in nwbfile.processing.values() for n in m.data_interfaces if n == name + RESULT_TABLE]
    why = (
        f" {name!r} was written with schema='core', for any NWB reader; write it with schema='extension' to read it "
        "back."
        if plain
        else ""
    )
    return f"{path} has no result called {name!r}. It has: {there}.{why}"


# -- One result -------------------------------------------------------------------------------------------------------


def _result(obj: NwbObject, path: Path, lazy: bool) -> InferenceResult:
    try:
        return _Reader(obj, path, lazy).result()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"The result {obj.name!r} of {path} does not hold what this package writes ({type(error).__name__}: "
            f"{error}). Look at it with pynwb."
        ) from error


class _Reader:
    """One CalciumLVMResults object, turned part by part into an InferenceResult."""

    def __init__(self, obj: NwbObject, path: Path, lazy: bool):
        self.obj = obj
        self.path = path
        self.lazy = lazy
        self.details = from_json(obj.model.details_json)
        bounds = obj.segment_bounds
        self.bounds = None if bounds is None else as_read(bounds, 2).astype(np.int64)
        # Place in the file of each frame of the result.
        self.order = None if self.bounds is None else np.concatenate([np.arange(a, b) for a, b in self.bounds])
        if self.order is not None and np.array_equal(self.order, np.arange(len(self.order))):
            self.order = None

    def result(self) -> InferenceResult:
        obj = self.obj
        arrays = self._arrays()
        time = self._time()
        versions = [] if obj.software_versions is None else as_read(obj.software_versions, 2).tolist()
        roi_ids = self._roi_ids()
        return InferenceResult(
            arrays=_in_order(arrays, self.details.get("arrays", ())),
            parameters=_in_order(self._parameters(), self.details.get("parameters", ())),
            time=time,
            roi_ids=roi_ids,
            segments=self._segments(len(time)),
            model=self._model(),
            converged=bool(obj.model.converged),
            time_unit=str(obj.time_unit),
            sampling_rate=None if obj.sampling_rate is None else float(obj.sampling_rate),
            source=self._source(len(roi_ids)),
            metadata=from_json(obj.metadata_json),
            roi_metadata=_in_order(self._roi_metadata(), self.details.get("roi_metadata", ())),
            is_regular=bool(obj.is_regular) if obj.is_regular is not None else True,
            versions={str(k): str(v) for k, v in versions},
            fitted=self._fitted(),
            spikes=read_spikes(self.obj.parent.data_interfaces.get(self.obj.name + SPIKES)),
        )

    # -- Arrays -------------------------------------------------------------------------------------------------------

    def _arrays(self) -> dict[str, NamedArray]:
        found: dict[str, NamedArray] = {}
        for series in self._series():
            dims = tuple(map(str, series.dims))
            values = self._values(series.data, len(dims), self.order)
            found[key_of(series.name, RESULT_NAMES)] = _named(values, dims, series)
        for array in self.obj.labeled_arrays.values():
            if array.name != TIME:
                found[key_of(array.name, RESULT_NAMES)] = self._labeled(array)
        return found

    def _series(self) -> list[NwbObject]:
        return [*self.obj.inferred_series.values(), *self.obj.inferred_roi_series.values()]

    def _labeled(self, array: NwbObject) -> NamedArray:
        dims = _axes(array)
        lazily = dims[:1] == ("time",)
        return _named(self._values(array.data, len(dims), None, lazily), dims, array)

    def _values(self, data: Any, n_axes: int, order: NDArray[np.integer] | None, lazily: bool = True) -> Any:
        shape, dtype = getattr(data, "shape", ()), getattr(data, "dtype", None)
        place = getattr(data, "name", None)
        if self.lazy and lazily and len(shape) == n_axes and place and dtype is not None and dtype.kind in "biuf":
            return StoredArray(self.path, str(place), tuple(map(int, shape)), np.dtype(dtype), order)
        values = as_read(data, n_axes)
        return values if order is None else values[order]

    def _time(self) -> NDArray[np.floating]:
        stored = self.obj.labeled_arrays.get(TIME)
        if stored is not None:
            return as_read(stored.data, 1).astype(float)
        series = next(iter(self._series()), None)
        if series is None:
            raise DataError(f"The result {self.obj.name!r} of {self.path} has neither series nor times.")
        if series.timestamps is not None:
            times = as_read(series.timestamps, 1).astype(float)
        else:
            times = float(series.starting_time) + np.arange(_n_frames(series)) / float(series.rate)
        return times if self.order is None else times[self.order]

    # -- What does not run over time ----------------------------------------------------------------------------------

    def _roi_ids(self) -> NDArray[Any]:
        return as_read(self.obj.roi_ids, 1)

    def _segments(self, n_frames: int) -> Segments:
        ends = np.array([n_frames]) if self.bounds is None else np.cumsum(self.bounds[:, 1] - self.bounds[:, 0])
        ids = self.obj.trial_ids
        return Segments(np.column_stack([[0, *ends[:-1]], ends]), None if ids is None else as_read(ids, 1))

    def _parameters(self) -> dict[str, NamedArray]:
        table, found = self.obj.roi_parameters, {}
        for column in () if table is None else table.columns:
            if column.name not in _INSIDE:
                dims = _axes(column)
                found[column.name] = _named(as_read(column.data, len(dims)), dims, column)
        for array in self.obj.model.labeled_arrays.values():
            key = key_of(array.name, MODEL_NAMES)
            if not key.startswith(OF_ROI):
                found[key] = _named(as_read(array.data, len(_axes(array))), _axes(array), array)
        return found

    def _roi_metadata(self) -> dict[str, NDArray[Any]]:
        table = self.obj.roi_metadata
        found = {} if table is None else {c.name: as_read(c.data, np.ndim(c.data)) for c in table.columns}
        for array in self.obj.model.labeled_arrays.values():
            key = key_of(array.name, MODEL_NAMES)
            if key.startswith(OF_ROI):
                found[key.removeprefix(OF_ROI)] = as_read(array.data, len(_axes(array)))
        return found

    def _model(self) -> dict[str, Any]:
        model = self.obj.model
        facts: dict[str, Any] = {}
        unsaid = {"model_class": NO_NAME, "description": NO_DESCRIPTION}  # what these fields hold for want of a value
        for key, name, kind in MODEL_FIELDS:
            value = getattr(model, name)
            if value is not None and value != unsaid.get(name):
                facts[key] = kind(value)
        if model.objective_history is not None:
            facts["objective_history"] = as_read(model.objective_history, 1)
        if model.hyperparameters_json is not None:
            facts["hyperparameters"] = from_json(model.hyperparameters_json)
        return facts | self.details.get("model", {})

    def _fitted(self) -> FittedState | None:
        state = self.obj.model.estimator_state
        if state is None:
            return None
        header = from_json(state.header_json)
        if header.get("format") != FORMAT:  # the state of somebody else's estimator
            return None
        arrays = {key_of(a.name, STATE_NAMES): as_read(a.data, len(_axes(a))) for a in state.labeled_arrays.values()}
        return FittedState(header, arrays)

    def _source(self, n_rois: int) -> Source:
        parts = [self.obj.trace_sources[name] for name in sorted(self.obj.trace_sources)]
        if not parts:
            return Source()
        first = parts[0]
        return Source(
            kind=str(first.kind),
            path=self._source_path(first),
            series=_joined(p.series_path for p in parts),
            neuropil=_joined(p.neuropil_path for p in parts),
            plane_segmentation=first.plane_segmentation_path,
            table_rows=_whole([(p.roi_positions, p.table_rows) for p in parts], n_rois),
            planes=_whole([(p.roi_positions, p.planes) for p in parts], n_rois),
            object_id=first.series_object_id,
        )

    def _source_path(self, source: NwbObject) -> Path | None:
        """The file of the traces; where it was moved, this one, if it holds the traces."""
        if source.file is None:
            return None
        path = (self.path.parent / str(source.file)).resolve()
        return self.path if source.kind == "nwb" and source.series is not None and not path.exists() else path


# -- Parts ------------------------------------------------------------------------------------------------------------


def _axes(array: NwbObject) -> tuple[str, ...]:
    return () if array.dims is None else tuple(map(str, np.atleast_1d(array.dims).tolist()))


def _named(values: Any, dims: tuple[str, ...], said: NwbObject) -> NamedArray:
    unit = "" if said.unit == NO_UNIT else str(said.unit)
    description = "" if said.description == NO_DESCRIPTION else str(said.description)
    return NamedArray(values, dims, unit, description)


def _n_frames(series: NwbObject) -> int:
    shape = np.shape(series.data)
    return int(shape[0]) if shape else 1


def _in_order(found: dict[str, Any], order: Iterable[str]) -> dict[str, Any]:
    """Return the entries in the order they had; a file keeps them by name."""
    known = {key: found[key] for key in order if key in found}
    return known | {key: value for key, value in found.items() if key not in known}


def _joined(paths: Iterable[str | None]) -> str | None:
    return JOIN.join(p for p in paths if p is not None) or None


def _whole(parts: list[tuple[Any, Any]], n_rois: int) -> NDArray[np.integer] | None:
    """Put numbers of ROIs, told source by source, where they belong along the roi axis."""
    if all(values is None for _, values in parts):
        return None
    whole = np.zeros(n_rois, np.int64)
    for positions, values in parts:
        at = np.arange(n_rois) if positions is None else as_read(positions, 1).astype(np.int64)
        if values is not None and len(at):
            whole[at] = as_read(values, 1)
    return whole
