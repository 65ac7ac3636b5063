"""Removal of the light that the tissue around a cell adds to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.preprocessing.frames import as_floats, full_mask


def subtract_neuropil(
    F: ArrayLike, Fneu: ArrayLike, coefficient: float = 0.7, mask: ArrayLike | None = None
) -> NDArray[np.floating]:
    r"""Subtract the fluctuations of the neuropil: :math:`F_c = F - k\,(F_{neu} - \mathrm{median}\,F_{neu})`.

    The median stays in, unlike in Suite2p's own input to deconvolution, because dF/F divides by the baseline that
    is left: with all of the neuropil gone, a dim cell's baseline is close to zero and its dF/F has no scale.

    Parameters
    ----------
    F, Fneu : array_like of float, shape (time, roi)
        Fluorescence of the ROIs and of the neuropil around each.
    coefficient : float
        k, the share of neuropil light inside the ROI; 0.7 is Suite2p's default.
    mask : array_like of bool, shape (time, roi) or (time,), optional
        True where observed; the median is over those samples.

    Returns
    -------
    ndarray of float, shape (time, roi)
    """
    cells, neuropil = as_floats(F, "F"), as_floats(Fneu, "Fneu")
    if cells.shape != neuropil.shape:
        raise DataError(
            f"F has shape {cells.shape} and Fneu {neuropil.shape}. Expected one neuropil trace per ROI on the same "
            "frames, both (time, roi)."
        )
    if not (np.isfinite(coefficient) and 0 <= coefficient <= 2):
        raise DataError(f"The neuropil coefficient is {coefficient!r}. Expected a number from 0 to 2; usual is 0.7.")
    if coefficient == 0:
        return cells
    observed = full_mask(mask, neuropil.shape) & np.isfinite(neuropil)
    if observed.all():
        medians = np.median(neuropil, axis=0)
    else:
        medians = np.array(
            [np.median(neuropil[seen, i]) if seen.any() else np.nan for i, seen in enumerate(observed.T)],
            dtype=neuropil.dtype,
        )
    return cells - neuropil.dtype.type(coefficient) * (neuropil - medians)
