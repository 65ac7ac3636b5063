"""Changing a file or store so that whatever happens, it is afterwards either as it was or complete.

The work is done under a temporary name in the same folder; it is checked, flushed to disk and takes the place of the
target in one step. A process that is killed leaves at most a hidden temporary file or folder, which the next write
removes. A store (a folder, such as of Zarr) that replaces an earlier one is exchanged with it; the earlier one, now
under the temporary name, is then removed.
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
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from nwb_calcium_lvm.exceptions import NameClashError, WriteError
from nwb_calcium_lvm.io._exchange import can_exchange, exchange, rename_new

logger = logging.getLogger(__name__)

_MARGIN = 16 * 2**20  # bytes kept free beyond what is needed
_NO_RESERVE_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENODEV)
_held: set[tuple[int, int]] = set()  # device and number of each file that this process has locked exclusively
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)


def write_safely(
    target: Path,
    *,
    base: Path | None,
    edit: Callable[[Path], None],
    check: Callable[[Path], None],
    extra_bytes: int,
    copy_base: bool = True,
) -> Path:
    """Write ``target`` whole, or not at all.

    Parameters
    ----------
    target : Path
        The file or folder to write. If it is not ``base`` it must not be there.
    base : Path or None
        The file or folder to start from, never changed unless it is the target; None starts from nothing.
    edit : callable
        Changes the file at the path it is given; an empty one, unless it is a copy of the base. It may put a folder in
        its place, and the target is then a folder.
    check : callable
        Raises if the file or folder at the path it is given is not as it should be.
    extra_bytes : int
        How much the edit adds at most; checked against the free space before anything is written.
    copy_base : bool
        Start from a copy of the base, if it is a file; else the edit writes all of it anew.

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
    _check_space(target.parent, (size_of(base) if base else 0) + extra_bytes)
    with _told(target), locked(base, exclusive=in_place) if base is not None else contextlib.nullcontext():
        _remove_leftovers(target)
        if in_place and target.is_dir():
            _check_exchange(target)
        temporary = _temporary(target)
        try:
            if base is not None and copy_base and base.is_file():
                shutil.copyfile(base, temporary)
                reserve(temporary, extra_bytes)
            edit(temporary)
            check(temporary)
            _take_permissions(temporary, base)
            _flush(temporary)
            _publish(temporary, target, in_place)
        finally:
            _remove(temporary)
    return target


@contextlib.contextmanager
def _told(target: Path) -> Iterator[None]:
    """Say what became of the target where the system refused something, however deep in a library."""
    try:
        yield
    except (WriteError, FileNotFoundError):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) or _is_of_hdf5(cause)):
            cause = cause.__cause__
        if cause is None:
            raise
        raise WriteError(
            f"{target} could not be written and is as it was: {cause}. Check the space and quota in {target.parent}, "
            "or pass path= on another disk."
        ) from error


def _is_of_hdf5(error: BaseException) -> bool:
    """Whether HDF5 failed: it says so by a RuntimeError as often as by an OSError."""
    return type(error) is RuntimeError and re.match(r"(?i)unable to |can't |couldn't ", str(error)) is not None


def check_writable(target: Path) -> None:
    """Raise unless ``target`` can be created or replaced."""
    folder = target.parent
    if not folder.is_dir():
        raise WriteError(f"There is no folder {folder}. Create it, or choose another path.")
    for place in (folder, target):
        # The administrator may write anywhere; a file or folder without any write permission is meant to stay.
        if place.exists() and (not os.access(place, os.W_OK) or not place.stat().st_mode & 0o222):
            raise WriteError(f"{place} is read-only. Make it writable, or pass path= in a folder that is.")


def reserve(path: Path, extra_bytes: int) -> None:
    """Take the room that a file will grow by from the disk now, where the system can.

    HDF5 does not survive a failed write: it may end the process when it tidies up afterwards. So a full disk or a quota
    has to be met before HDF5 writes. When it closes the file, it gives back what it did not use.
    """
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        return
    handle = os.open(path, os.O_RDWR)
    try:
        allocate(handle, os.fstat(handle).st_size, extra_bytes + _MARGIN)
    except OSError as error:
        if error.errno not in _NO_RESERVE_HERE:
            raise
        logger.debug("No room can be reserved on this file system: %s", error)
    finally:
        os.close(handle)


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(place, name)).st_size for place, _, names in os.walk(path) for name in names)


def _check_exchange(target: Path) -> None:
    if not can_exchange(_name(target), _name(target)):
        raise WriteError(
            f"{target} is a folder, and cannot be replaced in one step on this system or disk. Pass path= of a new "
            "store instead; nothing was changed."
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        raise WriteError(
            f"{folder} has {free / 2**20:.0f} MB free, but {(needed + _MARGIN) / 2**20:.0f} MB are needed (results are "
            "written to a copy first, so that nothing can be lost). Free some, or pass path= on another disk."
        )


@contextlib.contextmanager
def locked(path: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold the lock that HDF5 itself uses, so that no program writes (or, exclusively, has open) the file meanwhile.

    The lock of a folder is one among the writers of this package only.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be replaced anyway
        yield
        return
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    while True:
        handle = os.open(path, os.O_RDWR if exclusive and not path.is_dir() else os.O_RDONLY)
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
            found = os.fstat(handle)
            if os.path.samestat(found, os.stat(path)):
                if exclusive:
                    _held.add((found.st_dev, found.st_ino))
                try:
                    yield
                finally:
                    _held.discard((found.st_dev, found.st_ino))
                return
        finally:
            os.close(handle)


def is_held(path: Path) -> bool:
    """Say whether this process holds a file for itself: it is not changed meanwhile, and may be read without a lock."""
    found = os.stat(path)
    return (found.st_dev, found.st_ino) in _held


def _temporary(target: Path) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.{_owner()}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise WriteError(
            f"Nothing can be written in {target.parent}: {error}. Pass path= in another folder."
        ) from error
    os.close(handle)
    return Path(name)


def _name(target: Path) -> Path:
    """Return a temporary name that nothing has yet."""
    return target.with_name(f".{target.name}.{_owner()}.{uuid.uuid4().hex}.tmp")


def _owner() -> str:
    host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
    return f"{host}-{os.getpid()}"


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files and folders of processes of this machine that are no more.

    After an exchange that is the earlier store, and the target is complete: in each case what is left is not needed.
    """
    host = _owner().rpartition("-")[0]
    pattern = re.compile(re.escape(f".{target.name}.{host}-") + r"(\d+)\.\w+\.tmp")
    for entry in target.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _is_alive(int(match.group(1))):
            logger.info("Removing %s, left by a write that was broken off", entry)
            _remove(entry)


def _remove(path: Path) -> None:
    """Remove a temporary file or folder, if it is there; what cannot be removed is said, and is no failure."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s is not needed but could not be removed: %s", path, error)


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
    """Give what was written the permissions and owner of the base, or those of any new file."""
    if base is not None and base.is_file() and temporary.is_file():
        shutil.copystat(base, temporary)
        temporary.chmod(temporary.stat().st_mode | stat.S_IWUSR)
        os.utime(temporary)
        _take_owner(temporary, base.stat())
        return
    of_file, of_folder = _modes(base)
    for path in _tree(temporary):
        path.chmod(of_folder if path.is_dir() else of_file)
        if base is not None:
            _take_owner(path, base.stat())


def _modes(base: Path | None) -> tuple[int, int]:
    """Return permissions for files and for folders."""
    if base is None:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask, 0o777 & ~mask
    mode = stat.S_IMODE(base.stat().st_mode)
    if base.is_dir():
        inside = next((p for p in sorted(base.iterdir()) if p.is_file()), None)
        of_file = mode & 0o666 if inside is None else stat.S_IMODE(inside.stat().st_mode)
        return of_file | stat.S_IWUSR, mode | stat.S_IRWXU
    of_file = mode | stat.S_IWUSR
    return of_file, of_file | (of_file & 0o444) >> 2


def _take_owner(path: Path, owner: os.stat_result) -> None:
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only the administrator may give files away
            os.chown(path, owner.st_uid, owner.st_gid)


def _tree(path: Path) -> Iterator[Path]:
    """Yield a file; or all that is in a folder, and the folder last."""
    if path.is_dir():
        for place, _, names in os.walk(path, topdown=False):
            for name in names:
                yield Path(place, name)
            yield Path(place)
    else:
        yield path


def _flush(path: Path) -> None:
    """Have a file, or a folder with all in it, on the disk."""
    for part in _tree(path):
        _flush_one(part)


def _flush_one(path: Path) -> None:
    if path.is_dir() and os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(temporary: Path, target: Path, in_place: bool) -> None:
    if in_place and temporary.is_dir():
        exchange(temporary, target)
    elif in_place:
        os.replace(temporary, target)
    elif temporary.is_dir():
        _publish_new(rename_new, temporary, target)
    else:
        try:
            _publish_new(os.link, temporary, target)  # unlike a rename, this fails where someone made it meanwhile
        except WriteError:
            raise
        except OSError:  # a file system without hard links
            _publish_new(rename_new, temporary, target)
    try:
        _flush_one(target.parent)
    except OSError as error:  # it is in place and complete; only a power cut could still undo the renaming
        logger.warning("%s is written, but its folder could not be flushed to the disk: %s", target, error)


def _publish_new(step: Callable[[Path, Path], None], temporary: Path, target: Path) -> None:
    try:
        step(temporary, target)
    except FileExistsError as error:
        raise NameClashError(f"{target} came to be while it was being written. Choose another path.") from error
