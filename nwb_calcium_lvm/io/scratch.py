"""Arrays on disk for as long as someone holds them: written by ROIs and read by frames, or the other way round."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import WriteError
from nwb_calcium_lvm.io.stored_array import StoredArray

_CHUNK_ROIS = 16
_MOST_FRAMES = 4096
_SLAB_BYTES = 64 * 2**20


class Scratch:
    """A file of arrays (time, roi) that is removed when nothing refers to it any more.

    Parameters
    ----------
    folder : path, optional
        Where. Default: the folder for temporary files.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None):
        try:
            handle, name = tempfile.mkstemp(suffix=".h5", prefix=".nwb_calcium_lvm_", dir=folder)
            os.close(handle)
            h5py.File(name, "w").close()
        except OSError as error:
            raise WriteError(
                f"No temporary file can be made in {folder or tempfile.gettempdir()}: {error}. Pass scratch= with a "
                "folder that has room."
            ) from error
        self.path = Path(name)
        weakref.finalize(self, self.path.unlink, missing_ok=True)

    def add_rois(self, name: str, values: NDArray[Any]) -> None:
        """Put values (time, roi) to the right of the array of that name."""
        with self._open() as file:
            data: Any = file.get(name) or _create(file, name, (len(values), 0), values.dtype)
            first = data.shape[1]
            data.resize(first + values.shape[1], axis=1)
            data[:, first:] = values

    def create(self, name: str, shape: tuple[int, int], dtype: Any) -> _Frames:
        """Return an array to be filled frames by frames."""
        with self._open() as file:
            _create(file, name, shape, dtype)
        return _Frames(self, name)

    def rois(self, name: str, rois: slice) -> NDArray[Any]:
        """Read some columns of the array of that name."""
        with h5py.File(self.path, "r") as file:
            data: Any = file[name]
            return np.asarray(data[:, rois])

    def array(self, name: str) -> StoredArray:
        """Return the array of that name, read slice by slice; it keeps the file."""
        with h5py.File(self.path, "r") as file:
            data: Any = file[name]
            return StoredArray(self.path, name, tuple(data.shape), data.dtype, keeps=self)

    def _open(self) -> _Writing:
        return _Writing(self.path)


class _Frames:
    """An array of a scratch file that takes assignments of frames."""

    def __init__(self, scratch: Scratch, name: str):
        self._scratch, self._name = scratch, name

    def __setitem__(self, frames: slice, values: NDArray[Any]) -> None:
        with self._scratch._open() as file:
            data: Any = file[self._name]
            data[frames] = values


class _Writing:
    """A scratch file open for writing; a full disk is said in words."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> h5py.File:
        self._file = h5py.File(self._path, "r+")
        return self._file

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._file.close()
        except OSError as late:  # what is in memory goes to the disk now
            error = error or late
        if isinstance(error, OSError):
            raise WriteError(
                f"The temporary file {self._path} cannot be written: {error}. Is the disk full? Pass scratch= with a "
                "folder that has room."
            ) from error


def _create(file: h5py.File, name: str, shape: tuple[int, int], dtype: Any) -> h5py.Dataset:
    chunks = (max(min(_MOST_FRAMES, shape[0]), 1), _CHUNK_ROIS)
    return file.create_dataset(name, shape, dtype, maxshape=(shape[0], None), chunks=chunks)


def frames_per_slab(n_frames: int, n_rois: int, itemsize: int) -> int:
    """Return how many frames of so many ROIs to read at a time: whole chunks of a scratch file, if they fit."""
    most = max(_SLAB_BYTES // max(n_rois * itemsize, 1), 1)
    return min(most // _MOST_FRAMES * _MOST_FRAMES or most, max(n_frames, 1))
