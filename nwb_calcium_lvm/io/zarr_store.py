"""NWB in Zarr stores: reading, writing, and exporting between Zarr and HDF5. All that needs hdmf-zarr is here.

hdmf-zarr 0.13 writes Zarr version 2; from 0.14 on it writes version 3 and reads version 2 with a class of its own.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, WriteError
from nwb_calcium_lvm.io._classes import NWBHDF5IO, GenericDataChunkIterator, H5DataIO, NwbObject
from nwb_calcium_lvm.io._new_hdf5 import new_hdf5
from nwb_calcium_lvm.io._relocate import moved
from nwb_calcium_lvm.io._zarr_pickle import harmless_codec, harmless_pickles

Format = Literal["hdf5", "zarr"]

_ROOT_FILES = (".zgroup", "zarr.json")
_BLOCK_BYTES = 32 * 2**20  # of a dataset in memory at a time while it is copied
_LEVEL = 4


# -- What is there ----------------------------------------------------------------------------------------------------


def is_store(path: str | Path) -> bool:
    """Say whether a path is the folder of a Zarr store, of NWB or anything else."""
    path = Path(path).expanduser()
    return path.is_dir() and (path.suffix == ".zarr" or any((path / name).is_file() for name in _ROOT_FILES))


def format_of(path: str | Path) -> Format:
    """Say how an existing file, or by its name a new one, is stored: a store is Zarr, and so is ``NAME.zarr``."""
    path = Path(path).expanduser()
    if path.exists():
        return "zarr" if is_store(path) else "hdf5"
    return "zarr" if path.suffix == ".zarr" else "hdf5"


# -- Reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def store_opened(path: Path) -> Iterator[NwbObject]:
    """Yield hdmf-zarr's reader of a store; what is pickled in it is read without running any code it names.

    Raises
    ------
    DataError
        If it is no NWB store, or damaged, or hdmf-zarr is not installed.
    """
    library = _library()
    is_version_2 = (path / ".zgroup").is_file() and not (path / "zarr.json").is_file()
    opener = getattr(library, "NWBZarrV2IO", library.NWBZarrIO) if is_version_2 else library.NWBZarrIO
    with harmless_pickles():
        if "nwb_version" not in _root_attributes(path):
            raise DataError(f"{path} is a Zarr store but not NWB: it has no nwb_version. Expected an NWB 2 file.")
        try:
            io = opener(str(path), mode="r", load_namespaces=True)
        except Exception as error:  # hdmf-zarr raises whatever it met first
            raise DataError(f"{path} cannot be opened by hdmf-zarr: {error}. Is it whole, and readable?") from error
        with io:
            yield io


def _root_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a store as its files have them, in version 2 or 3."""
    for name in (".zattrs", "zarr.json"):
        try:
            found = json.loads((path / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DataError(f"{path / name} cannot be read: {error}. Is the store whole?") from error
        return found if name == ".zattrs" else found.get("attributes", {})
    return {}


# -- Writing ----------------------------------------------------------------------------------------------------------


def wrap(data: Any, chunks: tuple[int, ...]) -> NwbObject:
    """Have an array, or an iterator of its slices, written compressed in chunks of the given shape."""
    library = _library()
    if "compressors" in _arguments(library.ZarrDataIO):  # Zarr version 3
        codecs = import_module("zarr.codecs")
        packed = {"compressors": codecs.BloscCodec(cname="zstd", clevel=_LEVEL, shuffle="shuffle")}
    else:
        codecs = import_module("numcodecs")
        packed = {"compressor": codecs.Blosc(cname="zstd", clevel=_LEVEL, shuffle=codecs.Blosc.SHUFFLE)}
    return library.ZarrDataIO(data=data, chunks=tuple(max(1, int(n)) for n in chunks), **packed)


def write_new(nwbfile: NwbObject, target: Path) -> None:
    """Write an NWBFile made in memory to a new store; an empty file or folder may be there."""
    with _quiet(), harmless_pickles(), _new_store(target) as io:
        io.write(nwbfile)


def export(
    source: Path,
    target: Path,
    change: Callable[[NwbObject], None],
    *,
    to: Format,
    home: Path | None = None,
    n_bytes: int = 0,
) -> None:
    """Write the whole of an NWB file, changed, to a new file or store.

    Parameters
    ----------
    source : Path
        HDF5 file or Zarr store; never changed.
    target : Path
        Where to. An empty file or folder may be there; what becomes a store is open to its owner only.
    change : callable
        Is given the NWBFile that was read, and adds to it, or removes with :func:`remove`.
    to : {"hdf5", "zarr"}
        How it is stored.
    home : Path, optional
        The folder the target will be in, where relative paths of external image files start; default: the target's.
    n_bytes : int
        Room that is taken from the disk before an HDF5 file is written.

    Raises
    ------
    WriteError
        If the source has links to other files, which an export cannot keep.
    """
    _raise_if_linked_elsewhere(source)
    with _quiet(), _source(source) as reader:
        nwbfile = reader.read()
        _keep_external_files(nwbfile, source.resolve().parent, home or target.resolve().parent)
        change(nwbfile)
        anew = new_hdf5(target, n_bytes, _hdf5_writer()) if to == "hdf5" else _new_store(target)
        with harmless_pickles(), anew as writer:
            writer.export(src_io=reader, nwbfile=nwbfile, write_args={"link_data": False})


def _new_store(target: Path) -> NwbObject:
    if target.is_file() and target.stat().st_size == 0:
        target.unlink()
    writer = _zarr_writer()(target)
    target.chmod(0o700)  # for its owner only until it is complete; zarr has just made the folder
    return writer


@contextmanager
def _source(path: Path) -> Iterator[NwbObject]:
    if is_store(path):
        with store_opened(path) as io:
            yield io
    else:
        with NWBHDF5IO(str(path), mode="r", load_namespaces=True) as io:
            yield io


# -- Changes that survive an export -----------------------------------------------------------------------------------


def remove(module: NwbObject, name: str) -> None:
    """Take an object out of a processing module."""
    del module.data_interfaces[name]


def set_identifier(nwbfile: NwbObject, text: str) -> None:
    """Give a file that was read another identifier, which pynwb does not let be set twice."""
    nwbfile.fields["identifier"] = text
    nwbfile.set_modified()


def sign(nwbfile: NwbObject, line: tuple[str, str]) -> None:
    """Add a name and version to the software that made a file, unless it is there."""
    earlier = nwbfile.fields.get("was_generated_by")
    lines = [] if earlier is None else [tuple(_text(v) for v in row) for row in np.asarray(earlier[:]).tolist()]
    if line not in lines:
        lines.append(line)
    nwbfile.fields["was_generated_by"] = [list(row) for row in lines]
    nwbfile.set_modified()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _keep_external_files(nwbfile: NwbObject, old: Path, new: Path) -> None:
    """Rewrite relative paths of movies kept elsewhere, which start at the file's own folder."""
    if old == new:
        return
    for series in nwbfile.objects.values():
        names = series.fields.get("external_file") if hasattr(series, "fields") else None
        if names is not None:
            kept = [_text(n) for n in np.asarray(names[:]).tolist()]
            series.fields["external_file"] = [n if os.path.isabs(n) or "://" in n else moved(n, old, new) for n in kept]
            series.set_modified()


def _raise_if_linked_elsewhere(source: Path) -> None:
    found = _zarr_links(source) if is_store(source) else _hdf5_links(source)
    if found:
        raise WriteError(
            f"{source} holds links to other files ({', '.join(found[:3])}), which cannot be kept in a file written "
            "anew. Make one file of it first (pynwb: export with link_data=False)."
        )


def _hdf5_links(source: Path) -> list[str]:
    found: list[str] = []

    def visit(name: str, link: Any) -> None:
        if isinstance(link, h5py.ExternalLink):
            found.append(f"{name} to {link.filename}")

    with h5py.File(source, "r") as file:
        file.visititems_links(visit)
    return found


def _zarr_links(source: Path) -> list[str]:
    found: list[str] = []
    for path in (*source.rglob(".zattrs"), *source.rglob("zarr.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts = facts.get("attributes", {}) if path.name == "zarr.json" else facts
        links = [*facts.get("zarr_link", []), *facts.get("_LINKS", [])]  # version 2 and 3
        found += [f"{link['name']} to {link['source']}" for link in links if link.get("source") not in (".", None)]
    return found


# -- Copying piece by piece -------------------------------------------------------------------------------------------


class _Blocks(GenericDataChunkIterator):
    """Hands a dataset on disk from one file to another in blocks."""

    def __init__(self, dataset: Any, chunks: tuple[int, ...]):
        self._dataset = dataset
        super().__init__(chunk_shape=chunks, buffer_shape=_block(dataset, chunks))

    def _get_data(self, selection: tuple[slice, ...]) -> NDArray[Any]:
        return np.asarray(self._dataset[selection])

    def _get_maxshape(self) -> tuple[int, ...]:
        return tuple(self._dataset.shape)

    def _get_dtype(self) -> np.dtype[Any]:
        return self._dataset.dtype


def _block(dataset: Any, chunks: tuple[int, ...]) -> tuple[int, ...]:
    """Return a multiple of the chunks of limited size, along the first axis first."""
    shape = list(chunks)
    for axis in reversed(range(len(shape))):
        room = _BLOCK_BYTES // (int(np.prod(shape)) * dataset.dtype.itemsize)
        shape[axis] = min(dataset.shape[axis], shape[axis] * max(1, room))
    return tuple(shape)


def _is_large(data: Any) -> bool:
    """Say whether something is a dataset of plain numbers on disk that is not to be read at once."""
    if not hasattr(data, "chunks") or not isinstance(getattr(data, "dtype", None), np.dtype):
        return False
    return data.dtype.kind in "biufc" and data.ndim > 0 and data.size * data.dtype.itemsize > _BLOCK_BYTES


def _chunks_of(data: Any) -> tuple[int, ...]:
    if data.chunks is not None:
        return tuple(min(int(c), int(n)) for c, n in zip(data.chunks, data.shape, strict=True))
    rows = max(1, _BLOCK_BYTES // 32 // (int(np.prod(data.shape[1:])) * data.dtype.itemsize))
    return (min(rows, data.shape[0]), *data.shape[1:])


@cache
def _zarr_writer() -> Any:
    base = _library().NWBZarrIO
    takes_codec = "object_codec_class" in _arguments(base)
    json = import_module("numcodecs").JSON

    class Writer(base):
        """NWBZarrIO, which by itself reads each HDF5 dataset as a whole, and pickles what could be JSON."""

        def __init__(self, path: Path):
            self._is_table = False
            codec = {"object_codec_class": self._object_codec} if takes_codec else {}
            super().__init__(str(path), mode="w", **codec)

        def _object_codec(self) -> Any:
            return harmless_codec()() if self._is_table else json()

        def write_dataset(self, parent: Any, builder: Any, **kwargs: Any) -> Any:
            data = builder.data if kwargs.get("force_data") is None else kwargs["force_data"]
            if isinstance(data, h5py.Dataset) and _is_large(data):
                chunks = _chunks_of(data)
                kwargs["force_data"] = wrap(_Blocks(data, chunks), chunks)
            self._is_table = isinstance(builder.dtype, list)
            return super().write_dataset(parent=parent, builder=builder, **kwargs)

    return Writer


@cache
def _hdf5_writer() -> Any:
    class Writer(NWBHDF5IO):
        """NWBHDF5IO, which by itself reads each Zarr array as a whole."""

        def write_dataset(self, parent: Any, builder: Any, **kwargs: Any) -> Any:
            if not isinstance(builder.data, h5py.Dataset) and _is_large(builder.data):
                chunks = _chunks_of(builder.data)
                builder["data"] = H5DataIO(
                    _Blocks(builder.data, chunks), chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
                )
            return super().write_dataset(parent, builder, **kwargs)

    return Writer


def _arguments(kind: Any) -> set[str]:
    """Return what the constructor of a class of hdmf takes, which differs between versions of hdmf-zarr."""
    return {argument["name"] for argument in import_module("hdmf.utils").get_docval(kind.__init__)}


def _library() -> Any:
    try:
        return import_module("hdmf_zarr")
    except ImportError as error:
        raise DataError(
            f'Zarr stores need hdmf-zarr, which cannot be imported ({error}). pip install "nwb-calcium-lvm[zarr]"'
        ) from error


def _quiet() -> Any:
    """Keep to itself what pynwb says of a file that others wrote; what we write is checked."""
    return warnings.catch_warnings(action="ignore")
