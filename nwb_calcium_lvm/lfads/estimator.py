"""CalciumLFADS: nonlinear dynamics of a population, straight from fluorescence."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import jax
import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from tqdm.auto import tqdm

from nwb_calcium_lvm._core.base import CalciumEstimator
from nwb_calcium_lvm._core.cosmoothing import CoSmoothing
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads import checks, cosmoothing, fitting, learned, sampling, sessions
from nwb_calcium_lvm.lfads.checkpoints import Checkpoints
from nwb_calcium_lvm.lfads.inference import Moments
from nwb_calcium_lvm.lfads.network import Architecture
from nwb_calcium_lvm.lfads.objective import Hyper
from nwb_calcium_lvm.lfads.recordings import infer_recording
from nwb_calcium_lvm.lfads.results import build_result
from nwb_calcium_lvm.lfads.training import Recipe, Trained, train
from nwb_calcium_lvm.observations.autoregression import decay_time


class Forecast(NamedTuple):
    """What follows each trial, or the end of a recording.

    Attributes
    ----------
    factors, factors_std : ndarray, shape (trial, n_frames, factor)
    rates, rates_std : ndarray, shape (trial, n_frames, roi)
        Expected spikes per frame.
    """

    factors: NDArray[np.floating]
    factors_std: NDArray[np.floating]
    rates: NDArray[np.floating]
    rates_std: NDArray[np.floating]


class CalciumLFADS(ClassNamePrefixFeaturesOutMixin, TransformerMixin, CalciumEstimator):
    r"""Latent factor analysis via dynamical systems for calcium imaging: a recurrent network makes the firing rates.

    .. math::
        g_0 \sim N(\mu, \mathrm{diag}(\kappa)), \quad u_t \sim AR(1), \quad g_t = \mathrm{GRU}(g_{t-1}, u_t), \quad
        f_t = W g_t, \quad s_{tn} \sim \mathrm{Poisson}(e^{C_n \cdot f_t + d_n}), \quad
        y_{tn} = \sum_{i \le p} \alpha_{ni}\, y_{t-i,n} + b_n + c_n s_{tn} + \epsilon_{tn}

    Initial conditions :math:`g_0` and inputs :math:`u_t` are inferred by recurrent encoders, trained together with the
    generator; the spikes :math:`s` are never seen and are summed out, so that no deconvolution is needed.

    Parameters
    ----------
    n_factors : int, default 8
        Factors that the rates are read out from. Dynamics are as many-dimensional as this at most to the eye.
    n_generator : int, default 100
        Units of the generator.
    n_controller_inputs : int, default 4
        Inferred inputs in each frame; 0 for dynamics that nothing drives. Without inputs a window is explained by its
        initial condition alone, which chaotic dynamics do not allow.
    observation : {"calcium", "calcium_noisy", "ar_gaussian", "gaussian", "poisson"}, default "calcium"
        What the rates drive.
    ar_order : int, default 1
        Order p of the autoregression.
    n_encoder, n_controller, n_initial : int
        Units of the encoders (each way) and of the controller; dimensions of the initial condition.
    window : float, optional
        Longest stretch that the network sees at once, in s (frames where there is no sampling rate). Default: whole
        trials, up to 500 frames; 100 frames of a recording without trials.
    overlap : float, default 0.25
        Share of a window that it has in common with the next where a trial or recording makes several.
    max_epochs : int, default 300
        Most passes over the data.
    batch_size : int, default 16
        Windows in a step.
    learning_rate : float, default 0.01
        Of Adam, at its height.
    ramp_epochs : int, default 20
        Epochs in which the divergences come in and calcium parameters stay as they start.
    patience : int, default 60
        Epochs without a better bound on the windows left out, after which training ends.
    validation_share : float, default 0.2
        Share of windows left out to choose weights by.
    dropout : float, default 0.0
        Share of encoder outputs and generator units left out in training.
    coordinated_dropout : float, default 0.0
        Share of samples hidden from the encoders and scored: for few trials, where the inputs would fit noise.
    l2 : float, default 1e-3
        Penalty on recurrent weights.
    kl_scale : float, default 1.0
        Weight of the divergences; 1 makes the objective a bound on the likelihood.
    n_draws : int, default 16
        Draws from the posterior, for means and standard deviations.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Of recurrent products. "auto": bfloat16 on a GPU or TPU.
    checkpoint_dir : path, optional
        Folder where training is kept, and taken up again after a kill.
    checkpoint_every : int, default 10
        Epochs from one checkpoint to the next.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it.
    random_state : int, RandomState or None
        Seed. Fits with the same seed, data and device are the same.
    verbose : int, default 0
        1 shows a progress bar.

    Attributes
    ----------
    loadings_ : ndarray, shape (roi, factor)
        C; log of the expected spikes per frame = ``offset_ + loadings_ @ factors``. For several sessions, this and all
        that follow with an axis roi are lists of arrays.
    offset_ : ndarray, shape (roi,)
    ar_coefs_, spike_amplitude_, noise_variance_, baseline_ : ndarray, first axis roi
        α per frame, c in dF/F per spike, σ² in dF/F², and the trace without spikes. ``decay_time_`` in s.
    history_ : ndarray, shape (epoch, 2)
        Training loss, and bound on the windows left out, in nats per sample of the standardised traces.
    validation_score_ : float
        The bound of the weights that were kept, in nats per sample of the traces as given.
    n_iter_, converged_, n_samples_, sampling_rate_, roi_ids_, session_roi_ids_
        How the fit went and on what. Converged: the bound on the windows left out had stopped rising.

    Raises
    ------
    DataError
        Where the data cannot be used; the message says what was received, expected, and what to do.

    Notes
    -----
    Only the span of the factors is determined, not their axes. An epoch costs O(T N F + T H²) for each window, H the
    units of the widest recurrent network.

    References
    ----------
    Pandarinath et al. 2018 (LFADS). Zoltowski, Keeley, Pillow and colleagues (the calcium observation model).
    Keshtkaran et al. 2022 (coordinated dropout, hyper-parameter search).

    Examples
    --------
    >>> from nwb_calcium_lvm import CalciumLFADS
    >>> from nwb_calcium_lvm.simulate import lorenz_experiment
    >>> truth = lorenz_experiment(n_trials=10, n_frames=20, n_rois=6, random_state=0)
    >>> lfads = CalciumLFADS(n_factors=3, n_generator=8, n_encoder=8, n_controller=8, max_epochs=2, random_state=0)
    >>> lfads.fit(truth.traces).transform(truth.traces).shape
    (10, 20, 3)
    """

    n_iter_: int
    history_: NDArray[np.floating]
    session_roi_ids_: list[NDArray[Any]]
    scales_: list[fitting.Scale]
    ar_coefs_: Any

    def __init__(
        self,
        n_factors: int = 8,
        *,
        n_generator: int = 100,
        n_controller_inputs: int = 4,
        observation: str = "calcium",
        ar_order: int = 1,
        n_encoder: int = 48,
        n_controller: int = 48,
        n_initial: int = 32,
        window: float | None = None,
        overlap: float = 0.25,
        max_epochs: int = 300,
        batch_size: int = 16,
        learning_rate: float = 0.01,
        ramp_epochs: int = 20,
        patience: int = 60,
        validation_share: float = 0.2,
        dropout: float = 0.0,
        coordinated_dropout: float = 0.0,
        l2: float = 1e-3,
        kl_scale: float = 1.0,
        n_draws: int = 16,
        precision: str = "auto",
        checkpoint_dir: Any = None,
        checkpoint_every: int = 10,
        sampling_rate: float | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.n_factors = n_factors
        self.n_generator = n_generator
        self.n_controller_inputs = n_controller_inputs
        self.observation = observation
        self.ar_order = ar_order
        self.n_encoder = n_encoder
        self.n_controller = n_controller
        self.n_initial = n_initial
        self.window = window
        self.overlap = overlap
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.ramp_epochs = ramp_epochs
        self.patience = patience
        self.validation_share = validation_share
        self.dropout = dropout
        self.coordinated_dropout = coordinated_dropout
        self.l2 = l2
        self.kl_scale = kl_scale
        self.n_draws = n_draws
        self.precision = precision
        self.checkpoint_dir = checkpoint_dir
        self.checkpoint_every = checkpoint_every
        self.sampling_rate = sampling_rate
        self.random_state = random_state
        self.verbose = verbose

    # -- Fitting --------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, *, groups: Any = None, conditions: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array (time, roi), trials (trial, time, roi), list of arrays, Recording, NWB file, Suite2p folder, or a \
list of Recordings
            Fluorescence as dF/F (or spike counts with ``observation="poisson"``). A list of Recordings is sessions of
            other neurons each, that share the dynamics.
        y : ignored
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array.
        conditions : list of array_like, optional
            For several sessions: the condition of each trial of each Recording, such as the stimulus. Sessions then
            start from ways in and out that agree on what happens in conditions which all of them share, so that
            their factors lie in one space. Trials have to be aligned: each begins at the same event.
        """
        checks.check_parameters(self)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        given = sessions.to_fit(self, X, groups)
        recordings = [t.recording for t in given]
        rate = recordings[0].sampling_rate or self.sampling_rate
        problem = fitting.prepare(recordings, self.settings(rate), seed, conditions)
        trained = self._train(problem, seed)
        checks.check_finite(trained)
        learned.store(self, recordings, seed, problem, trained)
        checks.warn(self)
        return self

    def settings(self, rate: float | None) -> fitting.Settings:
        """Return what the arguments come to at a sampling rate in Hz (None: frames are the unit of time)."""
        half = self.precision == "bfloat16" or (self.precision == "auto" and jax.default_backend() != "cpu")
        sizes = Architecture(
            n_rois=0,
            n_sessions=0,
            n_encoder=self.n_encoder,
            n_controller=self.n_controller,
            n_generator=self.n_generator,
            n_initial=self.n_initial,
            n_factors=self.n_factors,
            n_inputs=self.n_controller_inputs,
            half=half,
        )
        hyper = Hyper(self.learning_rate, self.dropout, self.coordinated_dropout, self.l2, self.kl_scale, self.kl_scale)
        window = None if self.window is None else max(1, round(self.window * (rate or 1.0)))
        recipe = Recipe(self.max_epochs, min(self.ramp_epochs, self.max_epochs), self.batch_size, self.patience)
        return fitting.Settings(
            self.observation, self.ar_order, window, self.overlap, self.validation_share, sizes, hyper, recipe
        )

    def _train(self, problem: fitting.Problem, seed: int) -> Trained:
        keeper = None
        if self.checkpoint_dir is not None:
            identity = checks.identity(self, seed, fitting.fingerprint(problem))
            keeper = Checkpoints(self.checkpoint_dir, identity, self.checkpoint_every)
        with tqdm(total=self.max_epochs, disable=not self.verbose, desc="CalciumLFADS", unit="epoch") as bar:

            def report(done: int, loss: float, held_out: float) -> None:
                bar.update(done - bar.n)
                bar.set_postfix(loss=f"{loss:.4f}", held_out=f"{held_out:.4f}")

            model, weights, split, hyper, recipe = problem[:5]
            key = jax.random.key(seed)
            return train(model, weights, split, hyper, recipe, key, keeper=keeper, report=report)

    # -- Factors and rates ------------------------------------------------------------------------------------------

    def transform(self, X: Any, *, groups: Any = None) -> Any:
        """Return the posterior mean of the factors, shape (time, factor), in the form of X."""
        return self.predict_factors(X, groups=groups)

    def predict_factors(self, X: Any, return_std: bool = False, *, groups: Any = None) -> Any:
        """Return the posterior mean of the factors, (time, factor), and their standard deviation if asked for."""
        return self._joined(X, groups, "factors", 1.0, return_std)

    def predict_rates(self, X: Any, return_std: bool = False, *, groups: Any = None) -> Any:
        """Return the posterior mean of the firing rates in Hz, (time, roi), and their standard deviation if asked for.

        Raises
        ------
        DataError
            If the observation model has no spikes, or there is no sampling rate.
        """
        checks.need_spikes(self, "predict_rates")
        return self._joined(X, groups, "rates", self._rate("predict_rates"), return_std)

    def predict_inputs(self, X: Any, return_std: bool = False, *, groups: Any = None) -> Any:
        """Return the posterior mean of the inputs, (time, input), and their standard deviation if asked for."""
        return self._joined(X, groups, "inputs", 1.0, return_std)

    def _joined(self, X: Any, groups: Any, what: str, factor: float, return_std: bool) -> Any:
        check_is_fitted(self)
        given, numbers = sessions.to_infer(self, X, groups)
        out = []
        for trials, number in zip(given, numbers, strict=True):
            found, windows, _ = infer_recording(self, trials.recording, number, self.overlap)
            moments: Moments = getattr(found, what)
            n_rois = trials.recording.n_rois if what == "rates" else None
            mean, std = (trials.restore(factor * windows.join(x)[:, :n_rois]) for x in moments)
            out.append((mean, std) if return_std else mean)
        return out if len(given) > 1 else out[0]

    # -- Scores ---------------------------------------------------------------------------------------------------

    def score(self, X: Any, y: Any = None, *, groups: Any = None) -> float:
        """Return the evidence lower bound in nats per scored sample (frame x ROI); higher is better."""
        check_is_fitted(self)
        given, numbers = sessions.to_infer(self, X, groups)
        total, n = 0.0, 0
        for trials, number in zip(given, numbers, strict=True):
            found, _, scored = infer_recording(self, trials.recording, number, 0.0)
            log_scale = scored.sum(axis=(0, 1)) * np.log(self.scales_[number].sd)
            total += float(found.bound.sum() - log_scale.sum())
            n += int(scored.sum())
        if n == 0:
            raise DataError("No sample of X can be scored: each needs observed frames before it in its trial.")
        return total / n

    def cosmooth(self, X: Any, held_out: Any, *, groups: Any = None) -> CoSmoothing:
        """Predict neurons from all others.

        Parameters
        ----------
        X, groups
            As in :meth:`fit`, of one session.
        held_out : array_like of int, or of bool, shape (roi,)
            Columns that the encoders do not see; their traces are used for the likelihood only.

        Returns
        -------
        CoSmoothing
            Rates with sd, and the likelihood of each neuron beside that of a constant rate.

        Notes
        -----
        Train with ``coordinated_dropout`` above 0 for this: else the encoders have never done without a neuron.
        """
        check_is_fitted(self)
        given, numbers = sessions.to_infer(self, X, groups)
        if len(given) != 1:
            raise DataError("cosmooth takes one recording at a time.")
        return cosmoothing.cosmooth(self, given[0].recording, numbers[0], held_out)

    # -- Dynamics ---------------------------------------------------------------------------------------------------

    def forecast(self, X: Any, n_frames: int, *, groups: Any = None) -> Forecast:
        """Return how each trial of X (or its end, where there are no trials) goes on for ``n_frames``.

        The generator runs on from its last state, with inputs drawn from their prior.
        """
        check_is_fitted(self)
        given, numbers = sessions.to_infer(self, X, groups)
        if len(given) != 1:
            raise DataError("forecast takes one recording at a time.")
        return Forecast(*sampling.forecast(self, given[0].recording, numbers[0], checks.positive("n_frames", n_frames)))

    def sample(
        self, n: int = 1, *, n_frames: int | None = None, session: int = 0, random_state: Any = None
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """Draw ``n`` trials: traces (trial, time, roi), factors (trial, time, factor), spikes (trial, time, roi)."""
        check_is_fitted(self)
        return sampling.sample_trials(self, n, n_frames, session, check_random_state(random_state))

    # -- Results --------------------------------------------------------------------------------------------------

    def infer(self, X: Any, *, groups: Any = None) -> Any:
        """Return everything inferred from X, ready to be written to NWB: factors, rates, inputs, initial conditions.

        A list of Recordings gives a list of results.
        """
        check_is_fitted(self)
        given, numbers = sessions.to_infer(self, X, groups)
        out = []
        for trials, number in zip(given, numbers, strict=True):
            found, windows, _ = infer_recording(self, trials.recording, number, self.overlap)
            out.append(build_result(self, trials.recording, number, found, windows))
        return out if len(given) > 1 else out[0]

    @property
    def decay_time_(self) -> Any:
        """Decay time constant of each ROI's calcium in s, (roi,); a list for several sessions."""
        check_is_fitted(self)
        if not hasattr(self, "ar_coefs_"):
            raise DataError(f"observation={self.observation!r} has no autoregression, hence no decay time.")
        rate = self._rate("decay_time_")
        if isinstance(self.ar_coefs_, list):
            return [decay_time(coefs) / rate for coefs in self.ar_coefs_]
        return decay_time(self.ar_coefs_) / rate

    # -- Inside ---------------------------------------------------------------------------------------------------

    @property
    def _n_features_out(self) -> int:
        return self.n_factors

    def _to_save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return learned.to_save(self)

    @classmethod
    def _restore(cls, parameters: dict[str, Any], fitted: dict[str, Any]) -> Self:
        return learned.restore(cls(**parameters), fitted)
