"""A new HDF5 file that has the room it needs before anything is written into it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from nwb_calcium_lvm.io._atomic import reserve
from nwb_calcium_lvm.io._classes import NWBHDF5IO, NwbObject


@contextmanager
def new_hdf5(path: Path, n_bytes: int, kind: Any = NWBHDF5IO) -> Iterator[NwbObject]:
    """Yield pynwb's writer of a new file, with room for ``n_bytes`` taken from the disk; see :func:`reserve`."""
    with kind(str(path), mode="w") as io:  # empties the file, so the room is taken after
        reserve(path, n_bytes)
        yield io
    with h5py.File(path, "r+"):
        pass  # HDF5 cuts off room that was not used only of a file that it finds too long
