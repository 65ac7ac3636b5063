"""CalciumGPFA: smooth latent trajectories of a population, straight from fluorescence."""

from __future__ import annotations

from typing import Any, Self

import jax
import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._core.base import CalciumEstimator
from nwb_calcium_lvm._core.coerce import Trials
from nwb_calcium_lvm._core.cosmoothing import CoSmoothing, as_columns
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.gpfa import checks, learned
from nwb_calcium_lvm.gpfa.activity import expected_spikes, rates_of
from nwb_calcium_lvm.gpfa.cosmoothing import predictive
from nwb_calcium_lvm.gpfa.engines import Inferred, engine
from nwb_calcium_lvm.gpfa.fitting import Climb, Settings
from nwb_calcium_lvm.gpfa.plans import Plan, order_of, plan_for
from nwb_calcium_lvm.gpfa.results import build_result
from nwb_calcium_lvm.gpfa.sampling import sample_session
from nwb_calcium_lvm.observations.autoregression import decay_time
from nwb_calcium_lvm.recording import Recording, replaced
from nwb_calcium_lvm.result import InferenceResult

_PRUNED = 1e-3  # of the largest mean squared loading: latents below it are dropped where relevance is learned


class CalciumGPFA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CalciumEstimator):
    r"""Gaussian-process factor analysis of calcium imaging: a few smooth latents set the firing rates of all neurons.

    .. math::
        x_j \sim GP(0, k_{\ell_j}), \quad s_{tn} \sim \mathrm{Poisson}(e^{C_n \cdot x_t + d_n}), \quad
        y_{tn} = \sum_{i \le p} \alpha_{ni}\, y_{t-i,n} + b_n + c_n s_{tn} + \epsilon_{tn}, \quad
        \epsilon_{tn} \sim N(0, \sigma_n^2)

    The spikes :math:`s` are never seen and are summed out, so that no deconvolution is needed.

    Parameters
    ----------
    n_latents : int, default 3
        Number of latents. With ``ard=True`` it may be too large; else choose it by :meth:`score` on other trials.
    observation : {"calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson"}, default "calcium"
        What the latents drive: rates of spikes behind calcium; the same with white noise on top of calcium, by a filter
        (slower, and its bound is approximate); the AR residual, or the trace itself, linearly (the classical GPFA); or
        rates of spike counts that are known.
    ar_order : int, default 1
        Order p of the autoregression: 1 for a fast rise, 2 where the rise takes several frames.
    kernel : {"matern32", "matern52", "rbf"}, default "matern32"
        Smoothness of the latents, from rough to smooth.
    inference : {"auto", "kalman", "fourier", "blackbox"}, default "auto"
        Engine. ``"kalman"``: state space, exact posterior covariance across latents, for the Matern kernels.
        ``"fourier"``: FFT on a circle, latents and frequencies independent in the posterior, for the RBF kernel.
        ``"blackbox"``: ``max_iter`` (thousands) stochastic gradients of a sampled bound, as in the paper, for the RBF
        kernel: only to compare with. ``"auto"``: what goes with the kernel.
    timescales : float or array_like of shape (latent,), optional
        Time scales to start from, in s (in frames where there is no sampling rate). Default: from the data.
    ard : bool, default False
        Learn how relevant each latent is, and drop those that are not.
    n_init : int, default 3
        Starts of different smoothness that are tried; the best after a few steps goes on.
    max_iter : int, default 100
        Most steps.
    tol : float, default 1e-6
        The fit stops when steps gain less than this, in nats per observed sample.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it (or say it wrong).
    random_state : int, RandomState or None
        Seed of :meth:`sample` and of ``inference="blackbox"``; other fits have nothing random.
    verbose : int, default 0
        1 shows a progress bar.
    learn_timescales : bool, default True
        Whether time scales are learned.
    prior_frames : float, default 1.0
        Strength of the pull of offset and noise to the ROI's own average, as a number of frames seen.
    warm_start : bool, default False
        Start from the last fit, for more data of the same neurons.

    Attributes
    ----------
    loadings_ : ndarray, shape (roi, latent)
        Orthonormal loadings: log rate per frame = ``offset_ + loadings_ @ latents``. Latents are in falling order of
        the variance they explain, ``explained_variance_ratio_``; the largest loading of each is positive.
    offset_ : ndarray, shape (roi,)
        d, log of the expected spikes per frame where the latents are 0.
    timescales_ : ndarray, shape (latent,)
        Time scales of the Gaussian processes in s (``timescales_frames_`` in frames). The latents are combinations of
        these, ``latents = processes @ mixing_.T``, and ``process_loadings_`` are the loadings on them.
    ar_coefs_, spike_amplitude_, noise_variance_, baseline_ : ndarray, first axis roi
        α per frame, c in dF/F per spike, σ² in dF/F², and the trace without spikes. ``decay_time_`` in s.
    measurement_variance_ : ndarray, shape (roi,)
        τ², variance of the white noise on top of calcium, in dF/F² (calcium_noisy).
    elbo_history_ : ndarray, shape (1 + iteration,)
        Evidence lower bound on the training data in nats, with the weak priors on the weights; it never falls (but for
        ``inference="blackbox"``, whose bound is sampled).
    elbo_ : float
        The bound at the end, without these priors.
    n_latents_, n_iter_, converged_, n_samples_, sampling_rate_, roi_ids_, start_window_
        How the fit went and on what; the last is the number of frames over which the best start was smoothed.

    Raises
    ------
    DataError
        Where the data cannot be used; the message says what was received, expected, and what to do.

    Notes
    -----
    The bound is closed: ``sum log Z(m) - exp(m + v / 2) - KL``, m and v mean and variance of the log rate (see
    :mod:`nwb_calcium_lvm.gpfa.readouts.spikes`). A step costs O(T N (D² + W)) for T frames, N ROIs, D latents and
    W = 17 counts, and O(T D³) for the latents; memory is that of a block of ROIs, plus T D².

    References
    ----------
    Keeley, Zoltowski, Charles and Pillow: latent-variable models with a calcium observation model (the model).
    Yu, Cunningham, Santhanam, Ryu, Shenoy and Sahani 2009 (GPFA). Khan and Lin 2017 (conjugate-computation inference).

    Examples
    --------
    >>> from nwb_calcium_lvm import CalciumGPFA
    >>> from nwb_calcium_lvm.simulate import gpfa_experiment
    >>> truth = gpfa_experiment(n_rois=12, n_frames=500, timescales=[40, 60], random_state=0)
    >>> gpfa = CalciumGPFA(n_latents=2, ar_order=2, n_init=1, max_iter=20, tol=1e-4, sampling_rate=20.0)
    >>> latents = gpfa.fit_transform(truth.traces)
    >>> latents.shape, gpfa.loadings_.shape, gpfa.predict_rates(truth.traces).shape
    ((500, 2), (12, 2), (500, 12))
    """

    loadings_: NDArray[np.floating]
    process_loadings_: NDArray[np.floating]
    mixing_: NDArray[np.floating]
    offset_: NDArray[np.floating]
    timescales_frames_: NDArray[np.floating]
    explained_variance_ratio_: NDArray[np.floating]
    ar_coefs_: NDArray[np.floating]
    spike_amplitude_: NDArray[np.floating]
    noise_variance_: NDArray[np.floating]
    measurement_variance_: NDArray[np.floating]
    baseline_: NDArray[np.floating]
    n_latents_: int

    def __init__(
        self,
        n_latents: int = 3,
        *,
        observation: str = "calcium",
        ar_order: int = 1,
        kernel: str = "matern32",
        inference: str = "auto",
        timescales: Any = None,
        ard: bool = False,
        n_init: int = 3,
        max_iter: int = 100,
        tol: float = 1e-6,
        sampling_rate: float | None = None,
        random_state: Any = None,
        verbose: int = 0,
        learn_timescales: bool = True,
        prior_frames: float = 1.0,
        warm_start: bool = False,
    ):
        self.n_latents = n_latents
        self.observation = observation
        self.ar_order = ar_order
        self.kernel = kernel
        self.inference = inference
        self.timescales = timescales
        self.ard = ard
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.sampling_rate = sampling_rate
        self.random_state = random_state
        self.verbose = verbose
        self.learn_timescales = learn_timescales
        self.prior_frames = prior_frames
        self.warm_start = warm_start

    # -- Fitting --------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array (time, roi), trials (trial, time, roi), list of arrays, Recording, NWB file, or Suite2p folder
            Fluorescence as dF/F (or spike counts with ``observation="poisson"``).
        y : ignored
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array; neither latents nor calcium are carried from one trial to the next.
        """
        checks.check_parameters(self)
        random_state = check_random_state(self.random_state)
        warm = self._warm_weights()
        trials = self._coerce(X, groups=groups, reset=warm is None)
        recording = trials.recording
        rate = recording.sampling_rate or self.sampling_rate
        checks.check_size(self, recording, self._order)
        scales = self.timescales_frames_ if warm is not None else checks.as_timescales(self, recording, rate)
        plan = plan_for(self.observation, recording, self.ar_order)
        warm = None if warm is None else plan.to_fit_units(warm)
        climb = engine(self._engine).fit(plan, recording, self._settings(scales), random_state, warm)
        self.sampling_rate_ = rate
        self.roi_ids_ = np.asarray(recording.roi_ids)
        self._store(plan, climb)
        checks.warn(self, recording)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, groups: Any = None) -> Any:
        """Fit to X and return its :meth:`transform`, with the trials that ``groups`` names in both."""
        return self.fit(X, y, groups=groups).transform(X, groups=groups)

    def _warm_weights(self) -> Any:
        """Weights of the last fit, if this one is to start from them and is of the same model."""
        if not self.warm_start or getattr(self, "observation_", None) != self.observation:
            return None
        same = self.n_latents_ == self.n_latents and self._order == (self.ar_coefs_.shape[1] if self._order else 0)
        return learned.weights_of(self) if same else None

    def _settings(self, scales: NDArray[np.floating] | None) -> Settings:
        return Settings(
            self.n_latents,
            self.kernel,
            self.n_init,
            self.max_iter,
            self.tol,
            bool(self.ard),
            self.prior_frames,
            scales,
            bool(self.learn_timescales),
            self.verbose,
        )

    def _store(self, plan: Plan, climb: Climb) -> None:
        power = (np.asarray(climb.weights.loadings) ** 2).mean(axis=0)
        kept = power >= _PRUNED * power.max() if self.ard else np.ones(len(power), bool)
        learned.store(self, plan.to_data_units(climb.weights), np.exp(climb.log_timescale), kept)
        if plan.has_spikes:
            self.mean_spikes_ = learned.mean_rates(climb.weights, climb.latents)
        # The density of the traces as given is that of the standardised ones over their scale.
        scale = float((plan.kept.sum(axis=0) * np.log(plan.sd)).sum())
        self.elbo_history_ = climb.history - scale
        self.elbo_ = climb.bound - scale
        self.n_iter_ = climb.n_steps
        self.converged_ = climb.converged
        self.n_samples_ = int(plan.kept.sum())
        self.observation_ = self.observation
        self.start_window_ = climb.window

    # -- Latents --------------------------------------------------------------------------------------------------

    def transform(self, X: Any, *, groups: Any = None) -> Any:
        """Return the posterior mean of the latents, shape (time, latent), in the form of X."""
        return self.predict_latents(X, groups=groups)

    def predict_latents(self, X: Any, return_std: bool = False, *, groups: Any = None) -> Any:
        """Return the posterior mean of the latents, (time, latent), and their standard deviation if asked for."""
        trials = self._fitted(X, groups)
        mean, std = self._orthonormal(self._infer(trials.recording))
        return (trials.restore(mean), trials.restore(std)) if return_std else trials.restore(mean)

    def _orthonormal(self, found: Inferred) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        variance = np.einsum("ij,tjk,ik->ti", self.mixing_, found.covariance, self.mixing_, optimize=True)
        return found.mean @ self.mixing_.T, np.sqrt(np.maximum(variance, 0.0))

    # -- Rates ----------------------------------------------------------------------------------------------------

    def predict_rates(self, X: Any, return_std: bool = False, *, groups: Any = None) -> Any:
        """Return the posterior mean of the firing rates in Hz, (time, roi), and their standard deviation if asked for.

        Raises
        ------
        DataError
            If the observation model has no spikes, or there is no sampling rate.
        """
        self._need_spikes("predict_rates")
        hz = self._rate("predict_rates")
        trials = self._fitted(X, groups)
        mean, std = self._rates(self._infer(trials.recording))
        return (trials.restore(hz * mean), trials.restore(hz * std)) if return_std else trials.restore(hz * mean)

    def expected_spikes(self, X: Any, *, groups: Any = None) -> Any:
        """Return the posterior mean number of spikes in each frame, (time, roi), given trace and latents."""
        self._need_spikes("expected_spikes")
        trials = self._fitted(X, groups)
        return trials.restore(self._spikes(trials.recording, self._infer(trials.recording)))

    def _drive(self, found: Inferred, rois: Any = slice(None)) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Mean and variance of eta = C x + d, each (time, roi)."""
        loadings = self.process_loadings_[rois]
        outer = (loadings[:, :, None] * loadings[:, None, :]).reshape(len(loadings), -1)
        spread = found.covariance.reshape(len(found.mean), -1) @ outer.T
        return found.mean @ loadings.T + self.offset_[rois], np.maximum(spread, 0.0)

    def _rates(self, found: Inferred) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Mean and sd of the rates in spikes per frame."""
        return rates_of(*self._drive(found))

    def _spikes(self, recording: Recording, found: Inferred) -> NDArray[np.floating]:
        params = learned.weights_of(self).params
        return expected_spikes(self.observation, recording, self._drive(found)[0], params)

    # -- Scores ---------------------------------------------------------------------------------------------------

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Return the evidence lower bound in nats per scored sample (frame x ROI); higher is better.

        Most of it is the autoregression's. What the latents add is the difference to a model of the same data with
        fewer of them.
        """
        recording = self._fitted(X, groups).recording
        found = self._infer(recording)
        if found.n_samples == 0:
            raise DataError(
                f"No sample of X can be scored: each needs {self._order} observed frames before it in its trial."
            )
        return found.bound / found.n_samples

    def cosmooth(self, X: Any, held_out: Any, *, groups: Any = None) -> CoSmoothing:
        """Predict neurons from all others.

        Parameters
        ----------
        X : anything :meth:`fit` takes
            Recordings of all neurons; traces of those left out are used for the likelihood only.
        held_out : array_like of int, or of bool, shape (roi,)
            Columns to leave out.
        groups : array_like, shape (time,), optional
            As in :meth:`fit`.

        Returns
        -------
        CoSmoothing
            Rates with sd, and the likelihood of each neuron beside that of a constant rate.
        """
        check_is_fitted(self)
        columns = as_columns(held_out, self.n_features_in_)
        recording = self._fitted(X, groups).recording
        mask = recording.mask.copy()
        mask[:, columns] = False
        found = self._infer(replaced(recording, mask=mask))
        mean, spread = self._drive(found, columns)
        plan = learned.plan_of(self, recording)
        starts = np.zeros(recording.n_frames, bool)
        starts[recording.segments.bounds[:, 0]] = True
        observed = recording.mask[:, columns]
        y = np.where(observed, recording.dff[:, columns], 0.0)
        params = jax.tree.map(lambda a: a[columns], learned.weights_of(self).params)
        own, null = predictive(
            plan.readout, y, observed, plan.kept[:, columns], starts, params, mean, spread, self.offset_[columns]
        )
        if plan.has_spikes:
            return CoSmoothing(columns, *rates_of(mean, spread), own, null)
        return CoSmoothing(columns, mean, np.sqrt(spread), own, null)

    # -- Results --------------------------------------------------------------------------------------------------

    def infer(self, X: Any, *, groups: Any = None) -> InferenceResult:
        """Return everything inferred from X: latents, rates, spikes and parameters, ready to be written to NWB."""
        recording = self._fitted(X, groups).recording
        found = self._infer(recording)
        mean, std = self._orthonormal(found)
        arrays: dict[str, NDArray[np.floating]] = {"latents": mean, "latents_std": std}
        if self._has_spikes:
            rate = recording.sampling_rate or self.sampling_rate_
            if rate is not None:
                rates, doubt = self._rates(found)
                arrays["firing_rates"] = (rate * rates).astype(np.float32)
                arrays["firing_rates_std"] = (rate * doubt).astype(np.float32)
            arrays["expected_spikes"] = self._spikes(recording, found)
        else:
            arrays["trace_means"] = self._drive(found)[0]
        return build_result(self, recording, arrays, found.bound)

    def sample(
        self, n: int, *, random_state: Any = None
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Draw ``n`` frames: traces (time, roi), latents (time, latent), spikes (time, roi; none: empty)."""
        check_is_fitted(self)
        return sample_session(self, n, check_random_state(random_state))

    @property
    def timescales_(self) -> NDArray[np.floating]:
        """Time scale of each Gaussian process in s, (latent,)."""
        check_is_fitted(self)
        return self.timescales_frames_ / self._rate("timescales_")

    @property
    def decay_time_(self) -> NDArray[np.floating]:
        """Decay time constant of each ROI's calcium in s, (roi,)."""
        check_is_fitted(self)
        if self._order == 0:
            raise DataError(f"observation={self.observation!r} has no autoregression, hence no decay time.")
        return decay_time(self.ar_coefs_) / self._rate("decay_time_")

    # -- Inside ---------------------------------------------------------------------------------------------------

    @property
    def _order(self) -> int:
        return order_of(self.observation, self.ar_order)

    @property
    def _engine(self) -> str:
        return checks.engine_of(self)

    @property
    def _has_spikes(self) -> bool:
        return not self.observation.endswith("gaussian")

    @property
    def _n_features_out(self) -> int:
        return self.n_latents_

    def _fitted(self, X: Any, groups: Any) -> Trials:
        check_is_fitted(self)
        trials = self._coerce(X, groups=groups)
        rate = trials.recording.sampling_rate
        if rate is not None and self.sampling_rate_ is not None and abs(rate / self.sampling_rate_ - 1) > 0.02:
            raise DataError(
                f"X is at {rate:.6g} Hz but the model was fitted at {self.sampling_rate_:.6g} Hz, and its rates, "
                "decays and time scales are per frame. Resample X, or fit it anew."
            )
        return trials

    def _infer(self, recording: Recording) -> Inferred:
        plan = learned.plan_of(self, recording)
        settings = self._settings(None)
        log_timescale = np.log(self.timescales_frames_)
        return engine(self._engine).infer(plan, recording, settings, learned.weights_of(self), log_timescale)

    def _need_spikes(self, what: str) -> None:
        check_is_fitted(self)
        if not self._has_spikes:
            raise DataError(
                f'observation={self.observation!r} has no spikes, hence no {what}. Fit with observation="calcium".'
            )
