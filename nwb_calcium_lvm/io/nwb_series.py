"""Finding the traces in an NWB file: every RoiResponseSeries, classified by its path and name, and the one to read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import AmbiguousDataError, DataError
from nwb_calcium_lvm.io._classes import NWBFile, NwbObject, ProcessingModule, RoiResponseSeries

# What a series is, by what its name (else that of what holds it) contains. The first match counts: "denoised_dff" is
# denoised, and "neuropil_corrected" is no neuropil. Container types say nothing: files keep dF/F inside Fluorescence.
_NAMES = (
    ("deconvolved", ("deconv", "spike", "spks", "event", "firingrate", "inferred")),
    ("denoised", ("denois",)),
    ("dff", ("dfoverf", "dff", "deltaf", "dfof", "df0f")),
    ("corrected", ("correct", "subtract", "decontaminat")),
    ("demixed", ("demix",)),
    ("neuropil", ("neuropil", "fneu", "background", "surround")),
    ("raw", ("raw",)),
)
_DESCRIPTIONS = (("deconvolved", "deconvolved"), ("denoised", "denoised"), ("dff", "df/f"), ("dff", "deltaf"))
_DFF_UNITS = {"dff", "df/f", "dfoverf", "deltaf/f", "δf/f", "df/f0"}
# Tried in this order when the user names no series; whatever else there is was asked for by name or is not read.
_PREFERENCE = ("raw+neuropil", "dff", "corrected", "raw", "demixed", "other")
RESULT_TABLE = "_provenance"  # every result in core types has a table of its name and this ending
RESULT_TYPE = "CalciumLVMResults"  # and every other is an object of this type


@dataclass(frozen=True)
class Candidate:
    """One RoiResponseSeries of a file.

    Parameters
    ----------
    path : str
        Where it is, such as ``"processing/ophys/Fluorescence/plane0"``.
    kind : str
        ``raw``, ``corrected`` (neuropil-subtracted), ``demixed``, ``neuropil``, ``dff``, ``deconvolved``,
        ``denoised``, ``result`` (written by this package) or ``other``.
    series : RoiResponseSeries
        The object itself.
    shape : tuple of int
        As stored.
    transposed : bool
        Whether it is stored (roi, time), against the standard.
    plane, channel : int or None
        As its path says.
    problem : str
        Why it cannot be read; empty if it can.
    """

    path: str
    kind: str
    series: NwbObject
    shape: tuple[int, ...]
    transposed: bool
    plane: int | None
    channel: int | None
    problem: str

    @property
    def rows(self) -> NDArray[np.integer]:
        """Row of the plane segmentation of each of its ROIs."""
        return np.asarray(self.series.rois.data[:], int)

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.shape[1 if self.transposed else 0]

    def __str__(self) -> str:
        note = f"; {self.problem}" if self.problem else ""
        return f"{self.path} ({self.kind}, {' x '.join(map(str, self.shape))}{note})"


class Pick(NamedTuple):
    """A series to read, and the neuropil to subtract from it."""

    trace: Candidate
    neuropil: Candidate | None


def find_series(nwbfile: NwbObject) -> list[Candidate]:
    """Return every RoiResponseSeries of a file, wherever it lies, in the order of their paths."""
    prefixes = tuple(name.removesuffix(RESULT_TABLE) + "_" for name in _table_names(nwbfile))
    found = [
        as_candidate(obj, nwbfile, prefixes) for obj in nwbfile.objects.values() if isinstance(obj, RoiResponseSeries)
    ]
    return sorted(found, key=lambda c: _natural(c.path))


def as_candidate(series: NwbObject, nwbfile: NwbObject | None, prefixes: tuple[str, ...] = ()) -> Candidate:
    """Classify one series."""
    path = object_path(series, nwbfile)
    shape = tuple(int(n) for n in np.shape(series.data))
    transposed, problem = _orientation(shape, len(series.rois.data))
    ours = is_result(series.parent) or (bool(prefixes) and series.name.startswith(prefixes))
    kind = "result" if ours else _kind(series, path)
    return Candidate(path, kind, series, shape, transposed, _number(path, "plane"), _number(path, "chan"), problem)


def object_path(obj: Any, nwbfile: NwbObject | None) -> str:
    """Return the path of an object in its file, such as ``"processing/ophys/Fluorescence/plane0"``."""
    parts: list[str] = []
    while obj is not None and not isinstance(obj, NWBFile):
        parts.append(obj.name)
        parent = obj.parent
        if isinstance(obj, ProcessingModule):
            parts.append("processing")
        elif isinstance(parent, NWBFile):
            rooms = ("acquisition", "analysis", "scratch", "stimulus", "intervals")
            room = next((r for r in rooms if (getattr(nwbfile, r, None) or {}).get(obj.name) is obj), None)
            parts += [room] if room else []
        obj = parent
    return "/".join(reversed(parts))


def is_result(obj: Any) -> bool:
    """Return whether an object is a result of the extension ndx-calcium-lvm."""
    return getattr(obj, "neurodata_type", "") == RESULT_TYPE


def object_at(nwbfile: NwbObject, path: str) -> NwbObject | None:
    """Return the object at such a path, or None."""
    name = path.rpartition("/")[2]
    return next((o for o in nwbfile.objects.values() if o.name == name and object_path(o, nwbfile) == path), None)


def choose(
    candidates: Sequence[Candidate], *, series: str | None, neuropil: str | bool | None, plane: int | None
) -> list[Pick]:
    """Return what to read: one pick, or one per imaging plane.

    Parameters
    ----------
    candidates : sequence of Candidate
        What the file has.
    series : str, optional
        Path of the series, or the end of it. Default: raw with its neuropil, else dF/F, else raw; never deconvolved
        or denoised traces.
    neuropil : str or False, optional
        Path of the neuropil series; False: subtract none. Default: the one that fits.
    plane : int, optional
        Imaging plane.
    """
    if not candidates:
        raise DataError("The file has no RoiResponseSeries, so no traces of ROIs. Expected at least one.")
    if series is not None:
        trace = _named(series, candidates, "series")
        return [_pair(trace, candidates, neuropil)]
    usable = [c for c in candidates if not c.problem]
    usable = _of_plane(usable, plane) if plane is not None else usable
    pairs = [_pair(c, candidates, neuropil) for c in usable if c.kind == "raw"]
    groups = {kind: [Pick(c, None) for c in usable if c.kind == kind] for kind in _PREFERENCE}
    groups["raw+neuropil"] = pairs if neuropil is False else [p for p in pairs if p.neuropil is not None]
    for kind in _PREFERENCE:
        if groups[kind]:
            return _settle(groups[kind])
    raise _nothing_to_read(candidates)


def _nothing_to_read(candidates: Sequence[Candidate]) -> DataError:
    listed = _listed(candidates)
    unsure = [c for c in candidates if "both axes" in c.problem]
    if unsure:
        return AmbiguousDataError(
            f"{unsure[0].path} has shape {unsure[0].shape} and {unsure[0].shape[0]} ROIs: both axes fit, so time and "
            "ROI cannot be told apart. Read the array yourself and pass Recording(traces, sampling_rate=...), with "
            f"time along the first axis.\n{listed}"
        )
    return DataError(
        "The file has no raw or dF/F traces; deconvolved and denoised traces are not read unless asked for, since "
        f"models of calcium expect the fluorescence. To read one anyway pass series='PATH'.\n{listed}"
    )


def _settle(picks: list[Pick]) -> list[Pick]:
    """Return one pick, or one per plane of one clock and one table; else say what there is to choose from."""
    if any(p.trace.channel is None for p in picks):  # "Fluorescence_chan2" beside "Fluorescence": the second channel
        picks = [p for p in picks if p.trace.channel is None]
    if len(picks) == 1:
        return picks
    traces = [p.trace for p in picks]
    planes = [t.plane for t in traces]
    if None in planes or len(set(planes)) < len(planes):
        raise AmbiguousDataError(f"Several series could be meant. Pass series='PATH' to choose.\n{_listed(traces)}")
    choice = f"Pass plane=N to choose one of {sorted(p for p in planes if p is not None)}.\n{_listed(traces)}"
    if len({id(t.series.rois.table) for t in traces}) > 1:
        raise AmbiguousDataError(f"The planes have a table of ROIs each and are read one at a time. {choice}")
    if len({_clock(t.series) for t in traces}) > 1:
        raise AmbiguousDataError(f"The planes are not on one clock, so they cannot be read as one. {choice}")
    return sorted(picks, key=lambda p: p.trace.plane or 0)


def _clock(series: NwbObject) -> tuple[Any, ...]:
    if series.rate is not None:
        return (round(float(series.rate), 6), float(series.starting_time or 0.0))
    times = series.timestamps
    return (float(times[0]), float(times[-1]), len(times))


def _of_plane(usable: list[Candidate], plane: int) -> list[Candidate]:
    known = sorted({c.plane for c in usable if c.plane is not None})
    if not known and plane == 0:
        return usable
    chosen = [c for c in usable if c.plane == plane]
    if not chosen:
        raise DataError(f"There is no plane {plane}. Known: {known or 'none, the file does not number them'}.")
    return chosen


def _pair(trace: Candidate, candidates: Sequence[Candidate], neuropil: str | bool | None) -> Pick:
    """Find the neuropil of a raw series: the same ROIs of the same table, as many samples, plane and channel."""
    if isinstance(neuropil, str):
        chosen = _named(neuropil, candidates, "neuropil")
        if chosen.shape != trace.shape or not np.array_equal(chosen.rows, trace.rows):
            raise DataError(
                f"The neuropil {chosen} does not fit {trace}: expected the same shape and the same ROIs in the same "
                "order. Pass neuropil=False to subtract none."
            )
        return Pick(trace, chosen)
    if neuropil is False or trace.kind != "raw":
        return Pick(trace, None)
    fitting = [
        c
        for c in candidates
        if c.kind == "neuropil"
        and not c.problem
        and (c.shape, c.plane, c.channel) == (trace.shape, trace.plane, trace.channel)
        and c.series.rois.table is trace.series.rois.table
        and np.array_equal(c.rows, trace.rows)
    ]
    if len(fitting) > 1:
        fitting = [c for c in fitting if c.series.parent is trace.series.parent] or fitting
    if len(fitting) > 1:
        raise AmbiguousDataError(
            f"Several neuropil series fit {trace.path}. Pass neuropil='PATH' to choose, or neuropil=False.\n"
            f"{_listed(fitting)}"
        )
    return Pick(trace, fitting[0] if fitting else None)


def _named(wanted: str, candidates: Sequence[Candidate], parameter: str) -> Candidate:
    key = wanted.strip("/")
    exact = [c for c in candidates if c.path == key]
    matches = exact or [c for c in candidates if ("/" + c.path).endswith("/" + key)]
    if len(matches) != 1:
        fault = "matches several series" if matches else "is not in the file"
        error = AmbiguousDataError if matches else DataError
        raise error(f"{parameter}={wanted!r} {fault}. Pass the path of one of these:\n{_listed(matches or candidates)}")
    if matches[0].problem:
        raise DataError(f"{parameter}={wanted!r} cannot be read: {matches[0].problem}.")
    return matches[0]


def _kind(series: NwbObject, path: str) -> str:
    parts = [p for p in path.split("/") if p not in ("processing", "acquisition")]
    plain = ["".join(ch for ch in part.lower() if ch.isalnum()) for part in parts]
    for part in reversed(plain):
        for kind, words in _NAMES:
            if any(word in part for word in words):
                return kind
    if "".join(series.unit.lower().split()) in _DFF_UNITS:
        return "dff"
    description = "".join(str(series.description).lower().split())
    for kind, word in _DESCRIPTIONS:
        if word in description:
            return kind
    # CaImAn calls its denoised C "RoiResponseSeries" as others call the raw traces; its table gives it away.
    if {"accepted", "rejected", "snr"} <= set(series.rois.table.colnames):
        return "denoised"
    weak = any("fluorescence" in part or "roiresponse" in part for part in plain) or plain[-1] in ("f", "fcell")
    return "raw" if weak else "other"


def _orientation(shape: tuple[int, ...], n_rois: int) -> tuple[bool, str]:
    """Say whether data of this shape is (roi, time), and what keeps it from being traces."""
    if len(shape) == 1:
        return False, "" if n_rois == 1 else "one number per ROI or frame, not a trace of each"
    if len(shape) != 2:
        return False, f"{len(shape)} dimensions; expected (time, roi)"
    if 0 in shape:
        return False, "it is empty"
    fits = (shape[0] == n_rois, shape[1] == n_rois)
    if fits == (True, True) and n_rois > 1:
        return False, "both axes fit the number of ROIs"
    if not any(fits):
        return False, f"neither axis has the {n_rois} entries of its ROIs"
    return not fits[1], ""


def _number(path: str, word: str) -> int | None:
    for part in reversed(path.lower().split("/")):
        match = re.search(word + r"(?:nel)?[ _-]?(\d+)", part)
        if match:
            return int(match.group(1))
    return None


def _natural(path: str) -> list[Any]:
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", path)]


def _table_names(nwbfile: NwbObject) -> list[str]:
    modules = nwbfile.processing.values()
    return [name for m in modules for name in m.data_interfaces if name.endswith(RESULT_TABLE)]


def _listed(candidates: Sequence[Candidate]) -> str:
    return "\n".join(f"  {c}" for c in candidates)
