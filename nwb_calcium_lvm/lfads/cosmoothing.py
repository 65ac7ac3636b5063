"""Neurons that the encoders did not see, predicted from the others."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm._core.cosmoothing import CoSmoothing, as_columns, at_constant_rate
from nwb_calcium_lvm.lfads import learned
from nwb_calcium_lvm.lfads.recordings import infer_recording
from nwb_calcium_lvm.observations.autoregression import innovations
from nwb_calcium_lvm.recording import Recording


def cosmooth(estimator: Any, recording: Recording, number: int, held_out: Any) -> CoSmoothing:
    """See :meth:`nwb_calcium_lvm.lfads.CalciumLFADS.cosmooth`."""
    columns = as_columns(held_out, recording.n_rois)
    hidden = np.isin(np.arange(estimator.shape_.n_rois), columns)
    found, windows, scored = infer_recording(estimator, recording, number, 0.0, hidden)
    n = np.maximum(scored[:, :, columns].sum(axis=(0, 1)), 1)
    own = found.log_likelihood[:, columns].sum(axis=0) / n - np.log(estimator.scales_[number].sd[columns])
    rates, std = (windows.join(x[:, :, columns]) for x in found.rates)
    # The constant rate is scored on the same windows, hence on the same samples.
    cut = (windows.cut(recording.dff[:, columns]), windows.cut(recording.mask[:, columns]), scored[:, :, columns])
    y, observed, scored = (a.reshape(-1, len(columns)) for a in cut)
    starts = np.tile(np.arange(windows.length) == 0, len(windows))
    params = jax.tree.map(lambda a: a[columns], learned.data_parameters(estimator, number))
    with jax.enable_x64(True):
        y = np.where(observed, y, 0.0).astype(float)
        model = observations.get(estimator.observation)
        null = at_constant_rate(model, y, observed, scored, starts, params, _log_rates(estimator, y, scored, params))
        null = np.asarray(null) / n
    return CoSmoothing(columns, rates, std, own, null)


def _log_rates(estimator: Any, y: NDArray[np.floating], scored: NDArray[np.bool_], params: Any) -> NDArray[np.floating]:
    """Where the search for the best constant rate starts; for models without spikes, the best one."""
    if not estimator.observation.endswith("gaussian"):
        return np.full(y.shape[1], -2.0)
    if estimator.observation == "gaussian":
        residual = y - params.offset
    else:
        residual = np.asarray(innovations(y, params.ar_coefs, params.intercept))
    mean = np.where(scored, residual, 0.0).sum(axis=0) / np.maximum(scored.sum(axis=0), 1)
    return np.log(np.maximum(mean / params.gain, 1e-9))
