"""Neurons left out of a recording, predicted from the others: how well a model of a population is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm.exceptions import DataError

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


def at_constant_rate(model: Any, y: Any, mask: Any, scored: Any, starts: Any, params: Any, start: Any) -> Any:
    """Nats per neuron (n,) of traces (time, n) at the best constant rate, found by EM from the log rates ``start``."""
    constant = np.asarray(start, float)
    total = np.maximum(np.asarray(scored).sum(axis=0), 1)
    for _ in range(_NULL_STEPS):  # the mean of the counts expected under it
        counts = model.expected_counts(y, np.broadcast_to(constant, y.shape), params, mask, starts=starts)
        constant = np.log(np.maximum(np.where(scored, counts, 0.0).sum(axis=0) / total, 1e-9))
    null = model.log_likelihood(y, np.broadcast_to(constant, y.shape), params, mask, starts=starts)
    return jnp.where(scored, null, 0.0).sum(axis=0)


def leave_neuron_out(estimator: Any, X: Any, y: Any = None, *, n_folds: int = 5) -> float:
    """Score a fitted model by predicting each neuron from those of other folds: bits per sample above constant rates.

    A scorer for scikit-learn: ``GridSearchCV(model, {"n_latents": [2, 4, 8]}, scoring=leave_neuron_out)`` fits on the
    training trials and scores on the others, leaving out neurons there as well. ``score`` leaves out trials only.

    Parameters
    ----------
    estimator : CalciumGPFA or CalciumLFADS
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
