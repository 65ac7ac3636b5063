"""Calcium parameters of single cells at constant rates, which models of populations start from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cells import CellPrior, fit_cells

_AGAIN_CALLS = 25  # of the filter, from twice the amplitude


def likelier_cells(
    y: NDArray[np.floating], mask: NDArray[np.bool_], first: NDArray[np.integer], settings: dict[str, Any]
) -> tuple[CalciumNoisyParams, NDArray[np.floating]]:
    """Return parameters and log rate (roi,) of each cell at one rate: the likelier of two fits.

    Where steps are clear the fit may hold every spike for two; from twice the amplitude it finds one.

    Parameters
    ----------
    y, mask, first
        As in :func:`~nwb_calcium_lvm.observations.cells.fit_cells`.
    settings : dict
        More arguments of it.
    """
    found = fit_cells(y, mask, first, **settings)
    twice = found.params._replace(spike_amplitude=2.0 * np.asarray(found.params.spike_amplitude))
    other = fit_cells(y, mask, first, start=twice, max_calls=_AGAIN_CALLS, **settings)
    better = np.asarray(other.log_likelihood > found.log_likelihood)

    def choose(one: Any, two: Any) -> NDArray[np.floating]:
        one, two = np.asarray(one, float), np.asarray(two, float)
        return np.where(better if one.ndim == 1 else better[:, None], two, one)

    params = CalciumNoisyParams(*map(choose, found.params[:5], other.params[:5]))
    return params, choose(found.log_rate, other.log_rate)


def prior_for(indicator: Indicator | None, frames_per_s: float | None) -> CellPrior:
    """Decay and rise times within a factor of about two of the indicator's, if one is named."""
    if indicator is None or frames_per_s is None:
        return CellPrior()
    decay, rise = (np.log(t * frames_per_s) for t in (indicator.decay_time, indicator.rise_time))
    return CellPrior(decay=(float(decay), np.log(2.0)), rise=(float(rise), np.log(2.0)))
