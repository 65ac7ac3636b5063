"""The steps from raw fluorescence to dF/F in their order, block by block, so that memory stays bounded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.preprocessing.baseline import baseline, dff
from nwb_calcium_lvm.preprocessing.frames import constant_rois, fill_missing
from nwb_calcium_lvm.preprocessing.neuropil import subtract_neuropil


def dff_from_raw(
    F: ArrayLike,
    Fneu: ArrayLike | None = None,
    *,
    sampling_rate: float,
    neuropil_coefficient: float = 0.7,
    method: str = "maximin",
    mask: ArrayLike | None = None,
    **options: Any,
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Fill missing samples, subtract the neuropil, divide by the baseline.

    Parameters
    ----------
    F : array_like of float, shape (time, roi)
        Raw fluorescence.
    Fneu : array_like of float, shape (time, roi), optional
        Fluorescence of the neuropil; None subtracts nothing.
    sampling_rate : float
        Frames per second.
    neuropil_coefficient : float
        See :func:`subtract_neuropil`.
    method, **options
        See :func:`baseline`: ``window``, ``sigma``, ``percentile``.
    mask : array_like of bool, shape (time, roi) or (time,), optional
        True where observed.

    Returns
    -------
    dff : ndarray of float, shape (time, roi)
        As a fraction. Missing samples hold what was interpolated: finite, so that no arithmetic spreads a NaN, but
        the mask stays the judge of what was observed. NaN for ROIs that are not usable.
    usable : ndarray of bool, shape (roi,)
        False where the ROI carries nothing (all missing, or constant) or its baseline is at or under the floor.
    """
    cells = fill_missing(F, mask)
    dead = constant_rois(F, mask)
    if Fneu is not None and neuropil_coefficient != 0:
        cells = subtract_neuropil(cells, fill_missing(Fneu, mask), neuropil_coefficient, mask)
    base = baseline(cells, method, sampling_rate=sampling_rate, **options)
    traces, usable = dff(cells, base)
    return np.where(dead, np.nan, traces).astype(traces.dtype, copy=False), usable & ~dead
