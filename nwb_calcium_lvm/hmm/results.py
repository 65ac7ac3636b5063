"""The InferenceResult of a CalciumHMM."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._core.persistence import state_of
from nwb_calcium_lvm.hmm.engines import Inferred
from nwb_calcium_lvm.hmm.learned import dwell_frames
from nwb_calcium_lvm.observations import DESCRIPTIONS
from nwb_calcium_lvm.observations.autoregression import decay_time
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray

_OBJECTIVES = {"calcium_noisy": "log posterior density by expectation propagation (nats)"}


def build_result(estimator: Any, recording: Recording, found: Inferred) -> InferenceResult:
    """Assemble what was inferred from one recording."""
    rate = recording.sampling_rate or estimator.sampling_rate_
    arrays = {
        "states": NamedArray(found.path, ("time",), "state", "Most probable path of hidden states (Viterbi)."),
        "state_probabilities": NamedArray(
            found.probs,
            ("time", "state"),
            "probability",
            "Posterior probability of each hidden state given the whole trace.",
        ),
    }
    arrays |= _activity(estimator, found, rate)
    return InferenceResult(
        arrays=arrays,
        parameters=_roi_parameters(estimator, rate) | _state_parameters(estimator, found.probs, rate),
        time=recording.timestamps,
        time_unit="s" if recording.has_clock else "frames",
        sampling_rate=recording.sampling_rate,
        is_regular=recording.is_regular and len(recording.segments) == 1,
        roi_ids=recording.roi_ids,
        segments=recording.segments,
        model={
            "name": type(estimator).__name__,
            "description": f"Hidden Markov model of {DESCRIPTIONS[estimator.observation]} with "
            f"{estimator.n_states} states.",
            "hyperparameters": estimator.get_params(deep=False),
            "random_state": estimator.random_state if isinstance(estimator.random_state, int) else None,
            "n_iter": estimator.n_iter_,
            "objective": _OBJECTIVES.get(estimator.observation, "log posterior density (nats)"),
            "objective_history": np.asarray(estimator.log_posterior_history_),
            "log_likelihood": found.log_likelihood,
        },
        converged=estimator.converged_,
        source=recording.source,
        metadata=recording.metadata,
        roi_metadata=recording.roi_metadata,
        fitted=state_of(estimator),
    )


def _activity(estimator: Any, found: Inferred, rate: Any) -> dict[str, NamedArray]:
    dims = ("time", "roi")
    if not hasattr(estimator, "spikes_per_frame_"):
        return {"state_means": NamedArray(found.mean, dims, "a.u.", "Mean of the trace that the states explain.")}
    out = {}
    if rate is not None:
        rates = (found.probs @ (estimator.spikes_per_frame_ * rate)).astype(np.float32)
        out["firing_rates"] = NamedArray(rates, dims, "Hz", "Firing rate expected from the posterior of the states.")
        if hasattr(estimator, "spike_amplitude_"):
            influx = rates * estimator.spike_amplitude_.astype(np.float32)
            out["influx"] = NamedArray(
                influx, dims, "1/s", "dF/F that spikes bring per second: firing rate times spike amplitude."
            )
    out["expected_spikes"] = NamedArray(found.mean, dims, "spikes", "Posterior mean number of spikes in each frame.")
    out["expected_spikes_variance"] = NamedArray(
        found.variance, dims, "spikes^2", "Posterior variance of the number of spikes in each frame."
    )
    if found.calcium is not None and found.calcium_variance is not None:
        calcium, spread = found.calcium.astype(np.float32), found.calcium_variance.astype(np.float32)
        out["calcium"] = NamedArray(calcium, dims, "dF/F", "Posterior mean of the trace without measurement noise.")
        out["calcium_variance"] = NamedArray(
            spread, dims, "(dF/F)^2", "Posterior variance of the trace without measurement noise."
        )
    return out


def _roi_parameters(estimator: Any, rate: float | None) -> dict[str, NamedArray]:
    out: dict[str, NamedArray] = {}
    if hasattr(estimator, "spike_amplitude_"):
        out["spike_amplitude"] = NamedArray(
            estimator.spike_amplitude_, ("roi",), "dF/F", "Rise of the trace caused by one spike."
        )
        out["noise_variance"] = NamedArray(
            estimator.noise_variance_, ("roi",), "(dF/F)^2", "Variance of the noise inside the autoregression."
        )
        if hasattr(estimator, "measurement_variance_"):
            out["measurement_variance"] = NamedArray(
                estimator.measurement_variance_,
                ("roi",),
                "(dF/F)^2",
                "Variance of the white noise on top of calcium.",
            )
        out["baseline"] = NamedArray(estimator.baseline_, ("roi",), "dF/F", "Level of the trace without spikes.")
        out["rate_calibrated"] = NamedArray(
            estimator.rate_calibrated_,
            ("roi",),
            "bool",
            "Whether single spikes stand out of the noise, so that rates are known and not only influx.",
        )
    if hasattr(estimator, "ar_coefs_") and estimator.ar_coefs_.shape[1]:
        out["ar_coefs"] = NamedArray(
            estimator.ar_coefs_, ("roi", "lag"), "1", "Autoregressive coefficients per frame, lag 1 first."
        )
        if rate is not None:
            out["decay_time"] = NamedArray(
                decay_time(estimator.ar_coefs_) / rate, ("roi",), "s", "Decay time constant of the trace."
            )
    return out


def _state_parameters(estimator: Any, probs: NDArray[np.floating], rate: float | None) -> dict[str, NamedArray]:
    out = {
        "occupancy": NamedArray(probs.mean(axis=0), ("state",), "fraction", "Share of frames spent in the state."),
        "initial_probs": NamedArray(
            estimator.initial_probs_, ("state",), "probability", "Probability that a trial begins in the state."
        ),
        "transition_matrix": NamedArray(
            estimator.transition_matrix_,
            ("state", "next_state"),
            "probability",
            "Probability to go from the state (row) to each state within one frame.",
        ),
    }
    if rate is not None:
        dwell = dwell_frames(estimator.transition_matrix_) / rate
        out["dwell_time"] = NamedArray(dwell, ("state",), "s", "Mean length of a visit to the state.")
    if hasattr(estimator, "spikes_per_frame_"):
        hz = rate is not None
        out["state_rates"] = NamedArray(
            estimator.spikes_per_frame_.T * (rate if rate is not None else 1.0),
            ("roi", "state"),
            "Hz" if hz else "spikes/frame",
            "Firing rate of the ROI in each state.",
        )
    else:
        out["state_means"] = NamedArray(estimator.means_.T, ("roi", "state"), "a.u.", "Mean in each state.")
        out["state_variances"] = NamedArray(
            estimator.variances_.T, ("roi", "state"), "a.u.^2", "Variance in each state."
        )
    return out
