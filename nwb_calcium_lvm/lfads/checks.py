"""What CalciumLFADS refuses, and what it warns of after a fit."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads.parameters import OBSERVATIONS
from nwb_calcium_lvm.lfads.training import Trained
from nwb_calcium_lvm.recording import Recording

PRECISIONS = ("auto", "float32", "bfloat16")
_COUNTS = {
    "n_factors": 1,
    "n_generator": 1,
    "n_controller_inputs": 0,
    "ar_order": 1,
    "n_encoder": 1,
    "n_controller": 1,
    "n_initial": 1,
    "max_epochs": 1,
    "batch_size": 1,
    "ramp_epochs": 0,
    "patience": 1,
    "n_draws": 1,
    "checkpoint_every": 1,
}
_NUMBERS = {  # name: smallest, and what it has to stay below
    "overlap": (0.0, 0.9),
    "validation_share": (0.0, 1.0),
    "dropout": (0.0, 1.0),
    "coordinated_dropout": (0.0, 1.0),
    "learning_rate": (0.0, np.inf),
    "l2": (0.0, np.inf),
    "kl_scale": (0.0, np.inf),
}


def check_parameters(estimator: Any) -> None:
    """Raise ValueError for a constructor argument that makes no sense."""
    for name, least in _COUNTS.items():
        positive(name, getattr(estimator, name), least)
    for name, (least, below) in _NUMBERS.items():
        value = getattr(estimator, name)
        if not isinstance(value, Real) or isinstance(value, bool) or not least <= float(value) < below:
            raise ValueError(f"{name}={value!r}; expected a number from {least:g} to below {below:g}.")
    for name, known in (("observation", OBSERVATIONS), ("precision", PRECISIONS)):
        if getattr(estimator, name) not in known:
            raise ValueError(f"{name}={getattr(estimator, name)!r}; expected one of {', '.join(known)}.")
    if estimator.observation == "calcium_noisy" and estimator.ar_order > 2:
        raise ValueError(f"ar_order={estimator.ar_order} with observation='calcium_noisy'; expected 1 or 2.")
    for name, unit in (("sampling_rate", "frames per second"), ("window", "s")):
        value = getattr(estimator, name)
        if value is not None and (not isinstance(value, Real) or not 0 < float(value) < np.inf):
            raise ValueError(f"{name}={value!r}; expected {unit}, above 0, or None.")


def positive(name: str, value: Any, least: int = 1) -> int:
    """Return a whole number, or raise ValueError."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}.")
    return int(value)


def check_rate(estimator: Any, recording: Recording) -> None:
    """Raise DataError for a recording at another sampling rate than the fitted one."""
    rate, fitted = recording.sampling_rate, estimator.sampling_rate_
    if rate is not None and fitted is not None and abs(rate / fitted - 1) > 0.02:
        raise DataError(
            f"X is at {rate:.6g} Hz but the model was fitted at {fitted:.6g} Hz, and its dynamics are per frame. "
            "Resample X, or fit it anew."
        )


def need_spikes(estimator: Any, what: str) -> None:
    """Raise DataError where the observation model has no spikes."""
    if estimator.observation.endswith("gaussian"):
        raise DataError(
            f'observation={estimator.observation!r} has no spikes, hence no {what}. Fit with observation="calcium".'
        )


def check_finite(trained: Trained) -> None:
    """Raise DataError where training left the finite numbers before any weights could be kept."""
    if not np.isfinite(trained.history).all():
        raise DataError(
            f"Training left the finite numbers in epoch {len(trained.history)}. Expected traces in dF/F without "
            "extreme values (or counts); lower learning_rate, or look for artefacts."
        )


def identity(estimator: Any, seed: int, fingerprint: str) -> dict[str, Any]:
    """Return what tells one training from another, as JSON can hold it."""
    parameters = estimator.get_params(deep=False)
    left_out = ("checkpoint_dir", "checkpoint_every", "random_state", "verbose", "n_draws", "sampling_rate")
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in parameters.items() if k not in left_out}
    return {**plain, "seed": seed, "data": fingerprint}


def warn(estimator: Any) -> None:
    """Say what a user should know before trusting a fit."""
    if not estimator.converged_:
        warnings.warn(
            f"CalciumLFADS stopped at max_epochs={estimator.max_epochs} while the bound on the windows left out was "
            "still rising. Raise max_epochs if history_ shows that there is more to gain.",
            ConvergenceWarning,
            stacklevel=3,
        )
