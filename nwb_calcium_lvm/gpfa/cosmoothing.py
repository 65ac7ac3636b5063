"""Neurons left out of a recording, predicted from the others: how well a model of a population is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.gpfa.readouts import GaussianReadout

_NODES = 9  # of Gauss-Hermite quadrature over the log rate
_NULL_STEPS = 50


@dataclass(frozen=True)
class CoSmoothing:
    """Neurons predicted from all others.

    Attributes
    ----------
    held_out : ndarray of int, shape (n,)
        Columns that were left out.
    rates, rates_std : ndarray, shape (time, n)
        Posterior mean and standard deviation: spikes per frame, or the trace's drive where a model has no spikes.
    log_likelihood : ndarray, shape (n,)
        Nats per scored sample of each neuron's own trace, E_q taken over the predicted rate of each frame.
    null_log_likelihood : ndarray, shape (n,)
        The same for a constant rate that fits the neuron best, all else alike.
    """

    held_out: NDArray[np.integer]
    rates: NDArray[np.floating]
    rates_std: NDArray[np.floating]
    log_likelihood: NDArray[np.floating]
    null_log_likelihood: NDArray[np.floating]

    @property
    def bits_per_sample(self) -> NDArray[np.floating]:
        """What the other neurons tell of each, (n,), above a constant rate."""
        return (self.log_likelihood - self.null_log_likelihood) / np.log(2.0)


def as_columns(held_out: Any, n_rois: int) -> NDArray[np.integer]:
    """Return columns from indices or a boolean mask, or raise DataError."""
    given = np.atleast_1d(np.asarray(held_out))
    if given.dtype == bool and given.shape == (n_rois,):
        given = np.flatnonzero(given)
    valid = given.ndim == 1 and np.issubdtype(given.dtype, np.integer) and len(given) > 0
    if not valid or given.min() < -n_rois or given.max() >= n_rois or len(np.unique(given % n_rois)) < len(given):
        raise DataError(
            f"held_out={held_out!r}; expected the columns to leave out, whole numbers 0 .. {n_rois - 1} without "
            f"repetition, or booleans of shape ({n_rois},)."
        )
    columns = given % n_rois
    if len(columns) == n_rois:
        raise DataError(f"held_out names all {n_rois} ROIs; expected some left to predict them from.")
    return columns


def predictive(
    readout: Any, y: Any, mask: Any, scored: Any, starts: Any, params: Any, mean: Any, spread: Any, offset: Any
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Nats per sample (n,) of traces (time, n) at eta ~ Normal(mean, spread), and at the best constant eta."""
    with jax.enable_x64(True):
        n = np.maximum(np.asarray(scored).sum(axis=0), 1)
        if isinstance(readout, GaussianReadout):
            own, null = _gaussian(y, scored, params, mean, spread)
        else:
            own, null = _spikes(readout.name, y, mask, scored, starts, params, mean, spread, offset)
        return np.asarray(own) / n, np.asarray(null) / n


def _spikes(name: str, y: Any, mask: Any, scored: Any, starts: Any, params: Any, mean: Any, spread: Any, offset: Any):
    model = observations.get(name)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    values = [model.log_likelihood(y, mean + z * np.sqrt(spread), params, mask, starts=starts) for z in nodes]
    logs = jnp.stack(values) + np.log(weights / weights.sum())[:, None, None]
    own = jnp.where(scored, jax.nn.logsumexp(logs, axis=0), 0.0).sum(axis=0)
    # The best constant rate, by EM: the mean of the counts expected under it.
    constant = np.asarray(offset, float)
    total = np.maximum(np.asarray(scored).sum(axis=0), 1)
    for _ in range(_NULL_STEPS):
        counts = model.expected_counts(y, np.broadcast_to(constant, y.shape), params, mask, starts=starts)
        constant = np.log(np.maximum(np.where(scored, counts, 0.0).sum(axis=0) / total, 1e-9))
    null = model.log_likelihood(y, np.broadcast_to(constant, y.shape), params, mask, starts=starts)
    return own, jnp.where(scored, null, 0.0).sum(axis=0)


def _gaussian(y: Any, scored: Any, params: Any, mean: Any, spread: Any):
    p = params.ar_coefs.shape[1]
    past = np.stack([np.roll(y, lag, axis=0) for lag in range(1, p + 1)]) if p else np.zeros((0, *y.shape))
    target = np.where(scored, y - np.einsum("itn,ni->tn", past, params.ar_coefs), 0.0)

    def total(centre: Any, variance: Any) -> Any:
        density = -0.5 * ((target - centre) ** 2 / variance + np.log(2 * np.pi * variance))
        return np.where(scored, density, 0.0).sum(axis=0)

    n = np.maximum(np.asarray(scored).sum(axis=0), 1)
    centre = target.sum(axis=0) / n
    variance = (np.where(scored, target - centre, 0.0) ** 2).sum(axis=0) / n
    return total(mean, spread + params.noise_variance), total(centre, np.maximum(variance, 1e-300))


def leave_neuron_out(estimator: Any, X: Any, y: Any = None, *, n_folds: int = 5) -> float:
    """Score a fitted model by predicting each neuron from those of other folds: bits per sample above constant rates.

    A scorer for scikit-learn: ``GridSearchCV(model, {"n_latents": [2, 4, 8]}, scoring=leave_neuron_out)`` fits on the
    training trials and scores on the others, leaving out neurons there as well. ``score`` leaves out trials only.

    Parameters
    ----------
    estimator : CalciumGPFA
        Fitted.
    X : anything the estimator takes
        The traces to predict.
    y : ignored
    n_folds : int
        Groups of neurons (every ``n_folds``-th), each left out in turn.
    """
    del y
    check_is_fitted(estimator)
    n_rois = estimator.n_features_in_
    if n_rois < 2:
        raise DataError("The model has 1 ROI; expected at least 2, to predict one from the others.")
    folds = [np.arange(i, n_rois, n_folds) for i in range(min(n_folds, n_rois))]
    bits = [estimator.cosmooth(X, fold).bits_per_sample for fold in folds]
    return float(np.concatenate(bits).mean())
