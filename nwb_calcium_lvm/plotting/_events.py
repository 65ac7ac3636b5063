"""States and latents over the time around an event: trial by trial, and over trials."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
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


def states_by_trial(
    states: ArrayLike, time: ArrayLike, *, n_states: int, event: float | None = 0.0, ax: Axes | None = None
) -> Axes:
    """Draw the state of each trial (row) over the time around an event, a colour per state.

    Parameters
    ----------
    states : array_like of int, shape (trial, time)
        Paths; negative where a trial has no frame.
    time : array_like, shape (time,)
        Times in s relative to the event.
    n_states : int
        Number of states of the model.
    event : float, optional
        When the event is; marked.
    ax : Axes, optional
        Where to draw.
    """
    paths, clock = np.asarray(states), np.asarray(time, float)
    if paths.ndim != 2 or clock.shape != paths.shape[1:]:
        raise ValueError(f"states have shape {paths.shape} and time {clock.shape}; expected (trial, time) and (time,).")
    ax = new_axes(ax, (6.0, 3.0))
    step = (clock[-1] - clock[0]) / max(len(clock) - 1, 1)
    ax.imshow(
        np.ma.masked_less(paths, 0),
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(state_colors(n_states)),
        vmin=-0.5,
        vmax=n_states - 0.5,
        extent=(clock[0] - step / 2, clock[-1] + step / 2, len(paths) + 0.5, 0.5),
    )
    if event is not None:
        ax.axvline(event, color=FAINT, lw=1.0, ls="--")
    ax.set_xlabel("Time from event (s)")
    ax.set_ylabel("Trial")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    state_legend(ax, n_states)
    return plain(ax, left=False, bottom=False)


def mean_around_event(
    values: ArrayLike,
    time: ArrayLike,
    *,
    label: str = "Latent",
    event: float | None = 0.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw latents averaged over trials, with a band of one standard error, each to one scale.

    Parameters
    ----------
    values : array_like, shape (trial, time, latent)
        NaN where a trial has no frame.
    time : array_like, shape (time,)
        Times in s relative to the event.
    label : str
        What one of them is called.
    event : float, optional
        When the event is; marked.
    ax : Axes, optional
        Where to draw.
    """
    given, clock = np.asarray(values, float), np.asarray(time, float)
    if given.ndim != 3 or clock.shape != given.shape[1:2]:
        raise ValueError(
            f"values have shape {given.shape} and time {clock.shape}; expected (trial, time, latent) and (time,)."
        )
    known = np.isfinite(given)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, given, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(known, (given - mean) ** 2, 0.0).sum(axis=0) / np.maximum(count - 1, 1) / count)
    ax = new_axes(ax, (6.0, 3.0))
    if event is not None:
        ax.axvline(event, color=FAINT, lw=1.0, ls="--")
    for i, color in enumerate(state_colors(given.shape[2])):
        ax.fill_between(clock, mean[:, i] - spread[:, i], mean[:, i] + spread[:, i], color=color, alpha=0.25, lw=0)
        ax.plot(clock, mean[:, i], color=color, lw=1.4, label=str(i))
    ax.set_xlim(clock[0], clock[-1])
    ax.set_xlabel("Time from event (s)")
    ax.set_ylabel(f"{label}, mean over trials")
    ax.legend(
        frameon=False,
        fontsize=8,
        title=label,
        title_fontsize=8,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        ncols=1 + (given.shape[2] - 1) // 10,
    )
    return plain(ax)


def _by_trial(result: Any) -> NDArray[np.integer]:
    lengths = np.unique(result.segments.lengths)
    if len(lengths) > 1 or result.segments.trial_ids is None:
        raise ValueError(
            f"The result has segments of {lengths.min()} to {lengths.max()} frames. Expected trials of equal length: "
            "fit or infer on recording.align(event, window)."
        )
    return np.asarray(result["states"]).reshape(-1, lengths[0])
