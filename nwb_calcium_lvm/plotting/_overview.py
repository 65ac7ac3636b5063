"""One figure that shows what came out of a fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nwb_calcium_lvm.plotting._model import likelihood_curve, rates_by_state, transition_matrix
from nwb_calcium_lvm.plotting._style import FAINT, INK, edges_of, state_colors
from nwb_calcium_lvm.plotting._time import state_probabilities, states, traces, variability

_MOST = 1200  # frames shown at most: more are too fine to see


def overview(
    result: Any,
    recording: Any = None,
    *,
    n_traces: int = 12,
    window: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw traces, states, rates, transitions and the course of the fit in one figure.

    Parameters
    ----------
    result : InferenceResult
        Of a hidden Markov model.
    recording : Recording, optional
        What the result was inferred from; without it there are no traces.
    n_traces : int
        Number of traces: of each state in turn, the ROI most active in it that varies most for its noise. A square
        has the colour of that state.
    window : (float, float), optional
        Stretch of the recording to show, on the recording's clock. Default: the 1,200 frames with most changes of
        state, or whole trials up to that many frames, or everything if that is not much more.
    title : str, optional
        Default: the model, its size and whether it converged.

    Returns
    -------
    Figure
    """
    n_states = result["state_probabilities"].shape[1]
    first, stop = shown_frames(result, window)
    clock, label, borders = _clock(result, first, stop)
    # Places are set by hand: a solver of layouts would shrink the thin ribbon to make room for what surrounds it.
    figure = Figure(figsize=(11.0, 8.6))
    rows = [0.33 * n_traces, 0.3, 0.8] if recording is not None else [0.3, 0.8]
    upper = figure.add_gridspec(
        len(rows), 1, height_ratios=rows, left=0.075, right=0.925, top=0.935, bottom=0.425, hspace=0.17
    )
    axes = [figure.add_subplot(cell) for cell in upper]
    if recording is not None:
        if recording.shape != (len(result.time), len(result.roi_ids)):
            raise ValueError(
                f"The recording is {recording.shape} but the result {(len(result.time), len(result.roi_ids))}, (time, "
                "roi). Expected the recording that the result was inferred from."
            )
        _traces_into(axes[0], recording, result, first, stop, clock, n_traces)
    ribbon, stacked = axes[-2:]
    states(np.asarray(result["states"][first:stop]), clock, n_states=n_states, ax=ribbon)
    ribbon.set_ylabel("State", rotation=0, ha="right", va="center")
    state_probabilities(np.asarray(result["state_probabilities"][first:stop]), clock, legend=False, ax=stacked)
    stacked.set_xlabel(label)
    edges = edges_of(clock)
    for ax in axes:
        ax.set_xlim(float(edges[0]), float(edges[-1]))
        for border in borders:
            ax.axvline(edges[border], color=FAINT, lw=0.6)
    for ax in axes[:-1]:
        ax.set_xlabel("")
        ax.tick_params(bottom=False, labelbottom=False)
        ax.spines["bottom"].set_visible(False)

    lower = figure.add_gridspec(
        1, 3, width_ratios=[1.1, 0.9, 1.2], left=0.075, right=0.97, top=0.32, bottom=0.07, wspace=0.36
    )
    per_state = "Rate in each state" if "state_rates" in result.parameters else "Mean of the trace in each state"
    for cell, draw, heading in (
        (lower[0], rates_by_state, per_state),
        (lower[1], transition_matrix, "Transitions per frame (%)"),
        (lower[2], likelihood_curve, "Course of the fit"),
    ):
        draw(result, ax=figure.add_subplot(cell)).set_title(heading, fontsize=10, color=INK)
    figure.suptitle(_title(result, n_states) if title is None else title, fontsize=12, color=INK, y=0.975)
    return figure


def _traces_into(ax: Any, recording: Any, result: Any, first: int, stop: int, clock: Any, n_traces: int) -> None:
    """Draw the most variable traces, grouped by the state that drives each most and marked with its colour."""
    rates = np.asarray(result["state_rates" if "state_rates" in result.parameters else "state_means"])
    preferred = rates.argmax(axis=1)
    chosen = _in_turn(variability(np.where(recording.mask, recording.dff, np.nan)), preferred, n_traces)
    part = np.where(recording.mask[first:stop, chosen], recording.dff[first:stop, chosen], np.nan)
    unit = "dF/F" if recording.units == "dff" else ""
    traces(part, roi=np.arange(len(chosen)), time=clock, ids=recording.roi_ids[chosen], unit=unit, ax=ax)
    colors = state_colors(rates.shape[1])
    for height, roi in zip(ax.get_yticks(), chosen, strict=True):
        ax.plot(
            -0.007, height, "s", ms=5, color=colors[preferred[roi]], transform=ax.get_yaxis_transform(), clip_on=False
        )
    ax.tick_params(axis="y", pad=11)


def _in_turn(score: Any, group: Any, n: int) -> Any:
    """Return up to n columns of the best score, taken from each group in turn, and sorted by group."""
    best_first = np.argsort(-score, kind="stable")
    seen: Counter[int] = Counter()
    turn = np.empty(len(score), int)
    for column in best_first:
        turn[column] = seen[group[column]]
        seen[group[column]] += 1
    chosen = np.lexsort((-score, turn))[:n]
    return chosen[np.lexsort((chosen, group[chosen]))]


def shown_frames(result: Any, window: tuple[float, float] | None = None) -> tuple[int, int]:
    """Return the first frame shown of a result, and the one after the last."""
    time = np.asarray(result.time)
    if window is not None:
        frames = np.flatnonzero((time >= window[0]) & (time <= window[1]))
        if len(frames) == 0:
            raise ValueError(f"window={window} holds no frame; the result runs from {time[0]:g} to {time[-1]:g}.")
        return int(frames[0]), int(frames[-1]) + 1
    if len(time) <= 1.5 * _MOST:
        return 0, len(time)
    starts, stops = result.segments.bounds.T
    longest = int(np.argmax(stops - starts))
    a, b = int(starts[longest]), int(stops[longest])
    if b - a <= _MOST:  # as many whole segments as there is room for, from the longest on or up to the end
        last = int(np.searchsorted(stops, min(a + _MOST, len(time)), side="right")) - 1
        first = longest if a + _MOST <= len(time) else int(np.searchsorted(starts, len(time) - _MOST))
        return int(starts[first]), int(stops[last])
    if "states" not in result.arrays:
        return a, a + _MOST
    changes = np.concatenate([[0], np.cumsum(np.diff(np.asarray(result["states"][a:b])) != 0)])
    start = a + int(np.argmax(changes[_MOST:] - changes[:-_MOST]))
    return start, start + _MOST


def _clock(result: Any, first: int, stop: int) -> tuple[Any, str, list[int]]:
    """Return the horizontal axis, its label, and the frames at which a new segment begins.

    Segments may lie far apart or overlap in time, so several are drawn side by side.
    """
    starts = result.segments.bounds[:, 0]
    borders = [int(start - first) for start in starts if first < start < stop]
    in_seconds = result.time_unit == "s"
    if not borders or result.sampling_rate is None or not in_seconds:
        return np.asarray(result.time[first:stop], float), "Time (s)" if in_seconds else "Frame", borders
    what = "trials" if result.segments.trial_ids is not None else "segments"
    return np.arange(stop - first) / result.sampling_rate, f"Time (s), {what} side by side", borders


def _title(result: Any, n_states: int) -> str:
    name = result.model.get("name", "Model")
    size = f"{n_states} states, {len(result.roi_ids)} ROIs, {len(result.time):,} frames"
    n_iter = result.model.get("n_iter")
    status = "converged" if result.converged else "not converged"
    return f"{name}: {size}; {status}" + (f" after {n_iter} iterations" if n_iter is not None else "")
