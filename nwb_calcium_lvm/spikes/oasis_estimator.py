"""OASISSpikeEstimator: deconvolution without training, in the interface of the trained estimators."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.preprocessing import fill_missing
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.base import SpikeEstimator
from nwb_calcium_lvm.spikes.inputs import frame_durations, look_at, spike_times, take, warn_of_units
from nwb_calcium_lvm.spikes.oasis import decay_factor, deconvolve, penalty_for_noise
from nwb_calcium_lvm.spikes.shifts import checked_lag, moved_and_smoothed
from nwb_calcium_lvm.spikes.traces import scale_of

_AMPLITUDE = 0.2  # dF/F per spike, where nothing is known


class OASISSpikeEstimator(SpikeEstimator):
    r"""Spikes per second by non-negative deconvolution of AR(1) calcium (OASIS): the baseline without training.

    .. math::
        \min_c \tfrac12 \sum_t (y_t - c_t)^2 + \lambda \sum_t s_t
        \quad \text{subject to} \quad s_t = c_t - g\,c_{t-1} \ge 0

    solved exactly. The output is s over the rise per spike, per s.

    Parameters
    ----------
    ar_order : int, default 1
        Only 1: calcium that rises within a frame.
    decay_time : float, optional
        Of the indicator in s; g = exp(-1 / (decay_time · frame rate)). Default: of each trace, from its
        autocovariance.
    penalty : float, optional
        λ in the unit of the traces; 0 is what Suite2p does. Default: so much that what is left over is as large as the
        noise.
    spike_amplitude : float, optional
        Rise of dF/F per spike. Default: what ``fit`` found from known spikes, or the indicator's preset if the
        recording names one, or 0.2 with a warning: rates are then known up to a factor only.
    lag : float, default 0.0
        Moves the output later by this many s. Deconvolution puts spikes where calcium has risen; -0.05 is often better.
    smoothing : float, default 0.0
        Standard deviation of a Gaussian in s by which the output is smoothed.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it.

    Attributes
    ----------
    amplitude_ : float
        Rise of the trace per spike found from known spikes; NaN where ``fit`` was given none.

    References
    ----------
    Friedrich, Zhou and Paninski 2017, PLoS Computational Biology 13, e1005423.

    Examples
    --------
    >>> import numpy as np
    >>> from nwb_calcium_lvm.spikes import OASISSpikeEstimator
    >>> counts = np.zeros((300, 1), int)
    >>> counts[[50, 120, 121]] = 1
    >>> trace = 0.3 * np.convolve(counts[:, 0], np.exp(-np.arange(100) / 15.0))[:300, None]
    >>> oasis = OASISSpikeEstimator(decay_time=0.5, penalty=0.0, sampling_rate=30.0).fit(trace, counts)
    >>> oasis.predict(trace)[[50, 51, 120]].ravel().round(2).tolist()
    [1.0, 0.0, 1.0]
    """

    amplitude_: float

    def __init__(
        self,
        *,
        ar_order: int = 1,
        decay_time: float | None = None,
        penalty: float | None = None,
        spike_amplitude: float | None = None,
        lag: float = 0.0,
        smoothing: float = 0.0,
        sampling_rate: float | None = None,
    ):
        self.ar_order = ar_order
        self.decay_time = decay_time
        self.penalty = penalty
        self.spike_amplitude = spike_amplitude
        self.lag = lag
        self.smoothing = smoothing
        self.sampling_rate = sampling_rate

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Find the rise per spike where spikes are known; nothing else is learned.

        Parameters
        ----------
        X : as in :meth:`transform`
        y : array_like or list, optional
            Spike counts per frame (time, roi), or the spike times of each ROI in s.
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array.
        """
        self._check_parameters()
        given = take(self, X, groups=groups)
        self.amplitude_ = float("nan")
        if y is None:
            return self
        total, spikes = 0.0, 0
        for item, times in zip(given.items, spike_times(y, given), strict=True):
            warn_of_units(look_at(item.recording))
            total += float(np.nansum(self._deconvolved(item.recording)))
            spikes += sum(len(times[roi]) for roi in np.flatnonzero(item.recording.usable))
        if spikes and total > 0:
            self.amplitude_ = total / spikes
        return self

    def _check_parameters(self) -> None:
        if self.ar_order != 1:
            raise DataError(f"ar_order={self.ar_order!r} is not supported. Expected 1.")
        for name, least in (("decay_time", 0.0), ("spike_amplitude", 0.0)):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > least):
                raise DataError(f"{name}={value!r} is not usable. Expected a number above 0, or None.")
        if self.penalty is not None and not self.penalty >= 0:
            raise DataError(f"penalty={self.penalty!r} is not usable. Expected 0 or more, or None.")
        if not self.smoothing >= 0:
            raise DataError(f"smoothing={self.smoothing!r} is not a width. Expected s, 0 or more.")
        checked_lag(self.lag)

    def _rates(self, recording: Recording) -> NDArray[np.floating]:
        spikes = self._deconvolved(recording) / self._amplitude(recording)
        durations = frame_durations(recording)
        moved = moved_and_smoothed(spikes / durations[:, None], durations, recording, self.lag, self.smoothing)
        return moved.astype(np.float32)

    def _deconvolved(self, recording: Recording) -> NDArray[np.floating]:
        """Return s of every trace in its unit, (time, roi); NaN for traces that are constant or never observed."""
        rate = recording.sampling_rate or 1.0
        usable = np.flatnonzero(recording.usable)
        out = np.full(recording.shape, np.nan)
        if len(usable) == 0:
            return out
        filled = fill_missing(recording.dff[:, usable], recording.mask[:, usable]).astype(float)
        scale = scale_of(filled, np.ones(filled.shape, bool), recording.segments, rate, recording.units)
        traces = (filled - scale.baseline) / scale.divisor
        if self.decay_time is None:
            decay = decay_factor(traces, rate)
        else:
            decay = np.full(len(usable), np.exp(-1.0 / (self.decay_time * rate)))
        for a, b in recording.segments.bounds:
            part = traces[a:b]
            if self.penalty is None:
                penalty = penalty_for_noise(part, decay, scale.noise / scale.divisor)
            else:
                penalty = np.full(len(usable), float(self.penalty))
            out[a:b, usable] = deconvolve(part, decay, penalty).spikes
        return out

    def _amplitude(self, recording: Recording) -> float:
        if self.spike_amplitude is not None:
            return float(self.spike_amplitude)
        if np.isfinite(self.amplitude_):
            return self.amplitude_
        if recording.indicator is not None and recording.units == "dff":
            return recording.indicator.amplitude
        warnings.warn(
            f"The rise of dF/F per spike is not known; {_AMPLITUDE:g} is assumed, so rates are known up to a factor "
            "only. Pass spike_amplitude, fit with known spikes, or name the recording's indicator.",
            DataWarning,
            stacklevel=4,
        )
        return _AMPLITUDE

    def _about(self) -> dict[str, Any]:
        return super()._about() | {"description": "Non-negative deconvolution of AR(1) calcium (OASIS)."}
