"""What CalciumGPFA refuses, and what it warns of after a fit."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.gpfa.kernels import KERNELS, MARKOV
from nwb_calcium_lvm.gpfa.plans import OBSERVATIONS
from nwb_calcium_lvm.observations.starting import scored
from nwb_calcium_lvm.recording import Recording

ENGINES = ("auto", "kalman", "fourier", "blackbox")
_SILENT = 3.0  # expected spikes in the whole recording, below which an ROI tells nothing of the latents


def check_parameters(estimator: Any) -> None:
    """Raise ValueError for a constructor argument that makes no sense."""
    for name, least in (("n_latents", 1), ("ar_order", 1), ("n_init", 1), ("max_iter", 1)):
        value = getattr(estimator, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}.")
    for name in ("tol", "prior_frames"):
        value = getattr(estimator, name)
        if not isinstance(value, Real) or not 0 <= float(value) < np.inf:
            raise ValueError(f"{name}={value!r}; expected a number of at least 0.")
    for name, known in (("observation", OBSERVATIONS), ("kernel", KERNELS), ("inference", ENGINES)):
        if getattr(estimator, name) not in known:
            raise ValueError(f"{name}={getattr(estimator, name)!r}; expected one of {', '.join(known)}.")
    for name in ("ard", "learn_timescales", "warm_start"):
        if getattr(estimator, name) not in (True, False):
            raise ValueError(f"{name}={getattr(estimator, name)!r}; expected True or False.")
    rate = estimator.sampling_rate
    if rate is not None and (not isinstance(rate, Real) or not 0 < float(rate) < np.inf):
        raise ValueError(f"sampling_rate={rate!r}; expected frames per second, above 0, or None.")
    _check_engine(estimator)
    if estimator.observation == "calcium_noisy" and estimator.ar_order > 2:
        raise ValueError(f'ar_order={estimator.ar_order!r}; observation="calcium_noisy" takes 1 or 2.')


def _check_engine(estimator: Any) -> None:
    markov = estimator.kernel in MARKOV
    if estimator.inference == "kalman" and not markov:
        raise ValueError(
            f"kernel={estimator.kernel!r} has no state-space form, which inference='kalman' needs; expected one of "
            f"{', '.join(MARKOV)}, or inference='fourier'."
        )
    if estimator.inference in ("fourier", "blackbox") and markov:
        raise ValueError(
            f"inference={estimator.inference!r} works with the RBF kernel only, and kernel={estimator.kernel!r}; "
            "expected kernel='rbf', or inference='kalman'."
        )
    if estimator.inference == "blackbox" and estimator.observation == "calcium_noisy":
        raise ValueError(
            "inference='blackbox' does not know observation='calcium_noisy', whose filter would run for every sample; "
            "expected inference='fourier', or observation='calcium'."
        )


def engine_of(estimator: Any) -> str:
    """Return the engine that ``inference`` stands for: by default what goes with the kernel."""
    if estimator.inference != "auto":
        return estimator.inference
    return "kalman" if estimator.kernel in MARKOV else "fourier"


def check_size(estimator: Any, recording: Recording, order: int) -> None:
    """Raise DataError where there is too little to fit."""
    n_frames, n_rois = recording.shape
    if estimator.n_latents > n_rois:
        raise DataError(
            f"n_latents={estimator.n_latents} but X has {n_rois} ROIs (n_features = {n_rois}). Expected no more "
            "latents than neurons: what one neuron does alone is no latent. Lower n_latents; is X (time, roi)?"
        )
    n_scored = scored(recording.mask, recording.segments.bounds[:, 0], order).sum(axis=0)
    short = n_scored < order + 2
    if short.any():
        raise DataError(
            f"{short.sum()} of {n_rois} ROIs have fewer than {order + 2} samples to fit (n_samples={n_frames}): each "
            f"sample needs {order} observed frames before it in its trial. Pass longer trials, or leave out ROIs "
            f"{', '.join(str(i) for i in recording.roi_ids[short][:8])}."
        )


def as_timescales(estimator: Any, recording: Recording, rate: float | None) -> NDArray[np.floating] | None:
    """Return the starting time scales in frames, (latent,), or raise where they make no sense."""
    if estimator.timescales is None:
        return None
    unit = "frames" if rate is None else "s"
    try:
        given = np.asarray(estimator.timescales, float)
    except (TypeError, ValueError):
        given = np.full(1, np.nan)
    if given.ndim > 1 or given.size not in (1, estimator.n_latents) or not (given > 0).all():
        raise ValueError(
            f"timescales={estimator.timescales!r}; expected a number above 0 in {unit}, or one for each of the "
            f"{estimator.n_latents} latents."
        )
    frames = np.broadcast_to(given.ravel() * (rate or 1.0), estimator.n_latents).copy()
    longest = int(recording.segments.lengths.max())
    if (frames < 1.0).any() or (frames > 2.0 * longest).any():
        raise DataError(
            f"timescales={given.tolist()} {unit} are {np.round(frames, 3).tolist()} frames, but the longest trial has "
            f"{longest} frames. Expected between 1 frame and twice the longest trial: what is faster is noise, what is "
            "slower a constant. Times are in seconds where there is a sampling rate, else in frames."
        )
    return frames


def warn(estimator: Any, recording: Recording) -> None:
    """Say what a user should know before trusting a fit."""
    if not estimator.converged_ and estimator.inference != "blackbox":  # which does not ask whether it has
        warnings.warn(
            f"CalciumGPFA stopped at max_iter={estimator.max_iter} before steps gained less than tol={estimator.tol:g} "
            "nats per sample. Raise max_iter, or tol if the latents no longer change.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if not hasattr(estimator, "mean_spikes_"):
        return
    silent = estimator.mean_spikes_ * recording.mask.sum(axis=0) < _SILENT
    if silent.any():
        names = ", ".join(str(i) for i in estimator.roi_ids_[silent][:8])
        warnings.warn(
            f"{silent.sum()} ROIs have fewer than {_SILENT:g} spikes in all by the fit: {names}"
            f"{', ...' if silent.sum() > 8 else ''}. They tell nothing of the latents. "
            "Leave them out with recording.isel(roi=...).",
            DataWarning,
            stacklevel=3,
        )
