"""What lies in a Suite2p folder: its planes, their files and settings, in the layouts of all versions.

Two layouts: up to 0.14 each ``planeN/`` holds one flat ``ops.npy``; from 1.0 on it holds ``settings.npy`` (nested),
``db.npy`` and ``reg_outputs.npy``, and an ``ops.npy`` that merges them (nested as well) only if asked for.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.io._pickle import read_array, read_objects

_PLANE = re.compile(r"plane(\d+)")
_SETTINGS_FILES = ("ops.npy", "settings.npy", "db.npy", "reg_outputs.npy")  # what comes later overrules
_MARKS = ("F.npy", "stat.npy", *_SETTINGS_FILES)
_TOP_FILES = {"settings.npy", "db.npy"}  # lie in suite2p/ too, since 1.0


# -- Which folders ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """The folder that was meant: ``root`` and the folders of its planes by number.

    ``combined`` is true where ``root`` is ``combined/``; ``planes`` are then the folders beside it.
    """

    root: Path
    planes: dict[int, Path]
    combined: bool = False


def find_layout(folder: str | Path) -> Layout:
    """Find the planes in ``suite2p/``, in the folder that holds it, in ``planeN/`` or in ``combined/``."""
    given = Path(folder).expanduser()
    if not given.exists():
        raise DataError(f"There is no folder {given}. Expected a Suite2p folder: suite2p/, planeN/ or combined/.")
    if not given.is_dir():
        raise DataError(f"{given} is a file. Expected the Suite2p folder it lies in: {given.parent}.")
    root = given.resolve()
    name = _PLANE.fullmatch(root.name)
    if root.name == "combined" and _is_marked(root):
        return Layout(root, _plane_folders(root.parent), combined=True)
    if name and _is_marked(root):
        return Layout(root, {int(name[1]): root})
    for candidate in (root, root / "suite2p"):
        planes = _plane_folders(candidate)
        if planes:
            return Layout(candidate, planes)
        if _is_marked(candidate / "combined"):
            return Layout(candidate / "combined", {}, combined=True)
    if _is_marked(root, set(_MARKS) - _TOP_FILES):  # a planeN/ under another name
        return Layout(root, {0: root})
    inside = sorted(p.name for p in root.iterdir())
    listing = ", ".join(inside[:6]) + (", ..." if len(inside) > 6 else "") if inside else "nothing; it is empty"
    raise DataError(
        f"{given} is not a Suite2p folder: it holds {listing}. Expected planeN/ folders, a suite2p/ folder with them, "
        "or F.npy and its settings (ops.npy or settings.npy)."
    )


def _plane_folders(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    named = ((_PLANE.fullmatch(p.name), p) for p in folder.iterdir() if p.is_dir())
    return dict(sorted((int(match[1]), path) for match, path in named if match and _is_marked(path)))


def _is_marked(folder: Path, marks: Iterable[str] = _MARKS) -> bool:
    return any((folder / mark).is_file() for mark in marks)


# -- Settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What we use of a plane's settings, whatever the version; None where the folder does not say."""

    sampling_rate: float | None
    tau: float | None
    neuropil_coefficient: float | None
    baseline: str | None
    window: float | None
    sigma: float | None
    percentile: float | None
    version: str | None
    bad_frames: NDArray[np.bool_] | None
    flyback: tuple[int, ...]
    n_planes: int | None = None


def read_settings(folder: Path) -> Settings:
    """Merge a plane's settings files; where it has none, those of the folder above it (1.0 and later)."""
    found: dict[str, Any] = {}
    has_own = any((folder / name).is_file() for name in ("ops.npy", "settings.npy"))
    for place in (folder,) if has_own else (folder.parent, folder):
        for name in _SETTINGS_FILES:
            path = place / name
            if path.is_file():
                content = read_objects(path)
                if not isinstance(content, dict):
                    raise DataError(f"{path} holds a {type(content).__name__}; expected a dictionary of settings.")
                found |= content
    return _parse(found)


def _parse(found: Mapping[str, Any]) -> Settings:
    # The nested name comes first: a merged ops.npy of 1.x has no flat ones, a left-over one of 0.14 is overruled.
    version = _first(found, ("version",), ("suite2p_version",))
    bad = found.get("badframes")
    flyback = found.get("ignore_flyback")
    n_planes = _number(found, ("nplanes",), ("db", "nplanes"))
    return Settings(
        sampling_rate=_number(found, ("fs",)),
        tau=_number(found, ("tau",)),
        neuropil_coefficient=_number(found, ("extraction", "neuropil_coefficient"), ("neucoeff",)),
        baseline=_text(_first(found, ("dcnv_preprocess", "baseline"), ("baseline",))),
        window=_number(found, ("dcnv_preprocess", "win_baseline"), ("win_baseline",)),
        sigma=_number(found, ("dcnv_preprocess", "sig_baseline"), ("sig_baseline",)),
        percentile=_number(found, ("dcnv_preprocess", "prctile_baseline"), ("prctile_baseline",)),
        version=_text(version),
        bad_frames=None if bad is None else np.asarray(bad).astype(bool).ravel(),
        flyback=tuple(int(i) for i in np.ravel(flyback)) if flyback is not None else (),
        n_planes=None if n_planes is None else int(n_planes),
    )


def _first(found: Mapping[str, Any], *paths: tuple[str, ...]) -> Any:
    for path in paths:
        value: Any = found
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _number(found: Mapping[str, Any], *paths: tuple[str, ...]) -> float | None:
    value = _first(found, *paths)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"The setting {'/'.join(paths[-1])} is {value!r}. Expected a number.") from error


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


# -- Planes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plane:
    """The ROIs of one imaging plane; traces stay on disk until their rows are asked for.

    ``rows`` are the plane's rows in the files of ``folder``, which is ``planeN/`` or ``combined/``.
    """

    number: int
    folder: Path
    settings: Settings
    rows: NDArray[np.integer]
    n_frames: int
    F: NDArray[np.floating]
    Fneu: NDArray[np.floating] | None
    is_cell: NDArray[np.bool_]
    roi_metadata: dict[str, NDArray[Any]]

    @property
    def n_rois(self) -> int:
        """Number of ROIs, accepted or not."""
        return len(self.rows)

    def bad_frames(self, n_frames: int) -> NDArray[np.bool_]:
        """Frames that registration gave up on, shape (n_frames,)."""
        bad = self.settings.bad_frames
        if bad is None:
            return np.zeros(n_frames, bool)
        if len(bad) < n_frames:
            warnings.warn(
                f"{self.folder} marks {bad.sum()} bad frames in a list of {len(bad)} frames, but F.npy has "
                f"{self.F.shape[1]}; the list is not used. Mask frames yourself with Recording.exclude.",
                DataWarning,
                stacklevel=4,
            )
            return np.zeros(n_frames, bool)
        return bad[:n_frames]


def read_plane(number: int, folder: Path) -> Plane | None:
    """Open the files of ``planeN/``; None where nothing was found in it."""
    settings = read_settings(folder)
    files = _open_files(folder)
    if files is None:
        return None
    rows = np.arange(len(files.F))
    return Plane(number, folder, settings, rows, files.F.shape[1], files.F, files.Fneu, files.is_cell, files.metadata)


def read_combined(layout: Layout) -> list[Plane]:
    """Split ``combined/`` into its planes, the zeros taken off that Suite2p pads the shorter ones with."""
    folder = layout.root
    files = _open_files(folder)
    if files is None:
        return []
    iplane = files.metadata.get("iplane")
    if iplane is None:
        raise DataError(
            f"{folder / 'stat.npy'} does not say which plane each ROI is of (iplane). Read the planes' own folders: "
            f"{folder.parent}."
        )
    own = read_settings(folder)
    # iplane counts the folders that were combined: since 1.0, flyback planes are not among them.
    skipped = own.flyback if (folder / "settings.npy").is_file() else ()
    numbers = [n for i, n in enumerate(layout.planes) if i not in skipped]
    groups = [(int(i), np.flatnonzero(iplane == i)) for i in np.unique(iplane)]
    padding = [_trailing_zeros(files, rows) for _, rows in groups]
    planes = []
    for (i, rows), padded in zip(groups, padding, strict=True):
        number = numbers[i] if i < len(numbers) else i
        # Bad frames are each plane's own; combined/ keeps the list of one of them.
        settings = read_settings(layout.planes[number]) if number in layout.planes else own
        metadata = {k: v[rows] for k, v in files.metadata.items()}
        n_frames = files.F.shape[1] - (padded - min(padding))
        planes.append(
            Plane(number, folder, settings, rows, n_frames, files.F, files.Fneu, files.is_cell[rows], metadata)
        )
    return planes


def combined_flags(layout: Layout, n_rois: int) -> NDArray[np.bool_] | None:
    """Which ROIs ``combined/`` accepts, where it lies beside these planes and has as many."""
    path = layout.root / "combined" / "iscell.npy"
    if not path.is_file() or len(read_array(path)) != n_rois:
        return None
    return _flags(path, n_rois)[0]


def _trailing_zeros(files: _Files, rows: NDArray[np.integer]) -> int:
    """Count the frames at the end in which every trace of these rows is exactly zero."""
    n_frames = files.F.shape[1]
    span = 64
    while True:
        start = max(0, n_frames - span)
        lit = files.F[rows, start:].any(axis=0)
        if files.Fneu is not None:
            lit |= files.Fneu[rows, start:].any(axis=0)
        if lit.any():
            return n_frames - start - 1 - int(np.flatnonzero(lit)[-1])
        if start == 0:
            return n_frames
        span *= 8


# -- Files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Files:
    F: NDArray[np.floating]
    Fneu: NDArray[np.floating] | None
    is_cell: NDArray[np.bool_]
    metadata: dict[str, NDArray[Any]]


def _open_files(folder: Path) -> _Files | None:
    path = folder / "F.npy"
    if not path.is_file():
        if (folder / "stat.npy").is_file():
            raise DataError(
                f"{folder} has stat.npy but no F.npy: traces were not extracted, or the run broke off. Run Suite2p's "
                "extraction again."
            )
        return None
    F = _traces(path)
    if len(F) == 0:
        return None
    if F.shape[1] == 0:
        raise DataError(f"{path} has shape {F.shape}: there is no frame in it.")
    Fneu = _traces(folder / "Fneu.npy") if (folder / "Fneu.npy").is_file() else None
    if Fneu is not None and Fneu.shape != F.shape:
        raise DataError(
            f"{folder}: F.npy has shape {F.shape} and Fneu.npy {Fneu.shape}. Expected the same, (roi, time). Were they "
            "written by the same run?"
        )
    metadata: dict[str, NDArray[Any]] = {}
    is_cell = np.ones(len(F), bool)
    if (folder / "iscell.npy").is_file():
        is_cell, probability = _flags(folder / "iscell.npy", len(F))
        metadata |= {"is_cell": is_cell} | ({} if probability is None else {"cell_probability": probability})
    else:
        warnings.warn(
            f"{folder} has no iscell.npy: all {len(F)} ROIs count as accepted cells.", DataWarning, stacklevel=5
        )
    if (folder / "redcell.npy").is_file():
        is_red, probability = _flags(folder / "redcell.npy", len(F))
        metadata |= {"is_red": is_red} | ({} if probability is None else {"red_probability": probability})
    if (folder / "stat.npy").is_file():
        metadata |= _statistics(folder / "stat.npy", len(F))
    return _Files(F, Fneu, is_cell, metadata)


def _traces(path: Path) -> NDArray[np.floating]:
    traces = read_array(path)
    if traces.ndim != 2 or not (np.issubdtype(traces.dtype, np.floating) or np.issubdtype(traces.dtype, np.integer)):
        raise DataError(f"{path} has shape {traces.shape} and dtype {traces.dtype}. Expected numbers, (roi, time).")
    return traces


def _flags(path: Path, n_rois: int) -> tuple[NDArray[np.bool_], NDArray[np.floating] | None]:
    """Flag and, where there is one, probability of each ROI, from (roi, 2) or (roi,)."""
    values = np.array(read_array(path))
    if values.ndim not in (1, 2) or len(values) != n_rois or values.size < n_rois or values.dtype.kind not in "biuf":
        raise DataError(
            f"{path} has shape {values.shape} and dtype {values.dtype}, but F.npy beside it has {n_rois} ROIs. "
            f"Expected ({n_rois}, 2): flag and probability. Were they written by the same run? Open the folder in "
            "Suite2p and save it again."
        )
    columns = values.reshape(n_rois, -1)
    return columns[:, 0] > 0, columns[:, 1].astype(float) if columns.shape[1] > 1 else None


def _statistics(path: Path, n_rois: int) -> dict[str, NDArray[Any]]:
    """Plane, size and centre of each ROI; other statistics stay where they are."""
    stat = read_objects(path)
    if not isinstance(stat, list) or len(stat) != n_rois or not all(isinstance(roi, dict) for roi in stat):
        size = f"{len(stat)} entries" if isinstance(stat, list) else f"a {type(stat).__name__}"
        raise DataError(
            f"{path} holds {size}, but F.npy beside it has {n_rois} ROIs. Expected a dictionary for each. Were they "
            "written by the same run?"
        )
    found: dict[str, NDArray[Any]] = {}
    for key, name, shape, kind in (
        ("iplane", "iplane", (), int),
        ("npix", "npix", (), int),
        ("med", "position", (2,), float),
    ):
        values = [roi.get(key) for roi in stat]
        if all(value is not None and np.shape(value) == shape for value in values):
            found[name] = np.array(values, kind)
    return found


def frames_of(planes: Iterable[Plane]) -> str:
    """Say how many frames each plane has, for messages."""
    return ", ".join(f"plane {plane.number}: {plane.n_frames}" for plane in planes)
