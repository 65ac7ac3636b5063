"""Dynamics trial by trial: rates under traces, inferred inputs, the course of training."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nwb_calcium_lvm.plotting._latents import (
    RATE,
    latent_trajectories,
    latents,
    loadings,
    rates_against_traces,
    unit_height,
)
from nwb_calcium_lvm.plotting._style import ACCENT, FAINT, INK, new_axes, plain
from nwb_calcium_lvm.plotting._time import most_variable
from nwb_calcium_lvm.provenance import Segments

_MOST = 1200  # frames of an overview at most: more are too fine to see


def rates_in_trials(
    result: Any, recording: Any, *, n_rois: int = 4, n_trials: int = 5, name: str = "firing_rates", figure: Any = None
) -> Any:
    """Draw single trials, a ROI in each row: traces, and the inferred rate with a band of two standard deviations.

    Traces and rates of a ROI each keep their height over trials.

    Parameters
    ----------
    result : InferenceResult
        With the rates.
    recording : Recording
        What the result was inferred from.
    n_rois : int
        ROIs to show: those that vary most for their noise.
    n_trials : int
        Trials to show, evenly over the recording.
    name : str
        Array of the result to draw over the traces.
    figure : Figure or SubFigure, optional
        Where to draw.
    """
    if name not in result.arrays:
        raise ValueError(f"The result has no {name}; expected one of a model with spikes, and with a sampling rate.")
    bounds = _some(np.asarray(result.segments.bounds), n_trials)
    shown = np.where(recording.mask, recording.dff, np.nan)
    rates = np.asarray(result[name], float)
    doubt = np.asarray(result[f"{name}_std"], float) if f"{name}_std" in result.arrays else np.zeros_like(rates)
    chosen = most_variable(shown, n_rois)
    if figure is None:
        figure = Figure(figsize=(1.2 + 1.6 * len(bounds), 0.6 + 1.1 * len(chosen)), layout="constrained")
    grid = figure.subplots(len(chosen), len(bounds), squeeze=False, sharex="col", sharey="row")
    frames = np.concatenate([np.arange(a, b) for a, b in bounds])
    unit = result.arrays[name].unit
    for row, roi in zip(grid, chosen, strict=True):
        trace = np.full(len(shown), np.nan)
        trace[frames] = unit_height(shown[frames, roi])
        top = float(np.quantile(rates[frames, roi] + 2 * doubt[frames, roi], 0.95)) or 1.0
        for ax, (a, b) in zip(row, bounds, strict=True):
            clock = _since_start(result, a, b)
            low, high = (np.maximum(rates[a:b, roi] + sign * 2 * doubt[a:b, roi], 0.0) for sign in (-1, 1))
            ax.plot(clock, 1.15 + trace[a:b], color=FAINT, lw=0.7)
            ax.fill_between(clock, low / top, np.minimum(high / top, 1.1), color=RATE, alpha=0.25, lw=0)
            ax.plot(clock, rates[a:b, roi] / top, color=RATE, lw=1.1)
            ax.set_xlim(clock[0], clock[-1])
            plain(ax, left=False)
        row[0].set_yticks([0.0, 1.0], ["0", f"{top:.2g} {unit}"])
        row[0].set_ylabel(f"ROI {np.asarray(result.roi_ids)[roi]}")
    ids = result.segments.trial_ids
    for ax, (a, _) in zip(grid[0], bounds, strict=True):
        number = int(np.searchsorted(result.segments.bounds[:, 0], a))
        ax.set_title(f"Trial {ids[number]}" if ids is not None else f"Segment {number}", color=INK, fontsize=9)
    for ax in grid[-1]:
        ax.set_xlabel(_label(result))
    return figure


def inferred_inputs(result: Any, *, figure: Any = None) -> Any:
    """Draw each inferred input as a map, a trial in each row, blue below zero and red above.

    Inputs that come at the same time in all trials make columns; those of a perturbation, single spots. All maps have
    one scale: an input that the model does not use is white.

    Parameters
    ----------
    result : InferenceResult
        With ``inputs``.
    figure : Figure or SubFigure, optional
        Where to draw.
    """
    if "inputs" not in result.arrays:
        raise ValueError("The result has no inputs; expected one of a CalciumLFADS with n_controller_inputs above 0.")
    inputs, bounds = np.asarray(result["inputs"], float), np.asarray(result.segments.bounds)
    n_inputs, longest = inputs.shape[1], int((bounds[:, 1] - bounds[:, 0]).max())
    maps = np.full((n_inputs, len(bounds), longest), np.nan)
    for i, (a, b) in enumerate(bounds):
        maps[:, i, : b - a] = inputs[a:b].T
    top = float(np.quantile(np.abs(inputs), 0.999)) or 1.0
    if figure is None:
        figure = Figure(figsize=(1.0 + 2.0 * n_inputs, 2.8), layout="constrained")
    row = figure.subplots(1, n_inputs, squeeze=False, sharey=True)[0]
    end = longest / result.sampling_rate if result.sampling_rate is not None else longest
    image = None
    for i, (ax, values) in enumerate(zip(row, maps, strict=True)):
        image = ax.imshow(
            values,
            aspect="auto",
            interpolation="nearest",
            cmap="RdBu_r",
            vmin=-top,
            vmax=top,
            extent=(0.0, end, len(bounds) - 0.5, -0.5),
        )
        ax.set_title(f"Input {i}", color=INK, fontsize=9)
        ax.set_xlabel(_label(result))
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        plain(ax, left=False, bottom=False)
    row[0].set_ylabel("Trial" if result.segments.trial_ids is not None else "Segment")
    bar = figure.colorbar(image, ax=list(row), shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)
    return figure


def training_curves(history: Any, *, ramp: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw the bound over epochs: on the windows learned from, and on those left out.

    Over the ramp (shaded) the objective changes from epoch to epoch. A ring marks the epoch whose weights were kept.
    Curves that part company show a network that learns its windows by heart.

    Parameters
    ----------
    history : CalciumLFADS, InferenceResult or array_like, shape (epoch, 2)
        The fitted estimator, or its ``history_``: training loss and bound on windows left out, in nats per sample. A
        result knows the latter only.
    ramp : int, optional
        Epochs of the ramp. Default: as the estimator or result says, else 0.
    ax : Axes, optional
        Where to draw.
    """
    if hasattr(history, "history_"):
        values, planned = history.history_, history.ramp_epochs
    elif hasattr(history, "model"):
        values = np.asarray(history.model["objective_history"], float)[:, None]
        planned = history.model.get("hyperparameters", {}).get("ramp_epochs", 0)
    else:
        values, planned = history, 0
    values, ramp = np.asarray(values, float), int(planned if ramp is None else ramp)
    if values.ndim != 2 or values.shape[1] not in (1, 2) or len(values) == 0:
        raise ValueError(f"the history has shape {values.shape}; expected (epoch, 2), not empty.")
    epochs, held_out = np.arange(1, len(values) + 1), values[:, -1]
    ax = new_axes(ax, (4.2, 2.8))
    first = min(max(ramp, 1), len(values)) - 1  # weights of earlier epochs are never kept
    if ramp:
        ax.axvspan(0.5, first + 1.0, color=FAINT, alpha=0.15, lw=0)
    if values.shape[1] == 2:
        ax.plot(epochs, -values[:, 0], color=FAINT, lw=1.2, label="learned from")
    ax.plot(epochs, held_out, color=ACCENT, lw=1.4, label="left out")
    if np.isfinite(held_out[first:]).any():
        best = first + int(np.nanargmax(held_out[first:]))
        ax.plot(epochs[best], held_out[best], "o", ms=8, mfc="none", mec=ACCENT, mew=1.4)
    ax.set_xlim(0.5, len(values) + 0.5)
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Bound (nats per sample)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.legend(frameon=False, fontsize=8, loc="lower right", title="Windows", title_fontsize=8)
    return plain(ax)


def dynamics_overview(result: Any, recording: Any = None, *, title: str | None = None) -> Figure:
    """Draw factors, rates in single trials, trajectories, inferred inputs and the course of training in one figure.

    Of a recording without trials the first 1,200 frames are shown.

    Parameters
    ----------
    result : InferenceResult
        Of a CalciumLFADS.
    recording : Recording, optional
        What the result was inferred from; without it, or without rates, there are no traces.
    title : str, optional
        Default: the model, its size and whether it converged.
    """
    n_factors, in_trials = result["factors"].shape[1], result.segments.trial_ids is not None
    with_rates = recording is not None and "firing_rates" in result.arrays
    figure = Figure(figsize=(11.0, 9.6), layout="constrained")
    heights = [0.8 + 0.28 * n_factors, 4.4, 2.8] if with_rates else [0.8 + 0.28 * n_factors, 2.8]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    _beginning(result, "factors", parts[0].subplots())
    if with_rates and in_trials:
        rates_in_trials(result, recording, figure=parts[1])
    elif with_rates:
        until = float(np.asarray(result.time)[: _beginning_of(result)][-1])
        rates_against_traces(result, recording, window=(float(result.time[0]), until), ax=parts[1].subplots())
    has_inputs = "inputs" in result.arrays
    places: Any = parts[-1].subfigures(1, 3 if has_inputs else 2, width_ratios=[1.0, 1.5, 1.0] if has_inputs else None)
    if n_factors >= 3:
        space: Any = places[0].add_subplot(projection="3d")
        space.set_box_aspect(None, zoom=0.85)  # room for the labels
        latent_trajectories(result, ax=space)
    else:
        loadings(result, ax=places[0].subplots())
    if has_inputs and in_trials:
        inferred_inputs(result, figure=places[1])
    elif has_inputs:
        _beginning(result, "inputs", places[1].subplots())
    training_curves(result, ax=places[-1].subplots())
    status = "converged" if result.converged else "not converged"
    size = f"{n_factors} factors, {len(result.roi_ids)} ROIs, {len(result.time):,} frames"
    given = f"{result.model.get('name', 'Model')}: {size}; {status} after {result.model.get('n_iter')} epochs"
    figure.suptitle(given if title is None else title, fontsize=12, color=INK)
    return figure


def _beginning_of(result: Any) -> int:
    """Frames of the first trials, as many as can be seen; of a recording without trials, of its beginning."""
    stops = np.asarray(result.segments.bounds)[:, 1]
    return int(stops[stops <= _MOST].max(initial=min(_MOST, int(stops[0]))))


def _beginning(result: Any, name: str, ax: Axes) -> None:
    """Draw the beginning of an array of the result, segments side by side."""
    stop = _beginning_of(result)
    bounds = np.asarray(result.segments.bounds)
    segments = Segments(np.minimum(bounds[bounds[:, 0] < stop], stop))
    values, std = (np.asarray(result[k])[:stop] for k in (name, f"{name}_std"))
    if name == "factors":  # whose level is of no meaning: it trades off against the offsets of the rates
        values = values - values.mean(axis=0)
    latents(values, std, name=name, time=_since_start(result, 0, stop), segments=segments, ax=ax)
    what = "trials" if result.segments.trial_ids is not None else "segments"
    ax.set_xlabel(_label(result) + (f", {what} side by side" if len(segments) > 1 else ""))


def _some(bounds: NDArray[np.integer], n: int) -> NDArray[np.integer]:
    return bounds[np.unique(np.linspace(0, len(bounds) - 1, min(n, len(bounds))).round().astype(int))]


def _since_start(result: Any, a: int, b: int) -> NDArray[np.floating]:
    return np.arange(b - a) / (result.sampling_rate or 1.0)


def _label(result: Any) -> str:
    return "Frame" if result.sampling_rate is None else "Time (s)"
