"""CalciumHMM: discrete states of a population, straight from fluorescence."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._core.base import CalciumEstimator
from nwb_calcium_lvm._core.coerce import Trials
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.hmm import checks, fitting, learned
from nwb_calcium_lvm.hmm.engines import engine
from nwb_calcium_lvm.hmm.plans import plan_for
from nwb_calcium_lvm.hmm.results import build_result
from nwb_calcium_lvm.hmm.sampling import sample_session
from nwb_calcium_lvm.observations.autoregression import decay_time
from nwb_calcium_lvm.observations.starting import scored
from nwb_calcium_lvm.result import InferenceResult


class CalciumHMM(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CalciumEstimator):
    r"""Hidden Markov model whose states set the firing rates behind calcium fluorescence.

    .. math::
        z_t \sim \pi_{z_{t-1}}, \quad s_{tn} \sim \mathrm{Poisson}(\lambda_{z_t n}), \quad
        y_{tn} = \sum_{i \le p} \alpha_{ni}\, y_{t-i,n} + b_n + c_n s_{tn} + \epsilon_{tn}, \quad
        \epsilon_{tn} \sim N(0, \sigma_n^2)

    The spikes :math:`s` are never seen and are summed out exactly, so that no deconvolution is needed.

    Parameters
    ----------
    n_states : int, default 3
        Number of hidden states. Choose it by held-out ``score``, see :func:`nwb_calcium_lvm.hmm.select_n_states`.
    observation : {"calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson"}, default "calcium"
        What a state sets: rates of spikes behind calcium, with all noise inside the autoregression or with white
        measurement noise on top too; mean and variance of the AR residual, or of the trace itself; or rates of spike
        counts that are known.
    ar_order : int, default 1
        Order p of the autoregression: 1 for a fast rise, 2 where the rise takes several frames.
    n_init : int, default 5
        Starts that are tried; the best after a few steps goes on.
    max_iter : int, default 100
        Most steps of the solver. Gradient steps are much smaller than EM steps: give it 2000 or more.
    tol : float, default 1e-5
        The fit stops when a step gains less than this, in nats per observed sample.
    stickiness : float, default 0.0
        Pseudo-count of staying in a state: raise it (10 to 1000) if states flicker.
    solver : {"em", "gradient"}, default "em"
        Closed-form EM, or Adam on the same objective; calcium_noisy knows the first only, with expectation propagation.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it (or say it wrong).
    random_state : int, RandomState or None
        Seed of the starts.
    verbose : int, default 0
        1 shows a progress bar.
    transition_prior : float, default 0.1
        Pseudo-count of every transition and of every initial state. 0: maximum likelihood.
    prior_frames : float, default 1.0
        Strength of the pull of each state's rates (means, variances) to the ROI's own average, as a number of frames
        seen. Keeps rates off zero, where a held-out spike would be impossible. 0: maximum likelihood.
    max_spikes_per_frame : int, optional
        Largest spike count summed over, inclusive. Default: what the largest jump in the traces asks for, 8 to 32.

    Attributes
    ----------
    initial_probs_ : ndarray, shape (state,)
    transition_matrix_ : ndarray, shape (state, state)
        Rows sum to 1; element (i, j) is the probability to go from i to j within a frame.
    spikes_per_frame_ : ndarray, shape (state, roi)
        λ, expected spikes per frame in each state (calcium, poisson). ``firing_rates_`` is the same in Hz.
    ar_coefs_ : ndarray, shape (roi, order)
        α, per frame. ``decay_time_`` is its time constant in s.
    spike_amplitude_ : ndarray, shape (roi,)
        c, rise of dF/F per spike (calcium). ``influx_`` is c λ in dF/F per s, known better than c and λ apart.
    noise_variance_ : ndarray, shape (roi,)
        σ², variance of the noise inside the autoregression, in dF/F² (calcium).
    baseline_ : ndarray, shape (roi,)
        b / (1 - Σα), the trace without spikes (calcium).
    measurement_variance_ : ndarray, shape (roi,)
        τ², variance of the white noise on top of calcium, in dF/F² (calcium_noisy, which has all of calcium's too).
    means_, variances_ : ndarray, shape (state, roi)
        Of the AR residual or trace (ar_gaussian, gaussian).
    log_likelihood_ : float
        Total nats on the training data; ``log_likelihood_history_`` and ``log_posterior_history_`` per step (with
        calcium_noisy an approximation by expectation propagation, closer to the truth than ``log_likelihood_``'s
        filter, but not that of a density that integrates to 1; it need not rise at every step).
    n_iter_, converged_, n_samples_, sampling_rate_, roi_ids_, max_spikes_per_frame_
        How the fit went and on what.

    Raises
    ------
    DataError
        Where the data cannot be used; the message says what was received, expected, and what to do.

    Notes
    -----
    One EM step costs O(T N K R) multiplications and O(T N R) exponentials for T frames, N ROIs, K states, R counts;
    memory is that of a chunk of frames. All states are sorted by how often they occur, the most frequent first,
    unless ``init_states`` names them. The first p frames of each trial, and p frames after each missing sample, are
    conditioned on. Where noise hides single spikes (c below about 2σ) c and λ cannot be told apart:
    ``rate_calibrated_`` is False there, and the influx c λ is what to report.

    References
    ----------
    Keeley, Zoltowski, Charles and Pillow: latent-variable models with a calcium observation model (the model).
    Ganmor, Krumin, Rossi, Carandini and Simoncelli 2016 (marginalising spikes under autoregressive calcium).

    Examples
    --------
    >>> from nwb_calcium_lvm import CalciumHMM
    >>> from nwb_calcium_lvm.simulate import hmm_experiment
    >>> session = hmm_experiment(n_states=2, n_rois=10, n_frames=600, measurement_sd=0.0, random_state=0)
    >>> hmm = CalciumHMM(n_states=2, n_init=1, sampling_rate=10.0, random_state=0).fit(session.traces)
    >>> hmm.predict_proba(session.traces).shape
    (600, 2)
    >>> hmm.firing_rates_.shape
    (2, 10)
    """

    initial_probs_: NDArray[np.floating]
    transition_matrix_: NDArray[np.floating]
    spikes_per_frame_: NDArray[np.floating]
    spike_amplitude_: NDArray[np.floating]
    noise_variance_: NDArray[np.floating]
    measurement_variance_: NDArray[np.floating]
    baseline_: NDArray[np.floating]
    ar_coefs_: NDArray[np.floating]
    means_: NDArray[np.floating]
    variances_: NDArray[np.floating]

    def __init__(
        self,
        n_states: int = 3,
        *,
        observation: str = "calcium",
        ar_order: int = 1,
        n_init: int = 5,
        max_iter: int = 100,
        tol: float = 1e-5,
        stickiness: float = 0.0,
        solver: str = "em",
        sampling_rate: float | None = None,
        random_state: Any = None,
        verbose: int = 0,
        transition_prior: float = 0.1,
        prior_frames: float = 1.0,
        max_spikes_per_frame: int | None = None,
    ):
        self.n_states = n_states
        self.observation = observation
        self.ar_order = ar_order
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.stickiness = stickiness
        self.solver = solver
        self.sampling_rate = sampling_rate
        self.random_state = random_state
        self.verbose = verbose
        self.transition_prior = transition_prior
        self.prior_frames = prior_frames
        self.max_spikes_per_frame = max_spikes_per_frame

    # -- Fitting --------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, init_states: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array (time, roi), trials (trial, time, roi), list of arrays, Recording, NWB file, or Suite2p folder
            Fluorescence as dF/F (or spike counts with ``observation="poisson"``).
        y : ignored
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array; calcium is not carried from one trial to the next.
        init_states : array_like of int, optional
            States to start from, 0 .. n_states - 1 and -1 where unknown, in the form of X (known stimuli, say).
            States then keep these numbers.
        """
        checks.check_parameters(self)
        trials = self._coerce(X, groups=groups, reset=True)
        recording = trials.recording
        labels = checks.as_labels(self, init_states, recording)
        rate = recording.sampling_rate or self.sampling_rate
        checks.check_length(self, recording)
        plan = plan_for(self.observation, recording, self.n_states, self.ar_order, self.max_spikes_per_frame, rate)
        rng = check_random_state(self.random_state)
        climb = fitting.fit(plan, recording, self._settings(), rng, labels)
        self.sampling_rate_ = rate
        self.roi_ids_ = np.asarray(recording.roi_ids)
        self._store(plan, climb)
        inference = engine(self)
        self.log_likelihood_ = inference.log_likelihood(recording)
        if labels is None:
            occupancy = inference.smooth(recording).sum(axis=0)
            learned.reorder(self, np.argsort(-occupancy, kind="stable"))
        checks.warn(self, plan, recording)
        return self

    def fit_transform(self, X: Any, y: Any = None, *, groups: Any = None, init_states: Any = None) -> Any:
        """Fit to X and return its :meth:`predict_proba`, with the trials that ``groups`` names in both."""
        return self.fit(X, y, groups=groups, init_states=init_states).transform(X, groups=groups)

    def _settings(self) -> fitting.Settings:
        return fitting.Settings(
            self.n_states,
            self.n_init,
            self.max_iter,
            self.tol,
            self.solver,
            self.stickiness,
            self.transition_prior,
            self.prior_frames,
            self.verbose,
        )

    def _store(self, plan: Any, climb: fitting.Climb) -> None:
        learned.store(self, climb.model.chain, plan.to_data_units(climb.model.params))
        self.max_spikes_per_frame_ = getattr(plan.emission, "max_spikes", 0)
        # The density of the traces as given is that of the standardised ones over their scale.
        scale = float((plan.told.sum(axis=0) * np.log(plan.sd)).sum())
        self.log_likelihood_history_ = climb.log_likelihoods - scale
        self.log_posterior_history_ = climb.log_posteriors - scale
        self.n_iter_ = len(climb.log_posteriors)
        self.converged_ = climb.converged
        self.n_samples_ = int(plan.kept.sum())

    # -- States ---------------------------------------------------------------------------------------------------

    def predict_proba(self, X: Any, *, groups: Any = None) -> Any:
        """Return p(state | all of the trace), shape (time, state), in the form of X."""
        trials = self._fitted(X, groups)
        return trials.restore(engine(self).smooth(trials.recording))

    def transform(self, X: Any, *, groups: Any = None) -> Any:
        """Return :meth:`predict_proba`."""
        return self.predict_proba(X, groups=groups)

    def filter_proba(self, X: Any, *, groups: Any = None) -> Any:
        """Return p(state | the trace up to now), shape (time, state): what could be known online."""
        trials = self._fitted(X, groups)
        return trials.restore(engine(self).filter(trials.recording))

    def predict(self, X: Any, *, groups: Any = None) -> Any:
        """Return the most probable path of states (Viterbi), shape (time,), in the form of X."""
        trials = self._fitted(X, groups)
        return trials.restore(engine(self).path(trials.recording))

    # -- Likelihood -----------------------------------------------------------------------------------------------

    def log_likelihood(self, X: Any, *, groups: Any = None) -> float:
        """Return log p(X) in nats, summed over all scored samples; a density of the traces as given."""
        return engine(self).log_likelihood(self._fitted(X, groups).recording)

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Return the log-likelihood in nats per scored sample (frame x ROI); higher is better.

        Most of it is the autoregression's. What the states add is the difference to a model with ``n_states=1``.
        """
        recording = self._fitted(X, groups).recording
        n_samples = int(scored(recording.mask, recording.segments.bounds[:, 0], self._order).sum())
        if n_samples == 0:
            raise DataError(
                f"No sample of X can be scored: each needs {self._order} observed frames before it in its trial."
            )
        return engine(self).log_likelihood(recording) / n_samples

    def bic(self, X: Any, *, groups: Any = None) -> float:
        """Return the Bayesian information criterion; lower is better. Held-out ``score`` is the safer guide."""
        recording = self._fitted(X, groups).recording
        k, n_rois = self.n_states, self.n_features_in_
        chain = (k - 1) + k * (k - 1)
        free = chain + learned.emission(self).n_parameters(k, n_rois)
        return -2.0 * engine(self).log_likelihood(recording) + free * float(np.log(recording.n_frames))

    # -- Activity -------------------------------------------------------------------------------------------------

    def expected_spikes(self, X: Any, *, groups: Any = None, return_variance: bool = False) -> Any:
        """Return the posterior mean number of spikes in each frame, (time, roi); with its variance if asked for.

        Raises
        ------
        DataError
            If the observation model has no spikes.
        """
        self._need_spikes("expected_spikes")
        trials = self._fitted(X, groups)
        mean, variance = engine(self).activity(trials.recording)
        return (trials.restore(mean), trials.restore(variance)) if return_variance else trials.restore(mean)

    def infer(self, X: Any, *, groups: Any = None) -> InferenceResult:
        """Return everything inferred from X: states, rates, spikes and parameters, ready to be written to NWB."""
        recording = self._fitted(X, groups).recording
        return build_result(self, recording, engine(self).everything(recording))

    def sample(
        self, n: int, *, random_state: Any = None
    ) -> tuple[NDArray[np.floating], NDArray[np.integer], NDArray[np.floating]]:
        """Draw a session of ``n`` frames: traces (time, roi), states (time,), spikes (time, roi; none: empty)."""
        check_is_fitted(self)
        return sample_session(self, n, check_random_state(random_state))

    @property
    def firing_rates_(self) -> NDArray[np.floating]:
        """Firing rate of each ROI in each state, (state, roi), in Hz."""
        self._need_spikes("firing_rates_")
        return self.spikes_per_frame_ * self._rate("firing_rates_")

    @property
    def influx_(self) -> NDArray[np.floating]:
        """c λ, the dF/F that spikes bring per second, (state, roi)."""
        self._need_amplitude("influx_")
        return self.spikes_per_frame_ * self.spike_amplitude_ * self._rate("influx_")

    @property
    def decay_time_(self) -> NDArray[np.floating]:
        """Decay time constant of each ROI's calcium in s, (roi,)."""
        check_is_fitted(self)
        if self._order == 0:
            raise DataError(f"observation={self.observation!r} has no autoregression, hence no decay time.")
        return decay_time(self.ar_coefs_) / self._rate("decay_time_")

    @property
    def dwell_time_(self) -> NDArray[np.floating]:
        """Mean length of a visit to each state in s, (state,)."""
        check_is_fitted(self)
        return learned.dwell_frames(self.transition_matrix_) / self._rate("dwell_time_")

    @property
    def rate_calibrated_(self) -> NDArray[np.bool_]:
        """Whether single spikes stand out of the noise (c > 2σ), (roi,); elsewhere only the influx is known."""
        self._need_amplitude("rate_calibrated_")
        return self.spike_amplitude_ > 2.0 * np.sqrt(self.noise_variance_)

    # -- Inside ---------------------------------------------------------------------------------------------------

    @property
    def _order(self) -> int:
        return self.ar_order if self.observation in ("calcium", "calcium_noisy", "ar_gaussian") else 0

    @property
    def _n_features_out(self) -> int:
        return self.n_states

    def _fitted(self, X: Any, groups: Any) -> Trials:
        check_is_fitted(self)
        trials = self._coerce(X, groups=groups)
        rate = trials.recording.sampling_rate
        if rate is not None and self.sampling_rate_ is not None and abs(rate / self.sampling_rate_ - 1) > 0.02:
            raise DataError(
                f"X is at {rate:.6g} Hz but the model was fitted at {self.sampling_rate_:.6g} Hz, and its rates and "
                "decays are per frame. Resample X, or fit it anew."
            )
        return trials

    def _need_spikes(self, what: str) -> None:
        check_is_fitted(self)
        if not hasattr(self, "spikes_per_frame_"):
            raise DataError(
                f'observation={self.observation!r} has no spikes, hence no {what}. Fit with observation="calcium".'
            )

    def _need_amplitude(self, what: str) -> None:
        check_is_fitted(self)
        if not hasattr(self, "spike_amplitude_"):
            raise DataError(
                f"observation={self.observation!r} has no spike amplitude, hence no {what}. Fit with "
                'observation="calcium".'
            )
