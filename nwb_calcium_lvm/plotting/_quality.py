"""Whole populations at a glance: how noisy ROIs are, how a parameter is distributed over them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import ArrayLike

from nwb_calcium_lvm.plotting._style import ACCENT, FAINT, INK, new_axes, plain

_WARN = "#D55E00"
_GOOD, _POOR = 2.0, 8.0  # ν up to which traces are good, and above which they are poor


def noise_levels(noise_level: ArrayLike, *, flagged: ArrayLike | None = None, ax: Axes | None = None) -> Axes:
    """Draw the noise level ν of each ROI, from the quietest to the noisiest.

    Lines mark what is good (below 2) and poor (above 8). ROIs that are flagged, such as saturated ones, are orange.

    Parameters
    ----------
    noise_level : array_like, shape (roi,)
        In % per square root of Hz; NaN is left out.
    flagged : array_like of bool, shape (roi,), optional
        ROIs to mark.
    ax : Axes, optional
        Where to draw.
    """
    nu = np.asarray(noise_level, float)
    marked = np.zeros(nu.shape, bool) if flagged is None else np.asarray(flagged, bool)
    if nu.ndim != 1 or marked.shape != nu.shape:
        raise ValueError(f"noise levels have shape {nu.shape} and flags {marked.shape}; expected one per ROI, (roi,).")
    order = np.argsort(nu)
    order = order[np.isfinite(nu[order])]
    place = np.arange(1, len(order) + 1)
    ax = new_axes(ax, (5.0, 2.8))
    for line, word in ((_GOOD, "good"), (_POOR, "poor")):
        ax.axhline(line, color=FAINT, lw=0.8, ls="--")
        ax.text(1.01, line, word, color=FAINT, fontsize=8, va="center", transform=ax.get_yaxis_transform())
    ax.plot(place, nu[order], "o", ms=3, color=ACCENT, mec="none")
    ax.plot(place[marked[order]], nu[order][marked[order]], "o", ms=5, color=_WARN, mec="none", label="flagged")
    if marked[order].any():
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    top = float(np.max(nu[order], initial=_POOR))
    ax.set_ylim(0.0, 1.1 * max(top, _POOR))
    ax.set_xlabel("ROI, by noise")
    ax.set_ylabel("Noise level ν (%/√Hz)")
    return plain(ax)


def distribution(
    values: ArrayLike,
    *,
    label: str = "",
    reference: float | None = None,
    reference_label: str = "expected",
    ax: Axes | None = None,
) -> Axes:
    """Draw how a parameter is distributed over ROIs, with its median and, where there is one, what is expected.

    The horizontal axis is logarithmic where values are positive and span more than a factor of 30.

    Parameters
    ----------
    values : array_like, shape (roi,)
        NaN is left out.
    label : str
        What it is, with its unit.
    reference : float, optional
        Such as the indicator's decay time.
    reference_label : str
        What to call it.
    ax : Axes, optional
        Where to draw.
    """
    given = np.asarray(values, float).ravel()
    given = given[np.isfinite(given)]
    ax = new_axes(ax, (3.0, 2.2))
    if len(given):
        logarithmic = bool(given.min() > 0 and given.max() > 30 * given.min())
        n_bins = int(np.clip(np.sqrt(len(given)) * 1.5, 6, 40))
        bins: Any = n_bins
        if logarithmic:
            bins = np.geomspace(given.min(), given.max(), n_bins + 1)
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.hist(given, bins=bins, color=ACCENT, alpha=0.75)
        ax.axvline(float(np.median(given)), color=INK, lw=1.2, label="median")
    if reference is not None:
        ax.axvline(reference, color=_WARN, lw=1.2, ls="--", label=reference_label)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7, loc="best")
    ax.set_xlabel(label)
    ax.set_ylabel("ROIs")
    return plain(ax)
