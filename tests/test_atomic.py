"""Files and folders that are afterwards as they were or complete, whatever happens."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io import _atomic, _exchange
from nwb_calcium_lvm.io._atomic import size_of, write_safely
from nwb_calcium_lvm.io._exchange import NotSupportedError, can_exchange, exchange, rename_new

fcntl: Any = pytest.importorskip("fcntl")  # folders are exchanged on POSIX systems only
needs_exchange = pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no exchange of paths")

OLD, NEW = "old", "new"


def fill(path: Path, word: str) -> None:
    """Make a folder of several files, in place of an empty file, as an export does."""
    path.unlink(missing_ok=True)
    (path / "deeper" / "still").mkdir(parents=True)
    for i in range(5):
        (path / "deeper" / f"{i}").write_text(word)
    (path / "deeper" / "still" / "last").write_text(word)


def content(path: Path) -> dict[str, str]:
    return {str(p.relative_to(path)): p.read_text() for p in path.rglob("*") if p.is_file()}


def whole(word: str) -> dict[str, str]:
    return {f"deeper/{i}": word for i in range(5)} | {"deeper/still/last": word}


def write(target: Path, base: Path | None = None, **changes: Any) -> Path:
    steps: dict[str, Any] = {"edit": lambda p: fill(p, NEW), "check": lambda p: None, "extra_bytes": 100}
    return write_safely(target, base=base, copy_base=False, **{**steps, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "session.zarr"
    fill(path, OLD)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


# -- The two steps ----------------------------------------------------------------------------------------------------


@needs_exchange
@pytest.mark.parametrize("kinds", ["folders", "file and folder"])
def test_two_paths_are_exchanged(tmp_path: Path, kinds: str):
    a, b = tmp_path / "a", tmp_path / "b"
    fill(a, OLD)
    if kinds == "folders":
        fill(b, NEW)
    else:
        b.write_text(NEW)
    exchange(a, b)
    assert content(b) == whole(OLD)
    assert (content(a) == whole(NEW)) if kinds == "folders" else a.read_text() == NEW
    with pytest.raises(FileNotFoundError):
        exchange(a, tmp_path / "missing")


def test_a_rename_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i, step in enumerate(("own", "fallback")):
        if step == "fallback":
            monkeypatch.setattr(_exchange, "_renamer", lambda *_: None)
        old, new = tmp_path / f"old{i}", tmp_path / f"new{i}"
        fill(old, OLD)
        new.mkdir()  # empty: what a mere rename would replace
        with pytest.raises(FileExistsError):
            rename_new(old, new)
        new.rmdir()
        rename_new(old, new)
        assert content(new) == whole(OLD)
        assert not old.exists()


def test_whether_paths_can_be_exchanged_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if sys.platform == "linux":
        assert can_exchange(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr(_exchange, "_renamer", lambda *_: None)
    assert not can_exchange(tmp_path / "a", tmp_path / "b")
    assert names(tmp_path) == []


# -- Folders ----------------------------------------------------------------------------------------------------------


def test_a_new_folder(tmp_path: Path):
    mask = os.umask(0o027)
    try:
        path = write(tmp_path / "new.zarr")
    finally:
        os.umask(mask)
    assert content(path) == whole(NEW)
    assert names(tmp_path) == ["new.zarr"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert stat.S_IMODE((path / "deeper" / "0").stat().st_mode) == 0o640


def test_an_existing_folder_is_not_replaced_by_a_new_one(store: Path):
    with pytest.raises(NameClashError, match="is there already"):
        write(store)
    assert content(store) == whole(OLD)


@needs_exchange
def test_a_folder_replaces_the_one_it_was_made_from(store: Path):
    for path in store.rglob("*"):
        path.chmod(0o770 if path.is_dir() else 0o664)
    (store / "root").write_text(OLD)
    (store / "root").chmod(0o664)
    store.chmod(0o2770)
    before = os.open(store, os.O_RDONLY)
    write(store, store)
    assert content(store) == whole(NEW)
    assert names(store.parent) == [store.name]
    assert not os.path.samestat(os.fstat(before), store.stat())
    os.close(before)
    assert stat.S_IMODE(store.stat().st_mode) == 0o2770
    assert stat.S_IMODE((store / "deeper" / "0").stat().st_mode) == 0o664


def test_a_folder_made_from_a_file_has_its_permissions(tmp_path: Path):
    base = tmp_path / "a.nwb"
    base.write_text(OLD)
    base.chmod(0o640)
    path = write(tmp_path / "a.zarr", base)
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert stat.S_IMODE((path / "deeper" / "0").stat().st_mode) == 0o640
    assert base.read_text() == OLD


def test_a_file_made_from_a_folder(store: Path):
    path = write(store.with_name("a.nwb"), store, edit=lambda p: p.write_text(NEW))
    assert path.read_text() == NEW
    assert content(store) == whole(OLD)
    assert names(store.parent) == ["a.nwb", store.name]


def test_what_is_being_written_is_for_the_owner_only(tmp_path: Path):
    modes: list[int] = []
    write(tmp_path / "a.nwb", edit=lambda p: modes.append(stat.S_IMODE(p.stat().st_mode)))
    assert modes == [0o600]


def test_everything_is_flushed_before_it_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    monkeypatch.setattr(_atomic, "_flush_one", lambda path: done.append(path.name))
    publish = _atomic._publish
    monkeypatch.setattr(_atomic, "_publish", lambda *args: (done.append("publish"), publish(*args)))
    write(tmp_path / "new.zarr")
    at = done.index("publish")
    assert sorted(done[:at])[1:] == ["0", "1", "2", "3", "4", "deeper", "last", "still"]  # and the hidden folder
    assert done[at + 1 :] == [tmp_path.name]


def test_the_size_of_a_tree(store: Path):
    assert size_of(store) == 6 * len(OLD)
    assert size_of(store / "deeper" / "0") == len(OLD)


def test_room_for_a_second_copy_is_needed(store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_atomic, "_MARGIN", 0)
    usage = _atomic.shutil.disk_usage(store)
    for free, fits in ((6 * len(OLD) + 100, True), (6 * len(OLD) + 99, False)):
        monkeypatch.setattr(_atomic.shutil, "disk_usage", lambda _, free=free: usage._replace(free=free))
        if fits:
            write(store.with_name("copy.zarr"), store)
        else:
            with pytest.raises(WriteError, match="free"):
                write(store.with_name("other.zarr"), store)


# -- Failures ---------------------------------------------------------------------------------------------------------


def _fail(error: BaseException, *, after: Callable[[Path], Any] = lambda p: None) -> Callable[..., None]:
    def fail(path: Path, *_: Any) -> None:
        after(path)
        raise error

    return fail


def _deep() -> Exception:
    """Return what a library makes of a full disk."""
    error = Exception("Could not create dataset data")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


ERRORS = {
    "full disk": (OSError(errno.ENOSPC, "No space left on device"), WriteError),
    "full disk, as a library says it": (_deep(), WriteError),
    "our own": (DataError("no clock"), DataError),
    "any": (RuntimeError("a bug"), RuntimeError),
    "interrupted": (KeyboardInterrupt(), KeyboardInterrupt),
}


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize("step", ["edit", "check", "_take_permissions", "_flush", "_publish"])
@pytest.mark.parametrize("start", ["nothing", "file", "folder"])
def test_an_exception_leaves_nothing_behind(
    tmp_path: Path, what: str, step: str, start: str, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "target"
    if start == "file":
        target.write_text(OLD)
    elif start == "folder":
        fill(target, OLD)
    error, expected = ERRORS[what]
    base = None if start == "nothing" else target
    changes: dict[str, Any] = {}
    if step == "edit":
        changes["edit"] = _fail(error, after=lambda p: fill(p, NEW) if start != "file" else p.write_text(NEW))
    elif step == "check":
        changes["check"] = _fail(error)
    else:
        monkeypatch.setattr(_atomic, step, _fail(error))
    if start == "file" and step != "edit":
        changes["edit"] = lambda p: p.write_text(NEW)
    with pytest.raises(expected) as caught:
        write(target, base, **changes)
    if expected is WriteError:
        assert "as it was" in str(caught.value)
    if start == "nothing":
        assert names(tmp_path) == []
        return
    assert names(tmp_path) == ["target"]
    assert target.read_text() == OLD if start == "file" else content(target) == whole(OLD)
    handle = os.open(target, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no lock is left
    os.close(handle)


def test_a_system_without_exchange_is_told_before_any_work(store: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise NotSupportedError(errno.ENOSYS, "no")

    monkeypatch.setattr(_exchange, "_rename", refuse)
    edits: list[Path] = []
    with pytest.raises(WriteError, match=r"cannot be replaced in one step.*Pass path="):
        write(store, store, edit=edits.append)
    assert edits == []
    assert content(store) == whole(OLD)
    assert content(write(store.with_name("new.zarr"), store)) == whole(NEW)
    assert names(store.parent) == ["new.zarr", store.name]


def test_a_folder_that_came_to_be_meanwhile_is_kept(tmp_path: Path):
    target = tmp_path / "a.zarr"

    def meanwhile(path: Path) -> None:
        target.mkdir()

    with pytest.raises(NameClashError, match="came to be"):
        write(target, check=meanwhile)
    assert names(tmp_path) == ["a.zarr"]
    assert names(target) == []


@needs_exchange
def test_an_old_folder_that_cannot_be_removed_is_no_failure(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "not yours")

    with monkeypatch.context() as context:
        context.setattr(_atomic.shutil, "rmtree", refuse)
        write(store, store)
    assert content(store) == whole(NEW)
    assert "could not be removed" in caplog.text


@pytest.mark.parametrize("exclusive", [True, False])
def test_two_writers_of_a_folder(store: Path, exclusive: bool):
    other = os.open(store, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    with pytest.raises(WriteError, match="elsewhere"):
        write(store, store)
    if exclusive:
        with pytest.raises(WriteError, match="open for writing elsewhere"):
            write(store.with_name("copy.zarr"), store)
    else:
        write(store.with_name("copy.zarr"), store)
    assert content(store) == whole(OLD)
    os.close(other)


def test_leftovers_of_dead_writers_are_removed_and_no_others(store: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = _atomic._owner().rpartition("-")[0]
    gone = store.with_name(f".{store.name}.{host}-{dead.pid}.abcd1234.tmp")
    kept = [
        store.with_name(f".{store.name}.{host}-{os.getppid()}.abcd1234.tmp"),
        store.with_name(f".{store.name}.elsewhere-{dead.pid}.abcd1234.tmp"),
        store.with_name(f".other.zarr.{host}-{dead.pid}.abcd1234.tmp"),
    ]
    for path in (gone, *kept):
        fill(path, OLD)
    write(store.with_name("new.zarr"))
    assert gone.exists()  # a leftover of another target is left to the writers of that
    write(store, store)
    assert not gone.exists()
    assert all(content(path) == whole(OLD) for path in kept)


# -- Killed -----------------------------------------------------------------------------------------------------------


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_writer(target: Path, base: Path | None, step: str) -> None:
    """Write, and be killed at a step."""
    if step == "edit":
        write(target, base, edit=lambda p: (fill(p, NEW), _die()))
    elif step == "check":
        write(target, base, check=_die)
    elif step == "half removed":
        rmtree = _atomic.shutil.rmtree
        setattr(_atomic.shutil, "rmtree", lambda path: (rmtree(path / "deeper" / "still"), _die()))  # noqa: B010
        write(target, base)
    else:
        setattr(_atomic, step, _die)
        write(target, base)


@pytest.mark.parametrize("start", ["nothing", "folder"])
@pytest.mark.parametrize(
    "step", ["edit", "check", "_take_permissions", "_flush", "_publish", "_remove", "half removed"]
)
def test_a_writer_killed_at_any_step_leaves_old_or_new(tmp_path: Path, step: str, start: str):
    target = tmp_path / "a.zarr"
    base = target if start == "folder" else None
    if base is not None:
        fill(base, OLD)
    elif step == "half removed":
        pytest.skip("nothing to remove")
    process = multiprocessing.get_context("fork").Process(target=_killed_writer, args=(target, base, step))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    published = step in ("_remove", "half removed")
    if published:
        assert content(target) == whole(NEW)
    elif base is not None:
        assert content(target) == whole(OLD)
    else:
        assert not target.exists()
    if target.exists():
        write(target, target)
    else:
        write(target)
    assert content(target) == whole(NEW)
    assert names(tmp_path) == ["a.zarr"]
