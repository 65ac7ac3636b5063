"""Recordings drawn from the calcium hidden Markov model itself, with measurement noise it does not know of."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.simulate._data import RandomState, SimulatedSession, as_generator


def hmm_experiment(
    n_states: int = 5,
    n_rois: int = 25,
    n_frames: int = 2000,
    *,
    rate_on: float = 0.2,
    rate_off: float = 0.05,
    stay: float = 0.95,
    ar_coefs: ArrayLike | None = None,
    spike_amplitude: float = 1.0,
    noise_variance: float = 1e-2,
    measurement_sd: float = 0.2,
    sampling_rate: float | None = None,
    random_state: RandomState = None,
) -> SimulatedSession:
    r"""Simulate groups of neurons that take turns: in state k the neurons of group k fire more.

    States run through a chain, 0, 1, ..., and round again. Calcium follows

    .. math:: x_t = \sum_i \alpha_i x_{t-i} + c\, s_t + \epsilon_t, \qquad y_t = x_t + \omega_t,

    with spikes :math:`s_t \sim \mathrm{Poisson}(\lambda_{z_t})`, :math:`\epsilon_t \sim N(0, \sigma^2)` inside the
    autoregression and measurement noise :math:`\omega_t \sim N(0, \tau^2)` on top.

    Parameters
    ----------
    n_states, n_rois, n_frames : int
        How much to simulate. Neurons are dealt to the states in equal groups of neighbours.
    rate_on, rate_off : float
        Spikes per frame of a neuron in its own group's state, and in all others.
    stay : float
        Probability to stay in a state from one frame to the next.
    ar_coefs : array_like, shape (roi, order) or (order,), optional
        Autoregressive coefficients per frame. Default: order 1, drawn from N(0.8, 0.1) and clipped to [0.6, 0.95].
    spike_amplitude : float
        Rise of dF/F per spike, c.
    noise_variance : float
        Variance :math:`\sigma^2` of the noise inside the autoregression.
    measurement_sd : float
        Standard deviation :math:`\tau` of the measurement noise; 0 gives data of the model exactly.
    sampling_rate : float, optional
        Frames per second, if the frames are to have a clock.
    random_state : int, Generator, RandomState or None
        Seed.

    Returns
    -------
    SimulatedSession

    Examples
    --------
    >>> truth = hmm_experiment(n_frames=300, random_state=0)
    >>> truth.traces.shape, truth.n_states
    ((300, 25), 5)
    """
    if not 1 <= n_states <= n_rois:
        raise ValueError(f"n_states={n_states} with n_rois={n_rois}: expected 1 <= n_states <= n_rois.")
    if not 0.0 <= stay <= 1.0:
        raise ValueError(f"stay={stay} is not a probability; expected 0 to 1.")
    rng = as_generator(random_state)
    transition = stay * np.eye(n_states) + (1.0 - stay) * np.roll(np.eye(n_states), 1, axis=1)
    states = markov_chain(transition, n_frames, random_state=rng)
    group = np.arange(n_rois) * n_states // n_rois
    state_rates = np.where(group == np.arange(n_states)[:, None], rate_on, rate_off)
    spikes = rng.poisson(state_rates[states])
    coefs = _coefs(ar_coefs, n_rois, rng)
    calcium = ar_calcium(spikes, coefs, spike_amplitude, noise_variance, random_state=rng)
    return SimulatedSession(
        traces=calcium + measurement_sd * rng.standard_normal(calcium.shape),
        spikes=spikes,
        states=states,
        state_rates=state_rates,
        transition_matrix=transition,
        spike_amplitude=np.full(n_rois, float(spike_amplitude)),
        ar_coefs=coefs,
        noise_variance=np.full(n_rois, float(noise_variance)),
        measurement_sd=np.full(n_rois, float(measurement_sd)),
        sampling_rate=sampling_rate,
    )


def markov_chain(
    transition_matrix: ArrayLike,
    n_frames: int,
    *,
    initial_probs: ArrayLike | None = None,
    random_state: RandomState = None,
) -> NDArray[np.integer]:
    """Draw a path of states, shape (time,).

    Parameters
    ----------
    transition_matrix : array_like, shape (state, state)
        Rows sum to 1.
    n_frames : int
        Length of the path.
    initial_probs : array_like, shape (state,), optional
        Probabilities of the first state. Default: all alike.
    random_state : int, Generator, RandomState or None
        Seed.
    """
    matrix = np.asarray(transition_matrix, float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.allclose(matrix.sum(axis=1), 1.0):
        raise ValueError(
            f"transition_matrix has shape {matrix.shape}; expected (state, state) with rows that sum to 1."
        )
    rng = as_generator(random_state)
    n_states = len(matrix)
    start = np.full(n_states, 1.0 / n_states) if initial_probs is None else np.asarray(initial_probs, float)
    # The last edge is left out of the search, so that rounding in the sums cannot lead past the last state.
    edges = np.cumsum(matrix, axis=1)[:, :-1]
    draws = rng.random(n_frames)
    states = np.empty(n_frames, int)
    states[0] = np.searchsorted(np.cumsum(start)[:-1], draws[0], side="right")
    for t in range(1, n_frames):
        states[t] = np.searchsorted(edges[states[t - 1]], draws[t], side="right")
    return states


def ar_calcium(
    spikes: ArrayLike,
    ar_coefs: ArrayLike,
    spike_amplitude: ArrayLike = 1.0,
    noise_variance: ArrayLike = 0.0,
    *,
    random_state: RandomState = None,
) -> NDArray[np.floating]:
    r"""Return calcium :math:`x_t = \sum_i \alpha_i x_{t-i} + c s_t + N(0, \sigma^2)`, starting from rest.

    Parameters
    ----------
    spikes : array_like, shape (..., time, roi)
        Spikes per frame.
    ar_coefs : array_like, shape (roi, order)
        Coefficients per frame.
    spike_amplitude, noise_variance : float or array_like, shape (roi,)
        Rise per spike and variance per frame.
    random_state : int, Generator, RandomState or None
        Seed of the noise.
    """
    counts = np.asarray(spikes, float)
    coefs = np.asarray(ar_coefs, float)
    noise = as_generator(random_state).standard_normal(counts.shape) * np.sqrt(np.asarray(noise_variance, float))
    calcium = np.asarray(spike_amplitude, float) * counts + noise
    for t in range(1, counts.shape[-2]):
        for lag in range(1, min(coefs.shape[1], t) + 1):
            calcium[..., t, :] += coefs[:, lag - 1] * calcium[..., t - lag, :]
    return calcium


def _coefs(ar_coefs: ArrayLike | None, n_rois: int, rng: np.random.Generator) -> NDArray[np.floating]:
    if ar_coefs is None:
        return np.clip(rng.normal(0.8, 0.1, size=(n_rois, 1)), 0.6, 0.95)
    coefs = np.atleast_1d(np.asarray(ar_coefs, float))
    if coefs.ndim == 1:
        coefs = np.tile(coefs, (n_rois, 1))
    if coefs.shape[0] != n_rois:
        raise ValueError(f"ar_coefs has shape {coefs.shape}; expected ({n_rois}, order) or (order,).")
    return coefs
