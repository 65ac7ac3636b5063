"""What each observation model brings to a fit: its readout, its units, its prior and its starting values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.gpfa.readouts import GaussianReadout, LinearParams, NoisyReadout, Readout, SpikeReadout, Weights
from nwb_calcium_lvm.observations import starting
from nwb_calcium_lvm.observations.calcium import CalciumParams
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cell_starts import likelier_cells, prior_for
from nwb_calcium_lvm.observations.cells import fit_cells, infer_cells
from nwb_calcium_lvm.observations.poisson import PoissonParams
from nwb_calcium_lvm.recording import Recording

OBSERVATIONS = ("calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson")

_VARIANCE_FLOOR = 1e-6  # of a trace's own variance
_RATE_FLOOR = 1e-3  # spikes per frame
_CELL_FRAMES = 8192  # of longer recordings, what the parameters of noisy calcium are fitted to
_REFINE_CALLS = 12  # of the filter, from parameters that are nearly right


@dataclass(frozen=True)
class Plan:
    """One observation model on one set of traces.

    Attributes
    ----------
    readout : Readout
        The observation model as the latents use it.
    y : ndarray, shape (time, roi)
        Traces in the units of the fit, and ``mean`` and ``sd`` (roi,) that were taken out of them.
    kept : ndarray of bool, shape (time, roi)
        Samples that are scored.
    signal : ndarray, shape (time, roi)
        What the latents are first sought in, 0 where not kept: a rough rate in spikes per frame where there are spikes,
        else the (residual of the) trace.
    params : NamedTuple
        Starting parameters, an array per neuron each.
    offset, variance : ndarray, shape (roi,)
        The average eta and variance of the noise that the prior pulls to.
    to_data_units, to_fit_units : callable
        Map weights of the fit to weights for the traces as they are, and back.
    refine : callable, optional
        Maps parameters and log rates (time, roi) to parameters that are likelier at these rates, where the readout does
        not learn its parameters at each step.
    """

    readout: Readout
    y: NDArray[np.floating]
    mean: NDArray[np.floating]
    sd: NDArray[np.floating]
    kept: NDArray[np.bool_]
    signal: NDArray[np.floating]
    params: Any
    offset: NDArray[np.floating]
    variance: NDArray[np.floating]
    to_data_units: Callable[[Weights], Weights]
    to_fit_units: Callable[[Weights], Weights]
    refine: Callable[[Any, NDArray[np.floating]], Any] | None = None

    @property
    def has_spikes(self) -> bool:
        """Whether eta is the log of a rate."""
        return isinstance(self.readout, SpikeReadout)

    @property
    def floor(self) -> NDArray[np.floating]:
        """Smallest variance allowed, (roi,)."""
        return np.full(self.y.shape[1], _VARIANCE_FLOOR)


def order_of(observation: str, ar_order: int) -> int:
    """Frames of its past that a sample depends on."""
    return ar_order if observation in ("calcium", "calcium_noisy", "ar_gaussian") else 0


def readout_of(observation: str, ar_order: int) -> Readout:
    """Return the readout of the named observation model."""
    order = order_of(observation, ar_order)
    if observation == "calcium_noisy":
        return NoisyReadout(order=order)
    return GaussianReadout(order) if observation.endswith("gaussian") else SpikeReadout(observation, order)


def plan_for(observation: str, recording: Recording, ar_order: int) -> Plan:
    """Return the plan of the named observation model for this recording."""
    first = recording.segments.bounds[:, 0]
    readout = readout_of(observation, ar_order)
    if observation == "poisson":
        return _counts(readout, recording)
    y, mean, sd = starting.standardise(recording.dff, recording.mask)
    if isinstance(readout, NoisyReadout):
        return _noisy(readout, recording, y, mean, sd)
    if readout.order:
        ar_coefs = starting.ar_start(y, recording.mask, first, readout.order)
        signal, kept = starting.residual(y, recording.mask, first, ar_coefs)
    else:
        ar_coefs = np.zeros((y.shape[1], 0))
        signal, kept = np.where(recording.mask, y, 0.0), recording.mask
    make = _gaussian if isinstance(readout, GaussianReadout) else _calcium
    return make(readout, y, mean, sd, signal, kept, ar_coefs)


def _calcium(readout: Readout, y: Any, mean: Any, sd: Any, signal: Any, kept: Any, ar_coefs: Any) -> Plan:
    intercept, amplitude, noise = starting.spike_start(signal, kept)
    rate = np.where(kept, (signal - intercept) / amplitude, 0.0)
    average = np.maximum(rate.sum(axis=0) / np.maximum(kept.sum(axis=0), 1), _RATE_FLOOR)

    def to_data_units(weights: Weights) -> Weights:
        p = weights.params
        through = mean * (1.0 - p.ar_coefs.sum(axis=1))
        params = CalciumParams(p.ar_coefs, p.spike_amplitude * sd, p.noise_variance * sd**2, p.intercept * sd + through)
        return weights._replace(params=params)

    def to_fit_units(weights: Weights) -> Weights:
        p = weights.params
        through = mean * (1.0 - p.ar_coefs.sum(axis=1))
        params = CalciumParams(
            p.ar_coefs, p.spike_amplitude / sd, p.noise_variance / sd**2, (p.intercept - through) / sd
        )
        return weights._replace(params=params)

    params = CalciumParams(ar_coefs, amplitude, noise, intercept)
    return Plan(readout, y, mean, sd, kept, rate, params, np.log(average), noise, to_data_units, to_fit_units)


def _noisy(readout: Readout, recording: Recording, y: Any, mean: Any, sd: Any) -> Plan:
    mask, first = recording.mask, recording.segments.bounds[:, 0]
    prior = prior_for(recording.indicator, recording.sampling_rate)
    settings = {"ar_order": readout.order, "prior": prior, "max_frames": _CELL_FRAMES}
    start, log_rate = likelier_cells(y, mask, first, settings)
    kept = starting.scored(mask, first, readout.order)
    counts = np.where(kept, infer_cells(y, mask, first, start, log_rate).count_mean, 0.0)
    average = np.maximum(np.exp(log_rate), _RATE_FLOOR)

    def refine(params: CalciumNoisyParams, log_rate: NDArray[np.floating]) -> CalciumNoisyParams:
        found = fit_cells(y, mask, first, start=params, log_rate=log_rate, max_calls=_REFINE_CALLS, **settings)
        return found.params

    def to_data_units(weights: Weights) -> Weights:
        p = weights.params
        noise = p.noise_variance * sd**2, p.measurement_variance * sd**2
        params = CalciumNoisyParams(p.ar_coefs, p.spike_amplitude * sd, *noise, p.baseline * sd + mean)
        return weights._replace(params=params)

    def to_fit_units(weights: Weights) -> Weights:
        p = weights.params
        noise = p.noise_variance / sd**2, p.measurement_variance / sd**2
        params = CalciumNoisyParams(p.ar_coefs, p.spike_amplitude / sd, *noise, (p.baseline - mean) / sd)
        return weights._replace(params=params)

    offset, variance = np.log(average), np.asarray(start.noise_variance)
    return Plan(
        readout, y, mean, sd, kept, counts, start, offset, variance, to_data_units, to_fit_units, refine
    )  # fmt: skip


def _gaussian(readout: Readout, y: Any, mean: Any, sd: Any, signal: Any, kept: Any, ar_coefs: Any) -> Plan:
    n = np.maximum(kept.sum(axis=0), 1)
    centre = signal.sum(axis=0) / n
    spread = np.maximum((np.where(kept, signal - centre, 0.0) ** 2).sum(axis=0) / n, _VARIANCE_FLOOR)

    def to_data_units(weights: Weights) -> Weights:
        p = weights.params
        through = mean * (1.0 - p.ar_coefs.sum(axis=1))
        params = LinearParams(p.ar_coefs, p.noise_variance * sd**2)
        return Weights(weights.loadings * sd[:, None], weights.offset * sd + through, params)

    def to_fit_units(weights: Weights) -> Weights:
        p = weights.params
        through = mean * (1.0 - p.ar_coefs.sum(axis=1))
        params = LinearParams(p.ar_coefs, p.noise_variance / sd**2)
        return Weights(weights.loadings / sd[:, None], (weights.offset - through) / sd, params)

    params = LinearParams(ar_coefs, spread)
    return Plan(readout, y, mean, sd, kept, signal, params, centre, spread, to_data_units, to_fit_units)


def _counts(readout: Readout, recording: Recording) -> Plan:
    y, kept = np.where(recording.mask, recording.dff, 0.0), recording.mask
    wrong = (y < 0) | (y != np.round(y))
    if wrong.any():
        raise DataError(
            f'observation="poisson" takes spike counts, but X holds {y[wrong][0]:.4g}. Expected whole numbers from '
            '0; for fluorescence use observation="calcium".'
        )
    n_rois = y.shape[1]
    average = np.maximum(y.sum(axis=0) / np.maximum(kept.sum(axis=0), 1), _RATE_FLOOR)
    none, one = np.zeros(n_rois), np.ones(n_rois)

    def same(weights: Weights) -> Weights:
        return weights

    return Plan(readout, y, none, one, kept, y, PoissonParams(), np.log(average), one, same, same)
