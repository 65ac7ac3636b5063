"""How long a path stays in each state, and how it is spread over the session."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.provenance import Segments


def visit_lengths(path: NDArray[np.integer], segments: Segments, n_states: int) -> list[NDArray[np.integer]]:
    """Return the length in frames of each visit to each state; a visit ends where a segment does."""
    labels = segments.labels()
    starts = np.flatnonzero(np.r_[True, (np.diff(path) != 0) | (np.diff(labels) != 0)])
    lengths = np.diff(np.r_[starts, len(path)])
    return [lengths[path[starts] == state] for state in range(n_states)]


def share_in_first_half(path: NDArray[np.integer], n_states: int) -> NDArray[np.floating]:
    """Return the share of each state's frames that lie in the first half of the session; NaN for an empty state."""
    half = np.bincount(path[: len(path) // 2], minlength=n_states)[:n_states].astype(float)
    whole = np.bincount(path, minlength=n_states)[:n_states].astype(float)
    return np.divide(half, whole, out=np.full(n_states, np.nan), where=whole > 0)


def mean_over_time(values: object, most: int = 2 * 10**7) -> tuple[NDArray[np.floating], bool]:
    """Return the mean over time of an array (time, roi) that may be on disk, and whether all of it was read.

    Of an array above ``most`` values, runs of frames that are evenly spread are read.
    """
    n_frames, n_columns = values.shape  # pyright: ignore[reportAttributeAccessIssue]
    run = max(1, 2**20 // max(n_columns, 1))
    starts = np.arange(0, n_frames, run)
    n_runs = max(1, most // (run * max(n_columns, 1)))
    whole = len(starts) <= n_runs
    if not whole:
        starts = np.linspace(0, n_frames - run, n_runs).round().astype(int)
    total, count = np.zeros(n_columns), 0
    for start in starts:
        part = np.asarray(values[start : start + run], float)  # pyright: ignore[reportIndexIssue]
        total += part.sum(axis=0)
        count += len(part)
    return total / max(count, 1), whole
