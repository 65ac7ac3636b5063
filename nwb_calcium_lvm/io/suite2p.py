"""Reading Suite2p folders: accepted cells, neuropil, baseline and dF/F as the folder's own settings say."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.io._suite2p_folder import (
    Layout,
    Plane,
    combined_flags,
    find_layout,
    frames_of,
    read_combined,
    read_plane,
)
from nwb_calcium_lvm.preprocessing import METHODS, constant_rois, dff_from_raw, noise_level
from nwb_calcium_lvm.provenance import Source
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.stream import RecordingStream, silent

_BLOCK = 64  # ROIs worked on at a time, so that memory holds the result and little more
_SUITE2P_DEFAULT_RATE = 10.0
_DEFAULTS = {"neuropil_coefficient": 0.7, "baseline": "maximin", "window": 60.0, "sigma": 10.0, "percentile": 8.0}


def read_suite2p(
    folder: str | os.PathLike[str],
    *,
    plane: int | None = None,
    accepted: bool = True,
    neuropil_coefficient: float | None = None,
    baseline: str | None = None,
    sampling_rate: float | None = None,
    indicator: str | Indicator | None = None,
    strict: bool = False,
) -> Recording:
    """Read a folder written by Suite2p (tested: 0.14 and 1.1) as dF/F.

    dF/F is (Fc - F0) / F0, where Fc = F - k (Fneu - median Fneu) and F0 is the baseline of Fc. Frames that
    registration marked as bad, and samples that are NaN, are masked, and interpolated before the baseline is taken.

    Parameters
    ----------
    folder : path
        ``suite2p/``, the folder that holds it, ``planeN/`` or ``combined/``.
    plane : int, optional
        Number of the plane, as in ``planeN``. Default: the only one, or all planes together, cut to the shortest.
    accepted : bool
        Keep only ROIs that ``iscell.npy`` accepts.
    neuropil_coefficient : float, optional
        k; 0 subtracts nothing. Default: as the folder says, usually 0.7.
    baseline : {"maximin", "percentile", "constant", "constant_percentile"}, optional
        See :func:`nwb_calcium_lvm.preprocessing.baseline`. Default: as the folder says, usually ``"maximin"``; its
        window, smoothing and percentile are the folder's too.
    sampling_rate : float, optional
        Frames per second and plane. Default: as the folder says.
    indicator : str or Indicator, optional
        Such as ``"gcamp6s"``.
    strict : bool
        Raise an error, instead of warning and leaving them out, for ROIs that have no dF/F.

    Returns
    -------
    Recording
        ``roi_ids`` are row numbers in the files read, counted on from plane to plane as in ``combined/``.
        ``roi_metadata`` holds ``plane``, ``time_offset`` (s, of several planes; see
        :func:`nwb_calcium_lvm.preprocessing.at_frame_times`), ``is_cell``, ``cell_probability``, ``is_red``,
        ``red_probability``,
        ``position`` (y, x in pixels), ``npix`` and ``noise_level`` (% per square root of Hz) as far as known.

    Raises
    ------
    DataError
        If the folder is none of Suite2p's, its files disagree, no cell is accepted, or the rate is not known.
    UnsafeFileError
        If a settings file is a pickle that asks for more than data.
    """
    found = _find(folder, plane, accepted, neuropil_coefficient, baseline, sampling_rate)
    traces = _dff(found)
    kept = _usable_rois(traces.usable, traces.dead, found.ids, strict)
    return _recording(found, traces, kept, slice(None), indicator)


def stream_suite2p(
    folder: str | os.PathLike[str],
    *,
    plane: int | None = None,
    accepted: bool = True,
    neuropil_coefficient: float | None = None,
    baseline: str | None = None,
    sampling_rate: float | None = None,
    indicator: str | Indicator | None = None,
) -> RecordingStream:
    """Open a folder written by Suite2p, to be read some ROIs at a time as :func:`read_suite2p` reads all of them.

    For folders larger than memory: ``S2SSpikeEstimator.infer`` takes what this returns. Parameters are those of
    :func:`read_suite2p`. ROIs that have no dF/F are named in a warning when all have been read.
    """
    found = _find(folder, plane, accepted, neuropil_coefficient, baseline, sampling_rate)

    def blocks(size: int) -> Iterator[Recording]:
        usable, dead = np.zeros(len(found.ids), bool), np.zeros(len(found.ids), bool)
        for part, traces in _blocks(found, size):
            usable[part], dead[part] = traces.usable, traces.dead
            if traces.usable.any():
                kept = slice(None) if traces.usable.all() else np.flatnonzero(traces.usable)
                yield _recording(found, traces, kept, part, indicator)
        _usable_rois(usable, dead, found.ids, strict=False)

    frames = Recording(silent(found.n_frames), sampling_rate=found.rate, metadata=found.metadata, indicator=indicator)
    source = Source("suite2p", found.layout.root, table_rows=found.rows, planes=found.numbers)
    return RecordingStream(frames, found.ids, blocks, source, {"plane": found.numbers, **found.roi_metadata})


class _Found(NamedTuple):
    """What of a folder is read: planes, the ROIs chosen in each, and how their traces become dF/F."""

    layout: Layout
    planes: list[Plane]
    chosen: Sequence[NDArray[np.integer]]
    steps: Sequence[_Steps]
    n_frames: int
    rate: float
    ids: NDArray[np.integer]  # of all chosen ROIs, as the other arrays
    numbers: NDArray[np.integer]
    rows: NDArray[np.integer]
    roi_metadata: dict[str, NDArray[Any]]
    metadata: dict[str, Any]


def _find(
    folder: str | os.PathLike[str],
    plane: int | None,
    accepted: bool,
    neuropil_coefficient: float | None,
    baseline: str | None,
    sampling_rate: float | None,
) -> _Found:
    layout = find_layout(os.fspath(folder))
    planes = _open(layout, plane)
    rate = _rate(planes, sampling_rate)
    n_frames = _shortest(planes)
    chosen = [np.flatnonzero(p.is_cell) if accepted else np.arange(p.n_rois) for p in planes]
    if not any(len(rows) for rows in chosen):
        raise DataError(
            f"No cell is accepted in {layout.root}: iscell.npy rejects all {sum(p.n_rois for p in planes)} ROIs. Pass "
            "accepted=False to read them all, or accept cells in Suite2p."
        )
    steps = [_steps(p, neuropil_coefficient, baseline) for p in planes]
    return _Found(
        layout,
        planes,
        chosen,
        steps,
        n_frames,
        rate,
        ids=np.concatenate([names[rows] for names, rows in zip(_ids(layout, planes), chosen, strict=True)]),
        numbers=np.concatenate([np.full(len(rows), p.number) for p, rows in zip(planes, chosen, strict=True)]),
        rows=np.concatenate(chosen),
        roi_metadata=_roi_metadata(planes, chosen) | _time_offsets(planes, chosen, rate),
        metadata=_metadata(planes, steps),
    )


def _recording(
    found: _Found,
    traces: _Traces,
    kept: slice | NDArray[np.integer],
    part: slice,
    indicator: str | Indicator | None,
) -> Recording:
    """Return what is kept of the given traces, which are a part of all ROIs."""
    roi_metadata = {key: values[part] for key, values in {"plane": found.numbers, **found.roi_metadata}.items()}
    roi_metadata["noise_level"] = traces.noise
    rows, planes = found.rows[part][kept], found.numbers[part][kept]
    return Recording(
        traces.dff[:, kept],
        sampling_rate=found.rate,
        roi_ids=found.ids[part][kept],
        mask=None if traces.mask is None else traces.mask[:, kept],
        metadata=found.metadata,
        source=Source("suite2p", found.layout.root, table_rows=rows, planes=planes),
        roi_metadata={key: values[kept] for key, values in roi_metadata.items()},
        indicator=indicator,
    )


# -- Planes ----------------------------------------------------------------------------------------------------------


def _open(layout: Layout, wanted: int | None) -> list[Plane]:
    """Open the plane asked for, or all that have ROIs, or say why there are none."""
    if wanted is not None and layout.planes and wanted not in layout.planes:
        raise DataError(f"There is no plane {wanted!r} in {layout.root}. It has: {shorten(list(layout.planes))}.")
    if layout.combined:
        planes = [p for p in read_combined(layout) if wanted in (None, p.number)]
    else:
        numbers = list(layout.planes) if wanted is None else [wanted]
        opened = {number: read_plane(number, layout.planes[number]) for number in numbers}
        planes = [p for p in opened.values() if p is not None]
        flyback = {n for p in planes for i, n in enumerate(layout.planes) if i in p.settings.flyback}
        empty = [n for n, p in opened.items() if p is None and n not in flyback]
        if planes and empty:
            _warn(f"{layout.root}: Suite2p found no ROIs in plane {shorten(empty)}; it is left out.")
        curated = combined_flags(layout, sum(p.n_rois for p in planes)) if wanted is None else None
        if curated is not None and np.any(curated != np.concatenate([p.is_cell for p in planes])):
            _warn(
                f"{layout.root / 'combined'} accepts other cells than the planes' own iscell.npy, which are used: "
                f"{curated.sum()} against {sum(p.is_cell.sum() for p in planes)}. If cells were sorted by hand in the "
                "combined view, read combined/ instead."
            )
    if not planes:
        where = f"plane {wanted} of {layout.root}" if wanted is not None else str(layout.root)
        raise DataError(
            f"Suite2p found no ROIs in {where}: there are no traces. Expected F.npy with at least one ROI. Run its "
            "detection again with a lower threshold, or choose another plane."
        )
    return planes


def _ids(layout: Layout, planes: Sequence[Plane]) -> list[NDArray[np.integer]]:
    """Names of each plane's ROIs: rows of the files they are read from, counted on over planes read together."""
    if layout.combined:
        return [p.rows for p in planes]
    first = np.cumsum([0, *(p.n_rois for p in planes)])
    return [p.rows + start for p, start in zip(planes, first[:-1], strict=True)]


def _rate(planes: Sequence[Plane], given: float | None) -> float:
    if given is not None:
        if not (np.isfinite(given) and given > 0):
            raise DataError(f"sampling_rate={given!r} is not a rate. Expected frames per second, above 0.")
        return float(given)
    rates = {p.number: p.settings.sampling_rate for p in planes}
    known = [r for r in rates.values() if r is not None and np.isfinite(r) and r > 0]
    if len(known) < len(rates):
        raise DataError(
            f"{planes[0].folder} does not say its sampling rate (fs is {next(iter(rates.values()))}). Pass "
            "sampling_rate= in frames per second and plane."
        )
    if max(known) > min(known) * 1.0001:
        listing = ", ".join(f"plane {n}: {r:.6g} Hz" for n, r in rates.items())
        raise DataError(
            f"The planes have clocks of their own ({listing}), and a recording has one. Pass plane=N to read one of "
            "them, or sampling_rate= if they are the same after all."
        )
    if known[0] == _SUITE2P_DEFAULT_RATE:
        _warn(
            f"{planes[0].folder} gives a sampling rate of exactly 10 Hz, which is Suite2p's default and often left "
            "untouched. Pass sampling_rate= (10.0 if that is right)."
        )
    return known[0]


def _shortest(planes: Sequence[Plane]) -> int:
    n_frames = min(p.n_frames for p in planes)
    longest = max(p.n_frames for p in planes)
    if longest > n_frames:
        _warn(
            f"The planes have different numbers of frames ({frames_of(planes)}). All are cut to the shortest, "
            f"{n_frames}. Pass plane=N to read one of them whole."
        )
    return n_frames


# -- Traces ----------------------------------------------------------------------------------------------------------


class _Steps(NamedTuple):
    """How one plane's raw traces become dF/F."""

    neuropil_coefficient: float
    method: str
    window: float
    sigma: float
    percentile: float


class _Traces(NamedTuple):
    dff: NDArray[np.floating]
    mask: NDArray[np.bool_] | None
    usable: NDArray[np.bool_]
    dead: NDArray[np.bool_]
    noise: NDArray[np.floating]


def _steps(plane: Plane, coefficient: float | None, method: str | None) -> _Steps:
    """Steps as asked for, else as the folder says, else Suite2p's defaults."""
    said = {key: getattr(plane.settings, key) for key in _DEFAULTS}
    chosen = {key: default if said[key] is None else said[key] for key, default in _DEFAULTS.items()}
    names = (*METHODS, "prctile", "constant_prctile")
    if method is None and chosen["baseline"] not in names:
        _warn(
            f"{plane.folder} takes no baseline that dF/F could use ({chosen['baseline']!r}); maximin is used. Pass "
            "baseline= to choose."
        )
        chosen["baseline"] = "maximin"
    k = chosen["neuropil_coefficient"] if coefficient is None else float(coefficient)
    if plane.Fneu is None and k != 0:
        _warn(f"{plane.folder} has no Fneu.npy, so no neuropil is subtracted. Pass neuropil_coefficient=0 if so meant.")
        k = 0.0
    return _Steps(k, method or chosen["baseline"], chosen["window"], chosen["sigma"], chosen["percentile"])


def _dff(found: _Found) -> _Traces:
    n_rois, n_frames = len(found.ids), found.n_frames
    # One ROI after the other in memory, as Suite2p has them: each block is written in one stretch.
    traces = np.empty((n_rois, n_frames), np.float32).T
    mask = np.ones((n_rois, n_frames), bool).T
    usable, dead, noise = np.zeros(n_rois, bool), np.zeros(n_rois, bool), np.full(n_rois, np.nan)
    for part, block in _blocks(found, _BLOCK):
        traces[:, part], usable[part], dead[part], noise[part] = block.dff, block.usable, block.dead, block.noise
        if block.mask is not None:
            mask[:, part] = block.mask
    return _Traces(traces, None if mask.all() else mask, usable, dead, noise)


def _blocks(found: _Found, size: int) -> Iterator[tuple[slice, _Traces]]:
    """Yield dF/F of some ROIs at a time, and which of all chosen ROIs they are."""
    start, n_frames = 0, found.n_frames
    for plane, rows, step in zip(found.planes, found.chosen, found.steps, strict=True):
        good = ~plane.bad_frames(n_frames)
        for block in np.array_split(rows, range(size, len(rows), size)):
            part = slice(start, start + len(block))
            start += len(block)
            F = _rows(plane.F, plane.rows[block], n_frames)
            observed = np.isfinite(F) & good[:, None]
            Fneu = None
            if plane.Fneu is not None and step.neuropil_coefficient != 0:
                Fneu = _rows(plane.Fneu, plane.rows[block], n_frames)
                observed &= np.isfinite(Fneu)
            dff, usable = dff_from_raw(F, Fneu, sampling_rate=found.rate, mask=observed, **step._asdict())
            dead = constant_rois(F, observed)
            noise = noise_level(dff, found.rate, observed)
            yield part, _Traces(dff, None if observed.all() else observed, usable, dead, noise)


def _rows(traces: NDArray[np.floating], rows: NDArray[np.integer], n_frames: int) -> NDArray[np.floating]:
    """Read rows of a file into memory, turned to (time, roi)."""
    if isinstance(traces, np.memmap) and traces.filename is not None:
        # Mapped anew each time, so that what was read is let go with the mapping.
        order = "C" if traces.flags.c_contiguous else "F"
        traces = np.memmap(traces.filename, traces.dtype, "r", traces.offset, traces.shape, order)
    return np.asarray(traces[rows, :n_frames], np.float32).T


def _usable_rois(
    usable: NDArray[np.bool_], dead: NDArray[np.bool_], ids: NDArray[np.integer], strict: bool
) -> slice | NDArray[np.integer]:
    """Columns that have a dF/F; the others are named. A slice where that is all of them, so that nothing is copied."""
    reasons = []
    if dead.any():
        reasons.append(f"ROI {shorten(ids[dead])}: no good sample, or the same value in all frames")
    dim = ~usable & ~dead
    if dim.any():
        reasons.append(
            f"ROI {shorten(ids[dim])}: the baseline is not above the noise, so that dF/F has no scale (a neuropil "
            "coefficient that is too large does this)"
        )
    if reasons:
        message = f"{np.sum(~usable)} of {len(ids)} ROIs have no dF/F. {'; '.join(reasons)}."
        if strict:
            raise DataError(f"{message} Expected dF/F for all, since strict=True; strict=False leaves them out.")
        if not usable.any():
            raise DataError(f"{message} Nothing is left to read: check F.npy, Fneu.npy and the bad frames.")
        _warn(f"{message} They are left out.")
        return np.flatnonzero(usable)
    return slice(None)


# -- Metadata --------------------------------------------------------------------------------------------------------


def _roi_metadata(planes: Sequence[Plane], chosen: Sequence[NDArray[np.integer]]) -> dict[str, NDArray[Any]]:
    """What all planes know of their chosen ROIs."""
    shared = set.intersection(*(set(p.roi_metadata) for p in planes)) - {"iplane"}
    return {
        key: np.concatenate([p.roi_metadata[key][rows] for p, rows in zip(planes, chosen, strict=True)])
        for key in planes[0].roi_metadata
        if key in shared
    }


def _time_offsets(
    planes: Sequence[Plane], chosen: Sequence[NDArray[np.integer]], rate: float
) -> dict[str, NDArray[np.floating]]:
    """When in each frame of the volume the plane of an ROI was imaged, in s: planes are, one after the other."""
    n_planes = planes[0].settings.n_planes
    if n_planes is None or n_planes < 2:
        return {}
    step = 1.0 / (rate * n_planes)
    each = [np.full(len(rows), p.number * step) for p, rows in zip(planes, chosen, strict=True)]
    return {"time_offset": np.concatenate(each)}


def _metadata(planes: Sequence[Plane], steps: Sequence[_Steps]) -> dict[str, Any]:
    first = planes[0].settings
    metadata: dict[str, Any] = {
        "software": "suite2p",
        "software_version": first.version,
        "tau": first.tau,
        "planes": [p.number for p in planes],
        "neuropil_coefficient": steps[0].neuropil_coefficient,
        "baseline": dict(zip(("method", "window", "sigma", "percentile"), steps[0][1:], strict=True)),
    }
    if len(set(steps)) > 1:
        _warn(
            "The planes were processed with different settings, and each keeps its own; the metadata name those of "
            f"plane {planes[0].number}."
        )
    return {key: value for key, value in metadata.items() if value is not None}


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)
