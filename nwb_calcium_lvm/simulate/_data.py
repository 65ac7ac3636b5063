"""What a simulation returns, and the random numbers it draws from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.indicators import Indicator
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.recording import Recording

RandomState = int | np.random.Generator | np.random.RandomState | None


@dataclass(frozen=True)
class SimulatedSession:
    """Traces together with everything that made them.

    Arrays over time are (time, roi), or (trial, time, roi) where the simulation is of separate trials.

    Parameters
    ----------
    traces : ndarray, shape (time, roi) or (trial, time, roi)
        dF/F as an analysis sees it, with noise.
    spikes : ndarray of int, like ``traces``
        Spikes in each frame.
    states : ndarray of int, shape (time,) or (trial, time)
        Hidden state of each frame.
    state_rates : ndarray, shape (state, roi)
        Expected spikes per frame in each state.
    transition_matrix : ndarray, shape (state, state)
        Probability to go from the row's state to the column's in one frame: of the chain that was simulated, or,
        where dwell times are not those of a chain, the fraction of frames in which it happened.
    spike_amplitude : ndarray, shape (roi,)
        Rise of dF/F per spike.
    ar_coefs : ndarray, shape (roi, order)
        Decay of dF/F per frame; for realistic biophysics the nearest single exponential.
    noise_variance : ndarray, shape (roi,)
        Variance inside the autoregression, per frame.
    measurement_sd : ndarray, shape (roi,)
        Standard deviation of what is added to dF/F on top, independent from frame to frame.
    sampling_rate : float or None
        Frames per second.
    trials : dict of str to ndarray, optional
        Trials table: ``id``, ``start_time``, ``stop_time`` and the time of an event, in s.
    indicator : Indicator, optional
        The indicator simulated.
    fluorescence, neuropil : ndarray, shape (time, roi), optional
        Raw fluorescence of the ROI (neuropil included) and of its surround, in arbitrary units.
    neuropil_coefficient : float
        How much of ``neuropil`` is in ``fluorescence``.
    """

    traces: NDArray[np.floating]
    spikes: NDArray[np.integer]
    states: NDArray[np.integer]
    state_rates: NDArray[np.floating]
    transition_matrix: NDArray[np.floating]
    spike_amplitude: NDArray[np.floating]
    ar_coefs: NDArray[np.floating]
    noise_variance: NDArray[np.floating]
    measurement_sd: NDArray[np.floating]
    sampling_rate: float | None = None
    trials: dict[str, NDArray[Any]] | None = field(default=None, repr=False)
    indicator: Indicator | None = None
    fluorescence: NDArray[np.floating] | None = field(default=None, repr=False)
    neuropil: NDArray[np.floating] | None = field(default=None, repr=False)
    neuropil_coefficient: float = 0.0

    @property
    def n_states(self) -> int:
        """Number of states simulated."""
        return len(self.state_rates)

    @property
    def n_rois(self) -> int:
        """Number of ROIs."""
        return self.traces.shape[-1]

    @property
    def rates(self) -> NDArray[np.floating]:
        """Expected spikes per frame in each frame, like ``traces``."""
        return self.state_rates[self.states]

    @property
    def firing_rates(self) -> NDArray[np.floating]:
        """Expected spikes per second in each frame, like ``traces``."""
        return self.rates * self._hz("firing_rates")

    @property
    def state_rates_hz(self) -> NDArray[np.floating]:
        """Spikes per second in each state, shape (state, roi)."""
        return self.state_rates * self._hz("state_rates_hz")

    @property
    def decay_time(self) -> NDArray[np.floating]:
        """Decay of dF/F in s (of its slowest component), shape (roi,)."""
        return -1.0 / (self._hz("decay_time") * np.log(_slowest_pole(self.ar_coefs)))

    @property
    def time(self) -> NDArray[np.floating]:
        """Time of each frame in s (frames where there is no clock) from the start of the session or trial."""
        return np.arange(self.traces.shape[-2]) / (self.sampling_rate or 1.0)

    def recording(self) -> Recording:
        """Return the traces as a Recording; separate trials become its segments."""
        if self.traces.ndim == 2:
            return Recording(
                self.traces, sampling_rate=self.sampling_rate, trials=self.trials, indicator=self.indicator
            )
        n_trials, n_frames, n_rois = self.traces.shape
        ends = np.arange(1, n_trials + 1) * n_frames
        ids = np.arange(n_trials) if self.trials is None else self.trials["id"]
        starts = np.zeros(n_trials) if self.trials is None else self.trials["start_time"]
        return Recording(
            self.traces.reshape(-1, n_rois),
            sampling_rate=self.sampling_rate,
            timestamps=None if self.sampling_rate is None else (starts[:, None] + self.time).ravel(),
            trials=self.trials,
            indicator=self.indicator,
            segments=Segments(np.column_stack([ends - n_frames, ends]), ids),
        )

    def _hz(self, name: str) -> float:
        if self.sampling_rate is None:
            raise ValueError(f"{name} is per second but this simulation has no clock. Simulate with sampling_rate=.")
        return self.sampling_rate


def as_generator(random_state: RandomState) -> np.random.Generator:
    """Return a NumPy generator for an int, a Generator, a (legacy) RandomState, or None."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31, size=4))
    return np.random.default_rng(random_state)


def counted_transitions(states: NDArray[np.integer], n_states: int) -> NDArray[np.floating]:
    """Return the fraction of frames in which each state was followed by each other, shape (state, state).

    A state that never occurs is taken to stay.
    """
    rows = np.atleast_2d(states)
    counts = np.zeros((n_states, n_states))
    np.add.at(counts, (rows[:, :-1].ravel(), rows[:, 1:].ravel()), 1.0)
    unseen = counts.sum(axis=1) == 0
    counts[unseen, unseen] = 1.0
    return counts / counts.sum(axis=1, keepdims=True)


def _slowest_pole(ar_coefs: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.array([np.max(np.abs(np.roots(np.concatenate([[1.0], -coefs])))) for coefs in ar_coefs])
