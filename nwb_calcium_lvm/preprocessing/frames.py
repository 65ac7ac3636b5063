"""Frames and samples that were not observed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.exceptions import DataError


def as_floats(traces: ArrayLike, name: str = "traces") -> NDArray[np.floating]:
    """Return traces as floats of shape (time, roi); float32 stays float32."""
    values = np.asarray(traces)
    if values.ndim != 2:
        raise DataError(f"{name} has shape {values.shape}. Expected (time, roi). One trace is {name}[:, None].")
    return values if np.issubdtype(values.dtype, np.floating) else values.astype(float)


def full_mask(mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask for traces of that shape; (time,) stands for all ROIs and None for all samples."""
    if mask is None:
        return np.broadcast_to(np.True_, shape)
    observed = np.asarray(mask)
    if observed.shape == shape[:1]:
        observed = observed[:, None]
    if observed.dtype != bool or observed.shape not in (shape, (shape[0], 1)):
        raise DataError(
            f"mask has shape {np.shape(mask)} and dtype {observed.dtype}. Expected booleans of shape {shape} or "
            f"({shape[0]},), True where observed."
        )
    return np.broadcast_to(observed, shape)


def fill_missing(traces: ArrayLike, mask: ArrayLike | None = None) -> NDArray[np.floating]:
    """Fill samples that are masked, NaN or infinite by linear interpolation in time.

    Filters run over the result: one missing sample would otherwise spread over a whole baseline window. Before the
    first and after the last observed sample the nearest one is held. An ROI without any observed sample stays NaN.

    Parameters
    ----------
    traces : array_like of float, shape (time, roi)
    mask : array_like of bool, shape (time, roi) or (time,), optional
        True where observed.

    Returns
    -------
    ndarray of float, shape (time, roi)
        The traces themselves where nothing is missing, else a copy.
    """
    values = as_floats(traces)
    observed = full_mask(mask, values.shape) & np.isfinite(values)
    gaps = np.flatnonzero(~observed.all(axis=0))
    if len(gaps) == 0:
        return values
    filled = values.copy()
    frames = np.arange(len(values))
    for roi in gaps:
        seen = observed[:, roi]
        filled[~seen, roi] = np.interp(frames[~seen], frames[seen], values[seen, roi]) if seen.any() else np.nan
    return filled


def constant_rois(traces: ArrayLike, mask: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Tell which ROIs carry nothing: no observed sample, or the same value in all of them; shape (roi,)."""
    values = as_floats(traces)
    observed = full_mask(mask, values.shape) & np.isfinite(values)
    highest = np.max(values, axis=0, where=observed, initial=-np.inf)
    lowest = np.min(values, axis=0, where=observed, initial=np.inf)
    return ~(highest > lowest)
