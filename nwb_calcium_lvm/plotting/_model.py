"""The fitted model: rates, transitions, the course of the fit, and the choice of the number of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike

from nwb_calcium_lvm.metrics import one_standard_error_choice, standard_error
from nwb_calcium_lvm.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    ON_CELLS,
    new_axes,
    plain,
    state_colors,
    values_of,
)


def rates_by_state(
    rates: Any, *, roi_ids: ArrayLike | None = None, unit: str | None = None, sort: bool = True, ax: Axes | None = None
) -> Axes:
    """Draw each ROI's rate in each state as a heat map.

    Parameters
    ----------
    rates : InferenceResult or array_like, shape (roi, state)
        Rates, as ``state_rates`` of a result; of a result without spikes, the ``state_means`` of its traces.
    roi_ids : array_like, shape (roi,), optional
        Names of the ROIs, shown where there are few.
    unit : str, optional
        Unit. Default: that of the result, or Hz.
    sort : bool
        Whether ROIs are grouped by the state in which they fire most, and ordered by rate within it.
    ax : Axes, optional
        Where to draw.
    """
    is_result = hasattr(rates, "parameters")
    name = "state_means" if is_result and "state_rates" not in rates.parameters else "state_rates"
    values = values_of(rates, name)
    if values.ndim != 2:
        raise ValueError(f"rates have shape {values.shape}; expected (roi, state).")
    if is_result:
        unit = rates.parameters[name].unit if unit is None else unit
        roi_ids = rates.roi_ids if roi_ids is None else roi_ids
    names = np.arange(len(values)) if roi_ids is None else np.asarray(roi_ids)
    order = np.lexsort((-values.max(axis=1), values.argmax(axis=1))) if sort else np.arange(len(values))
    ax = new_axes(ax, (1.2 + 0.4 * values.shape[1], 4.0))
    # One hyperactive ROI must not hide the rest: the darkest colour stands for the 99th percentile and above.
    low, top = min(0.0, float(values.min())), float(np.quantile(values, 0.99))
    image = ax.imshow(
        values[order],
        aspect="auto",
        interpolation="nearest",
        cmap="magma_r",
        vmin=low,
        vmax=top if top > low else low + 1.0,
    )
    bar = ax.figure.colorbar(image, ax=ax, shrink=0.7, pad=0.02, extend="max" if top < values.max() else "neither")
    bar.set_label(f"{'Rate' if name == 'state_rates' else 'Mean'} ({unit or 'Hz'})", fontsize=9)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    inches = ax.bbox.height / ax.figure.dpi
    if len(values) <= 9 * inches:  # as many names of 7 points as there is room for
        ax.set_yticks(np.arange(len(values)), [str(name) for name in names[order]])
        ax.tick_params(axis="y", labelsize=7, length=0)
        ax.set_ylabel("ROI")
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"ROI ({len(values)}{', sorted' if sort else ''})")
    _state_ticks(ax, values.shape[1])
    plain(ax, left=False, bottom=False)
    return ax


def transition_matrix(matrix: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the probabilities to go from one state (row) to another (column) in one frame, as percentages.

    Staying is by far the most likely, so colours tell the probabilities of leaving, and the diagonal is left grey.

    Parameters
    ----------
    matrix : InferenceResult or array_like, shape (state, state)
        Rows sum to 1.
    ax : Axes, optional
        Where to draw.
    """
    values = values_of(matrix, "transition_matrix")
    n_states = len(values)
    if values.shape != (n_states, n_states):
        raise ValueError(f"the transition matrix has shape {values.shape}; expected (state, state).")
    ax = new_axes(ax, (3.2, 3.0))
    away = np.ma.array(values, mask=np.eye(n_states, dtype=bool))
    top = float(away.max()) if n_states > 1 and away.max() > 0 else 1.0
    ax.imshow(np.eye(n_states), cmap="Greys", vmin=0.0, vmax=4.0)
    ax.imshow(away, cmap="Blues", vmin=0.0, vmax=1.3 * top)
    if n_states <= 10:
        size = 8 if n_states <= 6 else 6
        for i, j in np.ndindex(values.shape):
            text = _percent(values[i, j])
            dark = i != j and values[i, j] > 0.8 * top
            ax.text(j, i, text, ha="center", va="center", fontsize=size, color="white" if dark else ON_CELLS)
    _state_ticks(ax, n_states)
    ax.set_yticks(ax.get_xticks())
    ax.set_xlabel("To state")
    ax.set_ylabel("From state")
    plain(ax, left=False, bottom=False)
    return ax


def dwell_times(
    visits: Sequence[ArrayLike], *, unit: str = "s", expected: ArrayLike | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how long visits to each state last: a dot for each visit, a bar for the median, a state in each row.

    Parameters
    ----------
    visits : sequence of array_like
        Lengths of the visits to each state.
    unit : str
        Of the lengths.
    expected : array_like, shape (state,), optional
        Mean lengths that the transition matrix gives; marked with a cross.
    ax : Axes, optional
        Where to draw.
    """
    ax = new_axes(ax, (4.6, 1.0 + 0.4 * len(visits)))
    rng = np.random.default_rng(0)  # heights within a row mean nothing and are always the same
    for state, (lengths, color) in enumerate(zip(visits, state_colors(max(1, len(visits))), strict=True)):
        values = np.asarray(lengths, float)
        shown = values if len(values) <= 400 else rng.choice(values, 400, replace=False)
        ax.plot(shown, state + rng.uniform(-0.28, 0.28, len(shown)), "o", ms=2.5, color=color, alpha=0.6, mec="none")
        if len(values):
            ax.plot([np.median(values)] * 2, [state - 0.38, state + 0.38], color=INK, lw=1.6)
        if expected is not None:
            ax.plot(np.asarray(expected)[state], state, "x", ms=6, color=FAINT, mew=1.4)
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_yticks(np.arange(len(visits)), [str(k) for k in range(len(visits))])
    ax.set_ylim(len(visits) - 0.5, -0.5)
    ax.set_ylabel("State")
    ax.set_xlabel(f"Length of a visit ({unit})")
    return plain(ax)


def likelihood_curve(history: Any, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the objective of the fit over its iterations.

    Parameters
    ----------
    history : InferenceResult or array_like, shape (iteration,)
        Objective in nats.
    label : str, optional
        Label of the vertical axis. Default: what the result calls its objective.
    ax : Axes, optional
        Where to draw.
    """
    model = getattr(history, "model", None)
    values = np.asarray(history if model is None else model["objective_history"], float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"the history has shape {values.shape}; expected (iteration,), not empty.")
    if label is None:
        name = None if model is None else model.get("objective")
        label = f"{name[:1].upper()}{name[1:]}" if isinstance(name, str) else "Log-likelihood"
        label += "" if "nats" in label else " (nats)"
    ax = new_axes(ax, (3.6, 2.6))
    ax.plot(np.arange(len(values)), values, color=ACCENT, lw=1.4, marker="o", ms=2.5)
    ax.set_xlabel("Iteration")
    ax.set_ylabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
    # The first iterations climb so far that nothing of the rest is seen: the axis begins where the climb has ended.
    finite = values[np.isfinite(values)]
    if len(finite) > 4:
        late = finite[len(finite) // 10 + 1 :]
        span = max(finite[-1] - late.min(), 1e-12)
        if finite[0] < late.min() - 4 * span:
            ax.set_ylim(late.min() - span, finite[-1] + 0.15 * span)
    ax.ticklabel_format(axis="y", useOffset=False)
    return plain(ax)


def model_selection(
    n_states: ArrayLike,
    scores: Mapping[str, ArrayLike],
    *,
    baseline: ArrayLike | None = None,
    unit: str = "nats per sample",
    ax: Axes | None = None,
) -> Axes:
    """Draw held-out scores against the number of states, one line per observation model.

    Bars are one standard error over folds; a ring marks the simplest model within one standard error of the best.

    Parameters
    ----------
    n_states : array_like of int, shape (model,)
        Numbers of states, increasing.
    scores : mapping of str to array_like, each of shape (model, fold)
        Held-out scores of each observation model, higher is better.
    baseline : array_like, shape (fold,), optional
        Score of a null model in each fold, subtracted from all.
    unit : str
        Unit of the scores.
    ax : Axes, optional
        Where to draw.
    """
    counts = np.asarray(n_states)
    ax = new_axes(ax, (5.0, 3.6))
    for (name, values), color in zip(scores.items(), state_colors(max(1, len(scores))), strict=True):
        table = np.asarray(values, float)
        if table.ndim != 2 or len(table) != len(counts):
            raise ValueError(
                f"scores[{name!r}] has shape {table.shape}; expected (model, fold) with {len(counts)} models."
            )
        if baseline is not None:
            table = table - np.asarray(baseline, float)
        mean, chosen = np.nanmean(table, axis=1), one_standard_error_choice(table)
        ax.errorbar(
            counts, mean, standard_error(table), color=color, marker="o", ms=4, lw=1.4, capsize=2, label=name
        )  # fmt: skip
        ax.plot(counts[chosen], mean[chosen], "o", ms=11, mfc="none", mec=color, mew=1.6)
    ax.plot([], [], "o", ms=9, mfc="none", mec=FAINT, mew=1.6, label="one-standard-error choice")
    ax.set_xticks(counts)
    ax.set_xlabel("Number of states")
    gain = "" if baseline is None else ", above baseline"
    ax.set_ylabel(f"Held-out log-likelihood{gain}\n({unit})")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plain(ax)


def _state_ticks(ax: Axes, n_states: int) -> None:
    shown = np.arange(0, n_states, 1 if n_states <= 12 else 1 + n_states // 10)
    ax.set_xticks(shown, [str(k) for k in shown])
    ax.set_xlabel("State")
    ax.tick_params(axis="both", length=0)


def _percent(probability: Any) -> str:
    percent = 100.0 * float(probability)
    if percent == 0.0:
        return "0"
    if percent < 0.1:
        return "<.1"
    return f"{percent:.0f}" if 10 <= percent < 95 else f"{percent:.1f}"
