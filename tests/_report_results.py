"""Results of each kind of model, made from a simulated session without a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from nwb_calcium_lvm.result import InferenceResult, NamedArray


def _result(recording: Any, name: str, arrays: Any, parameters: Any, settings: Any, **others: Any) -> InferenceResult:
    facts = {"description": f"A {name}.", "n_iter": 7, "objective": "nats", "objective_history": np.arange(8.0)}
    return InferenceResult(
        arrays=arrays,
        parameters=parameters,
        time=recording.timestamps,
        sampling_rate=recording.sampling_rate,
        roi_ids=recording.roi_ids,
        segments=recording.segments,
        model={"name": name, "hyperparameters": settings, "random_state": 0, **facts, **others.pop("model", {})},
        converged=others.pop("converged", True),
        source=recording.source,
        metadata=recording.metadata,
        **others,
    )


def per_roi(recording: Any, decay: float = 0.4, calibrated: bool = True) -> dict[str, NamedArray]:
    n = recording.n_rois
    spread = np.linspace(0.8, 1.2, n)
    return {
        "decay_time": NamedArray(decay * spread, ("roi",), "s", "Decay."),
        "spike_amplitude": NamedArray(0.3 * spread, ("roi",), "dF/F", "Amplitude."),
        "noise_variance": NamedArray(0.01 * spread, ("roi",), "(dF/F)^2", "Noise."),
        "rate_calibrated": NamedArray(np.full(n, calibrated), ("roi",), "bool", "Calibrated."),
    }


def hmm(recording: Any, path: np.ndarray, *, stay: float = 0.95, rate: float = 2.0, **others: Any) -> InferenceResult:
    """A result as of a CalciumHMM, with this path of states."""
    t, n = recording.shape
    n_states = int(path.max()) + 1
    probs = np.full((t, n_states), 0.05 / max(n_states - 1, 1))
    probs[np.arange(t), path] = 0.95
    matrix = np.full((n_states, n_states), (1 - stay) / max(n_states - 1, 1))
    np.fill_diagonal(matrix, stay)
    rates = np.full((t, n), rate, np.float32) * (1 + path[:, None])
    arrays = {
        "states": NamedArray(path.astype(int), ("time",), "state", "Path."),
        "state_probabilities": NamedArray(probs, ("time", "state"), "probability", "Posterior."),
        "firing_rates": NamedArray(rates, ("time", "roi"), "Hz", "Rates."),
    }
    parameters = others.pop("roi", per_roi(recording)) | {
        "occupancy": NamedArray(np.bincount(path) / t, ("state",), "fraction", "Share."),
        "transition_matrix": NamedArray(matrix, ("state", "next_state"), "probability", "Transitions."),
        "dwell_time": NamedArray(np.full(n_states, 1 / (1 - stay) / 10.0), ("state",), "s", "Visit."),
        "state_rates": NamedArray(rate * np.ones((n, n_states)), ("roi", "state"), "Hz", "Rates."),
    }
    settings = {"n_states": n_states, "observation": "calcium", "n_init": 5, "max_iter": 100} | others.pop(
        "settings", {}
    )
    return _result(
        recording, "CalciumHMM", arrays, parameters, settings, model={"log_likelihood": 1.5 * t * n}, **others
    )


def gpfa(recording: Any, n_latents: int = 3) -> InferenceResult:
    """A result as of a CalciumGPFA."""
    t, n = recording.shape
    rng = np.random.default_rng(0)
    latents = np.sin(np.arange(t)[:, None] / np.array([9.0, 17.0, 40.0])[:n_latents])
    arrays = {
        "latents": NamedArray(latents, ("time", "latent"), "a.u.", "Latents."),
        "latents_std": NamedArray(np.full(latents.shape, 0.1), ("time", "latent"), "a.u.", "Their sd."),
        "firing_rates": NamedArray(np.exp(rng.normal(size=(t, n))).astype(np.float32), ("time", "roi"), "Hz", "Rates."),
    }
    parameters = per_roi(recording) | {
        "loadings": NamedArray(rng.normal(size=(n, n_latents)), ("roi", "latent"), "1", "Loadings."),
        "explained_variance_ratio": NamedArray(np.array([0.7, 0.29, 0.01])[:n_latents], ("latent",), "fraction", "S."),
        "timescale": NamedArray(np.array([0.05, 1.0, 900.0])[:n_latents], ("process",), "s", "Scales."),
    }
    settings = {"n_latents": n_latents, "observation": "calcium_noisy", "max_iter": 50}
    return _result(recording, "CalciumGPFA", arrays, parameters, settings, converged=False)


def lfads(recording: Any) -> InferenceResult:
    """A result as of a CalciumLFADS that uses none of its inputs."""
    t, n = recording.shape
    arrays = {
        f"{name}{ending}": NamedArray(np.full((t, 2), value, np.float32), ("time", axis), "a.u.", name)
        for name, axis, size in (("factors", "factor", 1.0), ("inputs", "input", 0.0))
        for ending, value in (("", size), ("_std", 0.1))
    }
    parameters = {"loadings": NamedArray(np.ones((n, 2)), ("roi", "factor"), "1", "Loadings.")}
    settings = {"n_factors": 2, "observation": "calcium", "coordinated_dropout": 0.3, "ramp_epochs": 2}
    return _result(recording, "CalciumLFADS", arrays, parameters, settings)


def spikes(recording: Any) -> InferenceResult:
    """A result as of an S2SSpikeEstimator, of silent cells."""
    t, n = recording.shape
    rates = np.full((t, n), 0.01, np.float32)
    rates[::50, 0] = 0.5
    arrays = {"firing_rates": NamedArray(rates, ("time", "roi"), "Hz", "Rates.")}
    parameters = {"in_training_range": NamedArray(np.arange(n) > 0, ("roi",), "bool", "Inside.")}
    result = _result(recording, "S2SSpikeEstimator", arrays, parameters, {"lag": 0.0})
    del result.model["objective_history"]
    return result
