"""What holds of a file of others after a result was written into a copy of it: two comparisons and a plain reader."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pynwb import validate

Found = dict[str, dict[str, np.ndarray]]


class PlainReader:
    """A process that has pynwb and cannot import this package; it reads file after file."""

    errors: set[str]  # what the validator said of the file read last

    def __init__(self) -> None:
        script = Path(__file__).with_name("_plain_reader.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self, path: Path, name: str, *, module: str = "ophys", series: Collection[str] = ()) -> Found:
        """Everything of a result by its path in the module, and the clocks of some series."""
        out = path.with_suffix(f".{name}.npz")
        request = {"file": str(path), "name": name, "module": module, "series": list(series), "out": str(out)}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "failed" not in answer, answer["failed"]
        self.errors = set(answer["errors"])
        found: Found = {}
        with np.load(out) as stored:
            for key in stored.files:
                place, _, fact = key.partition("|")
                found.setdefault(place, {})[fact] = stored[key]
        out.unlink()
        return found

    def close(self) -> None:
        self._process.communicate()


def array(found: Found, name: str, key: str) -> dict[str, np.ndarray]:
    """What was read of an array or table, in either schema."""
    return found[f"{name}/{key}"] if f"{name}/{key}" in found else found[f"{name}_{key}"]


def places(found: Found, *names: str) -> set[str]:
    """Where the objects of results are in the file."""
    return {f"processing/ophys/{place.split('/')[0]}" for place in found if place.startswith(names)}


def snapshot(path: Path) -> dict[str, str]:
    """Every group, dataset, link and attribute of an HDF5 file, and what it holds; references by what they lead to."""
    found: dict[str, str] = {}

    def attributes(name: str, obj: Any, file: h5py.File) -> None:
        for key, value in obj.attrs.items():
            found[f"{name}@{key}"] = _text(value, file)

    def walk(group: h5py.Group, prefix: str, file: h5py.File) -> None:
        for key in group:
            name, link = f"{prefix}{key}", group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                found[name] = f"{type(link).__name__} {getattr(link, 'filename', '')} {link.path}"
                continue
            obj = group[key]
            attributes(name, obj, file)
            if isinstance(obj, h5py.Dataset):
                how = (obj.shape, obj.maxshape, obj.dtype, obj.chunks, obj.compression, obj.shuffle)
                found[name] = f"{how} {_text(obj[()], file)}"
            else:
                found[name] = "group"
                walk(obj, name + "/", file)

    with h5py.File(path, "r") as file:
        attributes("", file, file)
        walk(file, "", file)
    return found


def _text(value: Any, file: h5py.File) -> str:
    if isinstance(value, h5py.Reference):
        return f"-> {file[value].name}"  # pyright: ignore[reportIndexIssue]
    array = np.asarray(value)
    if array.dtype.names is not None or array.dtype.kind == "O":
        rows = array.ravel().tolist() if array.dtype.names is None else [v for row in array.ravel() for v in row]
        return str([_text(v, file) if isinstance(v, h5py.Reference) else v for v in rows])
    return f"{array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()} {array if array.size < 20 else ''}"


def changed(source: Path, copy: Path, added: Collection[str]) -> list[str]:
    """What a copy does not have as its source has it, and what it has beside that and the given places.

    A copy has its own identifier, its list of software and its cached specifications, of the version it names.
    """
    before, after = snapshot(source), snapshot(copy)
    own = ("@nwb_version", "identifier", "general/was_generated_by", "specifications", *added)
    paths = [
        p
        for p in sorted(before.keys() | after.keys())
        if not any(p == o or p.startswith((o + "/", o + "@")) for o in own)
    ]
    return [f"{p}: {before.get(p)} -> {after.get(p)}" for p in paths if before.get(p) != after.get(p)]


def complaints(path: Path) -> set[tuple[str, ...]]:
    """What nwbinspector says of a file."""
    from nwbinspector import inspect_nwbfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            (m.check_function_name, str(m.object_name), m.message)
            for m in inspect_nwbfile(nwbfile_path=str(path), skip_validate=True)
        }


def faults(path: Path) -> set[str]:
    """What the validator says of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {str(e) for e in validate(path=str(path))}


def check_the_rest(source: Path, copy: Path, added: Collection[str], plain: PlainReader) -> None:
    """Raise unless all else is as it was, and checkers say nothing they did not say of the source.

    To be called after ``plain`` has read the copy.
    """
    assert changed(source, copy, added) == []
    assert not plain.errors or plain.errors <= faults(source)
    assert complaints(copy) <= complaints(source)
