"""Changing a file so that whatever happens, it is afterwards either as it was or complete.

The work is done on a temporary copy in the same folder; the copy is checked, flushed to disk and takes the place of
the file in one step. A process that is killed leaves at most a hidden temporary file, which the next write removes.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nwb_calcium_lvm.exceptions import NameClashError, WriteError

logger = logging.getLogger(__name__)

_MARGIN = 16 * 2**20  # bytes kept free beyond what is needed
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)


def write_safely(
    target: Path,
    *,
    base: Path | None,
    edit: Callable[[Path], None],
    check: Callable[[Path], None],
    extra_bytes: int,
) -> Path:
    """Write ``target`` as an edited copy of ``base``, or not at all.

    Parameters
    ----------
    target : Path
        The file to write. If it is not ``base`` it must not be there.
    base : Path or None
        The file to start from, never changed unless it is the target; None starts from an empty file.
    edit : callable
        Changes the file at the path it is given.
    check : callable
        Raises if the file at the path it is given is not as it should be.
    extra_bytes : int
        How much the edit adds at most; checked against the free space before anything is written.

    Returns
    -------
    Path
        The target, symbolic links resolved.

    Raises
    ------
    WriteError
        If it cannot be written (read-only, disk full, open elsewhere); the target is then as it was.
    """
    target = target.resolve()
    in_place = base is not None and target.exists() and target.samefile(base)
    if target.exists() and not in_place:
        raise NameClashError(f"{target} is there already. Choose another path.")
    check_writable(target)
    _check_space(target.parent, (base.stat().st_size if base else 0) + extra_bytes)
    with locked(base, exclusive=in_place) if base is not None else contextlib.nullcontext():
        _remove_leftovers(target)
        temporary = _temporary(target)
        try:
            if base is not None:
                shutil.copyfile(base, temporary)
            edit(temporary)
            check(temporary)
            _take_permissions(temporary, base)
            _flush(temporary)
            _publish(temporary, target, in_place)
        except OSError as error:
            if isinstance(error, WriteError | FileNotFoundError):
                raise
            raise WriteError(f"{target} could not be written and is as it was: {error}.") from error
        finally:
            temporary.unlink(missing_ok=True)
    return target


def check_writable(target: Path) -> None:
    """Raise unless ``target`` can be created or replaced."""
    folder = target.parent
    if not folder.is_dir():
        raise WriteError(f"There is no folder {folder}. Create it, or choose another path.")
    for place in (folder, target):
        # The administrator may write anywhere; a file or folder without any write permission is meant to stay.
        if place.exists() and (not os.access(place, os.W_OK) or not place.stat().st_mode & 0o222):
            raise WriteError(f"{place} is read-only. Make it writable, or pass path= in a folder that is.")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        raise WriteError(
            f"{folder} has {free / 2**20:.0f} MB free, but {(needed + _MARGIN) / 2**20:.0f} MB are needed (results are "
            "written to a copy first, so that nothing can be lost). Free some, or pass path= on another disk."
        )


@contextlib.contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock that HDF5 itself uses, so that no program writes (or, exclusively, has open) the file meanwhile."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be replaced anyway
        yield
        return
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    while True:
        handle = os.open(path, os.O_RDWR if exclusive else os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except BlockingIOError as error:
                how = "open" if exclusive else "open for writing"
                raise WriteError(
                    f"{path} is {how} elsewhere: another program, or a notebook that read it with pynwb and keeps it "
                    "open. Close it there (io.close()) and try again; nothing was changed."
                ) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS_HERE:
                    raise
                logger.debug("No locks on this file system: %s", error)
            # Another writer may have replaced the file between our opening and locking it.
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                yield
                return
        finally:
            os.close(handle)


def _temporary(target: Path) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.{_owner()}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise WriteError(
            f"Nothing can be written in {target.parent}: {error}. Pass path= in another folder."
        ) from error
    os.close(handle)
    return Path(name)


def _owner() -> str:
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}"


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of processes of this machine that are no more."""
    host = _owner().rpartition("-")[0]
    pattern = re.compile(re.escape(f".{target.name}.{host}-") + r"(\d+)\.\w+\.tmp")
    for entry in target.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_alive(int(match.group(1))):
            logger.info("Removing %s, left by a write that was broken off", entry)
            entry.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is no mere question
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _take_permissions(temporary: Path, base: Path | None) -> None:
    if base is None:
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        return
    shutil.copystat(base, temporary)
    temporary.chmod(temporary.stat().st_mode | stat.S_IWUSR)
    os.utime(temporary)
    owner = base.stat()
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only the administrator may give files away
            os.chown(temporary, owner.st_uid, owner.st_gid)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(temporary: Path, target: Path, in_place: bool) -> None:
    if in_place:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)  # unlike a rename, this fails where someone else made the file meanwhile
        except FileExistsError as error:
            raise NameClashError(f"{target} came to be while it was being written. Choose another path.") from error
        except OSError:  # a file system without hard links
            os.rename(temporary, target)
    if os.name == "posix":
        _flush(target.parent)
