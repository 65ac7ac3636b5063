"""States over the time around an event, over trials."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.metrics import fraction_in_states
from nwb_calcium_lvm.plotting._style import FAINT, new_axes, plain, state_colors
from nwb_calcium_lvm.plotting._time import state_legend


def states_around_event(
    states: Any,
    time: ArrayLike | None = None,
    *,
    n_states: int | None = None,
    event: float | tuple[float, float] | None = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the fraction of trials in each state over the time around an event.

    Parameters
    ----------
    states : InferenceResult or array_like, shape (trial, time) of int or (trial, time, state) of probabilities
        A result has to be of trials of equal length, as ``Recording.align`` makes them.
    time : array_like, shape (time,), optional
        Times in s relative to the event. Default: frames (or s, for a result) from the start of the window.
    n_states : int, optional
        Number of states.
    event : float or (float, float), optional
        When the event is, or when it begins and ends; marked.
    ax : Axes, optional
        Where to draw.
    """
    seconds = time is not None
    if hasattr(states, "arrays"):
        n_states = states["state_probabilities"].shape[1] if n_states is None else n_states
        rate = states.sampling_rate
        states = _by_trial(states)
        if time is None and rate is not None:
            time, seconds = np.arange(states.shape[1]) / rate, True
    fraction = fraction_in_states(states, n_states)
    clock = np.arange(len(fraction)) if time is None else np.asarray(time, float)
    if clock.shape != (len(fraction),):
        raise ValueError(f"time has shape {clock.shape}; expected one per frame of a trial, ({len(fraction)},).")
    ax = new_axes(ax, (6.0, 3.0))
    if event is not None:
        begin, end = event if isinstance(event, tuple) else (event, event)
        if end > begin:
            ax.axvspan(begin, end, color=FAINT, alpha=0.25, lw=0)
        else:
            ax.axvline(begin, color=FAINT, lw=1.0, ls="--")
    for state, color in enumerate(state_colors(fraction.shape[1])):
        ax.plot(clock, fraction[:, state], color=color, lw=1.6, label=f"{state}")
    ax.set_xlim(clock[0], clock[-1])
    ax.set_ylim(0.0, 1.0)
    ax.set_xlabel("Time from event (s)" if seconds else "Frame")
    ax.set_ylabel("Fraction of trials")
    state_legend(ax, fraction.shape[1])
    return plain(ax)


def _by_trial(result: Any) -> NDArray[np.integer]:
    lengths = np.unique(result.segments.lengths)
    if len(lengths) > 1 or result.segments.trial_ids is None:
        raise ValueError(
            f"The result has segments of {lengths.min()} to {lengths.max()} frames. Expected trials of equal length: "
            "fit or infer on recording.align(event, window)."
        )
    return np.asarray(result["states"]).reshape(-1, lengths[0])
