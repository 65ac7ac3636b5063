"""Trials of the shape of an odor experiment in piriform cortex: slow frames, many neurons, one odor per trial."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.simulate._data import RandomState, SimulatedSession, as_generator, counted_transitions
from nwb_calcium_lvm.simulate._hmm import ar_calcium

ONSET, OFFSET = 0, 1  # states of the response; all others are spontaneous


def odor_surrogate(
    n_trials: int = 79,
    n_rois: int = 284,
    duration: float = 30.0,
    sampling_rate: float = 4.53,
    *,
    odor: tuple[float, float] = (10.0, 11.0),
    n_spontaneous: int = 6,
    response_probability: float = 0.9,
    random_state: RandomState = None,
) -> SimulatedSession:
    """Simulate trials with an odor that most of them answer with an onset state and then an offset state.

    Before and after the answer, spontaneous states with small assemblies follow one another. Calcium is
    autoregressive of order 1 with a decay of about 1.5 s, so that it outlasts the onset state. Neurons differ in
    amplitude, decay and noise, and each trial has a gain and a baseline of its own, which no model here assumes.

    Parameters
    ----------
    n_trials, n_rois : int
        Trials and neurons.
    duration, sampling_rate : float
        Length of a trial in s and frames per second.
    odor : (float, float)
        When the odor goes on and off, in s from the start of the trial.
    n_spontaneous : int
        Number of states beside ``ONSET`` (state 0) and ``OFFSET`` (state 1).
    response_probability : float
        Probability that a trial answers the odor at all.
    random_state : int, Generator, RandomState or None
        Seed.

    Returns
    -------
    SimulatedSession
        With traces of shape (trial, time, roi), and ``odor_on_time`` and ``odor_off_time`` among its trials' columns.
    """
    if n_spontaneous < 1:
        raise ValueError(f"n_spontaneous={n_spontaneous}; expected at least 1 state to be in before the odor.")
    if not 0.0 <= odor[0] < odor[1] <= duration:
        raise ValueError(f"odor={odor} s does not lie within a trial of {duration} s; expected 0 <= on < off.")
    rng = as_generator(random_state)
    n_frames = round(duration * sampling_rate)
    states = np.stack(
        [
            _trial_states(n_frames, sampling_rate, odor, n_spontaneous, rng.random() < response_probability, rng)
            for _ in range(n_trials)
        ]
    )
    rates_hz = _rates(n_rois, n_spontaneous, rng)
    gain = rng.lognormal(0.0, 0.3, size=(n_trials, 1, n_rois))
    spikes = rng.poisson(gain * rates_hz[states] / sampling_rate)
    decay_time = rng.lognormal(np.log(1.5), 0.25, size=n_rois)
    ar_coefs = np.exp(-1.0 / (sampling_rate * decay_time))[:, None]
    amplitude = rng.lognormal(np.log(0.25), 0.3, size=n_rois)
    noise_variance = rng.lognormal(np.log(0.08**2), 0.3, size=n_rois)
    measurement_sd = rng.lognormal(np.log(0.08), 0.3, size=n_rois)
    calcium = ar_calcium(spikes, ar_coefs, amplitude, noise_variance, random_state=rng)
    baseline = 0.05 * rng.standard_normal((n_trials, 1, n_rois))
    start = np.arange(n_trials) * (duration + 10.0)
    return SimulatedSession(
        traces=calcium + baseline + measurement_sd * rng.standard_normal(calcium.shape),
        spikes=spikes,
        states=states,
        state_rates=rates_hz / sampling_rate,
        transition_matrix=counted_transitions(states, len(rates_hz)),
        spike_amplitude=amplitude,
        ar_coefs=ar_coefs,
        noise_variance=noise_variance,
        measurement_sd=measurement_sd,
        sampling_rate=sampling_rate,
        trials={
            "id": np.arange(n_trials),
            "start_time": start,
            "stop_time": start + duration,
            "odor_on_time": start + odor[0],
            "odor_off_time": start + odor[1],
        },
    )


def _trial_states(
    n_frames: int,
    rate: float,
    odor: tuple[float, float],
    n_spontaneous: int,
    responds: bool,
    rng: np.random.Generator,
) -> NDArray[np.integer]:
    states = np.empty(n_frames, int)
    end = n_frames / rate
    time, state = 0.0, OFFSET + 1 + int(rng.integers(n_spontaneous))
    # The answer comes one sniff or so after the odor, and not at the same moment in every trial.
    onset = odor[0] + 0.1 + rng.gamma(2.0, 0.1) if responds else np.inf
    while time < end:
        if state == ONSET:
            stop, following = time + 1.2 + rng.gamma(4.0, 0.25), OFFSET
        else:
            mean = 3.0 if state == OFFSET else 2.5
            stop = time + 0.5 + rng.exponential(mean - 0.5)
            others = [OFFSET + 1 + k for k in range(n_spontaneous) if OFFSET + 1 + k != state]
            following = int(rng.choice(others)) if others else state
            if time < onset <= stop:
                stop, following = onset, ONSET
        states[round(time * rate) : round(stop * rate)] = state
        time, state = stop, following
    return states


def _rates(n_rois: int, n_spontaneous: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Draw rates in Hz, shape (state, roi): sparse responses to the odor and its end, small spontaneous assemblies."""
    n_states = OFFSET + 1 + n_spontaneous
    quiet = rng.lognormal(np.log(0.08), 0.7, size=n_rois)
    share = np.full(n_states, 0.08)
    share[ONSET], share[OFFSET] = 0.20, 0.12
    active = rng.random((n_states, n_rois)) < share[:, None]
    return quiet + active * rng.lognormal(np.log(1.0), 0.5, size=(n_states, n_rois))
