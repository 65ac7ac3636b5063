"""The InferenceResult of a CalciumGPFA."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm._core.persistence import state_of
from nwb_calcium_lvm.observations import DESCRIPTIONS
from nwb_calcium_lvm.observations.autoregression import decay_time
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray


def build_result(
    estimator: Any, recording: Recording, arrays: dict[str, NDArray[np.floating]], bound: float
) -> InferenceResult:
    """Assemble what was inferred from one recording; ``arrays`` are those that the model has."""
    rate = recording.sampling_rate or estimator.sampling_rate_
    return InferenceResult(
        arrays={name: NamedArray(values, *_ARRAYS[name]) for name, values in arrays.items()},
        parameters=_parameters(estimator, rate),
        time=recording.timestamps,
        time_unit="s" if recording.has_clock else "frames",
        sampling_rate=recording.sampling_rate,
        is_regular=recording.is_regular and len(recording.segments) == 1,
        roi_ids=recording.roi_ids,
        segments=recording.segments,
        model={
            "name": type(estimator).__name__,
            "description": f"Gaussian-process factor analysis of {DESCRIPTIONS[estimator.observation]} with "
            f"{estimator.n_latents_} latents.",
            "hyperparameters": estimator.get_params(deep=False),
            "random_state": estimator.random_state if isinstance(estimator.random_state, int) else None,
            "n_iter": estimator.n_iter_,
            "objective": "evidence lower bound (nats)",
            "objective_history": np.asarray(estimator.elbo_history_),
            "log_likelihood": bound,
        },
        converged=estimator.converged_,
        source=recording.source,
        metadata=recording.metadata,
        roi_metadata=recording.roi_metadata,
        fitted=state_of(estimator),
    )


_LATENT, _ROI = ("time", "latent"), ("time", "roi")
_ARRAYS = {
    "latents": (_LATENT, "a.u.", "Posterior mean of the orthonormalised latents."),
    "latents_std": (_LATENT, "a.u.", "Posterior standard deviation of the latents."),
    "firing_rates": (_ROI, "Hz", "Posterior mean of the firing rate."),
    "firing_rates_std": (_ROI, "Hz", "Posterior standard deviation of the firing rate."),
    "expected_spikes": (_ROI, "spikes", "Posterior mean number of spikes in each frame."),
    "trace_means": (_ROI, "a.u.", "What of the trace, or of its autoregressive residual, the latents explain."),
}


def _parameters(estimator: Any, rate: float | None) -> dict[str, NamedArray]:
    spikes = not estimator.observation.endswith("gaussian")
    eta = "log spikes/frame" if spikes else "a.u."
    out = {
        "loadings": NamedArray(
            estimator.loadings_, ("roi", "latent"), "1", "Orthonormal loadings of the ROI on the latents."
        ),
        "offset": NamedArray(estimator.offset_, ("roi",), eta, "Value of the ROI's drive where the latents are 0."),
        "explained_variance_ratio": NamedArray(
            estimator.explained_variance_ratio_, ("latent",), "fraction", "Share of each latent in the prior variance."
        ),
        "mixing": NamedArray(
            estimator.mixing_, ("latent", "process"), "1", "Latents as combinations of the Gaussian processes."
        ),
    }
    seconds = rate is not None
    out["timescale"] = NamedArray(
        estimator.timescales_frames_ / (rate if rate is not None else 1.0),
        ("process",),
        "s" if seconds else "frames",
        "Time scale of each Gaussian process.",
    )
    for name, unit, text in (
        ("spike_amplitude", "dF/F", "Rise of the trace caused by one spike."),
        ("noise_variance", "(dF/F)^2", "Variance of the noise inside the autoregression, or of the trace."),
        ("measurement_variance", "(dF/F)^2", "Variance of the white noise on top of calcium."),
        ("baseline", "dF/F", "Level of the trace without spikes."),
    ):
        if hasattr(estimator, f"{name}_"):
            out[name] = NamedArray(getattr(estimator, f"{name}_"), ("roi",), unit, text)
    if hasattr(estimator, "ar_coefs_"):
        out["ar_coefs"] = NamedArray(
            estimator.ar_coefs_, ("roi", "lag"), "1", "Autoregressive coefficients per frame, lag 1 first."
        )
        decay = decay_time(estimator.ar_coefs_)
        if rate is not None and np.isfinite(decay).all():
            out["decay_time"] = NamedArray(decay / rate, ("roi",), "s", "Decay time constant of the trace.")
    return out
