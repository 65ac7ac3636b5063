"""Two steps that POSIX has no portable name for: two paths swapped at once, and a rename that never replaces."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are taken as they are
_LINUX_NEW, _LINUX_SWAP = 1, 2
_MAC_SWAP, _MAC_NEW = 2, 4
_MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


class NotSupportedError(OSError):
    """The system, or the file system, does not have the step."""


def exchange(a: Path, b: Path) -> None:
    """Swap two paths on one file system, files or folders, so that at no moment either is missing.

    Raises
    ------
    NotSupportedError
        If it cannot be done here.
    """
    _rename(a, b, _LINUX_SWAP, _MAC_SWAP)


def rename_new(old: Path, new: Path) -> None:
    """Rename a file or folder, never onto an existing one.

    Raises
    ------
    FileExistsError
        If there is something at the new path.
    """
    try:
        _rename(old, new, _LINUX_NEW, _MAC_NEW)
    except NotSupportedError:
        # Without the step, a folder made in this very moment could be replaced, but only if it is still empty.
        if os.path.lexists(new):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new)) from None
        os.rename(old, new)


def can_exchange(a: Path, b: Path) -> bool:
    """Try on two new folders, removed afterwards, whether the file system can swap."""
    try:
        a.mkdir(0o700)
        b.mkdir(0o700)
        exchange(a, b)
    except NotSupportedError:
        return False
    finally:
        for folder in (a, b):
            with contextlib.suppress(OSError):
                folder.rmdir()
    return True


def _rename(a: Path, b: Path, linux: int, mac: int) -> None:
    call = _renamer(linux, mac)
    if call is None:
        raise NotSupportedError(errno.ENOSYS, "This system cannot rename in that way")
    ctypes.set_errno(0)
    if call(os.fsencode(a), os.fsencode(b)) == 0:
        return
    number = ctypes.get_errno()
    if number in _MISSING:
        raise NotSupportedError(number, os.strerror(number), str(b))
    raise OSError(number, os.strerror(number), str(a), None, str(b))


def _renamer(linux: int, mac: int) -> Callable[[bytes, bytes], int] | None:
    """Return the system's function, told what to do, or None where there is none."""
    if sys.platform not in ("linux", "darwin"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    text, number = ctypes.c_char_p, ctypes.c_uint
    try:
        if sys.platform == "linux":
            function = library.renameat2
            function.argtypes = (ctypes.c_int, text, ctypes.c_int, text, number)
            return lambda a, b: function(_HERE, a, _HERE, b, linux)
        function = library.renamex_np
        function.argtypes = (text, text, number)
        return lambda a, b: function(a, b, mac)
    except AttributeError:  # an old C library
        return None
