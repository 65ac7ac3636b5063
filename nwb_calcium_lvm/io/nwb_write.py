"""Writing results into NWB: a copy of the source, the source itself, or a new file; whole or not at all."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import NameClashError, WriteError
from nwb_calcium_lvm.io._atomic import check_writable, locked, write_safely
from nwb_calcium_lvm.io._build import add_content
from nwb_calcium_lvm.io._classes import NWBHDF5IO, NwbObject, PlaneSegmentation
from nwb_calcium_lvm.io._content import Content, content_of
from nwb_calcium_lvm.io._open import opened
from nwb_calcium_lvm.io._relocate import keep_references
from nwb_calcium_lvm.io.new_file import TABLE_PATH, new_nwbfile
from nwb_calcium_lvm.io.nwb_read import JOIN
from nwb_calcium_lvm.io.nwb_series import RESULT_TABLE, object_path
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult

logger = logging.getLogger(__name__)

SOFTWARE = "nwb_calcium_lvm"
_SUFFIX = "_calcium_lvm.nwb"


def write_nwb(
    result: InferenceResult,
    path: str | Path | None = None,
    *,
    source: str | Path | Recording | None = None,
    name: str | None = None,
    module: str = "ophys",
    schema: str = "core",
    overwrite: bool = False,
    backend: str = "auto",
) -> Path:
    """Write a result into an NWB file, with core NWB types that any NWB reader understands.

    The file is made as a temporary copy, checked, and put in place in one step: whatever happens, a file is either
    as it was or complete.

    Parameters
    ----------
    result : InferenceResult
        What an estimator inferred.
    path : path, optional
        Where to. The source itself: the result is added to it. Default: a copy of the source with the result,
        ``<source>_calcium_lvm.nwb`` beside it; of a Suite2p folder, a new file of that name.
    source : path or Recording, optional
        The file the traces came from, if it was moved since; or the Recording, whose dF/F then goes into a new file
        made for a Suite2p folder or arrays.
    name : str, optional
        Of the result in the file; all names start with it. Default: the model's, such as ``"CalciumHMM"``.
    module : str
        Processing module; made if it is not there.
    schema : {"core"}
        Types to use.
    overwrite : bool
        Replace a result of this name; nothing else is ever replaced. An existing ``path`` is added to.
    backend : {"auto", "hdf5"}
        How the file is stored.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    NameClashError
        If there is a result of this name, or a file at ``path``, and ``overwrite`` is False.
    WriteError
        If it cannot be written: read-only, disk full, open elsewhere. Nothing has changed then.
    DataError
        If the result cannot be stored: no clock in s, or overlapping trials.

    Notes
    -----
    In the module, for a result called NAME: NAME_<array> for each array over time (a RoiResponseSeries on the
    source's plane segmentation where it has ROIs), NAME_bouts and NAME_trials (TimeIntervals), NAME_roi_parameters,
    NAME_state_parameters and so on for parameters by their first axis, NAME_objective_history, NAME_provenance.
    """
    plan = _plan(result, path, source, name, module, schema, overwrite, backend)
    done = write_safely(
        plan.target,
        base=plan.base,
        edit=plan.edit,
        check=plan.check,
        extra_bytes=plan.content.n_bytes + plan.extra_bytes,
    )
    for note in plan.content.notes:
        logger.warning("%s", note)
    logger.info("Wrote %s into %s", plan.content.name, done)
    return done


def plan_write(
    result: InferenceResult,
    path: str | Path | None = None,
    *,
    source: str | Path | Recording | None = None,
    name: str | None = None,
    module: str = "ophys",
    schema: str = "core",
    overwrite: bool = False,
    backend: str = "auto",
) -> list[str]:
    """Say what :func:`write_nwb` would write, and raise what it would raise before writing; nothing is written.

    Returns
    -------
    list of str
        The file, then a line per object.
    """
    plan = _plan(result, path, source, name, module, schema, overwrite, backend)
    how = "add to" if plan.base is not None and plan.base == plan.target else "create"
    if how == "create" and plan.base is not None:
        how += f" as a copy of {plan.base}"
    room = f"processing/{module}"
    lines = [f"{plan.target} ({how})"]
    for series in plan.content.series:
        kind = "RoiResponseSeries" if series.of_rois else "TimeSeries"
        size = " x ".join(str(n) for n in np.shape(series.values))
        lines.append(f"{room}/{series.name}: {kind}, {size}, {series.unit}")
    for table in plan.content.tables:
        kind = "TimeIntervals" if table.intervals else "DynamicTable"
        lines.append(f"{room}/{table.name}: {kind}, {len(table.columns[0].values)} rows")
    return lines


# -- Plan -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Where the result goes and how it gets there; made before anything is written."""

    result: InferenceResult
    content: Content
    target: Path
    base: Path | None
    module: str
    replaced: list[str]
    recording: Recording | None

    @property
    def extra_bytes(self) -> int:
        return 0 if self.recording is None or self.base is not None else self.recording.dff.nbytes

    def edit(self, temporary: Path) -> None:
        """Write into the temporary file."""
        if self.base is None:
            nwbfile, rows = new_nwbfile(self.result, self.recording, self.module)
            table = _at(nwbfile, TABLE_PATH.format(module=self.module))
            add_content(nwbfile, self.content, self.module, table, rows, None)
            with _quiet(), NWBHDF5IO(str(temporary), "w") as io:
                io.write(nwbfile)
        else:
            # One open file throughout: HDF5 reuses the room of what is deleted only until it is closed.
            with _quiet(), h5py.File(temporary, "r+") as file:
                keep_references(file, self.base.parent, self.target.parent)
                for name in self.replaced:
                    del file[f"processing/{self.module}/{name}"]
                io = NWBHDF5IO(file=file, mode="r+", load_namespaces=True)
                nwbfile = io.read()
                table, rows = _rois_of(nwbfile, self.result, self.base)
                lender = _lender(nwbfile, self.result, self.content)
                add_content(nwbfile, self.content, self.module, table, rows, lender)
                io.write(nwbfile)
                io.close()
        with h5py.File(temporary, "r+") as file:
            _sign(file)

    def check(self, temporary: Path) -> None:
        """Raise unless the temporary file opens and holds the result."""
        with opened(temporary) as (nwbfile, _, _):
            room = nwbfile.processing.get(self.module)
            there = set() if room is None else set(room.data_interfaces)
            missing = set(self.content.names) - there
            if missing:
                raise WriteError(f"The file written lacks {', '.join(sorted(missing))}; {self.target} is as it was.")


def _plan(
    result: InferenceResult,
    path: str | Path | None,
    source: str | Path | Recording | None,
    name: str | None,
    module: str,
    schema: str,
    overwrite: bool,
    backend: str,
) -> _Plan:
    if schema != "core":
        raise ValueError(f"schema={schema!r} is not known. Expected 'core': the types that every NWB reader has.")
    if backend not in ("auto", "hdf5"):
        raise ValueError(f"backend={backend!r} is not known. Expected 'auto' or 'hdf5'.")
    content = content_of(result, name)
    recording = source if isinstance(source, Recording) else None
    origin = _origin(result, source)
    is_nwb = origin is not None and origin.is_file()
    target = _target(path, origin, is_nwb)
    base = origin if is_nwb else None
    if target.exists() and not (base is not None and target.samefile(base)):
        if not overwrite:
            raise NameClashError(
                f"{target} is there already. Pass overwrite=True to put the result into it (a result of the same name "
                "is replaced, nothing else is), or another path."
            )
        base = target
    check_writable(target)
    replaced: list[str] = []
    if base is not None:
        with locked(base, exclusive=target.exists()):
            pass  # open elsewhere is said at once, not after a long copy
        replaced = _in_the_way(base, content, module, overwrite, result)
    return _Plan(result, content, target, base, module, replaced, recording)


def _origin(result: InferenceResult, source: str | Path | Recording | None) -> Path | None:
    """The file or folder the traces came from, or None."""
    if isinstance(source, str | Path):
        origin = Path(source).expanduser()
        if not origin.exists():
            raise FileNotFoundError(f"source={origin} does not exist. Expected the file the traces came from.")
        return origin.resolve()
    origin = result.source.path if source is None else source.source.path
    if origin is not None and not origin.exists():
        raise WriteError(f"The source {origin} is no longer there. Pass source=PATH if it was moved.")
    return None if origin is None else origin.resolve()


def _target(path: str | Path | None, origin: Path | None, is_nwb: bool) -> Path:
    if path is not None:
        return Path(path).expanduser().resolve()
    if origin is None:
        raise WriteError("The traces came from no file, so there is no place beside it. Pass path='NAME.nwb'.")
    if not is_nwb:
        return origin.with_name(origin.name + _SUFFIX)
    return origin.with_name(origin.name.removesuffix(".nwb") + _SUFFIX)


def _in_the_way(base: Path, content: Content, module: str, overwrite: bool, result: InferenceResult) -> list[str]:
    """Return the names of an earlier result that has to go; raise where that was not asked for or is not safe."""
    with opened(base) as (nwbfile, _, _):
        _rois_of(nwbfile, result, base)  # it has to fit before anything is written
        room = nwbfile.processing.get(module)
        there = set() if room is None else set(room.data_interfaces)
        earlier = _earlier(room, content.name) if room is not None else []
        clash = there & (set(content.names) | set(earlier))
        if not clash:
            return []
        listed = ", ".join(sorted(clash))
        if not overwrite:
            raise NameClashError(
                f"{base} has a result called {content.name!r} in processing/{module} already ({listed}). Pass "
                "overwrite=True to replace it, or another name=."
            )
        strangers = clash - set(earlier)
        if strangers:
            raise NameClashError(
                f"{base} has {', '.join(sorted(strangers))} in processing/{module}, which this package did not write "
                "as part of that result, and which is left alone. Pass another name=."
            )
    _raise_if_linked(base, [f"/processing/{module}/{name}" for name in clash])
    return sorted(clash)


def _earlier(room: NwbObject, name: str) -> Sequence[str]:
    """Names of what an earlier result of that name consists of, as its own table tells."""
    table = room.data_interfaces.get(name + RESULT_TABLE)
    if table is None or not {"key", "value"} <= set(table.colnames):
        return []
    facts = dict(zip(table["key"].data[:], table["value"].data[:], strict=True))
    return [n for n in str(facts.get("contents", "")).split("; ") if n in room.data_interfaces]


def _raise_if_linked(base: Path, paths: list[str]) -> None:
    """Raise if a link outside of what is to be replaced leads into it."""
    found: list[str] = []

    def visit(name: str, link: Any) -> None:
        inside = any(f"/{name}".startswith(p + "/") for p in paths)
        if isinstance(link, h5py.SoftLink) and not inside and any((link.path + "/").startswith(p + "/") for p in paths):
            found.append(name)

    with h5py.File(base, "r") as file:
        file.visititems_links(visit)
    if found:
        raise NameClashError(f"{base} has links into the result that would be replaced: {', '.join(found)}.")


# -- Parts of the file ------------------------------------------------------------------------------------------------


def _at(nwbfile: NwbObject, path: str) -> NwbObject | None:
    name = path.rpartition("/")[2]
    return next((o for o in nwbfile.objects.values() if o.name == name and object_path(o, nwbfile) == path), None)


def _rois_of(nwbfile: NwbObject, result: InferenceResult, base: Path) -> tuple[NwbObject, NDArray[np.integer]]:
    """Return the table of ROIs in a file and the row of each ROI of the result."""
    said = result.metadata.get("identifier")
    if said is not None and nwbfile.identifier != said:
        raise WriteError(
            f"{base} is another session (identifier {nwbfile.identifier!r}; the result's is {said!r}). Pass the file "
            "the traces came from, or a copy of it."
        )
    source = result.source
    if source.kind == "nwb" and source.plane_segmentation is not None and source.table_rows is not None:
        table = _at(nwbfile, source.plane_segmentation)
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
    return table, np.array([ids[n] for n in names])


def _names_in(table: NwbObject) -> list[str]:
    column = "roi_name" if "roi_name" in table.colnames else None
    values = table.id[:] if column is None else table[column].data[:]
    return [str(v) for v in np.asarray(values).tolist()]


def _lender(nwbfile: NwbObject, result: InferenceResult, content: Content) -> NwbObject | None:
    """Return the source series if its timestamps are those of the result."""
    if content.clock.rate is not None or result.source.series is None:
        return None
    series = _at(nwbfile, result.source.series.split(JOIN)[0])
    if series is None or series.timestamps is None or len(series.timestamps) != len(content.clock.times):
        return None
    return series if np.array_equal(np.asarray(series.timestamps[:], float), content.clock.times) else None


def _sign(file: h5py.File) -> None:
    """Add this package to the list of software that made the file."""
    line = (SOFTWARE, version("nwb-calcium-lvm"))
    path = "general/was_generated_by"
    lines: list[tuple[str, ...]] = []
    if path in file:
        lines = [tuple(v.decode() if isinstance(v, bytes) else str(v) for v in row) for row in file[path][:]]  # pyright: ignore[reportIndexIssue, reportGeneralTypeIssues]
        del file[path]
    lines = lines if line in lines else [*lines, line]
    file.create_dataset(path, data=np.array(lines, dtype=object), dtype=h5py.string_dtype())


def _quiet() -> Any:
    """Keep to itself what pynwb says of a file that others wrote; what we write is checked."""
    return warnings.catch_warnings(action="ignore")
