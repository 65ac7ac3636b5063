"""The fitted attributes of CalciumHMM and the arrays of the compiled functions, one made from the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.hmm.em import Model
from nwb_calcium_lvm.hmm.emissions import (
    CalciumEmission,
    CalciumNoisyEmission,
    Emission,
    GaussianEmission,
    PoissonEmission,
    calcium,
    calcium_noisy,
    gaussian,
    poisson,
)
from nwb_calcium_lvm.hmm.inference import Chain

_PER_STATE = ("initial_probs_", "spikes_per_frame_", "means_", "variances_")
_PER_ROI = ("ar_coefs_", "spike_amplitude_", "noise_variance_", "measurement_variance_", "baseline_")


def emission(estimator: Any) -> Emission | CalciumNoisyEmission:
    """Return the emission of a fitted estimator."""
    if estimator.observation == "calcium":
        return CalciumEmission(order=estimator.ar_order, max_spikes=int(estimator.max_spikes_per_frame_))
    if estimator.observation == "calcium_noisy":
        return CalciumNoisyEmission(order=estimator.ar_order, max_spikes=int(estimator.max_spikes_per_frame_))
    if estimator.observation == "poisson":
        return PoissonEmission()
    return GaussianEmission(order=estimator.ar_order if estimator.observation == "ar_gaussian" else 0)


def model(estimator: Any) -> Model:
    """Return the model of a fitted estimator as JAX arrays, in the units of the data; call it under x64."""
    chain = Chain(estimator.initial_probs_, estimator.transition_matrix_)
    params: Any
    if estimator.observation == "calcium":
        intercept = estimator.baseline_ * (1.0 - estimator.ar_coefs_.sum(axis=1))
        params = calcium.Params(
            estimator.spikes_per_frame_,
            estimator.ar_coefs_,
            estimator.spike_amplitude_,
            estimator.noise_variance_,
            intercept,
        )
    elif estimator.observation == "calcium_noisy":
        params = calcium_noisy.Params(
            estimator.spikes_per_frame_,
            estimator.ar_coefs_,
            estimator.spike_amplitude_,
            estimator.noise_variance_,
            estimator.measurement_variance_,
            estimator.baseline_,
        )
    elif estimator.observation == "poisson":
        params = poisson.Params(estimator.spikes_per_frame_)
    else:
        params = gaussian.Params(estimator.means_, estimator.variances_, estimator.ar_coefs_)
    return jax.tree.map(jnp.asarray, Model(chain, params))


def store(estimator: Any, chain: Chain, params: Any) -> None:
    """Set the fitted attributes from a chain and from parameters in the units of the data."""
    estimator.initial_probs_ = np.asarray(chain.initial_probs)
    estimator.transition_matrix_ = np.asarray(chain.transition_matrix)
    for name in (*_PER_STATE[1:], *_PER_ROI):
        if hasattr(estimator, name):  # of an earlier fit with another observation model
            delattr(estimator, name)
    if isinstance(params, calcium.Params):
        estimator.spikes_per_frame_ = params.rates
        estimator.ar_coefs_ = params.ar_coefs
        estimator.spike_amplitude_ = params.spike_amplitude
        estimator.noise_variance_ = params.noise_variance
        estimator.baseline_ = params.intercept / (1.0 - params.ar_coefs.sum(axis=1))
    elif isinstance(params, calcium_noisy.Params):
        estimator.spikes_per_frame_ = params.rates
        estimator.ar_coefs_ = params.ar_coefs
        estimator.spike_amplitude_ = params.spike_amplitude
        estimator.noise_variance_ = params.noise_variance
        estimator.measurement_variance_ = params.measurement_variance
        estimator.baseline_ = params.baseline
    elif isinstance(params, poisson.Params):
        estimator.spikes_per_frame_ = params.rates
    else:
        estimator.means_, estimator.variances_, estimator.ar_coefs_ = params


def reorder(estimator: Any, order: NDArray[np.integer]) -> None:
    """Renumber the states: state i becomes what state ``order[i]`` was."""
    for name in _PER_STATE:
        if hasattr(estimator, name):
            setattr(estimator, name, getattr(estimator, name)[order])
    estimator.transition_matrix_ = estimator.transition_matrix_[np.ix_(order, order)]


def dwell_frames(transition_matrix: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean length of a visit to each state in frames, (state,); infinite where a state is never left."""
    with np.errstate(divide="ignore"):
        return 1.0 / (1.0 - np.diag(transition_matrix))
