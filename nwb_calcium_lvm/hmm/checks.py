"""What CalciumHMM refuses, and what it warns of after a fit."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.hmm.plans import OBSERVATIONS, Plan
from nwb_calcium_lvm.observations.starting import lone_peaks, scored
from nwb_calcium_lvm.recording import Recording

SOLVERS = ("em", "gradient")


def check_parameters(estimator: Any) -> None:
    """Raise ValueError for a constructor argument that makes no sense."""
    for name, least in (("n_states", 1), ("ar_order", 1), ("n_init", 1), ("max_iter", 1)):
        value = getattr(estimator, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}.")
    for name in ("tol", "stickiness", "transition_prior", "prior_frames"):
        value = getattr(estimator, name)
        if not isinstance(value, Real) or not 0 <= float(value) < np.inf:
            raise ValueError(f"{name}={value!r}; expected a number of at least 0.")
    for name, known in (("observation", OBSERVATIONS), ("solver", SOLVERS)):
        if getattr(estimator, name) not in known:
            raise ValueError(f"{name}={getattr(estimator, name)!r}; expected one of {', '.join(known)}.")
    if estimator.observation == "calcium_noisy":
        if estimator.solver != "em":
            raise ValueError(
                f'solver={estimator.solver!r} does not know observation="calcium_noisy", whose states and calcium are '
                'fitted by expectation propagation. Leave solver="em".'
            )
        if estimator.ar_order > 2:
            raise ValueError(f'ar_order={estimator.ar_order!r}; observation="calcium_noisy" takes 1 or 2.')
    most, rate = estimator.max_spikes_per_frame, estimator.sampling_rate
    if most is not None and (not isinstance(most, Integral) or most < 1):
        raise ValueError(f"max_spikes_per_frame={most!r}; expected a whole number of at least 1, or None.")
    if rate is not None and (not isinstance(rate, Real) or not 0 < float(rate) < np.inf):
        raise ValueError(f"sampling_rate={rate!r}; expected frames per second, above 0, or None.")


def check_length(estimator: Any, recording: Recording) -> None:
    """Raise DataError where there is too little to fit."""
    n_frames = recording.n_frames
    if n_frames < estimator.n_states:
        raise DataError(
            f"X has {n_frames} frames (n_samples={n_frames}) but the model has {estimator.n_states} states. Expected "
            "many more frames than states; is X (time, roi)?"
        )
    n_scored = scored(recording.mask, recording.segments.bounds[:, 0], estimator._order).sum(axis=0)
    short = n_scored < max(2, estimator._order + 2)
    if short.any():
        raise DataError(
            f"{short.sum()} of {recording.n_rois} ROIs have fewer than {max(2, estimator._order + 2)} samples to fit: "
            f"each sample needs {estimator._order} observed frames before it in its trial. Pass longer trials, or "
            f"leave out ROIs {', '.join(str(i) for i in recording.roi_ids[short][:8])}."
        )


def as_labels(estimator: Any, init_states: Any, recording: Recording) -> NDArray[np.integer] | None:
    """Return the states to start from, (time,), or raise DataError."""
    if init_states is None:
        return None
    # A stack (trial, time) or a list of trials lies end to end, as the traces do.
    parts = init_states if isinstance(init_states, list | tuple) else []
    is_list = len(parts) > 0 and all(np.ndim(part) == 1 for part in parts)
    labels = np.concatenate([np.asarray(part) for part in parts]) if is_list else np.ravel(init_states)
    if labels.shape != (recording.n_frames,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"init_states has shape {labels.shape} and dtype {labels.dtype}; expected a whole number per frame, "
            f"({recording.n_frames},): 0 .. {estimator.n_states - 1}, or -1 where unknown."
        )
    missing = sorted(set(range(estimator.n_states)) - set(labels.tolist()))
    if missing or labels.min() < -1 or labels.max() >= estimator.n_states:
        raise DataError(
            f"init_states holds the states {sorted(set(labels.tolist()))}; expected each of 0 .. "
            f"{estimator.n_states - 1} at least once, and -1 where unknown."
        )
    return labels


def warn(estimator: Any, plan: Plan, recording: Recording) -> None:
    """Say what a user should know before trusting a fit."""
    if not estimator.converged_:
        warnings.warn(
            f"CalciumHMM stopped at max_iter={estimator.max_iter} before a step gained less than tol={estimator.tol:g} "
            "nats per sample. Raise max_iter, or tol if the states no longer change.",
            ConvergenceWarning,
            stacklevel=3,
        )
    if estimator.observation in ("calcium", "calcium_noisy"):
        _warn_of_lone_peaks(estimator, plan)
        _warn_beyond_grid(estimator, plan)
    if estimator.observation == "calcium":
        _warn_of_short_decay(estimator, recording)


def _warn_beyond_grid(estimator: Any, plan: Plan) -> None:
    """Warn where the largest jump of a trace needs more spikes than the grid of counts holds."""
    c = estimator.spike_amplitude_ / plan.sd
    largest = plan.signal.max(axis=0, where=plan.kept, initial=-np.inf)
    beyond = largest > (estimator.max_spikes_per_frame_ + 0.5) * c
    if beyond.any():
        names = ", ".join(str(i) for i in estimator.roi_ids_[beyond][:8])
        warnings.warn(
            f"{beyond.sum()} ROIs jump by more than {estimator.max_spikes_per_frame_} spikes in a frame ({names}"
            f"{', ...' if beyond.sum() > 8 else ''}): single spikes are small against the noise there, or frames hold "
            "artefacts. Look at these traces; raise max_spikes_per_frame if the jumps are real.",
            DataWarning,
            stacklevel=4,
        )


def _warn_of_lone_peaks(estimator: Any, plan: Plan) -> None:
    """Warn where one frame of an ROI jumps far beyond all others: an artefact would set the size of a spike."""
    found = lone_peaks(plan.signal, plan.kept)
    if found:
        names = ", ".join(f"{estimator.roi_ids_[roi]} (frame {frame})" for roi, frame in found[:8])
        warnings.warn(
            f"{len(found)} ROIs have one frame that jumps at least five times as far as almost all others: {names}"
            f"{', ...' if len(found) > 8 else ''}. If these are artefacts, mask them (Recording(..., mask=...) or "
            "recording.exclude) and fit again: the model takes them for spikes.",
            DataWarning,
            stacklevel=4,
        )


def _warn_of_short_decay(estimator: Any, recording: Recording) -> None:
    """Warn where calcium seems to decay much faster than the indicator does: a sign of measurement noise.

    The model has all its noise inside the autoregression, so that noise which does not outlast its frame pulls the
    coefficients down, and calcium that goes on decaying looks like more spikes.
    """
    if recording.indicator is None or estimator.sampling_rate_ is None:
        return
    found = float(np.median(estimator.decay_time_))
    expected = recording.indicator.decay_time
    if found < expected / 3:
        warnings.warn(
            f"The median decay time is {found:.3g} s, but {recording.indicator.name} decays in about {expected:.3g} s. "
            "The traces hold noise that does not outlast a frame, which this model can only explain by fast decay. Do "
            "not trust decay_time_ and spike_amplitude_; states may last into the decay of calcium. Fit with "
            'observation="calcium_noisy", which has that noise in the model, and compare by held-out score.',
            DataWarning,
            stacklevel=4,
        )
