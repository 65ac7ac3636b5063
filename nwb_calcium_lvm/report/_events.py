"""Which frames of a result lie around the events of trials."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult

_MOST_TRIALS = 200  # drawn: evenly over the session
_MOST_COLUMNS = 2  # of events, besides the beginning of the trial
_BEFORE, _AFTER = 2.0, 8.0  # s around an event at most; less where trials follow more closely


class Around(NamedTuple):
    """Frames around an event.

    Attributes
    ----------
    name : str
        Column of the trials table.
    frames : ndarray of int, shape (trial, time)
        Frames of the result; -1 where it has none.
    time : ndarray of float, shape (time,)
        In s, relative to the event.
    n_trials : int
        Trials in the table, of which not all need be here.
    """

    name: str
    frames: NDArray[np.integer]
    time: NDArray[np.floating]
    n_trials: int


def around_events(result: InferenceResult, clock: Recording) -> list[Around]:
    """Return the frames around each kind of event in the trials table that the result covers."""
    rate = result.sampling_rate or clock.sampling_rate
    if clock.trials is None or rate is None or result.time_unit != "s":
        return []
    found = []
    for name, times in _events(clock).items():
        around = _around(name, times, result.time, rate)
        if around is not None:
            found.append(around)
    return found


def _events(clock: Recording) -> dict[str, NDArray[np.floating]]:
    """Columns of the trials table that are times within trials, the beginning first."""
    trials = clock.trials or {}
    start, stop = (np.asarray(trials[k], float) for k in ("start_time", "stop_time"))
    found = {"start_time": start}
    for name, values in trials.items():
        if name in ("id", "start_time", "stop_time") or np.asarray(values).dtype.kind != "f":
            continue
        times = np.asarray(values, float)
        inside = (times > start + 1e-9) & (times < stop)
        if len(times) and inside.mean() > 0.5 and len(found) <= _MOST_COLUMNS:
            found[name] = np.where(inside, times, np.nan)
    return found


def _around(name: str, events: NDArray[np.floating], time: NDArray[np.floating], rate: float) -> Around | None:
    events = np.sort(events[np.isfinite(events)])
    n_trials = len(events)
    if n_trials < 2 or len(time) < 2:
        return None
    spacing = float(np.median(np.diff(events)))
    before, after = min(_BEFORE, spacing / 4), min(_AFTER, 3 * spacing / 4)
    offsets = np.arange(-int(before * rate), max(int(after * rate), 1) + 1) / rate
    some = events[np.unique(np.linspace(0, n_trials - 1, min(n_trials, _MOST_TRIALS)).round().astype(int))]
    order = np.argsort(time, kind="stable")  # trials may overlap or come in another order
    wanted = some[:, None] + offsets
    right = np.clip(np.searchsorted(time[order], wanted), 1, len(time) - 1)
    left = right - 1
    nearer = np.where(np.abs(time[order][left] - wanted) <= np.abs(time[order][right] - wanted), left, right)
    frames = order[nearer]
    frames = np.where(np.abs(time[frames] - wanted) <= 0.75 / rate, frames, -1)
    # Of trials that were cut out, the result covers less than the window.
    covered = np.flatnonzero((frames >= 0).mean(axis=0) > 0.5)
    if len(covered) < 2:
        return None
    frames, offsets = frames[:, covered[0] : covered[-1] + 1], offsets[covered[0] : covered[-1] + 1]
    kept = frames[(frames >= 0).mean(axis=1) > 0.5]
    return Around(name, kept, offsets, n_trials) if len(kept) >= 2 else None
