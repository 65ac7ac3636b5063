"""One-file archive of arrays and JSON (a NumPy .npz whose header is text), written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, WriteError

FORMAT = "nwb_calcium_lvm model"
VERSION = 1
_HEADER = "header.json"


def write_archive(path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Path:
    """Write ``header`` and ``arrays`` to ``path``, replacing what is there only once all of it is on disk."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **header}, default=_plain, allow_nan=True)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise WriteError(f"Cannot write in {path.parent} ({error}). Choose a folder that exists and is writable.") from error
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{_HEADER: np.frombuffer(text.encode(), np.uint8)}, **arrays)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


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
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Expected a model saved by estimator.save(path).") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise DataError(f"{path} is not a model saved by estimator.save(path) ({error}).") from error
    if header.get("format") != FORMAT or header.get("version", 0) > VERSION:
        raise DataError(
            f"{path} has format {header.get('format')!r} version {header.get('version')}; this version of the package "
            f"reads {FORMAT!r} up to version {VERSION}. Update the package, or save the model again."
        )
    return header, arrays


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.random.RandomState):
        return None  # a generator's state is not part of the model
    raise TypeError(f"{type(value).__name__} cannot be saved")
