"""What each observation model brings to a fit: its emission, its scale, its prior and its starting values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.hmm.data import after_first, chunk_length, pack_noisy
from nwb_calcium_lvm.hmm.em import Model
from nwb_calcium_lvm.hmm.emissions import (
    CalciumEmission,
    CalciumNoisyEmission,
    Emission,
    GaussianEmission,
    PoissonEmission,
)
from nwb_calcium_lvm.hmm.emissions import calcium as _calcium
from nwb_calcium_lvm.hmm.emissions import calcium_noisy as _noisy
from nwb_calcium_lvm.hmm.emissions import gaussian as _gaussian
from nwb_calcium_lvm.hmm.emissions import poisson as _poisson
from nwb_calcium_lvm.hmm.inference import Chain
from nwb_calcium_lvm.hmm.propagation import Beliefs, believe
from nwb_calcium_lvm.observations import starting
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cell_starts import likelier_cells, prior_for
from nwb_calcium_lvm.observations.cells import fit_cells
from nwb_calcium_lvm.recording import Recording

OBSERVATIONS = ("calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson")

_VARIANCE_FLOOR = 1e-6  # of a trace's own variance
_RATE_FLOOR = 1e-3  # spikes per frame, for starting values only
_CELL_FRAMES = 8192  # of longer recordings, what calcium's parameters are fitted to
_REFINE_CALLS = 12  # of the filter, from parameters that are nearly right
_COUNT_LIMITS = (8, 32)  # smallest and largest grid of spikes per frame that is chosen unasked


@dataclass(frozen=True)
class Plan:
    """One observation model on one set of traces.

    ``y`` (time, roi) are the traces in the units of the fit, ``mean`` and ``sd`` (roi,) what was taken out of them;
    ``signal`` (time, roi), 0 where not ``kept``, are jumps of the traces; ``features`` (time, roi) is what states are
    first sought in; ``params_from`` maps labels (time,) and a factor on the spike amplitude to starting parameters;
    ``memory`` is the decay time in frames; ``told`` (time, roi) marks the samples whose density the fit maximises;
    ``sites`` are the start of expectation propagation, and ``refine`` fits calcium's parameters to given rates
    (time, roi), where the model has such; it also returns by what share an amplitude moved at most.
    """

    emission: Emission | CalciumNoisyEmission
    y: NDArray[np.floating]
    mean: NDArray[np.floating]
    sd: NDArray[np.floating]
    signal: NDArray[np.floating]
    kept: NDArray[np.bool_]
    memory: float
    typical_mean: NDArray[np.floating]
    typical_variance: NDArray[np.floating]
    ar_mean: NDArray[np.floating]
    ar_precision: NDArray[np.floating]
    params_from: Callable[[NDArray[np.integer], float], Any]
    to_data_units: Callable[[Any], Any]
    told: NDArray[np.bool_]
    features: NDArray[np.floating]
    sites: Any = None
    refine: Callable[[Any, NDArray[np.floating]], tuple[Any, float]] | None = None

    @property
    def floor(self) -> NDArray[np.floating]:
        """Smallest variance allowed, (roi,)."""
        return np.full(self.y.shape[1], _VARIANCE_FLOOR)


def plan_for(
    observation: str,
    recording: Recording,
    n_states: int,
    ar_order: int,
    max_spikes: int | None,
    frames_per_s: float | None,
) -> Plan:
    """Return the plan of the named observation model for this recording."""
    first = recording.segments.bounds[:, 0]
    if observation == "poisson":
        return _poisson_plan(recording, n_states)
    y, mean, sd = starting.standardise(recording.dff, recording.mask)
    if observation == "calcium_noisy":
        return _noisy_plan(recording, y, mean, sd, n_states, ar_order, max_spikes, frames_per_s)
    order = 0 if observation == "gaussian" else ar_order
    if order:
        ar_coefs = starting.ar_start(y, recording.mask, first, order)
        signal, kept = starting.residual(y, recording.mask, first, ar_coefs)
    else:
        ar_coefs = np.zeros((y.shape[1], 0))
        signal, kept = np.where(recording.mask, y, 0.0), recording.mask
    ar_prior = _ar_prior(recording, order, frames_per_s)
    make = _calcium_plan if observation == "calcium" else _gaussian_plan
    return make(y, mean, sd, signal, kept, ar_coefs, ar_prior, n_states, max_spikes)


def _memory(ar_coefs: NDArray[np.floating]) -> float:
    """Decay time in frames of the slowest pole, median over ROIs; 5 where there is no autoregression."""
    if ar_coefs.shape[1] == 0:
        return 5.0
    slowest = np.array([np.abs(np.roots(np.concatenate([[1.0], -a]))).max(initial=0.0) for a in ar_coefs])
    return float(np.clip(np.median(-1.0 / np.log(np.clip(slowest, 0.05, 0.98))), 1.0, 50.0))


def _ar_prior(
    recording: Recording, order: int, frames_per_s: float | None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Gaussian prior on the AR coefficients, (order, roi): from the indicator if one is named, else none.

    The sd is what a change of the time constants by a factor of two does to the coefficients.
    """
    n_rois = recording.n_rois
    if recording.indicator is None or frames_per_s is None or order not in (1, 2):
        return np.zeros((order, n_rois)), np.zeros((order, n_rois))
    kinetics = [recording.indicator.decay_time, recording.indicator.rise_time][:order]

    def coefs(factor: float) -> NDArray[np.floating]:
        return -np.poly([np.exp(-1.0 / (factor * tau * frames_per_s)) for tau in kinetics])[1:]

    spread = np.maximum(0.5 * np.abs(coefs(2.0) - coefs(0.5)), 0.02)
    ones = np.ones((1, n_rois))
    return coefs(1.0)[:, None] * ones, (1.0 / spread**2)[:, None] * ones


def _make(params: Any, *arrays: Any) -> Any:
    """Build parameters of NumPy arrays, which become JAX's where they enter compiled code."""
    return params(*arrays)


def _state_means(
    values: NDArray[np.floating], kept: NDArray[np.bool_], labels: NDArray[np.integer], n_states: int
) -> NDArray[np.floating]:
    """Mean of kept values per state, (state, roi); the overall mean where a state has none."""
    overall = values.sum(axis=0) / np.maximum(kept.sum(axis=0), 1)
    out = np.empty((n_states, values.shape[1]))
    for k in range(n_states):
        n = kept[labels == k].sum(axis=0)
        out[k] = np.where(n > 0, values[labels == k].sum(axis=0) / np.maximum(n, 1), overall)
    return out


def _calcium_plan(y, mean, sd, signal, kept, ar_coefs, ar_prior, n_states, max_spikes) -> Plan:
    intercept, amplitude, noise = starting.spike_start(signal, kept)
    largest = signal.max(axis=0, where=kept, initial=-np.inf) - intercept
    # The grid must reach the largest jump; where that would take too many spikes, spikes must be larger.
    needed = np.ceil(np.max((largest + 4 * np.sqrt(noise)) / amplitude))
    grid = int(np.clip(needed, *_COUNT_LIMITS)) if max_spikes is None else int(max_spikes)
    amplitude = np.maximum(amplitude, largest / grid)
    emission = CalciumEmission(order=ar_coefs.shape[1], max_spikes=grid)
    overall = signal.sum(axis=0) / np.maximum(kept.sum(axis=0), 1) - intercept
    typical = np.maximum(overall / amplitude, _RATE_FLOOR)

    def params_from(labels: NDArray[np.integer], factor: float) -> Any:
        c = np.maximum(amplitude * factor, largest / grid)
        rates = np.maximum((_state_means(signal, kept, labels, n_states) - intercept) / c, _RATE_FLOOR)
        return _make(_calcium.Params, rates, ar_coefs, c, noise, intercept)

    def to_data_units(p: _calcium.Params) -> Any:
        through = mean * (1.0 - np.asarray(p.ar_coefs).sum(axis=1))
        return _make(
            _calcium.Params,
            np.asarray(p.rates),
            np.asarray(p.ar_coefs),
            np.asarray(p.spike_amplitude) * sd,
            np.asarray(p.noise_variance) * sd**2,
            np.asarray(p.intercept) * sd + through,
        )

    return Plan(
        emission,
        y,
        mean,
        sd,
        signal,
        kept,
        _memory(ar_coefs),
        typical,
        noise,
        ar_prior[0],
        ar_prior[1],
        params_from,
        to_data_units,
        kept,
        signal,
    )


def _noisy_plan(recording, y, mean, sd, n_states, ar_order, max_spikes, frames_per_s) -> Plan:
    mask, first = recording.mask, recording.segments.bounds[:, 0]
    settings = {"ar_order": ar_order, "prior": prior_for(recording.indicator, frames_per_s), "max_frames": _CELL_FRAMES}
    fixed, log_rate = likelier_cells(y, mask, first, settings)
    signal, kept = starting.residual(y, mask, first, np.asarray(fixed.ar_coefs))
    shift = np.asarray(fixed.baseline) * (1.0 - np.asarray(fixed.ar_coefs).sum(axis=1))
    largest = signal.max(axis=0, where=kept, initial=-np.inf) - shift
    gain = 1.0 + (np.asarray(fixed.ar_coefs) ** 2).sum(axis=1)
    noise = np.sqrt(fixed.noise_variance + gain * fixed.measurement_variance)
    needed = np.ceil(np.max((largest + 4 * noise) / fixed.spike_amplitude))
    grid = int(np.clip(needed, *_COUNT_LIMITS)) if max_spikes is None else int(max_spikes)
    emission = CalciumNoisyEmission(order=ar_order, max_spikes=grid)
    typical = np.maximum(np.exp(log_rate), _RATE_FLOOR)
    told = after_first(mask, first, ar_order)
    alone = _alone(emission, y, mask, first, told, _make(_noisy.Params, typical[None], *fixed[:5]), n_states)
    counts = np.asarray(alone.count_mean[: len(y)])

    def params_from(labels: NDArray[np.integer], factor: float) -> Any:
        del factor  # amplitudes were found cell by cell
        rates = np.maximum(_state_means(np.where(mask, counts, 0.0), mask, labels, n_states), _RATE_FLOOR)
        return _make(_noisy.Params, rates, *fixed[:5])

    def refine(params: _noisy.Params, rate: NDArray[np.floating]) -> tuple[Any, float]:
        begin = CalciumNoisyParams(*(np.asarray(p) for p in params[1:]))
        log_rate = np.log(np.maximum(rate, 1e-8))
        found = fit_cells(y, mask, first, start=begin, log_rate=log_rate, max_calls=_REFINE_CALLS, **settings)
        moved = np.abs(np.log(found.params.spike_amplitude / begin.spike_amplitude)).max()
        return _make(_noisy.Params, params.rates, *(np.asarray(p, float) for p in found.params[:5])), float(moved)

    def to_data_units(p: _noisy.Params) -> Any:
        return _make(
            _noisy.Params,
            np.asarray(p.rates),
            np.asarray(p.ar_coefs),
            np.asarray(p.spike_amplitude) * sd,
            np.asarray(p.noise_variance) * sd**2,
            np.asarray(p.measurement_variance) * sd**2,
            np.asarray(p.baseline) * sd + mean,
        )

    none = np.zeros((ar_order, y.shape[1]))
    return Plan(
        emission,
        y,
        mean,
        sd,
        signal,
        kept,
        _memory(np.asarray(fixed.ar_coefs)),
        typical,
        np.asarray(fixed.noise_variance),
        none,
        none,
        params_from,
        to_data_units,
        told,
        counts,
        alone.sites,
        refine,
    )


def _alone(emission, y, mask, first, told, params, n_states) -> Beliefs:
    """Infer every cell's spikes at its own constant rate: the model with a single state."""
    with jax.enable_x64(True):
        chunk = chunk_length(y.shape[1], n_states, emission.max_spikes + 1)
        data, told = pack_noisy(y, mask, first, told, chunk)
        model = Model(Chain(jnp.ones(1), jnp.ones((1, 1))), jax.tree.map(jnp.asarray, params))
        return believe(emission, model, data, told, chunk=chunk)


def _gaussian_plan(y, mean, sd, signal, kept, ar_coefs, ar_prior, n_states, max_spikes) -> Plan:
    del max_spikes
    n = np.maximum(kept.sum(axis=0), 1)
    centre = signal.sum(axis=0) / n
    spread = np.maximum((np.where(kept, signal - centre, 0.0) ** 2).sum(axis=0) / n, _VARIANCE_FLOOR)

    def params_from(labels: NDArray[np.integer], factor: float) -> Any:
        del factor
        means = _state_means(signal, kept, labels, n_states)
        misfit = np.where(kept, signal - means[labels], 0.0) ** 2
        variances = np.maximum(_state_means(misfit, kept, labels, n_states), 1e-2 * spread)
        return _make(_gaussian.Params, means, variances, ar_coefs)

    def to_data_units(p: _gaussian.Params) -> Any:
        through = mean * (1.0 - np.asarray(p.ar_coefs).sum(axis=1))
        return _make(
            _gaussian.Params,
            np.asarray(p.means) * sd + through,
            np.asarray(p.variances) * sd**2,
            np.asarray(p.ar_coefs),
        )

    emission = GaussianEmission(order=ar_coefs.shape[1])
    return Plan(
        emission,
        y,
        mean,
        sd,
        signal,
        kept,
        _memory(ar_coefs),
        centre,
        spread,
        ar_prior[0],
        ar_prior[1],
        params_from,
        to_data_units,
        kept,
        signal,
    )


def _poisson_plan(recording: Recording, n_states: int) -> Plan:
    y, kept = np.where(recording.mask, recording.dff, 0.0), recording.mask
    if (y < 0).any() or (y != np.round(y)).any():
        worst = y[(y < 0) | (y != np.round(y))][0]
        raise DataError(
            f'observation="poisson" takes spike counts, but X holds {worst:.4g}. Expected whole numbers from 0; for '
            'fluorescence use observation="calcium".'
        )
    n_rois = y.shape[1]
    typical = np.maximum(y.sum(axis=0) / np.maximum(kept.sum(axis=0), 1), _RATE_FLOOR)
    none = np.zeros((0, n_rois))

    def params_from(labels: NDArray[np.integer], factor: float) -> Any:
        del factor
        return _make(_poisson.Params, np.maximum(_state_means(y, kept, labels, n_states), _RATE_FLOOR))

    return Plan(
        PoissonEmission(),
        y,
        np.zeros(n_rois),
        np.ones(n_rois),
        y,
        kept,
        _memory(none.T),
        typical,
        np.ones(n_rois),
        none,
        none,
        params_from,
        lambda p: _make(_poisson.Params, np.asarray(p.rates)),
        kept,
        y,
    )
