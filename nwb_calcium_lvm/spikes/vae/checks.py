"""What VAESpikeEstimator refuses, and what it warns of."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np

from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.inputs import Findings
from nwb_calcium_lvm.spikes.shifts import checked_lag
from nwb_calcium_lvm.spikes.vae.generative import model_of

CHOICES = {
    "posterior": ("correlated", "factorised"),
    "method": ("sleep", "vimco"),
    "start": ("pretrained", "random"),
}
SLOWEST, CLEANEST = 5.0, 0.4  # frame rate (Hz) and noise level (%/√Hz) that the package's networks dreamed of, at least


def check_parameters(estimator: Any) -> None:
    """Raise DataError for arguments of the constructor that mean nothing."""
    model_of(estimator.generative)
    for name, known in CHOICES.items():
        if getattr(estimator, name) not in known:
            raise DataError(f"{name}={getattr(estimator, name)!r} is not known. Expected one of {', '.join(known)}.")
    n = estimator.n_updates
    if n is not None and not (isinstance(n, Integral) and int(n) >= 0):
        raise DataError(f"n_updates={n!r} is not a number of steps. Expected 0 or more, or None.")
    if not (isinstance(estimator.n_draws, Integral) and int(estimator.n_draws) >= 2):
        raise DataError(f"n_draws={estimator.n_draws!r} is not a number of draws. Expected 2 or more.")
    if not (np.isfinite(estimator.smoothing) and estimator.smoothing >= 0):
        raise DataError(f"smoothing={estimator.smoothing!r} is not a width. Expected s, 0 or more.")
    checked_lag(estimator.lag)


def warn_of_what_was_not_dreamed(found: Findings, recording: Recording) -> None:
    """Warn of recordings unlike all that the package's networks learned from."""
    rate = recording.sampling_rate or 1.0
    if rate < 0.99 * SLOWEST:
        warnings.warn(
            f"The recording has {rate:.4g} frames per s; the package's networks were trained for {SLOWEST:g} and "
            "more. Rates are computed but have not been tested there.",
            DataWarning,
            stacklevel=5,
        )
    clean = (found.noise_level < CLEANEST) & found.usable
    if recording.units == "dff" and clean.any():
        warnings.warn(
            f"{clean.sum()} of {len(clean)} ROIs are cleaner (ν down to {found.noise_level[clean].min():.3g} "
            f"%/√Hz) than the dreams of the package's networks (from {CLEANEST:g}): "
            f"{shorten(found.roi_ids[clean])}. Large events are then taken for too many spikes. Traces that were "
            "denoised or smoothed are; pass them as recorded.",
            DataWarning,
            stacklevel=5,
        )
