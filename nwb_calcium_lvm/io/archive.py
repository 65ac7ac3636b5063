"""One-file archive of arrays and JSON (a NumPy .npz whose header is text), written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, WriteError

FORMAT = "nwb_calcium_lvm model"
VERSION = 1
_HEADER = "header.json"
# What NumPy, zipfile and json raise for files that are cut off, forged or of another kind.
_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def write_archive(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write ``header`` and ``arrays`` to ``path``, replacing what is there only once all of it is on disk."""
    pickled = [name for name, array in arrays.items() if array.dtype.hasobject]
    if pickled:
        raise TypeError(f"{pickled} are arrays of objects, which NumPy would pickle; put them into the header")
    text = header_text(header)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise WriteError(
            f"Cannot write in {path.parent} ({error}). Choose a folder that exists and is writable."
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            content = {_HEADER: np.frombuffer(text.encode(), np.uint8), **arrays}
            np.savez(file, **content)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise WriteError(f"{path} could not be written, and is as it was ({error}).") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def header_text(header: Mapping[str, Any]) -> str:
    """Return the header as JSON, with the format and its version.

    Raises
    ------
    TypeError
        If something in it is no plain value.
    """
    return json.dumps({"format": FORMAT, "version": VERSION, **header}, default=_plain, allow_nan=True)


def check_version(kind: str, version: int, path: Path) -> None:
    """Raise DataError unless this version of the package reads the format."""
    if kind != FORMAT or version > VERSION:
        raise DataError(
            f"{path} has format {kind!r} version {version}; this version of the package reads {FORMAT!r} up to version "
            f"{VERSION}. Update the package, or save the model again."
        )


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what :func:`write_archive` wrote; never unpickles.

    Raises
    ------
    DataError
        If the file is not such an archive, or was written by a later version of its format.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(bytes(arrays.pop(_HEADER)).decode())
        kind, version = header["format"], int(header["version"])
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Expected a model saved by estimator.save(path).") from error
    except _UNREADABLE as error:
        raise DataError(f"{path} is not a model saved by estimator.save(path) ({error}).") from error
    check_version(kind, version, path)
    return header, arrays


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.random.RandomState):
        return None  # a generator's state is not part of the model
    raise TypeError(f"{type(value).__name__} cannot be saved")
