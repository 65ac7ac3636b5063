"""Reading ``.npy`` files written by others without running any code they name.

Suite2p's settings and ROI statistics are pickles, and a pickle can call whatever can be imported. Here every name in
a pickle is looked up in one explicit list, and what the list holds are inert makers of plain data, not the classes
themselves: a pickle cannot alter a class, nor hand NumPy a forged dtype, whose state NumPy trusts with raw pointers.
"""

from __future__ import annotations

import datetime
import io
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, UnsafeFileError

_PLAIN_DTYPE = re.compile(r"[<>|=]?[?biufcSUO]\d*")
_HEADER_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_array(path: Path) -> NDArray[Any]:
    """Open a plain array read-only; its rows are read when they are used.

    Raises
    ------
    UnsafeFileError
        If the file holds pickled objects instead.
    DataError
        If it is no array, or cut short.
    """
    shape, dtype, _ = _header(path)
    if dtype.hasobject:
        raise UnsafeFileError(
            f"{path} holds pickled objects where an array of numbers was expected; nothing of it was run. "
            "Was it written by Suite2p? Write it again as numbers (np.save of a float array)."
        )
    if 0 in shape:
        return np.empty(shape, dtype)  # an empty file cannot be mapped
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise DataError(
            f"{path} says it holds {shape} {dtype} but cannot be read: {error}. Is it cut short?"
        ) from error


def read_objects(path: Path) -> Any:
    """Return what a pickled ``.npy`` file holds: a dict for a settings file, a list for an array of objects.

    Raises
    ------
    UnsafeFileError
        If the pickle asks for anything but plain data.
    DataError
        If the file is damaged.
    """
    _, dtype, start = _header(path)
    if not dtype.hasobject:
        values = np.array(read_array(path))
    else:
        try:
            content = path.read_bytes()[start:]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
        values = unpickle(content, str(path))
    if not isinstance(values, np.ndarray):
        raise DataError(f"{path} holds a {type(values).__name__}; expected an array of objects, as Suite2p writes it.")
    return values.item() if values.ndim == 0 else values.tolist()


def unpickle(content: bytes, name: str) -> Any:
    """Unpickle plain data: numbers, text, containers, arrays, dates and paths; ``name`` is for messages."""
    try:
        return _Unpickler(io.BytesIO(content), name).load()
    except UnsafeFileError:
        raise
    except Exception as error:  # damaged bytes make the interpreter of pickles raise nearly anything
        raise DataError(
            f"{name} cannot be unpickled: {type(error).__name__}: {error}. Expected data as Suite2p writes them; is "
            "the file damaged or cut short?"
        ) from error


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape and dtype of an ``.npy`` file, and where its data start."""
    try:
        with open(path, "rb") as file:
            return _parse_header(file)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except Exception as error:  # untrusted bytes: the parser of headers may raise nearly anything
        raise DataError(f"{path} is not a .npy file that can be read: {type(error).__name__}: {error}.") from error


def _parse_header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    version = npy.read_magic(file)
    if version not in _HEADER_READERS:
        raise ValueError(f"version {version} of the format is not known; expected {list(_HEADER_READERS)}")
    shape, _, dtype = _HEADER_READERS[version](file)
    return shape, dtype, file.tell()


# -- Makers of plain data -------------------------------------------------------------------------------------------


class _Maker:
    """A function that a pickle may call and do nothing else with."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]):
        object.__setattr__(self, "_make", make)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UnsafeFileError(f"A pickle tries to set {name!r} on what it may only call.")

    def __setstate__(self, state: Any) -> None:
        raise UnsafeFileError("A pickle tries to alter what it may only call.")


class _Dtype:
    """A dtype of numbers, text or objects, taken from its name and byte order only."""

    __slots__ = ("dtype",)

    def __init__(self, spec: str, *_: Any):
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            raise ValueError(f"an array of type {spec!r}; expected numbers, text or objects")
        self.dtype: np.dtype[Any] = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        order, fields = state[1], state[2:5]
        if any(field is not None for field in fields):
            raise ValueError("an array with fields; expected numbers, text or objects")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array whose dtype is one of ours."""

    def __setstate__(self, state: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        version, shape, dtype, is_fortran, data = state
        super().__setstate__((version, shape, _plain(dtype), is_fortran, data))  # pyright: ignore[reportArgumentType]


def _plain(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _Dtype):
        raise TypeError(f"an array of type {dtype!r}; expected numbers, text or objects")
    return dtype.dtype


def _empty_array(*_: Any) -> _Array:
    return np.empty(0, np.int8).view(_Array)  # its shape, type and data come with its state


def _scalar(dtype: Any, data: bytes = b"") -> Any:
    plain = _plain(dtype)
    if plain.hasobject:
        raise ValueError("a scalar of type object; expected a number or text")
    return np.frombuffer(data, plain, count=1)[0] if plain.itemsize else plain.type()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str = "C") -> NDArray[Any]:
    plain = _plain(dtype)
    if plain.hasobject:
        raise ValueError("a buffer of objects; expected numbers or text")
    return np.frombuffer(data, plain).reshape(shape, order="F" if order == "F" else "C")


def _ordered_dict(*args: Any) -> dict[Any, Any]:
    return dict(*args)


_ARRAY_CLASS = _Maker(_empty_array)
_MAKERS: dict[tuple[str, str], _Maker] = {
    ("numpy", "ndarray"): _ARRAY_CLASS,
    ("numpy", "dtype"): _Maker(_Dtype),
    ("builtins", "complex"): _Maker(complex),
    ("builtins", "frozenset"): _Maker(frozenset),
    ("builtins", "set"): _Maker(set),
    ("collections", "OrderedDict"): _Maker(_ordered_dict),
    ("datetime", "datetime"): _Maker(datetime.datetime),
    ("datetime", "date"): _Maker(datetime.date),
    ("datetime", "timedelta"): _Maker(datetime.timedelta),
    ("datetime", "timezone"): _Maker(datetime.timezone),
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _MAKERS[_core + ".multiarray", "_reconstruct"] = _ARRAY_CLASS
    _MAKERS[_core + ".multiarray", "scalar"] = _Maker(_scalar)
    _MAKERS[_core + ".numeric", "_frombuffer"] = _Maker(_from_buffer)
for _module in ("pathlib", "pathlib._local"):  # the latter in Python 3.13
    # Always the pure class: a path of another system cannot be concrete here, and nothing touches the disk.
    for _name in ("Path", "PurePath", "PosixPath", "PurePosixPath"):
        _MAKERS[_module, _name] = _Maker(PurePosixPath)
    for _name in ("WindowsPath", "PureWindowsPath"):
        _MAKERS[_module, _name] = _Maker(PureWindowsPath)
ALLOWED: Mapping[tuple[str, str], _Maker] = MappingProxyType(_MAKERS)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, name: str):
        super().__init__(file)
        self._name = name

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        maker = ALLOWED.get((module_name, global_name))
        if maker is None:
            raise UnsafeFileError(
                f"{self._name} is a pickle that names {module_name}.{global_name}, which is not plain data; it was not "
                "run. Expected only arrays, numbers, text, dates and paths, as Suite2p writes them. If you trust the "
                "file, load and save it again as plain data where it was made."
            )
        return maker
