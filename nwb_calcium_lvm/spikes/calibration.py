"""From rates that correlate to rates that count: one gain, and how far true counts scatter around what is predicted."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import nbinom, poisson

Array = NDArray[np.floating]

WINDOWS = (1 / 60, 1 / 30, 0.1, 0.3, 1.0, 3.0, 10.0)  # s
_NEARLY_POISSON = 1e-6


class Calibration(NamedTuple):
    """How predicted counts relate to true ones.

    Parameters
    ----------
    gain : float
        Factor on the networks' rates.
    windows, dispersion : ndarray, shape (window,)
        For counts in windows of so many s, with m expected: variance m + dispersion · m².
    n_neurons : int
        On which this was found.
    """

    gain: float
    windows: Array
    dispersion: Array
    n_neurons: int

    def dispersion_at(self, window: float) -> float:
        """Return the dispersion of counts in windows of that many s, between the windows that were measured."""
        logs = np.log(np.maximum(self.dispersion, _NEARLY_POISSON))
        return float(np.exp(np.interp(np.log(window), np.log(self.windows), logs)))


def find_gain(predicted: Array, true: Array, groups: NDArray) -> float:
    """Return the factor that makes predicted over true totals 1 on average over data sets.

    Parameters
    ----------
    predicted, true : ndarray, shape (neuron,)
        Total spikes; neurons without any do not count.
    groups : ndarray, shape (neuron,)
        Data set of each neuron; within each the median neuron stands for it.
    """
    spiking = true > 0
    if not spiking.any() or not predicted[spiking].any():
        return 1.0
    ratio, labels = predicted[spiking] / true[spiking], groups[spiking]
    return float(1.0 / np.mean([np.median(ratio[labels == g]) for g in np.unique(labels)]))


def find_dispersion(expected: list[Array], counts: list[Array]) -> float:
    """Return the dispersion of counts around what is expected, each neuron weighing the same.

    By moments: Σ((k - m)² - m) / Σm², at least 0.
    """
    over = np.array([np.mean((k - m) ** 2 - m) for m, k in zip(expected, counts, strict=True)])
    square = np.array([np.mean(m**2) for m in expected])
    return float(max(np.sum(over) / max(np.sum(square), 1e-12), 0.0))


def count_interval(expected: Array, dispersion: float, alpha: float) -> tuple[Array, Array]:
    """Return the lowest and highest count of a central interval that holds at least 1 - alpha of a negative binomial.

    Parameters
    ----------
    expected : ndarray
        Mean count.
    dispersion : float
        φ in variance = m + φ m².
    alpha : float
        Share outside.
    """
    law = _law(expected, dispersion)
    return law.ppf(alpha / 2), law.ppf(1 - alpha / 2)


def at_least(k: Any, expected: Array, dispersion: float) -> Array:
    """Return the probability of a count of ``k`` or more under the same law."""
    return _law(expected, dispersion).sf(k - 1)


def _law(expected: Array, dispersion: float) -> Any:
    mean = np.maximum(expected, 1e-12)
    if dispersion <= _NEARLY_POISSON:
        return poisson(mean)
    size = 1.0 / dispersion
    return nbinom(size, size / (size + mean))
