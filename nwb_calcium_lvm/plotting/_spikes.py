"""Spike inference: rates under their traces, what the layers of a network do, the frequencies its filters pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.plotting._style import ACCENT, FAINT, INK, new_axes, plain


def spike_rates(
    result: Any,
    recording: Any = None,
    *,
    roi: int = 0,
    spikes: ArrayLike | None = None,
    window: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one ROI's rate, its trace above it, and its spikes as ticks where they are known.

    Calcium without the noise, where the result holds it, goes over the trace.

    Parameters
    ----------
    result : InferenceResult
        With ``firing_rates``.
    recording : Recording, optional
        What the result was inferred from; without it there is no trace.
    roi : int
        Column of the ROI.
    spikes : array_like, optional
        Times of known spikes in s.
    window : (float, float), optional
        Stretch to show, in s. Default: the first minute.
    ax : Axes, optional
        Where to draw.
    """
    time = np.asarray(result.time)
    start, stop = (time[0], min(time[0] + 60.0, time[-1])) if window is None else window
    shown = (time >= start) & (time <= stop)
    if not shown.any():
        raise ValueError(f"window={window} holds no frame; the result runs from {time[0]:.4g} to {time[-1]:.4g} s.")
    rate = np.asarray(result["firing_rates"])[shown, roi]
    height = max(float(np.nanmax(rate, initial=0.0)), 1e-9)
    ax = new_axes(ax, (8.0, 2.5))
    ax.fill_between(time[shown], rate, color=ACCENT, linewidth=0, step="mid")
    if recording is not None:
        trace = np.where(recording.mask[shown, roi], recording.dff[shown, roi], np.nan)
        low, high = np.nanmin(trace), np.nanmax(trace)

        def above(values: NDArray[np.floating]) -> NDArray[np.floating]:
            return height * (1.25 + (values - low) / max(high - low, 1e-12))

        calcium = result.arrays.get("calcium")
        ax.plot(time[shown], above(trace), color=INK if calcium is None else FAINT, linewidth=0.7)
        if calcium is not None:
            ax.plot(time[shown], above(np.asarray(calcium.values)[shown, roi]), color=INK, linewidth=1.0)
    if spikes is not None:
        times = np.asarray(spikes, float)
        times = times[(times >= start) & (times <= stop)]
        ax.vlines(times, 1.08 * height, 1.18 * height, color=FAINT, linewidth=0.8)
    ax.set_xlim(start, stop)
    ax.set_xlabel("Time (s)")
    ax.set_ylabel("Rate (spikes/s)")
    ax.set_yticks([0.0, float(f"{height:.2g}")])
    return plain(ax)


def layer_outputs(layers: Mapping[str, ArrayLike], *, window: tuple[float, float] | None = None) -> Figure:
    """Draw what each layer of a network makes of a trace, one below the other.

    Parameters
    ----------
    layers : mapping
        From ``S2SSpikeEstimator.layer_outputs``: ``"time"`` in s, and the layers' summed outputs in order.
    window : (float, float), optional
        Stretch to show, in s. Default: the first 20 s.
    """
    time = np.asarray(layers["time"])
    start, stop = (time[0], min(time[0] + 20.0, time[-1])) if window is None else window
    shown = (time >= start) & (time <= stop)
    names = [name for name in layers if name != "time"]
    figure = Figure(figsize=(8.0, 0.4 + 0.8 * len(names)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(names), 1, sharex=True))
    for ax, name in zip(axes, names, strict=True):
        ax.plot(time[shown], np.asarray(layers[name])[shown], color=ACCENT if name == "output" else INK, linewidth=0.8)
        ax.set_ylabel(name.replace("_", " "), rotation=0, ha="right", va="center")
        ax.set_yticks([])
        plain(ax, left=False, bottom=ax is axes[-1])
    axes[-1].set_xlabel("Time (s)")
    return figure


def frequency_response(response: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the amplitude responses of a network's analysis and synthesis filters, summed over filters.

    Parameters
    ----------
    response : FrequencyResponse
        From ``S2SSpikeEstimator.frequency_response``.
    ax : Axes, optional
        Where to draw.
    """
    ax = new_axes(ax, (4.0, 3.0))
    for values, color, label in ((response.analysis, INK, "analysis"), (response.synthesis, ACCENT, "synthesis")):
        ax.plot(response.frequency, values, color=color, linewidth=1.0, label=label)
    ax.set_xlabel("Frequency (Hz)")
    ax.set_ylabel("Response (largest = 1)")
    ax.set_ylim(0.0, 1.05)
    ax.legend(frameon=False, fontsize=8)
    return plain(ax)
