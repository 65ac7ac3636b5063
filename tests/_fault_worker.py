"""A process that writes results into files again and again, each time in a fork of itself, and breaks the writing off.

    python _fault_worker.py FOLDER CASE

It makes an NWB file in FOLDER, says so, and answers each line of JSON on its input with one on its output. Everything
is imported once, so that an attempt costs no more than a write. The file stays in FOLDER/original; each attempt works
on a copy in FOLDER/room, and nothing else is ever in there.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import hashlib
import json
import logging
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
from _nwb_files import suite2p_file
from test_nwb_write import result_of

from nwb_calcium_lvm.io import read_nwb, write_nwb

PAUSE = 200e-6  # s between two looks whether the file was replaced
ERRORS: dict[str, Callable[[], BaseException]] = {
    "full": lambda: OSError(28, "No space left on device"),
    "broken": lambda: OSError(5, "Input/output error"),
    "hdf5": lambda: RuntimeError("Unable to flush file"),
    "memory": MemoryError,
    "interrupt": KeyboardInterrupt,
}


@dataclass(frozen=True)
class Case:
    """A way to write: what is written into, and the options."""

    name: str
    make: Callable[[Path], None]
    suffix: str = ".nwb"
    options: dict[str, Any] = field(default_factory=dict)


def small_file(path: Path) -> None:
    suite2p_file(path, per_plane=8, n_frames=400)


def small_store(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        original = suite2p_file(Path(folder) / "original.nwb", per_plane=8, n_frames=400)
        write_nwb(result_of(read_nwb(original)), path, name="earlier", backend="zarr")


CASES = {
    case.name: case
    for case in [
        Case("core", small_file, options={"schema": "core"}),
        Case("extension", small_file, options={"schema": "extension"}),
        Case("zarr", small_store, ".nwb.zarr"),
    ]
}


class Room:
    """The folder that attempts work in, and what the file in it was."""

    def __init__(self, folder: Path, case: Case):
        self.case = case
        self.folder = folder / "room"
        self.folder.mkdir(exist_ok=True)
        (folder / "original").mkdir()
        self.original = folder / "original" / f"session{case.suffix}"
        self.path = self.folder / self.original.name
        case.make(self.original)
        self.restore()
        self.result = result_of(read_nwb(self.path), seed=1)
        self.before = digest(self.original)

    def restore(self) -> None:
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if self.original.is_dir():
            shutil.copytree(self.original, self.path)
        else:
            shutil.copyfile(self.original, self.path)

    def write(self) -> None:
        write_nwb(self.result, self.path, overwrite=True, **self.case.options)

    def state(self) -> dict[str, Any]:
        return {"same": digest(self.path) == self.before, "listing": sorted(p.name for p in self.folder.iterdir())}

    def free(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bfree * disk.f_frsize


def digest(path: Path) -> str:
    """A digest of a file, or of the names and contents of all files of a folder."""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        total.update(str(file.relative_to(path)).encode() + (b"" if file.is_dir() else file.read_bytes()))
    return total.hexdigest()


# -- Attempts, each in a fork -----------------------------------------------------------------------------------------


def attempt(
    room: Room,
    *,
    delay: float | None = None,
    after: float | None = None,
    step: int = 0,
    error: str | None = None,
    quota: int | None = None,
    crowded: bool = False,
    blind: bool = False,
) -> dict[str, Any]:
    """Write in a fork, and break it off.

    Parameters
    ----------
    room : Room
        Where.
    delay : float, optional
        Kill it this long (s) after it began.
    after : float, optional
        Kill it this long (s) after the file was replaced.
    step : int
        Break it off at its nth dealing with the file system; 0 lets it go on, and counts them.
    error : str, optional
        Raise this at the step; without, the step kills the writer.
    quota : int, optional
        Bytes that a file may have.
    crowded : bool
        Fill the disk when the result is about to be written.
    blind : bool
        Tell the writer that the disk has room, as it looked before others filled it.
    """
    reader, writer = os.pipe()
    node = room.path.stat().st_ino
    free = room.free()
    began = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.close(reader)
            told = child(room, step=step, error=error, quota=quota, crowded=crowded, blind=blind)
            os.write(writer, json.dumps(told).encode())
            gc.collect()  # HDF5 tidies up what a failed write has left
            status = 0
            if delay is not None or after is not None:
                signal.pause()
        finally:
            os._exit(status)
    os.close(writer)
    replaced = None
    if delay is not None:
        time.sleep(max(0.0, began + delay - time.perf_counter()))
    else:
        while replaced is None and not select.select([reader], [], [], PAUSE)[0]:
            if room.path.stat().st_ino != node:
                replaced = time.perf_counter() - began
    if after is not None:
        time.sleep(after)
    if delay is not None or after is not None:
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    seconds = time.perf_counter() - began
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    facts = json.loads(told) if told.endswith("}") else {}  # one that is killed may be in the middle of its report
    lost = free - room.free() - facts.get("taken", 0)
    return {**room.state(), **facts, "ended": ended, "seconds": seconds, "replaced": replaced, "lost": lost}


def child(room: Room, *, step: int, error: str | None, quota: int | None, crowded: bool, blind: bool) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    told: dict[str, Any] = {"error": None, "wrong": None, "taken": 0}
    steps: list[str] = []
    if blind:
        shutil.disk_usage = lambda _: SimpleNamespace(free=2**50)  # type: ignore[assignment]
    if quota is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (quota, resource.RLIM_INFINITY))
    if crowded:
        crowd(room, told)
    watch(room.folder, step, error, steps)
    try:
        room.write()
    except BaseException as problem:
        kinds = [t.__name__ for t in type(problem).__mro__]
        told |= {"error": kinds, "message": str(problem), "cause": repr(problem.__cause__)}
    if quota is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {**told, "steps": steps}


def watch(folder: Path, step: int, error: str | None, steps: list[str]) -> None:
    """Count what is done to files in the folder, before it is done, and break off at one of these steps."""

    def count(what: str) -> None:
        steps.append(what)
        if len(steps) != step:
            return
        if error is not None:
            raise ERRORS[error]()
        os.kill(os.getpid(), signal.SIGKILL)

    def audited(event: str, args: tuple[Any, ...]) -> None:
        if any(isinstance(a, str | os.PathLike) and str(a).startswith(str(folder)) for a in args):
            count(event)

    def counted(function: Callable[..., Any], what: str, *, twice: bool = False) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if what == "h5py open" and not isinstance(args[1], str | os.PathLike):
                return function(*args, **kwargs)  # a second handle to a file that is open
            if what == "open file" and not str(args[0]).startswith(str(folder)):
                return function(*args, **kwargs)
            count(what)
            value = function(*args, **kwargs)
            if twice:
                count(f"after {what}")
            return value

        return call

    sys.addaudithook(audited)
    builtins.open = counted(builtins.open, "open file", twice=True)  # to write, it empties the file
    os.fsync = counted(os.fsync, "fsync", twice=True)
    os.replace = counted(os.replace, "replace", twice=True)
    h5py.File.__init__ = counted(h5py.File.__init__, "h5py open", twice=True)  # type: ignore[method-assign]
    h5py.File.close = counted(h5py.File.close, "h5py close", twice=True)  # type: ignore[method-assign]
    h5py.Dataset.__setitem__ = counted(h5py.Dataset.__setitem__, "h5py write")  # type: ignore[method-assign]
    h5py.Group.create_dataset = counted(h5py.Group.create_dataset, "h5py create")  # type: ignore[method-assign]


def crowd(room: Room, told: dict[str, Any]) -> None:
    """Fill the disk to the last byte as soon as HDF5 opens a file for writing."""
    opening = h5py.File.__init__

    def fill(file: Any, name: Any, mode: str = "r", *args: Any, **kwargs: Any) -> None:
        opening(file, name, mode, *args, **kwargs)
        if mode != "r" and not told["taken"]:
            before = room.free()
            hog(room, 0)
            told["taken"] = before - room.free()

    h5py.File.__init__ = fill  # type: ignore[method-assign]


def hog(room: Room, leave: int) -> None:
    """Fill the disk but for some bytes; to the last one if that is none."""
    with open(room.folder.parent / "hog", "wb", buffering=0) as out:
        out.write(bytes(max(0, room.free() - leave)))
        with contextlib.suppress(OSError):
            while not leave:
                out.write(bytes(4096))


# -- What is in a file ------------------------------------------------------------------------------------------------


def contents(path: Path) -> dict[str, str]:
    """What each array of a file holds, as a digest; what differs between any two writes left out."""
    found: dict[str, str] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype") and not h5py.check_ref_dtype(item.dtype):
            values = item[()]
            raw = values.tobytes() if isinstance(values, np.ndarray) and values.dtype.kind != "O" else repr(values)
            found[name] = hashlib.sha256(raw if isinstance(raw, bytes) else raw.encode()).hexdigest()

    if path.is_dir():
        import zarr

        zarr.open(str(path), mode="r").visititems(visit)  # type: ignore[union-attr]
    else:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    return found


def contents_or_why_not(path: Path) -> dict[str, str]:
    try:
        return contents(path)
    except Exception as error:
        return {"not readable": repr(error)}


def main() -> None:
    room = Room(Path(sys.argv[1]).resolve(), CASES[sys.argv[2]])
    gc.freeze()
    actions: dict[str, Callable[..., Any]] = {
        "attempt": lambda **options: attempt(room, **options),
        "restore": lambda: room.restore(),
        "state": lambda: room.state(),
        "contents": lambda: contents_or_why_not(room.path),
        "hog": lambda leave: hog(room, leave),
        "size": lambda: room.original.stat().st_size,
    }
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        name, options = json.loads(line)
        print(json.dumps(actions[name](**options)), flush=True)


if __name__ == "__main__":
    main()
