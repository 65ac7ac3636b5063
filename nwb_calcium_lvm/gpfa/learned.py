"""The fitted attributes of CalciumGPFA and the arrays of the compiled functions, one made from the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.gpfa.plans import Plan, order_of, readout_of
from nwb_calcium_lvm.gpfa.readouts import Latents, LinearParams, Weights
from nwb_calcium_lvm.observations import starting
from nwb_calcium_lvm.observations.calcium import CalciumParams
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.poisson import PoissonParams
from nwb_calcium_lvm.recording import Recording

_OF_ROIS = (
    "ar_coefs_",
    "spike_amplitude_",
    "noise_variance_",
    "measurement_variance_",
    "baseline_",
    "mean_spikes_",
)


def store(estimator: Any, weights: Weights, timescales: NDArray[np.floating], kept: NDArray[np.bool_]) -> None:
    """Set the fitted attributes from weights in the units of the data; latents not ``kept`` are left out."""
    loadings, scales = np.asarray(weights.loadings)[:, kept], timescales[kept]
    strongest = np.argsort(-(loadings**2).sum(axis=0), kind="stable")
    estimator.process_loadings_, estimator.timescales_frames_ = loadings[:, strongest], scales[strongest]
    estimator.offset_ = np.asarray(weights.offset)
    estimator.n_latents_ = len(scales)
    estimator.loadings_, estimator.mixing_, strength = orthonormal(estimator.process_loadings_)
    total = (strength**2).sum()
    estimator.explained_variance_ratio_ = strength**2 / (total if total > 0 else 1.0)
    for name in _OF_ROIS:
        if hasattr(estimator, name):  # of an earlier fit with another observation model
            delattr(estimator, name)
    params = weights.params
    if isinstance(params, CalciumParams | CalciumNoisyParams | LinearParams):
        estimator.noise_variance_ = np.asarray(params.noise_variance)
        if params.ar_coefs.shape[1]:
            estimator.ar_coefs_ = np.asarray(params.ar_coefs)
    if isinstance(params, CalciumParams | CalciumNoisyParams):
        estimator.spike_amplitude_ = np.asarray(params.spike_amplitude)
    if isinstance(params, CalciumParams):
        estimator.baseline_ = params.intercept / (1.0 - params.ar_coefs.sum(axis=1))
    if isinstance(params, CalciumNoisyParams):
        estimator.baseline_ = np.asarray(params.baseline)
        estimator.measurement_variance_ = np.asarray(params.measurement_variance)


def orthonormal(
    loadings: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Orthonormal loadings (roi, latent), the mixing (latent, latent) of the latents, and the strength of each.

    ``C x = U S W' x``: the loadings are U, the latents ``S W' x``, and their prior variances S^2, in falling order. The
    largest entry of each column of U is positive.
    """
    left, strength, right = np.linalg.svd(loadings, full_matrices=False)
    sign = np.sign(left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])])
    sign = np.where(sign == 0, 1.0, sign)
    return left * sign, (sign * strength)[:, None] * right, strength


def mean_rates(weights: Weights, latents: Latents) -> NDArray[np.floating]:
    """Posterior mean of the expected spikes per frame, averaged over frames, (roi,)."""
    out = np.empty(len(weights.offset))
    covariance = latents.covariance.reshape(len(latents.covariance), -1)
    for a in range(0, len(out), 64):
        mine = slice(a, a + 64)
        loadings = weights.loadings[mine]
        outer = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(loadings), -1)
        eta = latents.mean @ loadings.T + weights.offset[mine] + 0.5 * covariance @ outer.T
        out[mine] = np.exp(np.minimum(eta, 30.0)).mean(axis=0)
    return out


def weights_of(estimator: Any) -> Weights:
    """Return the weights of a fitted estimator in the units of the data."""
    params: Any
    if estimator.observation == "calcium":
        intercept = estimator.baseline_ * (1.0 - estimator.ar_coefs_.sum(axis=1))
        params = CalciumParams(estimator.ar_coefs_, estimator.spike_amplitude_, estimator.noise_variance_, intercept)
    elif estimator.observation == "calcium_noisy":
        params = CalciumNoisyParams(
            estimator.ar_coefs_,
            estimator.spike_amplitude_,
            estimator.noise_variance_,
            estimator.measurement_variance_,
            estimator.baseline_,
        )
    elif estimator.observation == "poisson":
        params = PoissonParams()
    else:
        n_rois = len(estimator.offset_)
        params = LinearParams(getattr(estimator, "ar_coefs_", np.zeros((n_rois, 0))), estimator.noise_variance_)
    return Weights(estimator.process_loadings_, estimator.offset_, params)


def plan_of(estimator: Any, recording: Recording) -> Plan:
    """Return the plan of a fitted model for a recording, in the units of the data."""
    order = order_of(estimator.observation, estimator.ar_order)
    n_rois = recording.n_rois
    kept = starting.scored(recording.mask, recording.segments.bounds[:, 0], order)
    none, one = np.zeros(n_rois), np.ones(n_rois)
    return Plan(
        readout=readout_of(estimator.observation, estimator.ar_order),
        y=recording.dff,
        mean=none,
        sd=one,
        kept=kept,
        signal=_rough_rates(estimator, recording),
        params=None,
        offset=none,
        variance=one,
        to_data_units=lambda weights: weights,
        to_fit_units=lambda weights: weights,
    )


def _rough_rates(estimator: Any, recording: Recording) -> NDArray[np.floating]:
    """Spikes per frame from the residual of the autoregression by itself, (time, roi); 0 where there are no spikes."""
    if estimator.observation == "poisson":
        return np.where(recording.mask, recording.dff, 0.0)
    if not hasattr(estimator, "spike_amplitude_"):
        return np.zeros_like(recording.dff)
    first = recording.segments.bounds[:, 0]
    residual, kept = starting.residual(recording.dff, recording.mask, first, estimator.ar_coefs_)
    rest = estimator.baseline_ * (1.0 - estimator.ar_coefs_.sum(axis=1))
    return np.where(kept, (residual - rest) / estimator.spike_amplitude_, 0.0)
