"""A start that puts sessions of other neurons into one space: by what they do in conditions that all of them share.

Averages over the trials of a condition are the same trajectory seen by other neurons, whatever their noise. The
principal components of all sessions' averages together are the space; each session's way in is the regression of them
on its own principal components, its way out that of its averages on them. Training goes on from there, free to change
both. Source: Pandarinath et al. 2018 and lfads-torch (Sedler and Pandarinath 2023), which call it a PCR initialisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._core.smoothing import smooth_within
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads.parameters import Start
from nwb_calcium_lvm.recording import Recording

_SMOOTH = 5  # frames over which averages are smoothed
_STEEPEST = 2.0  # of a way out: e-fold change of a rate per sd of a component


class Tie(NamedTuple):
    """One session's way in, (roi, component), from innovations, and way out, (component, roi), to log rates."""

    read_in: NDArray[np.floating]
    read_out: NDArray[np.floating]


def labels_of(recordings: Sequence[Recording], conditions: Any) -> list[NDArray[Any]]:
    """Return the condition of each trial of each session.

    Raises
    ------
    DataError
        If there are not as many labels as trials, no trials, one session only, or no condition that all share.
    """
    if len(recordings) < 2:
        raise DataError("conditions tie several sessions to each other; expected a list of Recordings as X.")
    if not isinstance(conditions, list | tuple) or len(conditions) != len(recordings):
        raise DataError(
            f"conditions is a {type(conditions).__name__}"
            f"{f' of {len(conditions)}' if hasattr(conditions, '__len__') else ''}. Expected a list with an array for "
            f"each of the {len(recordings)} Recordings, one label for each of its trials."
        )
    labels = [np.asarray(c) for c in conditions]
    for number, (recording, mine) in enumerate(zip(recordings, labels, strict=True)):
        if recording.segments.trial_ids is None:
            raise DataError(f"Recording {number} has no trials, and conditions are those of trials.")
        if mine.shape != (len(recording.segments),):
            raise DataError(
                f"conditions of Recording {number} have shape {mine.shape}; it has {len(recording.segments)} trials. "
                "Expected one label for each."
            )
    if not len(_shared(labels)):
        raise DataError("No condition occurs in all sessions; expected at least one that does.")
    return labels


def ties(
    recordings: Sequence[Recording], starts: Sequence[Start], labels: Sequence[NDArray[Any]], n_components: int
) -> list[Tie]:
    """Return each session's ways in and out; fewer components where sessions have fewer neurons."""
    shared = _shared(labels)
    n_frames = min(
        int(r.segments.lengths[np.isin(mine, shared)].min()) for r, mine in zip(recordings, labels, strict=True)
    )
    averages = [
        _averages(recording, start, mine, shared, n_frames)
        for recording, start, mine in zip(recordings, starts, labels, strict=True)
    ]
    n_components = min(n_components, *(a.shape[1] for a in averages), len(averages[0]))
    scores = np.linalg.svd(np.concatenate(averages, axis=1), full_matrices=False)[0][:, :n_components]
    components = scores * np.sqrt(len(scores))  # of variance 1
    ways = [_regressed(a, components) for a in averages]
    # What a single frame comes to, noise and all, is to have variance 1, as under a random start.
    size = np.mean([(s.innovations @ w)[s.known.any(axis=1)].std(axis=0) for s, w in zip(starts, ways, strict=True)])
    return [
        Tie(way / max(size, 1e-9), _way_out(a, components, start))
        for way, a, start in zip(ways, averages, starts, strict=True)
    ]


def _shared(labels: Sequence[NDArray[Any]]) -> NDArray[Any]:
    found = labels[0]
    for mine in labels[1:]:
        found = np.intersect1d(found, mine)
    return np.unique(found)


def _averages(
    recording: Recording, start: Start, labels: NDArray[Any], shared: NDArray[Any], n_frames: int
) -> NDArray[np.floating]:
    """Innovations averaged over the trials of each condition, centred, (condition * frame, roi)."""
    first = recording.segments.bounds[:, 0]
    smooth = smooth_within(start.innovations, start.known, first, _SMOOTH)
    cut = np.stack([smooth[a : a + n_frames] for a in first[np.isin(labels, shared)]])
    mine = labels[np.isin(labels, shared)]
    out = np.concatenate([cut[mine == label].mean(axis=0) for label in shared])
    return out - out.mean(axis=0)


def _regressed(averages: NDArray[np.floating], components: NDArray[np.floating]) -> NDArray[np.floating]:
    """Weights (roi, component) of the regression of components on as many principal components of the averages."""
    left, strength, right = np.linalg.svd(averages, full_matrices=False)
    n = components.shape[1]
    return right[:n].T @ (left[:, :n].T @ components / np.maximum(strength[:n], 1e-9)[:, None])


def _way_out(averages: NDArray[np.floating], components: NDArray[np.floating], start: Start) -> NDArray[np.floating]:
    """Loadings (component, roi) on log rates: relative changes of the rate for small ones."""
    weights = components.T @ averages / len(components)
    per_spike = getattr(start.params, "spike_amplitude", getattr(start.params, "gain", 1.0))
    relative = weights * start.encoding[:, -1] / np.maximum(np.asarray(per_spike) * np.exp(start.log_rate), 1e-9)
    return np.clip(relative, -_STEEPEST, _STEEPEST)
