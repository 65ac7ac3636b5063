"""The one place where whatever a user passes as X becomes a Recording, and where outputs take X's form again."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording

Form = Literal["array", "tensor", "list", "recording"]

ACCEPTED = (
    "an array (time, roi), trials (trial, time, roi), a list of arrays (time, roi), a Recording, an NWB file (path, "
    "NWBFile or RoiResponseSeries) or a Suite2p folder"
)


_LARGEST = 1e30  # nothing beyond it, or under its inverse, is fluorescence; between them squares stay finite


@dataclass(frozen=True)
class Trials:
    """A recording, and the form in which it came."""

    recording: Recording
    form: Form

    def restore(self, values: NDArray[Any]) -> Any:
        """Give values whose first axis is time the form of X: an array, a stack of trials, or a list."""
        if self.form in ("array", "recording"):
            return values
        parts = [values[a:b] for a, b in self.recording.segments.bounds]
        return np.stack(parts) if self.form == "tensor" else parts


def coerce(estimator: Any, X: Any, *, groups: Any = None, reset: bool) -> Trials:
    """Turn X into :class:`Trials`, checking it against what the estimator was fitted on (or noting that, on reset).

    Raises
    ------
    DataError
        If X is nothing of what is accepted, or holds another number of ROIs than the fitted model.
    """
    rate = getattr(estimator, "sampling_rate", None)
    trials = _from_source(X, rate) or _from_arrays(estimator, X, rate, groups, reset)
    recording = trials.recording
    if trials.form != "array":  # sklearn has counted the columns of plain arrays already
        _check_rois(estimator, trials, reset)
    if reset:
        check_traces(recording)
    stated = X.sampling_rate if isinstance(X, Recording) else None  # readers say themselves where a file disagrees
    if rate is not None and stated is not None and abs(rate / stated - 1) > 0.02:
        warnings.warn(
            f"sampling_rate={rate:.6g} Hz was asked for but the recording says {stated:.6g} Hz; the "
            "recording's is used.",
            DataWarning,
            stacklevel=4,
        )
    return trials


def _from_source(X: Any, rate: float | None) -> Trials | None:
    """Recordings, files, folders and NWB objects; None for anything else. A rate is for those that lack one."""
    if isinstance(X, Recording):
        return Trials(X, "recording")
    if isinstance(X, str | os.PathLike):
        return Trials(read(Path(X), rate), "recording")
    is_file_object = hasattr(X, "read") and hasattr(X, "seek")
    if is_file_object or type(X).__module__.split(".")[0] in ("pynwb", "hdmf", "h5py"):
        from nwb_calcium_lvm.io import read_nwb

        return Trials(read_nwb(X, sampling_rate=rate), "recording")
    if isinstance(X, list | tuple) and X and all(isinstance(item, Recording) for item in X):
        if len(X) == 1:
            return Trials(X[0], "recording")
        raise DataError(
            f"X is a list of {len(X)} Recordings: independent recordings of other neurons, which this model cannot "
            "share. Fit one model per recording, or pass trials of the same neurons as a list of arrays (time, roi)."
        )
    return None


def read(path: Path, rate: float | None = None) -> Recording:
    """Read an NWB file or a Suite2p folder, whichever the path is; a rate overrules what it says."""
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist. Expected an NWB file or a Suite2p folder.")
    from nwb_calcium_lvm.io.zarr_store import is_store

    if path.is_dir() and not is_store(path):
        from nwb_calcium_lvm.io import read_suite2p

        return read_suite2p(path, sampling_rate=rate)
    from nwb_calcium_lvm.io import read_nwb

    return read_nwb(path, sampling_rate=rate)


def _from_arrays(estimator: Any, X: Any, rate: float | None, groups: Any, reset: bool) -> Trials:
    form: Form = "array"
    _refuse_what_is_no_array(X)
    is_list_of_trials = isinstance(X, list | tuple) and all(_depth(x) == 2 for x in X)
    if is_list_of_trials or getattr(X, "ndim", 0) == 3:
        form = "list" if is_list_of_trials else "tensor"
        parts = [_as_trial(x, i) for i, x in enumerate(X)]
        if not parts:
            raise DataError(f"X holds no trial. Expected {ACCEPTED}.")
        widths = sorted({part.shape[1] for part in parts})
        if len(widths) > 1:
            raise DataError(f"The trials have {widths} ROIs; expected the same neurons in each, (time, roi).")
        lengths = np.array([len(part) for part in parts])
        if (lengths == 0).any():
            raise DataError(f"Trial {int(np.argmin(lengths))} holds no frame; leave empty trials out.")
        traces = np.concatenate(parts)
        ends = np.cumsum(lengths)
        segments = Segments(np.column_stack([ends - lengths, ends]), np.arange(len(parts)))
    else:
        traces = validate_data(
            estimator,
            X,  # pyright: ignore[reportArgumentType]  scikit-learn's default for X is a string
            reset=reset,
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,  # Recording names the ROI and the frame
            ensure_min_samples=2 if reset else 1,
        )
        segments = None if groups is None else _segments_of(groups, len(traces))
    return Trials(Recording(traces, sampling_rate=rate, segments=segments), form)


def _refuse_what_is_no_array(X: Any) -> None:
    """Name what is accepted, where NumPy would fail without saying it, or lose something."""
    if X is None or type(X) in (bytes, dict, set) or np.isscalar(X):  # a sparse matrix may be a kind of dict
        raise DataError(f"X is a {type(X).__name__}. Expected {ACCEPTED}.")
    parts = X if isinstance(X, list | tuple) else [X]
    depths = sorted({_depth(part) for part in parts})
    if len(depths) > 1:
        raise DataError(f"X is a list of things with {' and '.join(map(str, depths))} axes. Expected {ACCEPTED}.")
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise DataError(
            "X is a masked array, whose mask would be lost. Pass Recording(x.filled(0), mask=~np.ma.getmaskarray(x))."
        )


def _depth(x: Any) -> int:
    """Number of axes of an array or of nested lists, judged by the first entry of each."""
    if hasattr(x, "ndim"):
        return x.ndim
    return 1 + (_depth(x[0]) if len(x) else 0) if isinstance(x, list | tuple) else 0


def _as_trial(x: Any, i: int) -> NDArray[Any]:
    try:
        return np.asarray(x)
    except ValueError as error:  # rows of unequal length
        raise DataError(f"Trial {i} is no array (time, roi): {error}") from error


def _segments_of(groups: Any, n_frames: int) -> Segments:
    labels = np.asarray(groups)
    if labels.shape != (n_frames,):
        raise DataError(f"groups has shape {labels.shape}; expected the trial of each frame, ({n_frames},).")
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    return Segments(np.column_stack([starts, np.append(starts[1:], n_frames)]), labels[starts])


def _check_rois(estimator: Any, trials: Trials, reset: bool) -> None:
    n_rois = trials.recording.n_rois
    if not reset and not hasattr(estimator, "n_features_in_"):
        return  # a model of single traces takes any number of them
    if reset:
        estimator.n_features_in_ = n_rois
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    elif n_rois != estimator.n_features_in_:
        raise DataError(
            f"X has {n_rois} ROIs, but {type(estimator).__name__} was fitted on {estimator.n_features_in_}. Expected "
            "the same neurons in the same order."
        )
    elif trials.form == "recording" and hasattr(estimator, "roi_ids_"):
        fitted, given = estimator.roi_ids_.tolist(), trials.recording.roi_ids.tolist()
        if fitted != given and set(fitted) == set(given):
            raise DataError(
                f"X has the ROIs {shorten(given)}, but {type(estimator).__name__} was fitted on {shorten(fitted)}: the "
                "same neurons in another order. Reorder X with recording.isel(roi=...)."
            )


def check_traces(recording: Recording, *, stacklevel: int = 6) -> None:
    """Raise DataError where traces cannot be fitted: too few frames, constant ROIs, values that are no fluorescence."""
    n_frames, n_rois = recording.shape
    if n_frames < 2:
        raise DataError(f"X has {n_frames} frame; nothing can be fitted to it. Expected many frames, (time, roi).")
    warn_if_transposed(recording, stacklevel=stacklevel)
    unusable = ~recording.usable
    if unusable.any():
        names = ", ".join(str(i) for i in recording.roi_ids[unusable][:8])
        raise DataError(
            f"{unusable.sum()} of {n_rois} ROIs are constant or never observed: {names}"
            f"{', ...' if unusable.sum() > 8 else ''}. A constant trace tells nothing of spikes; leave these out, for "
            "example with recording.isel(roi=recording.usable)."
        )
    largest = np.abs(np.where(recording.mask, recording.dff, 0.0)).max(axis=0)
    beyond = (largest > _LARGEST) | (largest < 1.0 / _LARGEST)
    if beyond.any():
        raise DataError(
            f"{beyond.sum()} of {n_rois} ROIs hold values up to {largest[beyond][0]:.3g}: "
            f"{shorten(recording.roi_ids[beyond])}. Expected dF/F (0.5 is 50 %) or counts; are these bytes of another "
            "dtype, or a fill value for missing samples? If so, pass Recording(dff, mask=...)."
        )


def warn_if_transposed(recording: Recording, *, stacklevel: int = 3) -> None:
    """Warn where there are fewer frames than ROIs, unless a file says which is which."""
    if recording.n_frames < recording.n_rois and recording.source.path is None:
        warnings.warn(
            f"X has shape {recording.shape}: fewer frames than ROIs. Expected (time, roi). If this is Suite2p's F.npy, "
            "which is (roi, time), pass F.T or use read_suite2p.",
            DataWarning,
            stacklevel=stacklevel,
        )
