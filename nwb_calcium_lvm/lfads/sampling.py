"""What a fitted CalciumLFADS makes up: how trials go on, and trials that never were."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.lfads import checks, inference, learned
from nwb_calcium_lvm.lfads.recordings import windowed
from nwb_calcium_lvm.recording import Recording


def forecast(estimator: Any, recording: Recording, number: int, n_frames: int) -> tuple[NDArray[np.floating], ...]:
    """Mean and sd of factors and of expected spikes per frame after each segment, each (segment, n_frames, ...)."""
    data, windows = windowed(estimator, recording, number, estimator.overlap)
    ends = np.flatnonzero(np.isin(windows.bounds[:, 1], recording.segments.bounds[:, 1]))
    model, weights = learned.network_of(estimator)
    key = jax.random.key(estimator.seed_)
    factors, rates = inference.forecast(model, weights, data.take(ends), key, estimator.n_draws, n_frames)
    return (*factors, *(x[..., : recording.n_rois] for x in rates))


def sample_trials(
    estimator: Any, n_trials: int, n_frames: int | None, session: int, random_state: Any
) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    """Draw traces, factors and spikes, each (trial, time, ...)."""
    checks.positive("n", n_trials)
    n_frames = estimator.window_frames_ if n_frames is None else checks.positive("n_frames", n_frames)
    n_sessions = len(estimator.session_roi_ids_)
    if session not in range(n_sessions):
        raise ValueError(f"session={session!r}; expected one of 0 to {n_sessions - 1}.")
    model, weights = learned.network_of(estimator)
    key_rates, key_traces = jax.random.split(jax.random.key(int(random_state.randint(2**31 - 1))))
    factors, log_rates = inference.generate(model.graph, weights.network, session, key_rates, n_trials, n_frames)
    log_rates = log_rates[..., : len(estimator.session_roi_ids_[session])]
    params = learned.data_parameters(estimator, session)
    observation = observations.get(estimator.observation)
    drawn = [
        observation.sample(key, log_rate, params)
        for key, log_rate in zip(jax.random.split(key_traces, n_trials), log_rates, strict=True)
    ]
    return np.stack([d.y for d in drawn]), np.asarray(factors), np.stack([d.counts for d in drawn])
