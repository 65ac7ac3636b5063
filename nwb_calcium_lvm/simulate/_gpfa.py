"""Recordings whose neurons follow a few smooth latents, with noise and indicators the model may not know of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.simulate._data import RandomState, as_generator
from nwb_calcium_lvm.simulate._hmm import ar_calcium


@dataclass(frozen=True)
class SimulatedLatents:
    """Traces together with the latents that made them.

    Parameters
    ----------
    traces : ndarray, shape (time, roi)
        dF/F as an analysis sees it, with noise.
    spikes : ndarray of int, shape (time, roi)
        Spikes in each frame.
    rates : ndarray, shape (time, roi)
        Expected spikes per frame.
    latents : ndarray, shape (time, latent)
        The latents, each of variance 1.
    loadings : ndarray, shape (roi, latent)
        C of log rate = C x + d.
    offset : ndarray, shape (roi,)
        d, log of spikes per frame.
    timescales : ndarray, shape (latent,)
        Length scales of the latents' squared-exponential kernels, in frames.
    ar_coefs : ndarray, shape (roi, order)
        Decay of dF/F per frame.
    """

    traces: NDArray[np.floating]
    spikes: NDArray[np.integer]
    rates: NDArray[np.floating]
    latents: NDArray[np.floating]
    loadings: NDArray[np.floating]
    offset: NDArray[np.floating]
    timescales: NDArray[np.floating]
    ar_coefs: NDArray[np.floating]


def gpfa_experiment(
    n_rois: int = 30,
    n_frames: int = 4000,
    *,
    timescales: ArrayLike = (250.0, 450.0, 500.0),
    mean_rate: float = 0.15,
    loading_sd: float = 0.6,
    ar_coefs: ArrayLike = (1.7, -0.712),
    spike_amplitude: float = 1.0,
    noise_variance: float = 1e-2,
    measurement_sd: float = 0.0,
    random_state: RandomState = None,
) -> SimulatedLatents:
    r"""Simulate neurons whose log rates are linear in smooth latents.

    .. math:: x_j \sim GP(0, e^{-\tau^2 / 2 \ell_j^2}), \quad s_t \sim \mathrm{Poisson}(e^{C x_t + d}), \quad
              f_t = \sum_i \alpha_i f_{t-i} + c s_t + \epsilon_t, \quad y_t = f_t + \omega_t

    Parameters
    ----------
    n_rois, n_frames : int
        How much to simulate.
    timescales : array_like, shape (latent,)
        Length scales in frames.
    mean_rate : float
        Expected spikes per frame, averaged over time, of every neuron.
    loading_sd : float
        Standard deviation of the loadings.
    ar_coefs : array_like, shape (order,)
        Autoregressive coefficients per frame. Default: poles 0.95 and 0.75 (nearly: 0.942 and 0.758).
    spike_amplitude, noise_variance : float
        Rise per spike, and variance of the noise inside the autoregression.
    measurement_sd : float
        Standard deviation of the noise on top, independent from frame to frame.
    random_state : int, Generator, RandomState or None
        Seed.

    Examples
    --------
    >>> truth = gpfa_experiment(n_rois=5, n_frames=300, random_state=0)
    >>> truth.traces.shape, truth.latents.shape
    ((300, 5), (300, 3))
    """
    rng = as_generator(random_state)
    scales = np.atleast_1d(np.asarray(timescales, float))
    latents = np.column_stack([smooth_path(n_frames, scale, rng) for scale in scales])
    loadings = loading_sd * rng.standard_normal((n_rois, len(scales)))
    drive = latents @ loadings.T
    offset = np.log(mean_rate) - np.log(np.exp(drive).mean(axis=0))
    rates = np.exp(drive + offset)
    spikes = rng.poisson(rates)
    coefs = np.tile(np.atleast_1d(np.asarray(ar_coefs, float)), (n_rois, 1))
    calcium = ar_calcium(spikes, coefs, spike_amplitude, noise_variance, random_state=rng)
    traces = calcium + measurement_sd * rng.standard_normal(calcium.shape)
    return SimulatedLatents(traces, spikes, rates, latents, loadings, offset, scales, coefs)


def smooth_path(n_frames: int, timescale: float, random_state: RandomState = None) -> NDArray[np.floating]:
    """Draw a Gaussian process of variance 1 with a squared-exponential kernel, shape (time,).

    It is drawn on a circle longer by five time scales, so that its ends do not know of each other.
    """
    rng = as_generator(random_state)
    size = n_frames + int(np.ceil(5 * timescale))
    omega = 2 * np.pi * np.fft.rfftfreq(size)
    shape = np.exp(-0.25 * (omega * timescale) ** 2)
    path = np.fft.irfft(np.fft.rfft(rng.standard_normal(size)) * shape, size)
    two_sided = np.exp(-0.5 * (2 * np.pi * np.fft.fftfreq(size) * timescale) ** 2)
    return path[:n_frames] / np.sqrt(two_sided.mean())
