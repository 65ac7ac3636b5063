"""Continuous latents, or factors: over time, in three dimensions, and what they do to each neuron."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.plotting._model import likelihood_curve
from nwb_calcium_lvm.plotting._style import ACCENT, FAINT, INK, new_axes, plain, state_colors, time_of, values_of
from nwb_calcium_lvm.plotting._time import variability

RATE = "#D55E00"  # colour of rates over traces
_TRIALS = LinearSegmentedColormap.from_list("trials", ["#440154", "#31688e", "#35b779", "#fde725"])
_MOST = 2000  # frames of rates shown at most, from the first


def latents(
    latents: Any,
    std: ArrayLike | None = None,
    *,
    name: str | None = None,
    time: ArrayLike | None = None,
    segments: Any = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw latents over time, one under the other, with a band of two standard deviations.

    Parameters
    ----------
    latents : InferenceResult or array_like, shape (time, latent)
        Posterior means.
    std : array_like, shape (time, latent), optional
        Posterior standard deviations. Default: those of the result.
    name : str, optional
        What to draw of a result, such as ``"inputs"``, or what to call an array. Default: latents, or factors.
    time : array_like, shape (time,), optional
        Times in s. Default: those of the result, or frames.
    segments : Segments, optional
        Trials, at whose borders lines are broken. Default: those of the result.
    ax : Axes, optional
        Where to draw.
    """
    name = name_of(latents) if name is None else name
    values = _as_latents(latents, name)
    if std is None and f"{name}_std" in getattr(latents, "arrays", {}):
        std = values_of(latents, f"{name}_std")
    segments = getattr(latents, "segments", None) if segments is None else segments
    clock, label = time_of(latents, time, len(values))
    n_latents = values.shape[1]
    ax = new_axes(ax, (8.0, 0.8 * n_latents + 0.8))
    doubt = np.zeros_like(values) if std is None else np.asarray(std, float)
    reach = np.abs(values) + 2 * doubt
    step = 2.2 * float(np.quantile(reach, 0.995)) or 1.0
    offsets = -step * np.arange(n_latents)
    # NaN between trials keeps lines and bands from running over the border.
    cuts = [] if segments is None else [int(a) for a in segments.bounds[1:, 0]]
    clock_cut = np.insert(np.asarray(clock, float), cuts, np.nan)
    for i, (offset, color) in enumerate(zip(offsets, state_colors(n_latents), strict=True)):
        line, band = (np.insert(v[:, i], cuts, np.nan) for v in (values, doubt))
        ax.axhline(offset, color=FAINT, lw=0.4)
        if std is not None:
            ax.fill_between(
                clock_cut, offset + line - 2 * band, offset + line + 2 * band, color=color, alpha=0.25, lw=0
            )
        ax.plot(clock_cut, offset + line, color=color, lw=1.0)
    ax.set_yticks(offsets, [str(i) for i in range(n_latents)])
    ax.set_ylim(offsets[-1] - 0.6 * step, 0.6 * step)
    ax.set_xlim(float(np.nanmin(clock_cut)), float(np.nanmax(clock_cut)))
    ax.set_ylabel(_one_of(name))
    ax.set_xlabel(label)
    plain(ax, left=False)
    return ax


def latent_trajectories(
    latents: Any,
    *,
    name: str | None = None,
    segments: Any = None,
    which: tuple[int, int, int] = (0, 1, 2),
    colors: Any = None,
    ax: Any = None,
) -> Any:
    """Draw three latents against each other, a line per trial, from dark (first) to bright (last).

    A dot marks where each trial begins. One recording without trials is coloured along its time instead.

    Parameters
    ----------
    latents : InferenceResult or array_like, shape (time, latent)
        Posterior means.
    name : str, optional
        As in :func:`latents`.
    segments : Segments, optional
        Trials. Default: those of the result.
    which : (int, int, int)
        Latents of the three axes.
    colors : sequence of colours, optional
        One per trial.
    ax : Axes3D, optional
        Where to draw.
    """
    name = name_of(latents) if name is None else name
    values = _as_latents(latents, name)
    if values.shape[1] < 3:
        raise ValueError(f"There are {values.shape[1]} {name}; expected at least 3 to draw in three dimensions.")
    segments = getattr(latents, "segments", None) if segments is None else segments
    bounds = np.array([[0, len(values)]]) if segments is None else np.asarray(segments.bounds)
    if ax is None:
        ax = Figure(figsize=(4.6, 4.2), layout="constrained").add_subplot(projection="3d")
    path = values[:, list(which)]
    if len(bounds) == 1 and colors is None:
        pieces = np.array_split(np.arange(len(path)), min(100, max(len(path) // 5, 1)))
        for i, piece in enumerate(pieces):
            run = np.append(piece, min(piece[-1] + 1, len(path) - 1))
            ax.plot(*path[run].T, color=_TRIALS(i / max(len(pieces) - 1, 1)), lw=1.0)
    else:
        shades = [_TRIALS(i / max(len(bounds) - 1, 1)) for i in range(len(bounds))] if colors is None else colors
        for (a, b), color in zip(bounds, shades, strict=True):
            ax.plot(*path[a:b].T, color=color, lw=0.9)
            ax.scatter(*path[a : a + 1].T, color=color, s=12)
    for axis, latent in zip("xyz", which, strict=True):
        getattr(ax, f"set_{axis}label")(f"{_one_of(name)} {latent}", fontsize=9)
        getattr(ax, f"{axis}axis").set_pane_color((1.0, 1.0, 1.0, 0.0))
    ax.tick_params(labelsize=7, colors=INK)
    return ax


def loadings(loadings: Any, *, roi_ids: ArrayLike | None = None, sort: bool = True, ax: Axes | None = None) -> Axes:
    """Draw each ROI's loadings on the latents as a heat map, blue below zero and red above.

    Parameters
    ----------
    loadings : InferenceResult or array_like, shape (roi, latent)
        Loadings.
    roi_ids : array_like, shape (roi,), optional
        Names of the ROIs, shown where there are few.
    sort : bool
        Whether ROIs are grouped by the latent they load on most, and ordered by it.
    ax : Axes, optional
        Where to draw.
    """
    values = values_of(loadings, "loadings")
    if values.ndim != 2:
        raise ValueError(f"loadings have shape {values.shape}; expected (roi, latent).")
    if roi_ids is None:
        roi_ids = getattr(loadings, "roi_ids", None)
    names = np.arange(len(values)) if roi_ids is None else np.asarray(roi_ids)
    strongest = np.abs(values).argmax(axis=1)
    own = values[np.arange(len(values)), strongest]
    order = np.lexsort((-own, strongest)) if sort else np.arange(len(values))
    top = float(np.abs(values).max()) or 1.0
    ax = new_axes(ax, (1.4 + 0.4 * values.shape[1], 4.0))
    image = ax.imshow(values[order], aspect="auto", interpolation="nearest", cmap="RdBu_r", vmin=-top, vmax=top)
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02)
    bar.set_label("Loading", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    if len(values) <= 9 * ax.bbox.height / ax.figure.dpi:
        ax.set_yticks(np.arange(len(values)), [str(name) for name in names[order]])
        ax.set_ylabel("ROI")
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"ROI ({len(values)}{', sorted' if sort else ''})")
    ax.set_xticks(np.arange(values.shape[1]))
    ax.set_xlabel(_one_of(name_of(loadings)))
    ax.tick_params(length=0, labelsize=7)
    return plain(ax, left=False, bottom=False)


def rates_against_traces(
    result: Any, recording: Any, *, n_rois: int = 6, window: tuple[float, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw traces with the inferred firing rates over them, one ROI under the other.

    Parameters
    ----------
    result : InferenceResult
        With ``firing_rates`` (or, without a clock or without spikes, what of the traces the latents explain).
    recording : Recording
        What the result was inferred from.
    n_rois : int
        ROIs to show: those that vary most for their noise.
    window : (float, float), optional
        Stretch to show, on the recording's clock. Default: up to 2,000 frames from the start.
    ax : Axes, optional
        Where to draw.
    """
    name = next((k for k in ("firing_rates", "trace_means", "expected_spikes") if k in result.arrays), None)
    if name is None:
        raise ValueError("The result has neither firing_rates nor trace_means; expected a result with rates.")
    time = np.asarray(result.time, float)
    inside = np.arange(len(time)) < _MOST if window is None else (time >= window[0]) & (time <= window[1])
    shown = np.where(recording.mask, recording.dff, np.nan)
    chosen = np.sort(np.argsort(-variability(shown), kind="stable")[:n_rois])
    ax = new_axes(ax, (8.0, 0.7 * len(chosen) + 0.8))
    clock = time[inside]
    for row, roi in enumerate(chosen):
        trace, rate = shown[inside, roi], np.asarray(result[name])[inside, roi]
        ax.plot(clock, unit_height(trace) - 1.15 * row, color=FAINT, lw=0.6)
        ax.plot(clock, unit_height(rate) - 1.15 * row, color=RATE, lw=1.1)
    ax.plot([], [], color=FAINT, lw=1.0, label="trace")
    label = {"firing_rates": "firing rate", "trace_means": "explained", "expected_spikes": "expected spikes"}[name]
    ax.plot([], [], color=RATE, lw=1.4, label=f"{label}, each to its own height")
    ax.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2, frameon=False, fontsize=8, ncols=2
    )  # fmt: skip
    ax.set_yticks(-1.15 * np.arange(len(chosen)) + 0.3, [str(i) for i in np.asarray(result.roi_ids)[chosen]])
    ax.set_xlim(float(clock[0]), float(clock[-1]))
    ax.set_ylabel("ROI")
    ax.set_xlabel("Frame" if result.time_unit == "frames" else "Time (s)")
    plain(ax, left=False)
    ax.tick_params(axis="y", length=0)
    return ax


def latent_overview(result: Any, recording: Any = None, *, title: str | None = None) -> Figure:
    """Draw latents, rates against traces, loadings, trajectories and the course of the fit in one figure.

    Parameters
    ----------
    result : InferenceResult
        Of a CalciumGPFA.
    recording : Recording, optional
        What the result was inferred from; without it there are no traces.
    title : str, optional
        Default: the model, its size and whether it converged.
    """
    n_latents = result["latents"].shape[1]
    figure = Figure(figsize=(11.0, 8.6), layout="constrained")
    heights = [0.6 + 0.5 * n_latents, 4.2, 3.4] if recording is not None else [0.6 + 0.5 * n_latents, 3.4]
    rows = figure.add_gridspec(len(heights), 1, height_ratios=heights)
    latents(result, ax=figure.add_subplot(rows[0])).set_title("Latents ± 2 sd", color=INK)
    if recording is not None:
        rates_against_traces(result, recording, ax=figure.add_subplot(rows[1]))
    lower = rows[-1].subgridspec(1, 3, width_ratios=[1.0, 1.2, 1.2])
    loadings(result, ax=figure.add_subplot(lower[0])).set_title("Loadings", color=INK)
    if n_latents >= 3:
        latent_trajectories(result, ax=figure.add_subplot(lower[1], projection="3d"))
    else:
        _prior_share(result, figure.add_subplot(lower[1]))
    likelihood_curve(result, ax=figure.add_subplot(lower[2])).set_title("Course of the fit", color=INK)
    status = "converged" if result.converged else "not converged"
    size = f"{n_latents} latents, {len(result.roi_ids)} ROIs, {len(result.time):,} frames"
    n_iter = result.model.get("n_iter")
    given = f"{result.model.get('name', 'Model')}: {size}; {status}" + (f" after {n_iter} steps" if n_iter else "")
    figure.suptitle(given if title is None else title, fontsize=12, color=INK)
    return figure


def _prior_share(result: Any, ax: Axes) -> None:
    share = np.asarray(result["explained_variance_ratio"])
    ax.bar(np.arange(len(share)), share, color=ACCENT, width=0.6)
    ax.set_xticks(np.arange(len(share)))
    ax.set_xlabel("Latent")
    ax.set_ylabel("Share of variance")
    plain(ax)


def name_of(source: Any) -> str:
    """Return what a result's path is called: factors where it has those, else latents, as arrays are, too."""
    return "factors" if "factors" in getattr(source, "arrays", {}) else "latents"


def _one_of(name: str) -> str:
    return name.removesuffix("s").capitalize()


def _as_latents(source: Any, name: str) -> NDArray[np.floating]:
    values = np.asarray(values_of(source, name), float)
    if values.ndim != 2:
        raise ValueError(f"{name} have shape {values.shape}; expected (time, {_one_of(name).lower()}).")
    return values


def unit_height(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale to 0 .. 1 by the bulk of the values."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return values
    low, high = np.quantile(finite, [0.02, 0.998])
    return (values - low) / (high - low if high > low else 1.0)
