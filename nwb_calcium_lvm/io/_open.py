"""Opening an NWB file, however it is given, and closing what was opened."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.io._classes import NWBHDF5IO, NWBFile, NwbObject, RoiResponseSeries
from nwb_calcium_lvm.io.zarr_store import format_of as format_of  # also asked for here
from nwb_calcium_lvm.io.zarr_store import is_store, store_opened


@contextmanager
def opened(src: Any) -> Iterator[tuple[Any, RoiResponseSeries | None, Path | None]]:
    """Yield the NWBFile, the one series asked for (if any), and the path; close what was opened here."""
    if isinstance(src, RoiResponseSeries):
        nwbfile = src.get_ancestor("NWBFile")
        yield nwbfile, src, _path_of(nwbfile)
    elif isinstance(src, NWBFile):
        yield src, None, _path_of(src)
    elif isinstance(src, h5py.File):
        io = _io(src.filename, file=src)
        yield _read(io, src.filename), None, _existing(src.filename)
    elif hasattr(src, "read") and hasattr(src, "seek"):
        name = getattr(src, "name", None)
        with _h5(src) as h5:
            io = _io(str(name), file=h5)
            yield _read(io, str(name)), None, _existing(name)
    elif isinstance(src, str | Path):
        path = Path(src).expanduser()
        if is_store(path):
            with store_opened(path) as io:
                yield _read(io, str(path)), None, path.resolve()
            return
        with _h5(_checked(path)) as h5, _io(str(path), file=h5) as io:
            yield _read(io, str(path)), None, path.resolve()
    else:
        raise DataError(
            f"src is a {type(src).__name__}. Expected a path, an NWBFile, a RoiResponseSeries, an h5py.File or a "
            "binary file object."
        )


def _checked(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}. Check the path; relative ones start at {Path.cwd()}.")
    if path.is_dir():
        raise DataError(
            f"{path} is a folder, and not a Zarr store (it has no .zgroup or zarr.json). Expected an NWB file or "
            "store. A Suite2p folder is read by read_suite2p."
        )
    return path


@contextmanager
def _h5(file: Any) -> Iterator[h5py.File]:
    try:
        h5 = h5py.File(file, "r")
    except OSError as error:
        remedy = (
            "Another program has it open for writing; close it there"
            if "unable to lock" in str(error) or "already open" in str(error)
            else "Expected an NWB file, which is HDF5; this is not one, or its download or copy is incomplete"
        )
        raise DataError(f"{file} cannot be opened. {remedy}. ({error})") from error
    with h5:
        yield h5


def _io(name: str, file: h5py.File) -> NwbObject:
    if "nwb_version" not in file.attrs and "specifications" not in file:
        raise DataError(f"{name} is HDF5 but not NWB: it has no nwb_version. Expected an NWB 2 file.")
    return NWBHDF5IO(file=file, mode="r", load_namespaces=True)


def _read(io: NwbObject, name: str) -> NwbObject:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of pynwb's warnings is checked and said here
            return io.read()
    except Exception as error:  # pynwb raises whatever it met first in a file it cannot make sense of
        raise DataError(f"{name} cannot be read as NWB by pynwb: {error}. Check it with `pynwb-validate`.") from error


def _path_of(nwbfile: NwbObject | None) -> Path | None:
    return None if nwbfile is None else _existing(nwbfile.container_source)


def _existing(name: Any) -> Path | None:
    if not isinstance(name, str | Path) or not (Path(name).is_file() or is_store(name)):
        return None
    return Path(name).resolve()
