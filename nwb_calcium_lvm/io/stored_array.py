"""An array that stays in its file: each slice opens the file, reads what is asked for, and closes it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, UnsafeFileError
from nwb_calcium_lvm.io._atomic import is_held

_GAP = 8  # frames that are read in vain rather than asked for one by one


class StoredArray:
    """Values of a dataset in an NWB file, frames first, read slice by slice.

    It may be kept, sliced in other threads or processes, and written into another file; nothing stays open.

    Parameters
    ----------
    path : Path
        The file, HDF5 or Zarr.
    dataset : str
        Where in the file.
    shape : tuple of int
        Of the values.
    dtype : dtype
        Of the values.
    order : ndarray of int, shape (time,), or None
        Place in the file of each frame; None: as stored.
    keeps : object, optional
        What owns the file; it lives as long as the array does.
    """

    def __init__(
        self,
        path: Path,
        dataset: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        order: NDArray[np.integer] | None = None,
        keeps: Any = None,
    ):
        self._keeps = keeps
        self._path = path
        self._dataset = dataset
        self._order = order
        self.shape = shape
        self.dtype = dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Size when loaded."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredArray({self.shape}, {self.dtype}, {self._path.name}:{self._dataset})"

    def __getitem__(self, key: Any) -> Any:
        keys = key if isinstance(key, tuple) else (key,)
        several = [k for k in keys if isinstance(k, list | np.ndarray) and np.ndim(k)]
        if any(k is None or k is Ellipsis for k in keys) or len(several) > 1 or any(np.ndim(k) > 1 for k in several):
            return np.asarray(self)[key]  # as NumPy has it, which pairs several lists
        places = (np.arange(len(self)) if self._order is None else self._order)[keys[0]]
        with _opened(self._path, self._dataset) as stored:
            self._check(stored)
            rows = _gather(stored, np.atleast_1d(places), keys[1:])
        return rows if np.ndim(places) else rows[0]

    def _check(self, stored: Any) -> None:
        if tuple(stored.shape) != self.shape or stored.dtype != self.dtype:
            raise DataError(
                f"{self._path} has other values at {self._dataset} than when it was read: shape {tuple(stored.shape)}, "
                f"expected {self.shape}. The result was replaced since; read it again."
            )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = np.asarray(self[:])
        return values if dtype is None else values.astype(dtype)


@contextmanager
def _opened(path: Path, dataset: str) -> Iterator[Any]:
    if path.is_dir():
        stored = import_module("zarr").open(str(path), mode="r")[dataset]
        if any(getattr(f, "codec_id", "") == "pickle" for f in getattr(stored, "filters", None) or ()):
            raise UnsafeFileError(f"{path} holds pickled numbers at {dataset}, which nothing needs; they are not read.")
        yield stored
    else:
        # While a result is copied within its file, the lock that HDF5 asks for is our own.
        with h5py.File(path, "r", locking=False if is_held(path) else None) as file:
            yield file[dataset]


def _gather(stored: Any, places: NDArray[np.integer], others: tuple[Any, ...]) -> NDArray[Any]:
    """Read the frames at the given places, run by run, and of each what is asked for."""
    # What a file cannot select is selected afterwards.
    basic = all(isinstance(o, int | slice) and not (isinstance(o, slice) and (o.step or 1) < 0) for o in others)
    inside, after = (others, ()) if basic else ((), others)
    steps = np.diff(places)
    runs = np.split(places, np.flatnonzero((steps < 1) | (steps > _GAP)) + 1)
    parts = [np.asarray(stored[(slice(r[0], r[-1] + 1), *inside)])[r - r[0]] for r in runs if len(r)]
    rows = np.concatenate(parts) if parts else np.asarray(stored[(slice(0, 0), *inside)])
    return rows[(slice(None), *after)] if after else rows
