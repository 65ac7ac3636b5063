"""Parameters of the observation models as LFADS starts, learns and stores them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.observations import starting
from nwb_calcium_lvm.observations.ar_gaussian import ARGaussianParams
from nwb_calcium_lvm.observations.calcium import CalciumParams
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cell_starts import likelier_cells, prior_for
from nwb_calcium_lvm.observations.cells import rescaled
from nwb_calcium_lvm.observations.gaussian import GaussianParams
from nwb_calcium_lvm.observations.poisson import PoissonParams
from nwb_calcium_lvm.recording import Recording

OBSERVATIONS = tuple(sorted(observations.MODELS))
_WITH_PAST = ("ar_gaussian", "calcium", "calcium_noisy")
_RATE_FLOOR = 1e-3  # spikes per frame
_UNIT_RATE = 1.0  # average rate of models without spikes, whose rate has no unit of its own
_FLOOR = 1e-6  # of a trace's own variance


class Start(NamedTuple):
    """What a session's traces are before training.

    Attributes
    ----------
    y : ndarray, shape (time, roi)
        Traces with mean 0 and sd 1 (spike counts: as they are), 0 where not observed; ``mean`` and ``sd`` (roi,) were
        taken out.
    innovations : ndarray, shape (time, roi)
        What of them their own past does not predict, with mean 0 and sd 1 where ``known``, else 0. The encoders see
        these: those of different frames are independent given the rates.
    known : ndarray of bool, shape (time, roi)
        Samples that have an innovation.
    params : NamedTuple
        Parameters of the observation model in the units of ``y``.
    log_rate : ndarray, shape (roi,)
        Log of the average expected spikes per frame.
    encoding : ndarray, shape (roi, order + 2)
        What made the innovations from ``y``: AR coefficients, mean and sd.
    """

    y: NDArray[np.floating]
    mean: NDArray[np.floating]
    sd: NDArray[np.floating]
    innovations: NDArray[np.floating]
    known: NDArray[np.bool_]
    params: Any
    log_rate: NDArray[np.floating]
    encoding: NDArray[np.floating]


def order_of(observation: str, ar_order: int) -> int:
    """Frames before a sample that have to be observed for it to be scored: the same for all models of calcium."""
    return ar_order if observation in _WITH_PAST else 0


def start(observation: str, recording: Recording, ar_order: int) -> Start:
    """Return starting values from the traces alone."""
    first = recording.segments.bounds[:, 0]
    order = order_of(observation, ar_order)
    if observation == "poisson":
        y, mean, sd = _counts(recording)
        ar_coefs = np.zeros((recording.n_rois, 0))
        residual, known = y, recording.mask
        n = np.maximum(known.sum(axis=0), 1)
        params, rate = PoissonParams(), y.sum(axis=0) / n
    else:
        y, mean, sd = starting.standardise(recording.dff, recording.mask)
        ar_coefs = starting.ar_start(y, recording.mask, first, order) if order else np.zeros((recording.n_rois, 0))
        residual, known = starting.residual(y, recording.mask, first, ar_coefs)
        params, rate = _parameters(observation, recording, y, residual, known, ar_coefs)
        if isinstance(params, CalciumNoisyParams):  # which finds better ones than the start's
            ar_coefs = np.asarray(params.ar_coefs)
            residual, known = starting.residual(y, recording.mask, first, ar_coefs)
    n = np.maximum(known.sum(axis=0), 1)
    middle = residual.sum(axis=0) / n
    spread = np.sqrt(np.maximum((np.where(known, residual - middle, 0.0) ** 2).sum(axis=0) / n, 1e-12))
    encoding = np.column_stack([ar_coefs, middle, spread])
    innovations = np.where(known, (residual - middle) / spread, 0.0)
    return Start(y, mean, sd, innovations, known, params, np.log(np.maximum(rate, _RATE_FLOOR)), encoding)


def encode(recording: Recording, mean: Any, sd: Any, encoding: NDArray[np.floating]):
    """Return ``y``, ``innovations`` and ``known`` of :class:`Start` for other recordings of the same neurons."""
    y = np.where(recording.mask, (recording.dff - mean) / sd, 0.0)
    order = encoding.shape[1] - 2
    first = recording.segments.bounds[:, 0]
    residual, known = starting.residual(y, recording.mask, first, encoding[:, :order])
    return y, np.where(known, (residual - encoding[:, -2]) / encoding[:, -1], 0.0), known


def _parameters(observation: str, recording: Recording, y: Any, residual: Any, known: Any, ar_coefs: Any):
    """Parameters in the units of ``y`` and the average rate (roi,), of the models of fluorescence."""
    n = np.maximum(known.sum(axis=0), 1)
    if observation.endswith("gaussian"):
        centre = residual.sum(axis=0) / n
        spread = np.sqrt(np.maximum((np.where(known, residual - centre, 0.0) ** 2).sum(axis=0) / n, _FLOOR))
        rate = np.full(len(n), _UNIT_RATE)
        if observation == "gaussian":
            return GaussianParams(centre - spread * rate, spread, spread**2), rate
        return ARGaussianParams(ar_coefs, spread, spread**2, centre - spread * rate), rate
    if observation == "calcium_noisy":
        prior = prior_for(recording.indicator, recording.sampling_rate)
        first = recording.segments.bounds[:, 0]
        params, log_rate = likelier_cells(y, recording.mask, first, {"ar_order": ar_coefs.shape[1], "prior": prior})
        return params, np.exp(log_rate)
    intercept, amplitude, noise = starting.spike_start(residual, known)
    rate = np.where(known, (residual - intercept) / amplitude, 0.0).sum(axis=0) / n
    return CalciumParams(ar_coefs, amplitude, noise, intercept), rate


def _counts(recording: Recording):
    y = np.where(recording.mask, recording.dff, 0.0)
    wrong = (y < 0) | (y != np.round(y))
    if wrong.any():
        raise DataError(
            f'observation="poisson" takes spike counts, but X holds {y[wrong][0]:.4g}. Expected whole numbers from '
            '0; for fluorescence use observation="calcium".'
        )
    return y, np.zeros(recording.n_rois), np.ones(recording.n_rois)


def to_data_units(params: Any, mean: NDArray[np.floating], sd: NDArray[np.floating]) -> Any:
    """Return parameters for the traces as given from those for traces with mean 0 and sd 1."""
    p = params
    if isinstance(p, CalciumNoisyParams):
        return rescaled(p, mean, sd)
    if isinstance(p, GaussianParams):
        return GaussianParams(p.offset * sd + mean, p.gain * sd, p.noise_variance * sd**2)
    if isinstance(p, CalciumParams | ARGaussianParams):  # coefficients, step, variance, intercept
        coefs, step, variance, intercept = p
        return type(p)(coefs, step * sd, variance * sd**2, intercept * sd + mean * (1.0 - coefs.sum(axis=1)))
    return p


def baseline(params: Any) -> NDArray[np.floating] | None:
    """Return the trace without spikes, (roi,), in the units of the parameters; None where there is none."""
    if hasattr(params, "baseline"):
        return params.baseline
    if hasattr(params, "intercept"):
        return params.intercept / (1.0 - params.ar_coefs.sum(axis=1))
    return getattr(params, "offset", None)
