"""What runs over time: traces, the path of states, their probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.plotting._style import FAINT, INK, edges_of, new_axes, plain, state_colors, time_of, values_of


def traces(
    recording: Any,
    *,
    roi: ArrayLike | None = None,
    time: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    unit: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw traces one under the other, with a scale bar.

    Parameters
    ----------
    recording : Recording or array_like, shape (time, roi)
        Samples outside a Recording's mask are left blank.
    roi : array_like of int, optional
        Columns to draw, from top to bottom. Default: the 12 that vary most.
    time : array_like, shape (time,), optional
        Times in s.
    ids : array_like, optional
        Name of each column. Default: those of the Recording, or the column's number.
    unit : str, optional
        Unit of the traces. Default: as the Recording says.
    ax : Axes, optional
        Where to draw.
    """
    is_recording = hasattr(recording, "dff")
    values = np.asarray(recording.dff if is_recording else recording, float)
    if values.ndim != 2:
        raise ValueError(f"traces have shape {values.shape}; expected (time, roi).")
    if is_recording:
        values = np.where(recording.mask, values, np.nan)
        ids = recording.roi_ids if ids is None else ids
        unit = {"dff": "dF/F"}.get(recording.units, "") if unit is None else unit
        clock, label = (recording.timestamps, "Time (s)" if recording.has_clock else "Frame")
        clock = clock if time is None else np.asarray(time, float)
    else:
        clock, label = time_of(recording, time, len(values))
    columns = most_variable(values, 12) if roi is None else np.atleast_1d(np.asarray(roi))
    shown = values[:, columns]
    names = columns if ids is None else np.asarray(ids)[columns]

    ax = new_axes(ax, (8.0, 0.4 * len(columns) + 1.0))
    # Steps between traces of the size of a typical trace's range: tall transients may reach into the row above.
    with _wholly_missing_allowed():
        rest, high = np.nanquantile(shown, [0.5, 0.999], axis=0)
        step = 1.1 * float(np.nanmedian(high - rest))
        peaks = np.nanmax(shown, axis=0) - rest
    step = step if np.isfinite(step) and step > 0 else 1.0
    offsets = -step * np.arange(len(columns))
    for i, offset in enumerate(offsets):
        ax.plot(clock, shown[:, i] - rest[i] + offset, color=INK, lw=0.6)
    ax.set_yticks(offsets, [str(name) for name in names])
    # Room above for the tallest transient of the upper rows, but not for an artefact that would flatten all the rest.
    top = np.nanmax(np.append(peaks + offsets, 0.0)) + 0.1 * step
    ax.set_ylim(offsets[-1] - 0.5 * step, np.clip(top, 1.2 * step, 3.0 * step))
    ax.set_xlim(clock[0], clock[-1])
    ax.set_xlabel(label)
    ax.set_ylabel("ROI")
    plain(ax, left=False)
    _scale_bar(ax, step, offsets, unit or "")
    return ax


def states(
    states: Any,
    time: ArrayLike | None = None,
    *,
    n_states: int | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw the path of states as a ribbon, a colour per state.

    Parameters
    ----------
    states : InferenceResult or array_like of int, shape (time,)
        The path.
    time : array_like, shape (time,), optional
        Times in s. Default: those of the result, or frames.
    n_states : int, optional
        Number of states of the model. Default: that of the result, or as many as occur.
    legend : bool
        Whether to name the colours.
    ax : Axes, optional
        Where to draw.
    """
    path = values_of(states, "states").astype(int)
    if path.ndim != 1:
        raise ValueError(f"states have shape {path.shape}; expected (time,).")
    clock, label = time_of(states, time, len(path))
    if n_states is None:
        n_states = int(states["state_probabilities"].shape[1] if hasattr(states, "arrays") else path.max() + 1)
    ax = new_axes(ax, (8.0, 1.0))
    colors = state_colors(n_states)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(path)) + 1])
    stops = np.append(starts[1:], len(path))
    edges = edges_of(clock)
    for state in range(n_states):
        visits = [
            (float(edges[a]), float(edges[b] - edges[a]))
            for a, b in zip(starts, stops, strict=True)
            if path[a] == state
        ]
        ax.broken_barh(visits, (0.0, 1.0), facecolors=colors[state], linewidth=0)
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0.0, 1.0)
    ax.set_yticks([])
    ax.set_xlabel(label)
    if legend:
        state_legend(ax, n_states)
    return plain(ax, left=False)


def state_probabilities(
    probabilities: Any, time: ArrayLike | None = None, *, legend: bool = True, ax: Axes | None = None
) -> Axes:
    """Draw the posterior probabilities of the states, stacked to 1.

    Parameters
    ----------
    probabilities : InferenceResult or array_like, shape (time, state)
        Rows sum to 1.
    time : array_like, shape (time,), optional
        Times in s. Default: those of the result, or frames.
    legend : bool
        Whether to name the colours.
    ax : Axes, optional
        Where to draw.
    """
    values = values_of(probabilities, "state_probabilities")
    if values.ndim != 2:
        raise ValueError(f"state probabilities have shape {values.shape}; expected (time, state).")
    clock, label = time_of(probabilities, time, len(values))
    ax = new_axes(ax, (8.0, 1.5))
    edges = np.column_stack([np.zeros(len(values)), np.cumsum(values, axis=1)])
    for state, color in enumerate(state_colors(values.shape[1])):
        ax.fill_between(clock, edges[:, state], edges[:, state + 1], step="mid", color=color, lw=0)
    ax.set_xlim(clock[0], clock[-1])
    ax.set_ylim(0.0, 1.0)
    ax.set_yticks([0.0, 1.0])
    ax.set_ylabel("Probability")
    ax.set_xlabel(label)
    if legend:
        state_legend(ax, values.shape[1])
    return plain(ax)


def state_legend(ax: Axes, n_states: int) -> None:
    """Name the states' colours in a row above the axes."""
    colors = state_colors(n_states)
    ax.legend(
        handles=[
            Patch(facecolor="none", label="State"),
            *(Patch(facecolor=color, label=f"{state}") for state, color in enumerate(colors)),
        ],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.3,
        frameon=False,
        fontsize=8,
        ncols=n_states + 1 if n_states < 20 else (n_states + 2) // 2,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=0.8,
        handletextpad=0.4,
        borderpad=0.0,
    )


def most_variable(values: NDArray[np.floating], n: int) -> NDArray[np.integer]:
    """Return the columns that vary most for their noise."""
    return np.sort(np.argsort(-variability(values), kind="stable")[:n])


def variability(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return how much each column varies for its noise: its standard deviation over its typical step, (roi,)."""
    if len(values) < 2:
        return np.zeros(values.shape[1])
    every = 1 + len(values) // 20_000  # enough frames to rank ROIs, however long the recording
    with _wholly_missing_allowed():
        steps = np.nan_to_num(np.nanmedian(np.abs(np.diff(values, axis=0)[::every]), axis=0))
        spread = np.nan_to_num(np.nanstd(values[::every], axis=0))
    return np.divide(spread, steps, out=np.zeros_like(spread), where=steps > 0)


@contextmanager
def _wholly_missing_allowed() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # statistics of no samples are NaN, and drawn as nothing
        yield


def _scale_bar(ax: Axes, step: float, offsets: NDArray[np.floating], unit: str) -> None:
    size = round_down(0.8 * step)
    bottom = offsets[-1]
    transform = ax.get_yaxis_transform()
    ax.plot([1.012, 1.012], [bottom, bottom + size], transform=transform, color=INK, lw=1.5, clip_on=False)
    ax.text(
        1.02, bottom + size / 2, f"{size:g} {unit}".strip(), transform=transform, va="center", fontsize=8, color=INK
    )
    ax.tick_params(axis="y", colors=FAINT, length=0)


def round_down(value: float) -> float:
    """Return the largest of 1, 2, 5 times a power of ten that is not above the value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(m for m in (1.0, 2.0, 5.0) if m * power <= value * (1 + 1e-9)) * power)
