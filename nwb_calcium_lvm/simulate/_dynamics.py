"""Trials whose neurons follow a few nonlinear dynamics, with and without inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.simulate._data import RandomState, as_generator
from nwb_calcium_lvm.simulate._hmm import ar_calcium


@dataclass(frozen=True)
class SimulatedDynamics:
    """Trials together with the dynamics that made them.

    Parameters
    ----------
    traces : ndarray, shape (trial, time, roi)
        dF/F as an analysis sees it, with noise.
    spikes : ndarray of int, shape (trial, time, roi)
        Spikes in each frame.
    rates : ndarray, shape (trial, time, roi)
        Expected spikes per frame.
    latents : ndarray, shape (trial, time, latent)
        The dynamics, each with mean 0 and variance 1.
    inputs : ndarray, shape (trial, time, input)
        What drove them; no columns where nothing did.
    ar_coefs : ndarray, shape (roi, 1)
        Decay of dF/F per frame.
    spike_amplitude : ndarray, shape (roi,)
        Rise per spike.
    """

    traces: NDArray[np.floating]
    spikes: NDArray[np.integer]
    rates: NDArray[np.floating]
    latents: NDArray[np.floating]
    inputs: NDArray[np.floating]
    ar_coefs: NDArray[np.floating]
    spike_amplitude: NDArray[np.floating]


def lorenz_experiment(
    n_trials: int = 400,
    n_frames: int = 100,
    n_rois: int = 30,
    *,
    mean_rate: float = 0.42,
    loading_sd: float = 0.4,
    noise_variance: float = 1e-3,
    measurement_sd: float = 0.2,
    step: float = 0.025,
    conditions: ArrayLike | None = None,
    random_state: RandomState = None,
) -> SimulatedDynamics:
    r"""Simulate trials of neurons that follow the Lorenz system, each from a state of its own.

    .. math:: \dot x = 10 (y - x), \quad \dot y = x (28 - z) - y, \quad \dot z = x y - \tfrac{8}{3} z

    Log rates are linear in the standardised states. Decays are uniform in 0.8 to 0.95 per frame and spikes raise dF/F
    by 0.8 to 1.2.

    Parameters
    ----------
    n_trials, n_frames, n_rois : int
        How much to simulate.
    mean_rate : float
        Expected spikes per frame of every neuron, averaged over trials and time.
    loading_sd : float
        Standard deviation of the loadings.
    noise_variance : float
        Of the noise inside the autoregression.
    measurement_sd : float
        Standard deviation of the noise on top, independent from frame to frame.
    step : float
        Time of the system in a frame; integrated by one step of Runge and Kutta's fourth-order method.
    conditions : array_like, shape (trial,), optional
        Label of each trial; those of one label begin in the same state, and so follow the same path.
    random_state : int, Generator, RandomState or None
        Seed.

    Examples
    --------
    >>> truth = lorenz_experiment(n_trials=5, n_frames=20, n_rois=4, random_state=0)
    >>> truth.traces.shape, truth.latents.shape
    ((5, 20, 4), (5, 20, 3))
    """
    rng = as_generator(random_state)
    of = np.unique(np.arange(n_trials) if conditions is None else np.asarray(conditions), return_inverse=True)[1]
    if of.shape != (n_trials,):
        raise ValueError(f"conditions have shape {of.shape}; expected one label for each of {n_trials} trials.")
    state = (rng.normal(size=(of.max() + 1, 3)) * [8.0, 9.0, 8.6] + [0.0, 0.0, 23.5])[of]
    for _ in range(100):  # on to the attractor
        state = _runge_kutta(_lorenz, state, step)
    path = np.empty((n_trials, n_frames, 3))
    for t in range(n_frames):
        state = path[:, t] = _runge_kutta(_lorenz, state, step)
    inputs = np.zeros((n_trials, n_frames, 0))
    return _observe(path, inputs, n_rois, mean_rate, loading_sd, noise_variance, measurement_sd, rng)


def kicked_pendulum(
    n_trials: int = 200,
    n_frames: int = 100,
    n_rois: int = 30,
    *,
    n_kicks: float = 2.0,
    kick: float = 4.0,
    mean_rate: float = 0.42,
    loading_sd: float = 0.6,
    noise_variance: float = 1e-3,
    measurement_sd: float = 0.2,
    step: float = 0.1,
    random_state: RandomState = None,
) -> SimulatedDynamics:
    r"""Simulate trials of neurons that follow a damped pendulum which is struck at random moments.

    .. math:: \dot \theta = \omega, \quad \dot \omega = -\sin \theta - 0.1\, \omega + u_t

    The latents are :math:`\sin \theta`, :math:`\cos \theta` and :math:`\omega`.

    Parameters
    ----------
    n_trials, n_frames, n_rois, mean_rate, loading_sd, noise_variance, measurement_sd, step, random_state
        As in :func:`lorenz_experiment`.
    n_kicks : float
        Expected number of kicks in a trial.
    kick : float
        Largest change of the angular velocity by a kick, in radians per unit of time; the smallest is half of it, and
        both directions are as frequent. ``inputs`` holds the change in the frame of the kick.
    """
    rng = as_generator(random_state)
    inputs = np.zeros((n_trials, n_frames, 1))
    struck = rng.random((n_trials, n_frames)) < n_kicks / n_frames
    inputs[struck, 0] = rng.choice([-1.0, 1.0], struck.sum()) * rng.uniform(0.5 * kick, kick, struck.sum())
    state = rng.normal(size=(n_trials, 2)) * [1.5, 1.0]
    path = np.empty((n_trials, n_frames, 2))
    for t in range(n_frames):
        state[:, 1] += inputs[:, t, 0]
        state = path[:, t] = _runge_kutta(_pendulum, state, step)
    latents = np.stack([np.sin(path[..., 0]), np.cos(path[..., 0]), path[..., 1]], axis=-1)
    return _observe(latents, inputs, n_rois, mean_rate, loading_sd, noise_variance, measurement_sd, rng)


def _observe(
    latents: NDArray[np.floating],
    inputs: NDArray[np.floating],
    n_rois: int,
    mean_rate: float,
    loading_sd: float,
    noise_variance: float,
    measurement_sd: float,
    rng: np.random.Generator,
) -> SimulatedDynamics:
    """Give the latents neurons."""
    latents = (latents - latents.mean(axis=(0, 1))) / latents.std(axis=(0, 1))
    drive = latents @ (loading_sd * rng.standard_normal((latents.shape[-1], n_rois)))
    rates = np.exp(drive + np.log(mean_rate) - np.log(np.exp(drive).mean(axis=(0, 1))))
    spikes = rng.poisson(rates)
    decay, amplitude = rng.uniform(0.8, 0.95, n_rois), rng.uniform(0.8, 1.2, n_rois)
    calcium = ar_calcium(spikes, decay[:, None], amplitude, noise_variance, random_state=rng)
    traces = calcium + measurement_sd * rng.standard_normal(calcium.shape)
    return SimulatedDynamics(traces, spikes, rates, latents, inputs, decay[:, None], amplitude)


def _runge_kutta(
    slope: Callable[[NDArray[np.floating]], NDArray[np.floating]], state: NDArray[np.floating], step: float
) -> NDArray[np.floating]:
    k1 = slope(state)
    k2 = slope(state + 0.5 * step * k1)
    k3 = slope(state + 0.5 * step * k2)
    k4 = slope(state + step * k3)
    return state + step / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


def _lorenz(state: NDArray[np.floating]) -> NDArray[np.floating]:
    x, y, z = state.T
    return np.stack([10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z], axis=1)


def _pendulum(state: NDArray[np.floating]) -> NDArray[np.floating]:
    angle, velocity = state.T
    return np.stack([velocity, -np.sin(angle) - 0.1 * velocity], axis=1)
