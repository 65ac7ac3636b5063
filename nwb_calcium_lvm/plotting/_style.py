"""What all pictures share: colours that colour-blind readers can tell apart, plain axes, figures without pyplot."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK = "#222222"
ON_CELLS = "#1b1b1b"  # text over coloured cells, which keep their colours where a page turns ink light on dark
FAINT = "#8a8a8a"
ACCENT = "#0072B2"

# Okabe and Ito's palette, without black, in an order that sets neighbours well apart.
_FEW = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
# Tol's discrete rainbow, for more states than there are distinct hues for everyone; shuffled so that neighbours differ.
_MANY = (
    "#1965B0", "#F6C141", "#4EB265", "#882E72", "#7BAFDE", "#DC050C", "#CAE0AB", "#F1932D", "#D1BBD7",
    "#5289C7", "#90C987", "#AE76A3", "#F7F056", "#E8601C",
)  # fmt: skip


def state_colors(n_states: int) -> list[str]:
    """Return a colour (hexadecimal) for each state.

    Up to 7 states have Okabe and Ito's colours, up to 14 Tol's; beyond that no palette keeps all apart, and colours
    are spaced along a map from dark to light.

    Parameters
    ----------
    n_states : int
        Number of states.
    """
    for palette in (_FEW, _MANY):
        if n_states <= len(palette):
            return list(palette[:n_states])
    ramp = LinearSegmentedColormap.from_list("states", ["#882E72", "#1965B0", "#4EB265", "#F7F056", "#DC050C"])
    # Every second colour first, so that neighbouring states are far apart on the map.
    order = np.concatenate([np.arange(0, n_states, 2), np.arange(1, n_states, 2)])
    places = np.empty(n_states)
    places[order] = np.linspace(0.0, 1.0, n_states)
    return [to_hex(ramp(place)) for place in places]


def new_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return ``ax``, or axes in a figure of their own that pyplot does not know of."""
    return Figure(figsize=figsize, layout="constrained").subplots() if ax is None else ax


def plain(ax: Axes, *, left: bool = True, bottom: bool = True) -> Axes:
    """Take away what carries no information from the axes' frame."""
    for side, kept in (("top", False), ("right", False), ("left", left), ("bottom", bottom)):
        ax.spines[side].set_visible(kept)
        ax.spines[side].set_color(FAINT)
    ax.tick_params(colors=INK, labelsize=8, length=3, left=left, bottom=bottom)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    ax.title.set_fontsize(10)
    return ax


def values_of(source: Any, name: str) -> NDArray[Any]:
    """Return the array of this name in a result, or the array itself."""
    # A result is known by its stores, so that plotting works on results of older versions and of tests alike.
    return np.asarray(source[name] if hasattr(source, "parameters") else source)


def time_of(source: Any, time: Any, n_frames: int) -> tuple[NDArray[np.floating], str]:
    """Return the time of each frame and the label of its axis."""
    if time is not None:
        values, unit = np.asarray(time, float), "s"
    elif hasattr(source, "time") and hasattr(source, "time_unit"):
        values, unit = np.asarray(source.time, float), source.time_unit
    else:
        values, unit = np.arange(float(n_frames)), "frames"
    if values.shape != (n_frames,):
        raise ValueError(f"time has shape {values.shape}; expected one per frame, ({n_frames},).")
    return values, "Frame" if unit == "frames" else "Time (s)"


def edges_of(time: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the borders between frames, shape (time + 1,)."""
    if len(time) == 1:
        return np.array([time[0] - 0.5, time[0] + 0.5])
    middle = 0.5 * (time[1:] + time[:-1])
    return np.concatenate([[2 * time[0] - middle[0]], middle, [2 * time[-1] - middle[-1]]])
