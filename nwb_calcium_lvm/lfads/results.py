"""The InferenceResult of a CalciumLFADS."""

from __future__ import annotations

from typing import Any

import numpy as np

from nwb_calcium_lvm._core.persistence import state_of
from nwb_calcium_lvm.lfads.inference import Inferred
from nwb_calcium_lvm.lfads.windows import Windows
from nwb_calcium_lvm.observations import DESCRIPTIONS
from nwb_calcium_lvm.observations.autoregression import decay_time
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray

_FACTOR, _ROI, _INPUT = ("time", "factor"), ("time", "roi"), ("time", "input")


def build_result(
    estimator: Any, recording: Recording, number: int, found: Inferred, windows: Windows
) -> InferenceResult:
    """Assemble what was inferred from one recording."""
    return InferenceResult(
        arrays=_arrays(estimator, recording, found, windows),
        parameters=_parameters(estimator, number, found, windows),
        time=recording.timestamps,
        time_unit="s" if recording.has_clock else "frames",
        sampling_rate=recording.sampling_rate,
        is_regular=recording.is_regular and len(recording.segments) == 1,
        roi_ids=recording.roi_ids,
        segments=recording.segments,
        model={
            "name": type(estimator).__name__,
            "description": "Latent factor analysis via dynamical systems of "
            f"{DESCRIPTIONS[estimator.observation]} with {estimator.n_factors} factors.",
            "hyperparameters": _plain(estimator.get_params(deep=False)),
            "random_state": estimator.random_state if isinstance(estimator.random_state, int) else None,
            "n_iter": estimator.n_iter_,
            "objective": "evidence lower bound on windows left out (nats per sample of standardised traces)",
            "objective_history": np.asarray(estimator.history_[:, 1]),
        },
        converged=estimator.converged_,
        source=recording.source,
        metadata=recording.metadata,
        roi_metadata=recording.roi_metadata,
        fitted=state_of(estimator),
    )


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    folder = parameters["checkpoint_dir"]
    return parameters | {"checkpoint_dir": None if folder is None else str(folder)}


def _arrays(estimator: Any, recording: Recording, found: Inferred, windows: Windows) -> dict[str, NamedArray]:
    def named(values: Any, dims: tuple[str, ...], unit: str, text: str) -> NamedArray:
        return NamedArray(windows.join(values).astype(np.float32), dims, unit, text)

    out = {
        "factors": named(found.factors.mean, _FACTOR, "a.u.", "Posterior mean of the factors."),
        "factors_std": named(found.factors.std, _FACTOR, "a.u.", "Posterior standard deviation of the factors."),
    }
    rate, n = recording.sampling_rate or estimator.sampling_rate_, recording.n_rois
    if rate is not None and not estimator.observation.endswith("gaussian"):
        mean, std = (rate * x[..., :n] for x in found.rates)
        out["firing_rates"] = named(mean, _ROI, "Hz", "Posterior mean of the firing rate.")
        out["firing_rates_std"] = named(std, _ROI, "Hz", "Posterior standard deviation of the firing rate.")
    if found.inputs.mean.shape[-1]:
        out["inputs"] = named(found.inputs.mean, _INPUT, "a.u.", "Posterior mean of the inferred inputs.")
        out["inputs_std"] = named(found.inputs.std, _INPUT, "a.u.", "Posterior standard deviation of the inputs.")
    return out


def _parameters(estimator: Any, number: int, found: Inferred, windows: Windows) -> dict[str, NamedArray]:
    several = len(estimator.session_roi_ids_) > 1

    def of(name: str) -> Any:
        values = getattr(estimator, f"{name}_", None)
        return values[number] if several and values is not None else values

    spikes = not estimator.observation.endswith("gaussian")
    out = {
        "loadings": NamedArray(of("loadings"), ("roi", "factor"), "1", "Loadings of the ROI's log rate on factors."),
        "offset": NamedArray(
            of("offset"), ("roi",), "log spikes/frame" if spikes else "a.u.", "Log rate where the factors are 0."
        ),
        "initial_condition": NamedArray(
            found.initial.mean, ("window", "dimension"), "a.u.", "Posterior mean of the initial condition."
        ),
        "initial_condition_std": NamedArray(
            found.initial.std, ("window", "dimension"), "a.u.", "Its posterior standard deviation."
        ),
        "window_bounds": NamedArray(
            windows.bounds, ("window", "bound"), "frames", "First frame of each window, and the one after its last."
        ),
    }
    for name, unit, text in (
        ("spike_amplitude", "dF/F", "Rise of the trace caused by one spike."),
        ("gain", "dF/F", "Rise of the trace per unit of the rate."),
        ("noise_variance", "(dF/F)^2", "Variance of the noise inside the autoregression, or of the trace."),
        ("measurement_variance", "(dF/F)^2", "Variance of the noise on top of calcium."),
        ("baseline", "dF/F", "Level of the trace without spikes."),
    ):
        if of(name) is not None:
            out[name] = NamedArray(of(name), ("roi",), unit, text)
    coefs = of("ar_coefs")
    if coefs is not None and coefs.shape[1]:
        out["ar_coefs"] = NamedArray(coefs, ("roi", "lag"), "1/frame", "Autoregressive coefficients per frame.")
        if estimator.sampling_rate_ is not None:
            decay = decay_time(coefs) / estimator.sampling_rate_
            out["decay_time"] = NamedArray(decay, ("roi",), "s", "Decay time constant of the ROI's calcium.")
    return out
