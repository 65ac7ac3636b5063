"""A session as a microscope gives it: a saturating indicator, bleaching, neuropil, shot noise, and trials."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.simulate._data import RandomState, SimulatedSession, as_generator, counted_transitions

_STEP = 0.01  # s: spikes and calcium are followed at least this finely, within frames too.
_MEDIAN_STEP = 0.9539  # median of |x - x'| for two draws of a standard normal


@dataclass(frozen=True)
class Biophysics:
    """What lies between spikes and fluorescence.

    Parameters
    ----------
    half_saturation : float
        Spikes at once that drive the indicator half-way to its brightest.
    hill_coefficient : float
        Above 1, the first spikes count for less than the next ones.
    bleaching : float
        Fraction of the fluorescence lost by the end of the session.
    drift_sd : float
        Size of slow changes of brightness beside bleaching, as a fraction.
    neuropil_coefficient : float
        Fraction of the surround's fluorescence that is in the ROI's.
    shot_fraction : float
        Part of the noise variance that grows with brightness (photons); the rest is the same in all frames.
    """

    half_saturation: float = 12.0
    hill_coefficient: float = 1.2
    bleaching: float = 0.15
    drift_sd: float = 0.04
    neuropil_coefficient: float = 0.7
    shot_fraction: float = 0.8


def session(
    n_states: int = 4,
    n_rois: int = 40,
    duration: float = 300.0,
    sampling_rate: float = 20.0,
    *,
    indicator: str | Indicator = "GCaMP6f",
    dwell_time: float = 2.0,
    trial_every: float = 12.0,
    nu: float = 2.0,
    biophysics: Biophysics | None = None,
    random_state: RandomState = None,
) -> SimulatedSession:
    """Simulate a session of raw fluorescence with states, trials and everything that makes real data hard.

    In each state an assembly of ROIs fires at a few Hz. A trial's event brings the population into the last state,
    ``event_state = n_states - 1``, 0.1 to 0.4 s later; otherwise states follow one another at random.

    Parameters
    ----------
    n_states, n_rois : int
        At least two states.
    duration : float
        Length in s.
    sampling_rate : float
        Frames per second.
    indicator : str or Indicator
        Rise, decay and amplitude of its response to a spike.
    dwell_time : float
        Mean time in a state, in s (dwell times are gamma distributed and at least a quarter of this).
    trial_every : float
        Time from one trial's start to the next, in s; the event comes after a third of it, give or take 1 s.
    nu : float
        Noise level of dF/F: 100 times the median absolute step from frame to frame, over the root of the sampling
        rate, at baseline; 1 is a good recording and 8 a bad one.
    biophysics : Biophysics, optional
        Saturation, bleaching, neuropil.
    random_state : int, Generator, RandomState or None
        Seed.

    Returns
    -------
    SimulatedSession
        With ``fluorescence`` and ``neuropil`` raw; ``traces`` is the noisy dF/F that a perfect correction of
        neuropil and drift would give. ``trials`` has the column ``event_time``.
    """
    if n_states < 2 or n_rois < n_states:
        raise ValueError(f"n_states={n_states} with n_rois={n_rois}: expected at least 2 states and an ROI for each.")
    if not (duration > 0 and sampling_rate > 0):
        raise ValueError(f"duration={duration} s at sampling_rate={sampling_rate} Hz; expected both above 0.")
    rng = as_generator(random_state)
    preset = Indicator.named(indicator)
    physics = biophysics or Biophysics()
    n_frames = round(duration * sampling_rate)
    n_sub = max(1, int(np.ceil(1.0 / (sampling_rate * _STEP))))

    trials = _trials(duration, trial_every, rng)
    onsets = trials["event_time"] + rng.uniform(0.1, 0.4, size=len(trials["event_time"]))
    fine_states = _states(n_states, n_frames * n_sub, n_sub * sampling_rate, dwell_time, onsets, rng)
    states = fine_states.reshape(n_frames, n_sub)[:, n_sub // 2]
    rates_hz = _rates(n_states, n_rois, rng)
    fine_spikes = rng.poisson(rates_hz[fine_states] / (sampling_rate * n_sub))

    amplitude = preset.amplitude * rng.lognormal(0.0, 0.15, size=n_rois)
    decay_time = preset.decay_time * rng.lognormal(0.0, 0.1, size=n_rois)
    signal = indicator_response(
        fine_spikes, sampling_rate * n_sub, preset.rise_time, decay_time, amplitude, physics
    ).reshape(n_frames, n_sub, n_rois)
    dff = signal.mean(axis=1)  # a frame collects light for its whole duration

    measurement_sd = nu * np.sqrt(sampling_rate) / (100.0 * _MEDIAN_STEP) * rng.lognormal(0.0, 0.2, size=n_rois)
    brightness = rng.lognormal(np.log(400.0), 0.4, size=n_rois)
    baseline = brightness * _slow_changes(n_frames, n_rois, sampling_rate, physics, rng)
    neuropil = _neuropil(dff, baseline, sampling_rate, rng)
    light = baseline * (1.0 + dff)
    noise_sd = measurement_sd * baseline * np.sqrt(1.0 + physics.shot_fraction * (light / baseline - 1.0))
    noise = noise_sd * rng.standard_normal(dff.shape)
    return SimulatedSession(
        traces=dff + noise / baseline,
        spikes=fine_spikes.reshape(n_frames, n_sub, n_rois).sum(axis=1),
        states=states,
        state_rates=rates_hz / sampling_rate,
        transition_matrix=counted_transitions(states, n_states),
        spike_amplitude=amplitude,
        ar_coefs=np.exp(-1.0 / (sampling_rate * decay_time))[:, None],
        noise_variance=np.zeros(n_rois),
        measurement_sd=measurement_sd,
        sampling_rate=sampling_rate,
        trials=trials,
        indicator=preset,
        fluorescence=light + physics.neuropil_coefficient * neuropil + noise,
        neuropil=neuropil,
        neuropil_coefficient=physics.neuropil_coefficient,
    )


def indicator_response(
    spikes: NDArray[np.integer],
    rate: float,
    rise_time: float,
    decay_time: NDArray[np.floating],
    amplitude: NDArray[np.floating],
    physics: Biophysics,
) -> NDArray[np.floating]:
    """Return the noiseless dF/F of spikes: a double exponential, then a saturating (Hill) curve.

    Parameters
    ----------
    spikes : ndarray, shape (time, roi)
        Spikes per step.
    rate : float
        Steps per second.
    rise_time : float
        In s.
    decay_time, amplitude : ndarray, shape (roi,)
        In s, and the peak dF/F of a single spike.
    physics : Biophysics
        Saturation.
    """
    fall, rise = np.exp(-1.0 / (rate * decay_time)), np.exp(-1.0 / (rate * rise_time))
    slow = np.zeros(spikes.shape[1])
    fast = np.zeros(spikes.shape[1])
    calcium = np.empty(spikes.shape)
    for t, count in enumerate(spikes):
        slow = fall * slow + count
        fast = rise * fast + count
        calcium[t] = slow - fast
    steps = np.arange(1, int(10 * rate * max(rise_time, float(decay_time.max()))) + 2)[:, None]
    calcium /= np.max(fall**steps - rise**steps, axis=0)
    np.maximum(calcium, 0.0, out=calcium)

    def hill(c: NDArray[np.floating] | float) -> NDArray[np.floating]:
        power = np.power(c, physics.hill_coefficient)
        return power / (power + physics.half_saturation**physics.hill_coefficient)

    return amplitude * hill(calcium) / hill(1.0)


def _trials(duration: float, every: float, rng: np.random.Generator) -> dict[str, NDArray]:
    start = np.arange(0.0, duration - every + 1e-9, every)
    event = start + every / 3 + rng.uniform(-1.0, 1.0, size=len(start)) * min(1.0, every / 6)
    return {"id": np.arange(len(start)), "start_time": start, "stop_time": start + every, "event_time": event}


def _states(
    n_states: int,
    n_steps: int,
    rate: float,
    dwell_time: float,
    onsets: NDArray[np.floating],
    rng: np.random.Generator,
) -> NDArray[np.integer]:
    """Draw states with gamma dwell times; at each onset (s) the last state cuts in for one dwell time."""
    event_state = n_states - 1
    states = np.empty(n_steps, int)
    pending = sorted(np.ceil(onsets * rate).astype(int).tolist())
    here, state = 0, 0
    while here < n_steps:
        dwell = 0.25 * dwell_time + rng.gamma(2.0, 0.375 * dwell_time)
        stop = here + max(1, round(dwell * rate))
        while pending and pending[0] <= here:
            pending.pop(0)
        if pending and pending[0] < stop and state != event_state:
            stop = pending.pop(0)
            following = event_state
        else:
            others = [k for k in range(n_states - 1) if k != state]
            following = int(rng.choice(others)) if others else event_state
        states[here:stop] = state
        here, state = stop, following
    return states


def _rates(n_states: int, n_rois: int, rng: np.random.Generator) -> NDArray[np.floating]:
    """Draw rates in Hz, shape (state, roi): quiet ROIs, and in each state an assembly that is not."""
    quiet = rng.lognormal(np.log(0.15), 0.6, size=n_rois)
    own = rng.permutation(n_rois) % n_states == np.arange(n_states)[:, None]
    also = rng.random((n_states, n_rois)) < 0.08
    active = rng.lognormal(np.log(3.0), 0.4, size=(n_states, n_rois))
    return quiet + np.where(own | also, active, 0.0)


def _slow_changes(
    n_frames: int, n_rois: int, rate: float, physics: Biophysics, rng: np.random.Generator
) -> NDArray[np.floating]:
    """Return the baseline over its value at the start: bleaching times a slow random drift."""
    time = np.arange(n_frames) / max(1, n_frames - 1)
    bleached = 1.0 - physics.bleaching * (1.0 - np.exp(-2.0 * time)) / (1.0 - np.exp(-2.0))
    # A random walk drawn every 60 s and joined smoothly is slow enough for any baseline window in use.
    n_knots = max(2, int(np.ceil(n_frames / rate / 60.0)) + 1)
    walk = np.cumsum(rng.normal(0.0, physics.drift_sd, size=(n_knots, n_rois)), axis=0)
    place = np.linspace(0.0, n_knots - 1.0, n_frames)
    left = np.minimum(place.astype(int), n_knots - 2)
    part = (0.5 - 0.5 * np.cos(np.pi * (place - left)))[:, None]
    drift = (1.0 - part) * walk[left] + part * walk[left + 1]
    return bleached[:, None] * np.exp(drift)


def _neuropil(
    dff: NDArray[np.floating], baseline: NDArray[np.floating], rate: float, rng: np.random.Generator
) -> NDArray[np.floating]:
    """Return the surround's fluorescence: dimmer, and moved by the population as a whole and by slow waves."""
    n_frames, n_rois = dff.shape
    population = dff.mean(axis=1)
    waves = np.empty(n_frames)
    keep, wave = np.exp(-1.0 / (2.0 * rate)), 0.0
    for t, kick in enumerate(rng.normal(0.0, 0.03 * np.sqrt(1.0 - keep**2), size=n_frames)):
        wave = keep * wave + kick
        waves[t] = wave
    share = rng.uniform(0.4, 0.8, size=n_rois)
    own_noise = 0.01 * rng.standard_normal((n_frames, n_rois))
    return 0.6 * baseline * (1.0 + share * (population + waves)[:, None] + own_noise)
