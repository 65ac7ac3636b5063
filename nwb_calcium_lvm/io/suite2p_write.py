"""Writing firing rates beside a Suite2p plane's own files, for tools that read ``.npy``."""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io._pickle import read_array
from nwb_calcium_lvm.io._suite2p_folder import find_layout
from nwb_calcium_lvm.provenance import Source
from nwb_calcium_lvm.result import InferenceResult

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SUITE2P_NAMES = {"f", "fneu", "f_chan2", "fneu_chan2", "spks", "iscell", "redcell", "stat", "zcorr"} | {
    "ops",
    "db",
    "settings",
    "reg_outputs",
    "detect_outputs",
}


def write_suite2p(result: InferenceResult, folder: str | os.PathLike[str], *, name: str) -> Path:
    """Write a result's firing rates as ``<name>.npy`` beside the files of each plane they belong to.

    The array is (roi, time) in Hz, float32, with a row for every ROI and a column for every frame of the plane's
    ``F.npy``; rows and frames that are not in the result are NaN. Nothing that exists is overwritten, and each file
    appears whole or not at all.

    Parameters
    ----------
    result : InferenceResult
        Inferred from a recording read by :func:`read_suite2p`, with ``firing_rates``.
    folder : path
        The Suite2p folder the recording came from.
    name : str
        Name of the file without ``.npy``; letters, digits, ``_``, ``-``, ``.``.

    Returns
    -------
    Path
        The file, or the folder of the planes where several files were written.

    Raises
    ------
    NameClashError
        If a file of this name exists, or Suite2p uses the name.
    WriteError
        If the folder cannot be written to; nothing is left behind.
    DataError
        If the result has no rates, or came from elsewhere.
    """
    stem = _checked_name(name)
    rates = _rates(result)
    planes, rows = _origin(result.source, rates.shape[1])
    targets = _targets(result.source, os.fspath(folder), np.unique(planes))
    clashes = [path for path in (target / f"{stem}.npy" for target in targets.values()) if path.exists()]
    if clashes:
        raise NameClashError(f"{shorten(clashes)} exists already and is not overwritten. Choose another name.")
    contents: dict[Path, NDArray[np.float32]] = {}
    for number, target in targets.items():
        mine = planes == number
        shape = read_array(target / "F.npy").shape
        contents[target / f"{stem}.npy"] = _spread(rates[:, mine], rows[mine], _frames(result, shape[1]), shape)
    _write_all(contents)
    files = list(contents)
    return files[0] if len(files) == 1 else files[0].parent.parent


# -- What is written -------------------------------------------------------------------------------------------------


def _checked_name(name: str) -> str:
    stem = name.removesuffix(".npy")
    if not _NAME.fullmatch(stem):
        raise DataError(
            f"name={name!r} is no file name. Expected letters, digits, '_', '-' or '.', such as 'hmm_rates'."
        )
    if stem.lower() in _SUITE2P_NAMES:
        raise NameClashError(f"name={name!r} is one of Suite2p's own files. Choose another, such as 'hmm_rates'.")
    return stem


def _rates(result: InferenceResult) -> NDArray[np.floating]:
    if "firing_rates" not in result.arrays:
        raise DataError(
            f"The result has no firing_rates; it has {', '.join(result.arrays) or 'no arrays'}. Only rates fit beside "
            "Suite2p's files: write the rest with write_nwb."
        )
    rates = np.asarray(result.arrays["firing_rates"].values)
    expected = (len(result.time), len(result.roi_ids))
    if rates.shape != expected:
        raise DataError(f"firing_rates has shape {rates.shape}; expected (time, roi), {expected}.")
    return rates


def _origin(source: Source, n_rois: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Plane of each ROI and its row there."""
    if source.kind != "suite2p" or source.path is None or source.planes is None or source.table_rows is None:
        raise DataError(
            f"The result comes from {source.kind!r} data and does not say which Suite2p ROIs it is of. Expected one "
            "inferred from a recording that read_suite2p returned; write others with write_nwb."
        )
    if len(source.planes) != n_rois or len(source.table_rows) != n_rois:
        raise DataError(
            f"The result's source names {len(source.planes)} planes and {len(source.table_rows)} rows for {n_rois} "
            "ROIs. Expected one of each per ROI."
        )
    return np.asarray(source.planes), np.asarray(source.table_rows)


def _targets(source: Source, folder: str, numbers: NDArray[np.integer]) -> dict[int, Path]:
    """Folder of each plane in the result, after making sure that it is the one the result came from."""
    layout = find_layout(folder)
    origin = find_layout(str(source.path)) if source.path is not None and source.path.exists() else None
    targets: dict[int, Path] = {}
    for number in numbers.tolist():
        target = layout.planes.get(number)
        if target is None:
            raise DataError(
                f"The result has ROIs of plane {number}, which {layout.root} does not hold (it has plane "
                f"{shorten(list(layout.planes)) or 'folders: none'}). Pass the suite2p/ folder with all its planes."
            )
        if origin is None or origin.planes.get(number) != target:
            raise DataError(
                f"The result comes from {source.path}, not from {layout.root}: its rows may mean other cells there. "
                "Pass the folder it was read from; if the folder was moved, read it again and infer again."
            )
        targets[number] = target
    return targets


def _frames(result: InferenceResult, n_frames: int) -> NDArray[np.integer]:
    """Column in the plane's files of each frame of the result."""
    times = np.asarray(result.time, float)
    exact = times * result.sampling_rate if result.time_unit == "s" and result.sampling_rate else times
    frames = np.rint(exact).astype(int)
    if np.any(np.abs(exact - frames) > 0.25) or frames.min() < 0 or frames.max() >= n_frames:
        raise DataError(
            f"The result's times, {times[0]:.6g} to {times[-1]:.6g} {result.time_unit}, are not frames of the plane's "
            f"{n_frames}. Expected the clock that read_suite2p gave."
        )
    if len(np.unique(frames)) < len(frames):
        raise DataError(
            f"The result has {len(frames) - len(np.unique(frames))} frames twice, as overlapping windows around events "
            "do, and a file has room for one. Infer from the recording as a whole, or write with write_nwb."
        )
    return frames


def _spread(
    rates: NDArray[np.floating], rows: NDArray[np.integer], frames: NDArray[np.integer], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    if rows.min() < 0 or rows.max() >= shape[0]:
        raise DataError(
            f"The result has row {rows.max()}, but the plane's F.npy has {shape[0]} ROIs. Was the folder processed "
            "again since? Read it again and infer again."
        )
    full = np.full(shape, np.nan, np.float32)
    full[np.ix_(rows, frames)] = rates.T
    return full


# -- How it is written -----------------------------------------------------------------------------------------------


def _write_all(contents: Mapping[Path, NDArray[np.float32]]) -> None:
    """Write all files under temporary names, then give them their names; on failure leave none."""
    staged: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, array in contents.items():
            staged[path] = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
            with open(staged[path], "xb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in staged.items():
            _place(temporary, path)
            placed.append(path)
    except OSError as error:
        for path in placed:
            path.unlink(missing_ok=True)
        if isinstance(error, FileExistsError):
            raise NameClashError(
                f"{error.filename2 or error.filename} came into being meanwhile and is not overwritten. Nothing was "
                "written; choose another name."
            ) from error
        raise WriteError(
            f"{next(iter(contents))} cannot be written: {error}. Nothing was changed. Is there room, and may you write "
            "to the folder? A copy of the folder will do, or write_nwb to a file elsewhere."
        ) from error
    finally:
        for temporary in staged.values():
            with contextlib.suppress(OSError):  # what went wrong is being reported already
                temporary.unlink(missing_ok=True)


def _place(temporary: Path, path: Path) -> None:
    """Give a finished file its name, unless the name is taken."""
    try:
        os.link(temporary, path)  # fails where the name exists, unlike a rename
    except FileExistsError:
        raise
    except OSError:  # file systems without hard links
        if path.exists():
            raise FileExistsError(17, "File exists", str(path)) from None
        os.replace(temporary, path)
