"""What a write will do, found out before anything is written: where to, from which file, what has to go."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io import zarr_store
from nwb_calcium_lvm.io._atomic import check_writable, locked, size_of
from nwb_calcium_lvm.io._build import Place, Tick, wrap_hdf5
from nwb_calcium_lvm.io._classes import NWBHDF5IO, NwbObject
from nwb_calcium_lvm.io._core_layout import core_layout
from nwb_calcium_lvm.io._extension_layout import extension_layout
from nwb_calcium_lvm.io._links import links_into
from nwb_calcium_lvm.io._new_hdf5 import new_hdf5
from nwb_calcium_lvm.io._open import opened
from nwb_calcium_lvm.io._relocate import keep_references
from nwb_calcium_lvm.io._session import SUFFIX, identifier_of_copy, rois_of
from nwb_calcium_lvm.io._spike_table import SPIKES, is_spike_table
from nwb_calcium_lvm.io.new_file import TABLE_PATH, TRACES_PATH, check_new_file, new_nwbfile
from nwb_calcium_lvm.io.nwb_read import JOIN
from nwb_calcium_lvm.io.nwb_series import RESULT_TABLE, is_result, object_at
from nwb_calcium_lvm.io.zarr_store import Format, format_of, is_store
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult

SOFTWARE = "nwb_calcium_lvm"
_LAYOUTS = {"extension": extension_layout, "core": core_layout}
_BACKENDS = ("auto", "hdf5", "zarr")
_NAME = re.compile(r"[^/\\:\x00]+")


class Layout(Protocol):
    """A result as it will be in the file."""

    @property
    def name(self) -> str:
        """Of the result."""
        ...

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        ...

    @property
    def names(self) -> list[str]:
        """Names of the objects in the module."""
        ...

    @property
    def n_bytes(self) -> int:
        """Size at most, uncompressed."""
        ...

    def lines(self, room: str) -> list[str]:
        """Say what is written, an object a line."""
        ...

    def add(self, place: Place) -> None:
        """Add the result to an open file."""
        ...

    def problems(self, room: NwbObject) -> list[str]:
        """Say what of the result is not there, or not whole, in the module of a file."""
        ...


@dataclass(frozen=True)
class Plan:
    """Where the result goes and how it gets there.

    Parameters
    ----------
    result : InferenceResult
        What is written.
    layout : Layout
        As what.
    target : Path
        The file to write.
    base : Path or None
        The file to start from; None: from nothing.
    to : Format
        Format of the target.
    module : str
        Processing module.
    replaced : list of str
        Names of what an earlier result consists of, and has to go.
    recording : Recording or None
        Its traces go into a file that is made from nothing.
    """

    result: InferenceResult
    layout: Layout
    target: Path
    base: Path | None
    to: Format
    module: str
    replaced: list[str] = field(default_factory=list)
    recording: Recording | None = None

    @property
    def in_place(self) -> bool:
        """Whether the target is changed, rather than made."""
        return self.base is not None and self.target.exists() and self.target.samefile(self.base)

    @property
    def appends(self) -> bool:
        """Whether the file is written into, rather than anew: only HDF5 allows it safely."""
        return self.base is not None and self.to == "hdf5" and format_of(self.base) == "hdf5"

    @property
    def extra_bytes(self) -> int:
        """Size at most of what is added."""
        traces = 0 if self.recording is None or self.base is not None else self.recording.dff.nbytes
        return self.layout.n_bytes + traces

    @property
    def needed_bytes(self) -> int:
        """Room that is needed on the disk while writing."""
        return self.extra_bytes + (0 if self.base is None else size_of(self.base))

    @property
    def free_bytes(self) -> int:
        """Room that there is."""
        return shutil.disk_usage(self.target.parent).free

    # -- Doing it -----------------------------------------------------------------------------------------------------

    def edit(self, temporary: Path, tick: Tick) -> None:
        """Write into the temporary file."""
        with warnings.catch_warnings(action="ignore"):  # of what others wrote; what we write is checked
            if self.base is None:
                self._make(temporary, tick)
            elif self.appends:
                self._append(self.base, temporary, tick)
            else:
                self._export(self.base, temporary, tick)

    def check(self, temporary: Path) -> None:
        """Raise unless the temporary file opens and holds the result."""
        with opened(temporary) as (nwbfile, _, _):
            room = nwbfile.processing.get(self.module)
            missing = [self.layout.name] if room is None else self.layout.problems(room)
            if missing:
                raise WriteError(f"The file written lacks {', '.join(sorted(missing))}; {self.target} is as it was.")

    def _make(self, temporary: Path, tick: Tick) -> None:
        nwbfile, rows = new_nwbfile(self.result, self.recording, self.module, self._wrap)
        nwbfile.was_generated_by = [list(_line())]
        table = object_at(nwbfile, TABLE_PATH.format(module=self.module))
        traces = object_at(nwbfile, TRACES_PATH.format(module=self.module))
        self.layout.add(self._place(nwbfile, table, rows, [] if traces is None else [traces], tick))
        if self.to == "zarr":
            zarr_store.write_new(nwbfile, temporary)
        else:
            with new_hdf5(temporary, self.extra_bytes) as io:
                io.write(nwbfile)

    def _append(self, base: Path, temporary: Path, tick: Tick) -> None:
        # One open file throughout: HDF5 reuses the room of what is deleted only until it is closed.
        with h5py.File(temporary, "r+") as file:
            keep_references(file, base.parent, self.target.parent)
            for name in self.replaced:
                del file[f"processing/{self.module}/{name}"]
            if not self.in_place:
                identifier = identifier_of_copy(str(file["identifier"].asstr()[()]))  # pyright: ignore[reportAttributeAccessIssue]
                del file["identifier"]  # text of fixed length would cut the new one off
                file.create_dataset("identifier", data=identifier, dtype=h5py.string_dtype())
            io = NWBHDF5IO(file=file, mode="r+", load_namespaces=True)
            nwbfile = io.read()
            self.layout.add(self._place_in(nwbfile, tick))
            io.write(nwbfile)
            io.close()
        with h5py.File(temporary, "r+") as file:
            _sign(file)

    def _export(self, base: Path, temporary: Path, tick: Tick) -> None:
        def change(nwbfile: NwbObject) -> None:
            for name in self.replaced:
                zarr_store.remove(nwbfile.processing[self.module], name)
            if not self.in_place:
                zarr_store.set_identifier(nwbfile, identifier_of_copy(nwbfile.identifier))
            zarr_store.sign(nwbfile, _line())
            self.layout.add(self._place_in(nwbfile, tick))

        zarr_store.export(base, temporary, change, to=self.to, home=self.target.parent, n_bytes=self.needed_bytes)

    # -- Parts of the file --------------------------------------------------------------------------------------------

    def _place_in(self, nwbfile: NwbObject, tick: Tick) -> Place:
        table, rows = rois_of(nwbfile, self.result, self.target)
        paths = [] if self.result.source.series is None else self.result.source.series.split(JOIN)
        found = [object_at(nwbfile, path) for path in paths]
        return self._place(nwbfile, table, rows, [] if None in found else found, tick)

    def _place(
        self, nwbfile: NwbObject, table: NwbObject, rows: NDArray[np.integer], sources: list[NwbObject], tick: Tick
    ) -> Place:
        return Place(nwbfile, self.module, table, rows, sources, self.target.parent, self._wrap, tick)

    def _wrap(self, slices: Any, chunks: tuple[int, ...]) -> NwbObject:
        if self.to == "hdf5":
            return wrap_hdf5(slices, chunks)
        return zarr_store.wrap(slices, chunks)


def make_plan(
    result: InferenceResult,
    path: str | Path | None,
    source: str | Path | Recording | None,
    name: str | None,
    module: str,
    schema: str,
    overwrite: bool,
    backend: str,
) -> Plan:
    """Find out what a write will do; raise what speaks against it."""
    if schema not in _LAYOUTS:
        raise ValueError(f"schema={schema!r} is not known. Expected 'extension', or 'core' for core NWB types only.")
    if backend not in _BACKENDS:
        raise ValueError(f"backend={backend!r} is not known. Expected one of {_BACKENDS}.")
    recording = source if isinstance(source, Recording) else None
    origin = _origin(result, source)
    if origin is not None and recording is None:
        result = replace(result, source=replace(result.source, path=origin))  # where it is by now
    base = origin if origin is not None and (origin.is_file() or is_store(origin)) else None
    target, to = _target(path, origin, base, backend)
    if target.is_dir() and not is_store(target):
        raise WriteError(f"path={target} is a folder. Expected the file to write, such as {target / 'NAME.nwb'}.")
    if target.exists() and not (base is not None and target.samefile(base)):
        if not overwrite:
            raise NameClashError(
                f"{target} is there already. Pass overwrite=True to put the result into it (a result of the same name "
                "is replaced, nothing else is), or another path."
            )
        base = target
    check_writable(target)
    layout: Layout = _LAYOUTS[schema](result, _label(result, name))
    replaced: list[str] = []
    if base is None:
        check_new_file(recording, result, layout.names)
    else:
        with locked(base, exclusive=target.exists()):
            pass  # open elsewhere is said at once, not after a long copy
        replaced = _in_the_way(base, layout, module, overwrite, result)
    return Plan(result, layout, target, base, to, module, replaced, recording)


# -- Where to ---------------------------------------------------------------------------------------------------------


def _label(result: InferenceResult, name: str | None) -> str:
    label = name if name is not None else str(result.model.get("name", "model"))
    if not _NAME.fullmatch(label) or label != label.strip() or label.startswith("."):
        raise DataError(
            f"name={label!r} cannot be a name in an NWB file. Expected text without '/', '\\' and ':', that begins "
            "with no '.' or blank."
        )
    return label


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


def _target(path: str | Path | None, origin: Path | None, base: Path | None, backend: str) -> tuple[Path, Format]:
    """Return the file to write and its format."""
    wanted: Format | None = None if backend == "auto" else ("zarr" if backend == "zarr" else "hdf5")
    if path is not None:
        target = Path(path).expanduser().resolve()
        if target.exists() and wanted not in (None, format_of(target)):
            raise ValueError(
                f"backend={backend!r}, but {target} is there already, as {format_of(target)}. Pass another path."
            )
        return target, wanted or format_of(target)
    if origin is None:
        raise WriteError("The traces came from no file, so there is no place beside it. Pass path='NAME.nwb'.")
    to: Format = wanted or ("hdf5" if base is None else format_of(base))
    stem = origin.name if base is None else origin.name.removesuffix(".zarr").removesuffix(".nwb")
    return origin.with_name(f"{stem}{SUFFIX}.nwb{'.zarr' if to == 'zarr' else ''}"), to


def _in_the_way(base: Path, layout: Layout, module: str, overwrite: bool, result: InferenceResult) -> list[str]:
    """Return the names of an earlier result that has to go; raise where that was not asked for or is not safe."""
    with opened(base) as (nwbfile, _, _):
        rois_of(nwbfile, result, base)  # it has to fit before anything is written
        room = nwbfile.processing.get(module)
        if room is None:
            return []
        there, earlier = set(room.data_interfaces), _earlier(room, layout.name)
        clash = there & {*layout.names, *earlier}
        if not clash:
            return []
        listed = ", ".join(sorted(clash))
        if not overwrite:
            raise NameClashError(
                f"{base} has a result called {layout.name!r} in processing/{module} already ({listed}). Pass "
                "overwrite=True to replace it, or another name=."
            )
        strangers = clash - set(earlier)
        if strangers:
            raise NameClashError(
                f"{base} has {', '.join(sorted(strangers))} in processing/{module}, which this package did not write "
                "as part of that result, and which is left alone. Pass another name=."
            )
        links = links_into(nwbfile, base, [room.data_interfaces[name] for name in clash])
        if links:
            raise NameClashError(f"{base} has links into the result that would be replaced: {', '.join(links)}.")
    return sorted(clash)


def _earlier(room: NwbObject, name: str) -> list[str]:
    """Names of what an earlier result of that name consists of, in either schema."""
    found = room.data_interfaces.get(name)
    names = [name] if is_result(found) else []
    names += [name + SPIKES] if names and is_spike_table(room.data_interfaces.get(name + SPIKES)) else []
    table = room.data_interfaces.get(name + RESULT_TABLE)
    if not {"key", "value"} <= set(getattr(table, "colnames", ())):
        return names
    facts = dict(zip(table["key"].data[:], table["value"].data[:], strict=True))
    told = json.loads(str(facts.get("contents", "[]")))
    return names + [n for n in told if n in room.data_interfaces and n.startswith(f"{name}_")]


# -- Signing -----------------------------------------------------------------------------------------------------------


def _sign(file: h5py.File) -> None:
    """Add this package to the list of software that made the file."""
    line = _line()
    path = "general/was_generated_by"
    lines: list[tuple[str, ...]] = []
    if path in file:
        lines = [tuple(v.decode() if isinstance(v, bytes) else str(v) for v in row) for row in file[path][:]]  # pyright: ignore[reportIndexIssue, reportGeneralTypeIssues]
        del file[path]
    lines = lines if line in lines else [*lines, line]
    file.create_dataset(path, data=np.array(lines, dtype=object), dtype=h5py.string_dtype())


def _line() -> tuple[str, str]:
    return SOFTWARE, version("nwb-calcium-lvm")
