"""What became of each session: one small JSON file, written whole, that says what it is a record of."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

_ENDINGS_OF_DATA = (".npy", ".mat", ".json")  # of a Suite2p folder, what could change a result


@dataclass(frozen=True)
class Record:
    """What became of one session.

    Attributes
    ----------
    session : str
        Path of the NWB file or folder.
    name : str
        Name of its outputs.
    key : str
        Hash of the path, size and time of change of the session, and of the configuration.
    status : {"done", "failed", "interrupted"}
    error : str
        Why it failed.
    score : float or None
        Mean nats per observed sample; None for models of spikes.
    n_rois, n_frames : int or None
    converged : bool or None
    seconds : float
    output, report : str
        Files written, within the folder of outputs.
    versions : dict
        Of the software.
    """

    session: str
    name: str
    key: str
    status: str
    error: str = ""
    score: float | None = None
    n_rois: int | None = None
    n_frames: int | None = None
    converged: bool | None = None
    seconds: float = 0.0
    output: str = ""
    report: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def name_of(session: Path) -> str:
    """Return the name of a session's outputs: its own, and a mark of where it lies, since many are called alike."""
    path = session.absolute()
    stem = path.name.removesuffix(".zarr").removesuffix(".nwb")
    if stem in ("suite2p", "combined") or stem.startswith("plane"):
        above = [p for p in path.parts[:-1] if p not in ("suite2p", "/")]
        stem = "_".join([*above[-1:], stem])
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem) or "session"
    return f"{kept[:80]}-{hashlib.sha256(str(path).encode()).hexdigest()[:6]}"


def key_of(session: Path, configuration: Mapping[str, Any]) -> str:
    """Return a hash of which session this is, in which state, and of what is done to it."""
    facts = {"session": _state(session), "configuration": configuration}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _state(session: Path) -> list[Any]:
    path = session.absolute()
    if not path.exists():
        return [str(path)]
    found = [[str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns] for p in _files(path)]
    return [str(path), *sorted(found)]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    is_store = (path / ".zgroup").exists() or (path / "zarr.json").exists()
    for file in path.rglob("*"):
        if file.is_file() and (is_store or file.suffix in _ENDINGS_OF_DATA):
            yield file


def folder_of(outputs: Path) -> Path:
    """Return the folder of records within that of outputs."""
    return outputs / "records"


def read_record(outputs: Path, name: str) -> Record | None:
    """Return the record of that name; None if there is none, or none that can be read."""
    try:
        found = json.loads((folder_of(outputs) / f"{name}.json").read_text(encoding="utf-8"))
        known = {f.name for f in fields(Record)}
        return Record(**{k: v for k, v in found.items() if k in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write_record(outputs: Path, record: Record) -> None:
    """Write a record whole; an earlier one of the same session is replaced."""
    put(folder_of(outputs) / f"{record.name}.json", json.dumps(asdict(record), indent=1, default=str))


def put(path: Path, text: str) -> None:
    """Write text into a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
