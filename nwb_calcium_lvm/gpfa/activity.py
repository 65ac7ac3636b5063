"""Spikes of single neurons, given their trace and what the latents say of their rate."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.observations.cells import infer_cells
from nwb_calcium_lvm.recording import Recording

# 1,100 spikes in a frame, beyond what a neuron does. Neurons that are left out may be predicted to be anywhere, and the
# exponential would overflow.
MOST_LOG_RATE = 7.0


def rates_of(
    mean: NDArray[np.floating], spread: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Mean and sd of rates whose logarithm is normal with this mean and variance, the mean up to a largest one."""
    rate = np.exp(np.minimum(mean + 0.5 * spread, MOST_LOG_RATE))
    return rate, rate * np.sqrt(np.expm1(np.minimum(spread, 2.0 * MOST_LOG_RATE)))


def expected_spikes(
    observation: str, recording: Recording, log_rate: NDArray[np.floating], params: Any
) -> NDArray[np.floating]:
    """Return the posterior mean of the counts in each frame, (time, roi), at log rates (time, roi) per frame."""
    first = recording.segments.bounds[:, 0]
    if observation == "calcium_noisy":  # in pieces: its messages take many arrays of the size of what is looked at
        found = infer_cells(recording.dff, recording.mask, first, params, log_rate)
        return found.count_mean.astype(float)
    starts = np.zeros(recording.n_frames, bool)
    starts[first] = True
    y = np.where(recording.mask, recording.dff, 0.0)
    with jax.enable_x64(True):
        model = observations.get(observation)
        return np.asarray(model.expected_counts(y, log_rate, params, recording.mask, starts=starts))
