"""Keys, text and facts in a form that NWB can hold, and back again without loss."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import date, datetime
from pathlib import PurePath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError

NO_UNIT = "n.a."
NO_DESCRIPTION = "Nothing more is said of it."  # validators ask for a description of everything
NO_NAME = "unknown"
_UNSAFE = re.compile(r"[%/\\:\x00-\x1f\x7f]|^[. ]| $")


def stored_name(key: str, taken: Collection[str]) -> str:
    """Return the name a key has in a file: unsafe characters as %XX, and an underscore more if the name is taken."""
    name = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", key) or "%"
    return name + "_" if name.rstrip("_") in taken else name


def key_of(name: str, taken: Collection[str]) -> str:
    """Return the key that :func:`stored_name` made a name of."""
    if name.endswith("_") and name.rstrip("_") in taken:
        name = name[:-1]
    return "" if name == "%" else unquote(name)


def to_json(facts: Any) -> str:
    """Return facts as JSON; arrays become lists, and what JSON has no word for becomes text."""
    return json.dumps(_with_text_keys(facts), default=_jsonable)


def from_json(text: str | None) -> Any:
    """Return what :func:`to_json` was given, as JSON has it; an empty dictionary for None."""
    return {} if text is None else json.loads(text)


def storable(key: str, values: Any) -> NDArray[Any]:
    """Return values as an array that NWB can hold: numbers, booleans or text.

    Raises
    ------
    DataError
        If they are anything else.
    """
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(v, str) for v in array.ravel().tolist()):
        array = array.astype(str)
    if array.dtype.kind not in "biufU" or (array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8)):
        raise DataError(
            f"{key!r} has dtype {array.dtype}. Expected whole numbers, floats of 32 or 64 bits, booleans or text."
        )
    return array


def as_stored(values: NDArray[Any]) -> Any:
    """Return an array as hdmf takes it: text as lists, single values out of their array."""
    if values.size == 0 and values.dtype.kind == "U":
        return np.zeros(values.shape)  # hdmf cannot tell what an empty list would hold
    if values.dtype.kind == "U":
        return values.tolist()
    return values if values.ndim else values[()]


def as_read(data: Any, n_axes: int) -> NDArray[Any]:
    """Return an array of ``n_axes`` axes from what hdmf reads: a dataset, or a bare value where there was only one."""
    values = np.asarray(data[()] if hasattr(data, "shape") else data)
    if values.dtype.kind in "OS":
        texts = [v.decode() if isinstance(v, bytes) else str(v) for v in values.ravel().tolist()]
        values = np.array(texts, dtype=str).reshape(values.shape)
    return values if values.ndim == n_axes else values.reshape((1,) * n_axes)


def _with_text_keys(facts: Any) -> Any:
    """JSON knows no other keys, and json refuses most."""
    if isinstance(facts, Mapping):
        return {str(key): _with_text_keys(value) for key, value in facts.items()}
    return [_with_text_keys(value) for value in facts] if isinstance(facts, list | tuple) else facts


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
