"""FilterSpikeEstimator: spikes from the calcium model with measurement noise, cell by cell, without training."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._core.coerce import warn_if_transposed
from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.observations.autoregression import decay_time
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cells import CellFit, CellPosterior, count_limits, fit_cells, infer_cells
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray
from nwb_calcium_lvm.spikes.base import SpikeEstimator
from nwb_calcium_lvm.spikes.filtering import OnClock, cell_prior, on_clock, own_counts, own_levels
from nwb_calcium_lvm.spikes.inputs import Findings, frame_durations, look_at, take
from nwb_calcium_lvm.spikes.shifts import checked_lag, moved_and_smoothed

READ_OUTS = ("influx", "counts")
_ERROR_OF = "standard_error_of_"  # on disk, before the name of a parameter
_SHORTEST = 10  # frames without which no parameter can be found


class _Inferred(NamedTuple):
    clock: OnClock
    rois: NDArray[np.integer]
    posterior: CellPosterior


class FilterSpikeEstimator(SpikeEstimator):
    r"""Spikes per second by filtering and smoothing a model of calcium, spikes and noise; no training set is needed.

    .. math::
        x_t = \sum_{i \le p} \alpha_i x_{t-i} + c\,s_t + \epsilon_t, \quad s_t \sim \mathrm{Poisson}(\lambda), \quad
        \epsilon_t \sim N(0, \sigma^2 + s_t \omega^2), \quad y_t = x_t + b_t + w_t, \quad w_t \sim N(0, \tau^2)

    Parameters are the most probable ones of each ROI under weak priors; spikes and calcium are inferred from the whole
    trace by expectation propagation (see :mod:`nwb_calcium_lvm.observations.calcium_noisy`).

    Parameters
    ----------
    ar_order : {1, 2}, default 2
        1: calcium rises within a frame; 2: it rises and decays.
    vary_amplitude : bool, default True
        Whether spikes may differ in size (:math:`\omega`), which takes up bursts and what is not linear.
    drift : bool, default False
        Whether the baseline may wander, as a random walk. Costs half as much again.
    read_out : {"influx", "counts"}, default "influx"
        Rates from what enters calcium, over the amplitude of a spike, which also knows how large an event was; or from
        the expected counts.
    lag : float, default -0.05
        Moves the output later by this many s. Frames are averages of what came before their time stamp, and the rise of
        an indicator begins more slowly than the model's.
    smoothing : float, default 0.05
        Standard deviation of a Gaussian in s by which rates are smoothed, for the timing that the model does not know
        is uncertain; 0 for the model's own.
    clock : float, default 30.0
        Recordings of a higher frame rate are averaged to this many frames per s, and rates brought back.
    standard_errors : bool, default False
        Compute standard errors of the parameters (``errors_``); costs as much as the fit.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it.

    Attributes
    ----------
    ar_coefs_ : ndarray, shape (roi, order)
        α, per frame of the clock, most recent first. ``decay_time_`` (roi,) is the time constant in s.
    spike_amplitude_, baseline_ : ndarray, shape (roi,)
        c and b, in dF/F.
    noise_variance_, measurement_variance_ : ndarray, shape (roi,)
        σ² and τ², in dF/F².
    amplitude_variance_, drift_variance_ : ndarray, shape (roi,)
        ω², and that of a step of the baseline, in dF/F²; 0 where not asked for.
    firing_rates_ : ndarray, shape (roi,)
        Mean rate λ in Hz.
    log_likelihood_ : ndarray, shape (roi,)
        Nats per frame of the clock. To be compared between settings of this estimator at one ``clock``.
    errors_ : dict of str to ndarray
        Standard errors, if asked for, by the name of the parameter.
    converged_ : ndarray of bool, shape (roi,)
    clock_rate_ : float
        Frames per s that parameters are in.
    roi_ids_ : ndarray

    Raises
    ------
    DataError
        Where the data cannot be used; the message says what was received, expected, and what to do.

    Notes
    -----
    Parameters belong to the ROIs they were fitted on: ``transform`` takes other recordings of the same ROIs only.
    Indicators that respond more than linearly to bursts make single spikes look small and bursts large.

    References
    ----------
    Minka 2001, Expectation propagation. Ganmor et al. 2016 and Keeley et al. (the model without measurement noise).

    Examples
    --------
    >>> import numpy as np
    >>> from nwb_calcium_lvm.spikes import FilterSpikeEstimator
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(0.03, size=(600, 1))
    >>> calcium = np.convolve(counts[:, 0], 0.3 * np.exp(-np.arange(60) / 15.0))[:600, None]
    >>> trace = calcium + 0.03 * rng.standard_normal((600, 1))
    >>> estimator = FilterSpikeEstimator(ar_order=1, vary_amplitude=False, lag=0.0, sampling_rate=30.0).fit(trace)
    >>> bool(abs(estimator.spike_amplitude_[0] - 0.3) < 0.03)
    True
    """

    takes_any_rois = False

    ar_coefs_: NDArray[np.floating]
    spike_amplitude_: NDArray[np.floating]
    baseline_: NDArray[np.floating]
    noise_variance_: NDArray[np.floating]
    measurement_variance_: NDArray[np.floating]
    amplitude_variance_: NDArray[np.floating]
    drift_variance_: NDArray[np.floating]
    firing_rates_: NDArray[np.floating]
    log_likelihood_: NDArray[np.floating]
    converged_: NDArray[np.bool_]
    errors_: dict[str, NDArray[np.floating]]
    clock_rate_: float
    roi_ids_: NDArray[Any]

    def __init__(
        self,
        *,
        ar_order: int = 2,
        vary_amplitude: bool = True,
        drift: bool = False,
        read_out: str = "influx",
        lag: float = -0.05,
        smoothing: float = 0.05,
        clock: float = 30.0,
        standard_errors: bool = False,
        sampling_rate: float | None = None,
    ):
        self.ar_order = ar_order
        self.vary_amplitude = vary_amplitude
        self.drift = drift
        self.read_out = read_out
        self.lag = lag
        self.smoothing = smoothing
        self.clock = clock
        self.standard_errors = standard_errors
        self.sampling_rate = sampling_rate

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "spike_amplitude_")

    # -- Fitting --------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Find the parameters of every ROI; spikes that are known are not needed and not used.

        Parameters
        ----------
        X : array (time, roi), trials, Recording, NWB file or Suite2p folder
            dF/F, or traces of unknown unit as ``Recording(..., units="unknown")``.
        y : ignored
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array.
        """
        self._check_parameters()
        for name in ("n_features_in_", "roi_ids_"):  # what an earlier fit noted does not bind this one
            vars(self).pop(name, None)
        given = take(self, X, groups=groups)
        if given.is_list:
            raise DataError(
                f"X is a list of {len(given.items)} Recordings, and their ROIs have parameters of their own. Fit one "
                f"{type(self).__name__} to each of them."
            )
        recording = given.items[0].recording
        warn_if_transposed(recording)
        self._warn_of(look_at(recording), recording)
        self._check_length(recording.n_frames, recording.sampling_rate or 1.0)
        usable = np.flatnonzero(recording.usable)
        if len(usable) == 0:
            raise DataError(
                f"None of {recording.n_rois} ROIs can be fitted: all are constant or never observed. Expected dF/F."
            )
        clock = on_clock(recording, usable, self.clock)
        self._check_length(len(clock.y), clock.rate)
        found = fit_cells(
            clock.y,
            clock.mask,
            clock.first,
            ar_order=self.ar_order,
            prior=cell_prior(recording.indicator, clock.rate),
            vary_amplitude=self.vary_amplitude,
            drift=self.drift,
            errors=self.standard_errors,
        )
        self.n_features_in_ = recording.n_rois
        self.roi_ids_ = np.asarray(recording.roi_ids)
        self.clock_rate_ = float(clock.rate)
        self._store(found, usable, recording.n_rois)
        self._warn(usable)
        return self

    def _check_length(self, n_frames: int, rate: float) -> None:
        if n_frames < _SHORTEST:
            raise DataError(
                f"The recording has {n_frames} frames (n_samples={n_frames}) at {rate:.4g} per s; expected at least "
                f"{_SHORTEST}, and some hundred for parameters that mean anything."
            )

    def _store(self, found: CellFit, usable: NDArray[np.integer], n_rois: int) -> None:
        def spread(values: Any) -> NDArray[Any]:
            values = np.asarray(values)
            out = np.full((n_rois, *values.shape[1:]), False if values.dtype == bool else np.nan)
            out[usable] = values
            return out

        nothing = np.zeros(len(usable))
        p = found.params
        self.ar_coefs_ = spread(p.ar_coefs)
        self.spike_amplitude_ = spread(p.spike_amplitude)
        self.baseline_ = spread(p.baseline)
        self.noise_variance_ = spread(p.noise_variance)
        self.measurement_variance_ = spread(p.measurement_variance)
        self.amplitude_variance_ = spread(nothing if p.amplitude_variance is None else p.amplitude_variance)
        self.drift_variance_ = spread(nothing if p.drift_variance is None else p.drift_variance)
        self.firing_rates_ = spread(np.exp(found.log_rate) * self.clock_rate_)
        self.log_likelihood_ = spread(found.log_likelihood)
        self.converged_ = spread(found.converged)
        errors = found.errors or {}
        self.errors_ = {name: spread(v) for name, v in errors.items() if name != "rate"}
        if "rate" in errors:
            self.errors_["firing_rates"] = spread(errors["rate"] * self.clock_rate_)

    def _warn(self, usable: NDArray[np.integer]) -> None:
        lost = usable[~self.converged_[usable]]
        if len(lost):
            warnings.warn(
                f"The parameters of {len(lost)} of {len(usable)} ROIs did not settle: {shorten(self.roi_ids_[lost])}. "
                "Look at their traces for artefacts or steps of the baseline (drift=True), and at converged_.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _to_save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        parameters, fitted = super()._to_save()
        errors = fitted.pop("errors_")
        return parameters, fitted | {f"{_ERROR_OF}{name}_": values for name, values in errors.items()}

    @classmethod
    def _restore(cls, parameters: dict[str, Any], fitted: dict[str, Any]) -> Self:
        errors = {k: v for k, v in fitted.items() if k.startswith(_ERROR_OF)}
        made = super()._restore(parameters, {k: v for k, v in fitted.items() if k not in errors})
        made.errors_ = {k.removeprefix(_ERROR_OF).removesuffix("_"): v for k, v in errors.items()}
        return made

    def _check_parameters(self) -> None:
        if self.ar_order not in (1, 2):
            raise DataError(f"ar_order={self.ar_order!r} is not supported. Expected 1 or 2.")
        if self.read_out not in READ_OUTS:
            raise DataError(f"read_out={self.read_out!r} is not known. Expected one of {', '.join(READ_OUTS)}.")
        if not (np.isfinite(self.clock) and self.clock > 0):
            raise DataError(f"clock={self.clock!r} is not a frame rate. Expected frames per s, such as 30.")
        if not (np.isfinite(self.smoothing) and self.smoothing >= 0):
            raise DataError(f"smoothing={self.smoothing!r} is not a width. Expected s, 0 or more.")
        checked_lag(self.lag)

    # -- Inference ------------------------------------------------------------------------------------------------

    @property
    def decay_time_(self) -> NDArray[np.floating]:
        """Time constant of the decay of each ROI, in s."""
        out = np.full(len(self.ar_coefs_), np.nan)
        known = np.isfinite(self.ar_coefs_).all(axis=1)
        out[known] = decay_time(self.ar_coefs_[known]) / self.clock_rate_
        return out

    def _params(self, rois: NDArray[np.integer]) -> CalciumNoisyParams:
        return CalciumNoisyParams(
            self.ar_coefs_[rois],
            self.spike_amplitude_[rois],
            self.noise_variance_[rois],
            self.measurement_variance_[rois],
            self.baseline_[rois],
            self.amplitude_variance_[rois] if self.vary_amplitude else None,
            self.drift_variance_[rois] if self.drift else None,
        )

    def _infer(self, recording: Recording) -> _Inferred:
        if recording.n_rois != self.n_features_in_:
            raise DataError(
                f"X has {recording.n_rois} features (ROIs), but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input: each has parameters of its own. Fit it on this recording."
            )
        rois = np.flatnonzero(recording.usable & np.isfinite(self.spike_amplitude_))
        clock = on_clock(recording, rois, self.clock_rate_)
        if abs(clock.rate / self.clock_rate_ - 1.0) > 0.05:
            raise DataError(
                f"The recording has {clock.rate:.4g} frames per s, but parameters were found at "
                f"{self.clock_rate_:.4g}. Fit it on this recording."
            )
        rate = np.log(self.firing_rates_[rois] / self.clock_rate_)
        return _Inferred(clock, rois, infer_cells(clock.y, clock.mask, clock.first, self._params(rois), rate))

    def _rates(self, recording: Recording) -> NDArray[np.floating]:
        return self._rates_from(recording, self._infer(recording))

    def _rates_from(self, recording: Recording, found: _Inferred) -> NDArray[np.floating]:
        if self.read_out == "counts":
            per_frame = found.posterior.count_mean.astype(float)
        else:
            per_frame = np.maximum(found.posterior.input_mean / self.spike_amplitude_[found.rois], 0.0)
        durations = frame_durations(recording)
        rates = own_counts(recording, found.clock, per_frame) / durations[:, None]
        out = np.full(recording.shape, np.nan, np.float32)
        out[:, found.rois] = moved_and_smoothed(rates, durations, recording, self.lag, self.smoothing)
        return out

    def predict_interval(self, X: Any, alpha: float = 0.1, *, groups: Any = None) -> tuple[Any, Any]:
        """Return lowest and highest plausible spike counts of each frame, each (time, roi) in the form of X.

        A central interval of the posterior of the counts; frames of the recording must be those of the filter's clock.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        alpha : float
            Share of the posterior outside.
        """
        if not 0 < alpha < 1:
            raise DataError(f"alpha={alpha!r} is not a share. Expected a number between 0 and 1, such as 0.1.")
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        recording = given.only_one("an interval")
        self._warn_of(look_at(recording), recording)
        found = self._infer(recording)
        if found.clock.edges is not None:
            raise DataError(
                f"Intervals are of frames of the filter's clock, {self.clock_rate_:.4g} per s, and the recording has "
                f"{recording.sampling_rate:.4g}. Set clock to at least that before fitting."
            )
        rate = np.log(self.firing_rates_[found.rois] / self.clock_rate_)
        limits = count_limits(found.posterior, self._params(found.rois), rate, alpha)
        out = []
        for values in limits:
            filled = np.full(recording.shape, np.nan)
            filled[:, found.rois] = values
            out.append(given.restore([filled]))
        return out[0], out[1]

    def infer(self, X: Any, *, groups: Any = None) -> InferenceResult:
        """Return rates, expected spikes, denoised calcium and parameters, ready to be written to NWB."""
        check_is_fitted(self)
        recording = take(self, X, groups=groups).only_one("a result")
        self._warn_of(look_at(recording), recording)
        found = self._infer(recording)
        rates = self._rates_from(recording, found)
        counts, spread, level, noise = (np.full(recording.shape, np.nan, np.float32) for _ in range(4))
        counts[:, found.rois] = own_counts(recording, found.clock, found.posterior.count_mean.astype(float))
        spread[:, found.rois] = own_counts(recording, found.clock, found.posterior.count_variance.astype(float))
        level[:, found.rois] = own_levels(recording, found.clock, found.posterior.calcium_mean)
        noise[:, found.rois] = np.sqrt(own_levels(recording, found.clock, found.posterior.calcium_variance))
        dims, unit = ("time", "roi"), "dF/F" if recording.units == "dff" else "a.u."
        arrays = {
            "firing_rates": NamedArray(rates, dims, "Hz", "Spikes per second."),
            "expected_spikes": NamedArray(counts, dims, "spikes", "Posterior mean of the spikes in each frame."),
            "expected_spikes_std": NamedArray(
                np.sqrt(spread), dims, "spikes", "Posterior standard deviation of the spikes in each frame."
            ),
            "calcium": NamedArray(level, dims, unit, "Trace without measurement noise, baseline included."),
            "calcium_std": NamedArray(noise, dims, unit, "Posterior standard deviation of that."),
        }
        return self._result(recording, arrays)

    def _parameters(self, found: Findings, units: str) -> dict[str, NamedArray]:
        unit = "dF/F" if units == "dff" else "a.u."
        said = {
            "spike_amplitude": (unit, "Rise of the trace caused by one spike."),
            "baseline": (unit, "Level of the trace without spikes."),
            "noise_variance": (f"({unit})^2", "Variance of the noise inside the autoregression."),
            "measurement_variance": (f"({unit})^2", "Variance of the white noise on top of calcium."),
            "amplitude_variance": (f"({unit})^2", "Variance of the rise from spike to spike."),
            "drift_variance": (f"({unit})^2", "Variance of a step of the baseline per frame."),
            "firing_rates": ("Hz", "Mean rate."),
            "decay_time": ("s", "Decay time constant of the trace."),
            "log_likelihood": ("nats", "Log-likelihood per frame."),
            "converged": ("bool", "Whether the parameters settled."),
        }
        out = super()._parameters(found, units)
        for name, (of, text) in said.items():
            key = "mean_rate" if name == "firing_rates" else name
            out[key] = NamedArray(np.asarray(getattr(self, f"{name}_")), ("roi",), of, text)
            if name in self.errors_:
                out[f"{key}_error"] = NamedArray(self.errors_[name], ("roi",), of, f"Standard error: {text.lower()}")
        out["ar_coefs"] = NamedArray(self.ar_coefs_, ("roi", "lag"), "1", "Autoregressive coefficients, lag 1 first.")
        return out

    def _about(self) -> dict[str, Any]:
        return super()._about() | {"description": "Smoother of calcium with unseen Poisson spikes and noise."}
