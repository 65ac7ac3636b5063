"""S2SSpikeEstimator: spike rates from fluorescence by small trained networks."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._recording_checks import shorten
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import NamedArray, SpikeTimes
from nwb_calcium_lvm.spikes import events, interpretation
from nwb_calcium_lvm.spikes.base import FineRates, SpikeEstimator
from nwb_calcium_lvm.spikes.calibration import Calibration, count_interval
from nwb_calcium_lvm.spikes.configs import CONFIGS, S2SConfig
from nwb_calcium_lvm.spikes.inference import Networks, fine_rates, rates_of
from nwb_calcium_lvm.spikes.inputs import (
    Findings,
    Given,
    frame_durations,
    ground_truth,
    labels_of,
    look_at,
    spike_times,
    take,
    warn_of_units,
)
from nwb_calcium_lvm.spikes.learning import learn
from nwb_calcium_lvm.spikes.shifts import checked_lag
from nwb_calcium_lvm.spikes.weights import members_from_arrays, members_to_arrays, read_weights, write_weights

_log = logging.getLogger(__name__)
_CLOSE = 0.01  # a rate this near to the range of rates, as a share of it, is in it
_WEIGHT = "weight:"  # in saved files, before the name of each array of weights


class S2SSpikeEstimator(SpikeEstimator):
    r"""Spikes per second from fluorescence by signal-to-signal networks.

    .. math::
        h = \mathrm{ReLU}(A * x), \quad h \leftarrow h + B_l\,\mathrm{ReLU}(C_l * h), \quad
        \lambda = g\,\mathrm{softplus}(S * h + b)

    with analysis filters A over the trace x, dilated residual blocks whose strength the noise level and the frame rate
    of the trace set, synthesis filters S whose outputs overlap and add, and a gain g that makes totals right.

    Parameters
    ----------
    config : {"default", "published"} or S2SConfig, default "default"
        Network and training. ``"published"`` is the network of Sebastian et al. 2021: 8,790 parameters, z-scored
        traces, Pearson loss; its output correlates with spikes but is in no unit.
    lag : float, default 0.0
        Moves the output later by this many s. With 0 the rate at time t is that of spikes at t; an algorithm that puts
        spikes where calcium has risen is late by 0.05 to 0.1 s.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it. 3 to 500 Hz.
    random_state : int, RandomState or None
        Seed of the first weights and of the order of training examples.
    checkpoint_dir : path, optional
        Folder for checkpoints; a fit that was cut off goes on from there.
    verbose : int, default 0
        1 logs the course of training.

    Attributes
    ----------
    config_ : S2SConfig
    networks_ : Networks
        Weights of each network of the ensemble, and the gain.
    calibration_ : Calibration
        Gain, and how far true counts scatter around expected ones.
    history_ : ndarray, shape (check, 4)
        Network, steps, training loss, loss on the neurons left out (NaN without).
    noise_range_, rate_range_ : ndarray, shape (2,)
        Noise levels ν (%/√Hz) that training covered, and frame rates (Hz) that the networks are for; outside them a
        warning is given.
    card_ : dict
        What the networks were trained on.

    Raises
    ------
    DataError
        Where the data cannot be used; the message says what was received, expected, and what to do.

    Notes
    -----
    Traces are averaged onto the networks' clock and the rates integrated back onto the recording's frames, so that
    gaps, uneven clocks and frame rates from 3 to 500 Hz need no care. Each ROI is taken alone: a fitted estimator takes
    any number of them. Cost is about 10,000 multiplications per network and 20 ms of trace; memory is that of a chunk.

    The baseline of every trace is taken off, so outputs do not depend on it. With ``units="unknown"`` the scale is
    taken off too (see :func:`nwb_calcium_lvm.spikes.traces.scale_of`).

    References
    ----------
    Sebastian, Sur, Murthy and Magimai-Doss 2021, PLoS Computational Biology 17, e1008775 (the published network).
    Rupprecht et al. 2021, Nature Neuroscience 24, 1324 (ground truth, noise levels).

    Examples
    --------
    >>> import numpy as np
    >>> from nwb_calcium_lvm.spikes import S2SConfig, S2SSpikeEstimator
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(0.05, size=(900, 2))
    >>> trace = np.apply_along_axis(lambda s: np.convolve(s, np.exp(-np.arange(30) / 10))[:900], 0, counts)
    >>> small = S2SConfig().changed(channels=4, dilations=(1,), steps=4, check_every=4, n_members=1)
    >>> s2s = S2SSpikeEstimator(config=small, sampling_rate=30.0, random_state=0).fit(trace, counts)
    >>> s2s.transform(trace).shape
    (900, 2)
    """

    config_: S2SConfig
    networks_: Networks
    calibration_: Calibration
    history_: NDArray[np.floating]
    noise_range_: NDArray[np.floating]
    rate_range_: NDArray[np.floating]
    card_: dict[str, Any]

    def __init__(
        self,
        *,
        config: str | S2SConfig = "default",
        lag: float = 0.0,
        sampling_rate: float | None = None,
        random_state: Any = None,
        checkpoint_dir: str | Path | None = None,
        verbose: int = 0,
    ):
        self.config = config
        self.lag = lag
        self.sampling_rate = sampling_rate
        self.random_state = random_state
        self.checkpoint_dir = checkpoint_dir
        self.verbose = verbose

    # -- Training -------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, name: str | Path = "default", **parameters: Any) -> Self:
        """Return an estimator with weights that come with the package, or with those of a ``.npz`` file.

        Parameters
        ----------
        name : str or Path
            ``"default"``, or a file written by :meth:`save_weights`.
        **parameters
            Of the constructor, such as ``lag`` or ``sampling_rate``.
        """
        estimator = cls(**parameters)
        config, networks, calibration, card = read_weights(name)
        estimator._store(config, networks, calibration, np.zeros((0, 4)), card)
        return estimator

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Train the networks on recordings with known spikes.

        Parameters
        ----------
        X : array (time, roi), trials, Recording, list of Recordings, or list of GroundTruth
            dF/F, or traces of unknown unit as ``Recording(..., units="unknown")``.
        y : array_like or list
            Spike counts per frame (time, roi), or (time,) where all ROIs show one neuron; or the spike times of each
            ROI in s; a list of these for a list of Recordings. None for a list of GroundTruth.
        groups : sequence, optional
            Data set of each Recording, so that large sets do not outweigh small ones; or the trial of each frame of a
            2-D array.
        """
        config = self._settings()
        X, y, groups = ground_truth(X, y, groups)
        given = take(self, X, groups=groups)
        found = self._learn(given, spike_times(y, given), labels_of(given, groups), config, None)
        self._store(config, *found, card={})
        return self

    def fine_tune(self, X: Any, y: Any, *, groups: Any = None, steps: int = 200, learning_rate: float = 3e-4) -> Self:
        """Go on training on neurons of one's own, and calibrate on them; returns the estimator itself, changed.

        Parameters
        ----------
        X, y, groups
            As in :meth:`fit`.
        steps : int
            Few, since few neurons are soon learned by heart.
        learning_rate : float
            A tenth of that of a new training.
        """
        check_is_fitted(self)
        config = self.config_.changed(steps=steps, learning_rate=learning_rate, check_every=steps, left_out=0.0)
        X, y, groups = ground_truth(X, y, groups)
        given = take(self, X, groups=groups)
        found = self._learn(given, spike_times(y, given), labels_of(given, groups), config, self.networks_)
        self._store(self.config_, *found, card=self.card_ | {"fine_tuned_neurons": found[1].n_neurons})
        return self

    def _learn(
        self, given: Given, spikes: Any, labels: list[Any], config: S2SConfig, start: Networks | None
    ) -> tuple[Networks, Calibration, NDArray[np.floating]]:
        rng = check_random_state(self.random_state)
        n = config.n_members if start is None else len(start.members)
        seeds = [int(s) for s in rng.randint(2**31 - 1, size=n)]
        recordings = [item.recording for item in given.items]
        for recording in recordings:
            warn_of_units(look_at(recording))
        folder = None if self.checkpoint_dir is None or start is not None else Path(self.checkpoint_dir)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        report = self._report if self.verbose else None
        return learn(recordings, spikes, labels, config, seeds, start=start, folder=folder, report=report)

    def _settings(self) -> S2SConfig:
        if isinstance(self.config, S2SConfig):
            return self.config
        if self.config not in CONFIGS:
            raise DataError(
                f"config={self.config!r} is not known. Expected one of {', '.join(CONFIGS)}, or a S2SConfig."
            )
        return CONFIGS[self.config]

    def _report(self, member: int) -> Any:
        def say(steps: int, loss: float, held_out: float) -> None:
            rest = "" if np.isnan(held_out) else f", on neurons left out {held_out:.4f}"
            _log.info("network %d, step %d: loss %.4f%s", member, steps, loss, rest)

        return say

    def _store(
        self,
        config: S2SConfig,
        networks: Networks,
        calibration: Calibration,
        history: NDArray[np.floating],
        card: dict[str, Any],
    ) -> None:
        self.config_, self.networks_, self.calibration_ = config, networks, calibration
        self.history_, self.card_ = history, card
        reach = config.augmentation
        self.noise_range_ = np.array([0.1, max(reach.noisiest, 3.0)])
        self.rate_range_ = np.array([3.0, 500.0])

    # -- Rates ----------------------------------------------------------------------------------------------------

    def _rates(self, recording: Recording) -> NDArray[np.floating]:
        return rates_of(recording, self.networks_, self.config_, checked_lag(self.lag))

    def _fine_rates(self, recording: Recording) -> list[FineRates]:
        rate, lag = self.config_.architecture.rate, checked_lag(self.lag)
        return [FineRates(t + lag, rate, r) for t, r in fine_rates(recording, self.networks_, self.config_)]

    def _warn_of(self, found: Findings, recording: Recording) -> None:
        super()._warn_of(found, recording)
        rate = recording.sampling_rate or 1.0
        low, high = self.rate_range_
        if not low <= rate * (1 + _CLOSE) or not rate <= high * (1 + _CLOSE):
            warnings.warn(
                f"The recording has {rate:.4g} frames per s; the networks are for {low:g} to {high:g}. Rates are "
                "computed but have not been tested there.",
                DataWarning,
                stacklevel=4,
            )
        if recording.units != "dff":
            return
        nu, (least, most) = found.noise_level, self.noise_range_
        noisier, cleaner = (nu > most) & found.usable, (nu < least) & found.usable
        if noisier.any():
            warnings.warn(
                f"{noisier.sum()} of {len(nu)} ROIs are noisier (ν up to {nu[noisier].max():.3g} %/√Hz) than "
                f"what the networks were trained on (up to {most:g}): {shorten(found.roi_ids[noisier])}. Their rates "
                "are hardly more than a guess.",
                DataWarning,
                stacklevel=4,
            )
        if cleaner.any():
            warnings.warn(
                f"{cleaner.sum()} of {len(nu)} ROIs are cleaner (ν down to {nu[cleaner].min():.3g} %/√Hz) than what "
                f"the networks were trained on (from {least:g}): {shorten(found.roi_ids[cleaner])}. Traces that were "
                "denoised, smoothed or interpolated are; pass them as recorded.",
                DataWarning,
                stacklevel=4,
            )

    def predict_spikes(
        self, X: Any, *, threshold: float | None = None, groups: Any = None
    ) -> SpikeTimes | list[SpikeTimes]:
        """Return single spikes with a confidence each; a list of these for a list of Recordings.

        Each peak of the rate stands for the spikes within 0.15 s of it, as far as the valleys to its neighbours. If m
        are expected there, the k-th is real with the probability that the true count, a negative binomial around m as
        for :meth:`predict_interval`, is k or more. By default as many are returned as are expected, m rounded, so that
        their number is as well calibrated as the rates are.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        threshold : float, optional
            Return, instead, all spikes of at least this confidence.
        """
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        found = [self._rates_and_spikes(item.recording, threshold)[1] for item in given.items]
        for item in given.items:
            self._warn_of(look_at(item.recording), item.recording)
        return found if given.is_list else found[0]

    def _rates_and_spikes(
        self, recording: Recording, threshold: float | None
    ) -> tuple[NDArray[np.floating], SpikeTimes]:
        if threshold is not None and not 0 < threshold < 1:
            raise DataError(f"threshold={threshold!r} is not a confidence. Expected a number between 0 and 1.")
        if not self.config_.calibrated:
            raise DataError("This configuration gives no calibrated rates, hence no spikes. Use config='default'.")
        dispersion = self.calibration_.dispersion_at(events.WINDOW)
        times: list[list[NDArray[np.floating]]] = [[np.zeros(0)] for _ in range(recording.n_rois)]
        sure: list[list[NDArray[np.floating]]] = [[np.zeros(0)] for _ in range(recording.n_rois)]

        def pick(rois: NDArray[np.integer], start: float, rates: NDArray[np.floating]) -> None:
            found = events.find_spikes(rates, start, self.config_.architecture.rate, dispersion, threshold)
            for roi, t, c in zip(rois.tolist(), found.times, found.confidence, strict=True):
                times[roi].append(t)
                sure[roi].append(c)

        rates = rates_of(recording, self.networks_, self.config_, checked_lag(self.lag), pick)
        return rates, SpikeTimes([np.concatenate(t) for t in times], [np.concatenate(c) for c in sure])

    def predict_interval(
        self, X: Any, alpha: float = 0.1, *, window: float | None = None, groups: Any = None
    ) -> tuple[Any, Any]:
        """Return lowest and highest plausible spike counts, each of shape (time, roi) in the form of X.

        A central interval of a negative binomial whose mean is the expected count and whose dispersion was found on
        neurons with known spikes, so that it knows of wrong rates as well as of chance.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        alpha : float
            Share of true counts that may lie outside.
        window : float, optional
            Count in windows of that many s, centred on each frame. Default: the frames themselves.
        """
        check_is_fitted(self)
        if not 0 < alpha < 1:
            raise DataError(f"alpha={alpha!r} is not a share. Expected a number between 0 and 1, such as 0.1.")
        if not self.config_.calibrated:
            raise DataError("This configuration gives no calibrated rates, hence no interval. Use config='default'.")
        if window is not None and not window > 0:
            raise DataError(f"window={window!r} is not a length of time. Expected s, above 0, or None.")
        given = take(self, X, groups=groups)
        low, high = [], []
        for item in given.items:
            recording = item.recording
            frames = frame_durations(recording)[:, None]
            expected = self._checked_rates(recording) * frames
            width = float(np.median(frames)) if window is None else window
            if window is not None:
                expected = interpretation.windowed(
                    expected, recording.segments, window * (recording.sampling_rate or 1)
                )
            a, b = count_interval(expected, self.calibration_.dispersion_at(width), alpha)
            low.append(a)
            high.append(b)
        return given.restore(low), given.restore(high)

    # -- Inside the networks --------------------------------------------------------------------------------------

    def layer_outputs(self, X: Any, *, member: int = 0) -> dict[str, NDArray[np.floating]]:
        """Return what each layer of one network makes of one trace, summed over channels, on the network's clock.

        Parameters
        ----------
        X : as in :meth:`transform`, one ROI
        member : int
            Which network of the ensemble.

        Returns
        -------
        dict of str to ndarray, shape (time,)
            ``"time"`` in s from the first frame, ``"input"``, the layers by name in order, ``"output"``.
        """
        check_is_fitted(self)
        recording = take(self, X).only_one("a set of layers")
        if recording.n_rois != 1 or len(recording.segments) != 1:
            raise DataError(
                f"X has {recording.n_rois} ROIs in {len(recording.segments)} segments; expected one ROI without gaps, "
                "such as recording.isel(roi=[0])."
            )
        return interpretation.layer_outputs(recording, self.networks_, self.config_, self._checked_member(member))

    def frequency_response(self, *, member: int = 0) -> interpretation.FrequencyResponse:
        """Return the summed amplitude responses of one network's analysis and synthesis filters."""
        check_is_fitted(self)
        return interpretation.frequency_response(self.networks_, self.config_, self._checked_member(member))

    def _checked_member(self, member: int) -> int:
        n = len(self.networks_.members)
        if not 0 <= member < n:
            raise DataError(f"member={member!r} is not one of the {n} networks. Expected 0 to {n - 1}.")
        return member

    # -- On disk and in results -----------------------------------------------------------------------------------

    def _parameters(self, found: Findings, units: str) -> dict[str, NamedArray]:
        parameters = super()._parameters(found, units)
        least, most = self.noise_range_
        trusted = (found.noise_level >= least) & (found.noise_level <= most) & found.usable  # False where ν is NaN
        parameters["in_training_range"] = NamedArray(
            trusted, ("roi",), "bool", "Whether the noise level lies in the range that the networks were trained on."
        )
        return parameters

    def _about(self) -> dict[str, Any]:
        about = super()._about()
        about["hyperparameters"] = self._plain_parameters() | {"networks": len(self.networks_.members)}
        return about | {"n_iter": int(self.history_[:, 1].max()) if len(self.history_) else 0}

    def save_weights(self, path: str | Path) -> Path:
        """Save the networks for :meth:`from_pretrained`, without the constructor's arguments."""
        check_is_fitted(self)
        return write_weights(Path(path), self.config_, self.networks_, self.calibration_, self.card_)

    def _plain_parameters(self) -> dict[str, Any]:
        parameters = self.get_params(deep=False)
        if isinstance(self.config, S2SConfig):
            parameters["config"] = self.config.to_dict()
        if self.checkpoint_dir is not None:
            parameters["checkpoint_dir"] = str(self.checkpoint_dir)
        return parameters

    def _to_save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        arrays = {_WEIGHT + k: v for k, v in members_to_arrays(self.networks_.members).items()}
        found = {k: np.asarray(v) for k, v in self.calibration_._asdict().items()}
        fitted = {"config_": self.config_.to_dict(), "card_": self.card_, "history_": self.history_}
        return self._plain_parameters(), {**fitted, **arrays, **{f"calibration:{k}": v for k, v in found.items()}}

    @classmethod
    def _restore(cls, parameters: dict[str, Any], fitted: dict[str, Any]) -> Self:
        if isinstance(parameters.get("config"), dict):
            parameters = parameters | {"config": S2SConfig.from_dict(parameters["config"])}
        estimator = cls(**parameters)
        config = S2SConfig.from_dict(fitted["config_"])
        found = {k: fitted[f"calibration:{k}"] for k in Calibration._fields}
        calibration = Calibration(float(found["gain"]), found["windows"], found["dispersion"], int(found["n_neurons"]))
        arrays = {k.removeprefix(_WEIGHT): v for k, v in fitted.items() if k.startswith(_WEIGHT)}
        networks = members_from_arrays(config, arrays, calibration.gain)
        estimator._store(config, networks, calibration, fitted["history_"], dict(fitted["card_"]))
        return estimator
