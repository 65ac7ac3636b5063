"""Tables of facts, and the two that every result may have: visits to states, and windows of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.io._clock import Clock
from nwb_calcium_lvm.result import InferenceResult


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    description: str
    values: NDArray[Any]

    def compact(self) -> NDArray[Any]:
        """Return whole numbers from 0 to 255 in a byte each: exact, small, and not taken for flags by validators."""
        values = self.values
        if self.name in ("start_time", "stop_time") or not values.size:
            return values
        small = values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255
        binary = values.dtype.kind == "f" and set(np.unique(values).tolist()) == {0.0, 1.0}
        return values.astype(np.uint8) if small or binary else values


@dataclass(frozen=True)
class Table:
    """Rows of facts; ``of_rois`` where each row is an ROI, ``intervals`` where it is a stretch of time."""

    name: str
    description: str
    columns: list[Column]
    of_rois: bool = False
    intervals: bool = False

    def __len__(self) -> int:
        return len(self.columns[0].values)


def visits(result: InferenceResult, clock: Clock, label: str) -> Table | None:
    """Runs of one state; none crosses from one segment to the next. None without states."""
    states = result.arrays.get("states")
    if states is None or states.dims != ("time",) or np.asarray(states.values[:1]).dtype.kind not in "iu":
        return None
    path = clock.ordered(states.values)
    segment = clock.ordered(result.segments.labels())
    first = np.concatenate([[0], np.flatnonzero((np.diff(path) != 0) | (np.diff(segment) != 0)) + 1])
    last = np.append(first[1:], len(path)) - 1
    # A visit lasts until the frame after it, or for a frame's length where there is none or a gap comes before it.
    following = np.append(clock.times[first[1:]], np.inf)
    stops = clock.times[last] + clock.step
    unbroken = np.append(np.diff(segment[first]) == 0, False)
    stops = np.where(unbroken, following, np.minimum(stops, following))
    columns = [
        Column("start_time", "Start of the bout, in s.", clock.times[first]),
        Column("stop_time", "End of the bout, in s.", stops),
        Column("state", "The state, numbered from 0.", path[first]),
    ]
    posterior = result.arrays.get("state_probabilities")
    if posterior is not None and posterior.dims == ("time", "state") and path.max() < np.shape(posterior.values)[1]:
        own = clock.ordered(posterior.values)[np.arange(len(path)), np.maximum(path, 0)]
        mean = np.add.reduceat(own, first) / (last - first + 1)
        columns.append(Column("mean_probability", "Mean posterior probability of the state over the bout.", mean))
    if result.segments.trial_ids is not None:
        ids = np.asarray(result.segments.trial_ids)[segment[first]]
        columns.append(Column("trial", "Identifier of the trial it is in.", ids))
    kept = path[first] >= 0  # a negative number stands for no state
    columns = [Column(c.name, c.description, c.values[kept]) for c in columns]
    if not kept.any():
        return None
    return Table("bouts", f"Runs of frames in one state, inferred by {label}.", columns, intervals=True)


def windows(result: InferenceResult, clock: Clock, label: str) -> Table:
    """The stretches of time that the model was applied to, and the trials they are of."""
    bounds = result.segments.bounds
    times = np.asarray(result.time, float)
    starts, ends = times[bounds[:, 0]], times[bounds[:, 1] - 1] + clock.step
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], ends[order]
    columns = [
        Column("start_time", "First frame of the window, in s.", starts),
        Column("stop_time", "End of its last frame, in s.", np.minimum(ends, np.append(starts[1:], np.inf))),
    ]
    if result.segments.trial_ids is not None:
        ids = np.asarray(result.segments.trial_ids)[order]
        columns.append(Column("trial", "Identifier of the trial.", ids))
    return Table("trials", f"The windows of time that {label} was applied to.", columns, intervals=True)
