"""Reading the pickles in Zarr stores without running any code they name.

hdmf-zarr 0.13 stores object references, and tables that hold some, as pickles; numcodecs refuses to read any pickle
unless told that all of them are trusted. Here they are read as plain data: text, numbers, containers and arrays.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from nwb_calcium_lvm.exceptions import DataError, UnsafeFileError
from nwb_calcium_lvm.io import _pickle

_FIELDS = slice(3, 6)  # of the state of a pickled dtype: names, types with offsets, bytes per item


_lock = threading.Lock()
_registered: list[Any] = []  # the codec that was registered before, once for each reader that is inside


@contextmanager
def harmless_pickles() -> Iterator[None]:
    """Have arrays that are opened meanwhile unpickle plain data, and nothing but plain data."""
    registry = import_module("numcodecs.registry").codec_registry
    name = import_module("numcodecs.pickles").Pickle.codec_id
    with _lock:
        _registered.append(_registered[0] if _registered else registry[name])
        registry[name] = harmless_codec()
    try:
        yield
    finally:
        with _lock:
            before = _registered.pop()
            if not _registered:  # other threads may still be reading
                registry[name] = before


@cache
def harmless_codec() -> Any:
    """Return the class of the codec."""

    class HarmlessPickle(import_module("numcodecs.pickles").Pickle):
        """Written as Pickle, read without its powers."""

        def decode(self, buf: Any, out: Any = None) -> Any:
            values = _unpickle(bytes(import_module("numcodecs.compat").ensure_contiguous_ndarray(buf)))
            if out is None:
                return values
            np.copyto(out, values)
            return out

    return HarmlessPickle


def _unpickle(content: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(content), "A part of the Zarr store").load()
    except UnsafeFileError:
        raise
    except Exception as error:  # damaged bytes make the interpreter of pickles raise nearly anything
        raise DataError(
            f"A part of the Zarr store cannot be unpickled: {type(error).__name__}: {error}. Expected object "
            "references as hdmf-zarr writes them; is the store damaged?"
        ) from error


class _Record(_pickle._Dtype):
    """A dtype that may have fields; made anew from their names, types and places, which NumPy then checks."""

    __slots__ = ()

    def __init__(self, spec: str, *more: Any):
        if isinstance(spec, str) and spec.startswith("V") and spec[1:].isdigit():
            self.dtype = np.dtype(spec)
        else:
            super().__init__(spec, *more)

    def __setstate__(self, state: Any) -> None:
        names, fields, size = state[_FIELDS]
        if names is None:
            super().__setstate__(state)
            return
        kinds, places = zip(*((_pickle._plain(fields[n][0]), int(fields[n][1])) for n in names), strict=True)
        self.dtype = np.dtype(
            {"names": list(names), "formats": list(kinds), "offsets": list(places), "itemsize": int(size)}
        )


class _Unpickler(_pickle._Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) == ("numpy", "dtype"):
            return _pickle._Maker(_Record)
        if (module_name, global_name) == ("hdmf_zarr.utils", "ZarrReference"):
            # A dict with a name; the pickle needs a class here, and gets one that nobody else has.
            return type("Reference", (dict,), {"__slots__": ()})
        return super().find_class(module_name, global_name)
