"""VAESpikeEstimator: spikes by amortised inference in a generative model of the indicator, without known spikes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._core.coerce import warn_if_transposed
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.spikes.inputs import Findings, Given, look_at, spike_times, take
from nwb_calcium_lvm.spikes.vae import learning, weights
from nwb_calcium_lvm.spikes.vae.checks import check_parameters, warn_of_what_was_not_dreamed
from nwb_calcium_lvm.spikes.vae.generative import GenerativeModel, model_of
from nwb_calcium_lvm.spikes.vae.inference import (
    Shown,
    around,
    cell_parameters,
    count_moments,
    informed,
    show,
)
from nwb_calcium_lvm.spikes.vae.recognition import RecognitionConfig
from nwb_calcium_lvm.spikes.vae.simulation import World
from nwb_calcium_lvm.spikes.vae.training import build, sleep
from nwb_calcium_lvm.spikes.vae.wake import vimco
from nwb_calcium_lvm.spikes.vae.weights import Trained
from nwb_calcium_lvm.spikes.vae_posterior import PosteriorEstimator

_WITH_KNOWN = 400  # updates of a trained network that learns from known spikes
_BATCH = 24  # snippets of an update
_WEIGHT = "weight:"


class VAESpikeEstimator(PosteriorEstimator):
    r"""Spikes per second from a recognition network and the generative model that it inverts ("DeepSpike").

    .. math::
        F_t = \beta + f_\theta(s_1, \dots, s_t) + \epsilon_t, \qquad
        q_\phi(s \mid F) = \prod_t q_\phi(s_t \mid F, s_{<t})

    A network is trained once and reads the spikes of any cell in one pass. It learns by dreaming: spikes, parameters
    and noise are drawn from priors, and the network is taught to find the spikes again; no recording with known spikes
    is needed.

    Parameters
    ----------
    generative : {"ml_phys", "scdf", "linear"} or GenerativeModel, default "ml_phys"
        From spikes to fluorescence: an indicator that binds a power of calcium with delay and saturation, a dye that
        calcium fills, or calcium that rises and decays; or a JAX function of one's own.
    posterior : {"correlated", "factorised"}, default "correlated"
        Whether spikes of a frame depend on those of the frames before, in samples and intervals. Rates are the same.
    method : {"sleep", "vimco"}, default "sleep"
        How ``fit`` learns: from dreams, drawn like the recording; or from the recording itself by an
        importance-weighted bound with VIMCO, as published, which also fits the parameters of each cell.
    start : {"pretrained", "random"}, default "pretrained"
        From the network that comes with the package for this generative model, or anew.
    n_updates : int, optional
        Steps of training. Default: 0 for ``"sleep"`` from a pretrained network, which then is used as it is (400 with
        known spikes), else 2,000.
    n_draws : int, default 32
        Spike trains drawn for an update of VIMCO, the bound, or a reconstruction.
    config : RecognitionConfig, optional
        Shape of a network that starts anew.
    world : World, optional
        What is dreamed around the generative model: rates, noise, frame rates.
    lag : float, default 0.0
        Moves the output later by this many s; one for all indicators and data sets.
    smoothing : float, default 0.05
        Standard deviation of a Gaussian in s by which rates are smoothed, for the timing that the model does not know
        is uncertain; 0 for the model's own.
    sampling_rate : float, optional
        Frames per second, for arrays, and for files and folders that do not say it.
    random_state : int, RandomState or None
    verbose : int, default 0
        1 shows a progress bar.

    Attributes
    ----------
    trained_ : Trained
        Network, its shape, and the generative model with the prior that it dreams from.
    parameters_, parameter_errors_ : dict of str to ndarray, shape (unit,)
        Posterior median of each parameter of the cells fitted, and the standard deviation of its logarithm. Those of
        other cells: :meth:`cell_parameters`.
    history_ : ndarray, shape (check, 2)
        Updates, and the loss (``"sleep"``) or the bound in nats per frame (``"vimco"``).
    roi_ids_ : ndarray

    Raises
    ------
    DataError
        Where the data cannot be used; the message says what was received, expected, and what to do.

    Notes
    -----
    Each ROI is taken alone: a fitted estimator takes any number of them. Frame rates from 5 to 80 Hz are read as they
    are, faster ones are averaged to 60 Hz.

    References
    ----------
    Speiser, Yan, Archer, Buesing, Turaga and Macke 2017, Fast amortized inference of neural activity from calcium
    imaging data with variational autoencoders, NeurIPS. Deneux et al. 2016 (MLspike). Mnih and Rezende 2016 (VIMCO).
    Hinton et al. 1995 (sleep).

    Examples
    --------
    >>> import numpy as np
    >>> from nwb_calcium_lvm.spikes import VAESpikeEstimator
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(0.03, size=(900, 2))
    >>> t = np.arange(60) + 0.5
    >>> kernel = 0.4 * (np.exp(-t / 15.0) - np.exp(-t / 2.0))
    >>> trace = np.apply_along_axis(lambda s: np.convolve(s, kernel)[:900], 0, counts)
    >>> trace = trace + 0.03 * rng.standard_normal(trace.shape)
    >>> vae = VAESpikeEstimator(generative="linear", smoothing=0.0, sampling_rate=30.0).fit(trace)
    >>> bool(np.corrcoef(vae.predict(trace)[:, 0], counts[:, 0])[0, 1] > 0.6)
    True
    """

    trained_: Trained
    parameters_: dict[str, NDArray[np.floating]]
    parameter_errors_: dict[str, NDArray[np.floating]]
    history_: NDArray[np.floating]
    roi_ids_: NDArray[Any]

    def __init__(
        self,
        *,
        generative: str | GenerativeModel = "ml_phys",
        posterior: str = "correlated",
        method: str = "sleep",
        start: str = "pretrained",
        n_updates: int | None = None,
        n_draws: int = 32,
        config: RecognitionConfig | None = None,
        world: World | None = None,
        lag: float = 0.0,
        smoothing: float = 0.05,
        sampling_rate: float | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.generative = generative
        self.posterior = posterior
        self.method = method
        self.start = start
        self.n_updates = n_updates
        self.n_draws = n_draws
        self.config = config
        self.world = world
        self.lag = lag
        self.smoothing = smoothing
        self.sampling_rate = sampling_rate
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        return tags

    @property
    def takes_any_rois(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether ROIs may come some at a time: where each is a unit of its own."""
        return model_of(self.generative).n_channels == 1

    # -- Fitting --------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, generative: str | Path = "ml_phys", **parameters: Any) -> Self:
        """Return an estimator with a network that comes with the package, or with that of a ``.npz`` file.

        Parameters
        ----------
        generative : {"ml_phys", "scdf", "linear"} or path
        **parameters
            Of the constructor, such as ``posterior`` or ``sampling_rate``.
        """
        from_file = Path(generative).suffix == ".npz"
        trained = (
            weights.read_weights(Path(generative).expanduser()) if from_file else weights.pretrained(str(generative))
        )
        made = cls(generative=trained.model.name, **parameters)
        check_parameters(made)
        made._store(trained if made.posterior == "correlated" else weights.without_sequence(trained))
        return made

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Fit the network to recordings, and find the parameters of their cells.

        Parameters
        ----------
        X : array (time, roi), trials, Recording, list of Recordings, NWB file or Suite2p folder
            dF/F, or traces of unknown unit as ``Recording(..., units="unknown")``.
        y : array_like or list, optional
            Known spikes: counts per frame (time, roi) or the spike times of each ROI in s (None for an ROI whose spikes
            are not known); a list of these, or None, for a list of Recordings. Every second update then learns from
            them.
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array.
        """
        check_parameters(self)
        given = take(self, X, groups=groups)
        recordings = [item.recording for item in given.items]
        for recording in recordings:
            warn_if_transposed(recording)
            self._warn_of(look_at(recording), recording)
        seed = self._seed()
        trained = self._first(recordings, seed)
        self._check_channels(recordings, trained.model)
        shown = [show(recording, trained.model) for recording in recordings]
        if not any(len(s.rois) for s in shown):
            raise DataError(
                f"None of {sum(r.n_rois for r in recordings)} ROIs can be fitted (n_samples={recordings[0].n_frames} "
                "frames): all are constant or never observed. Expected dF/F."
            )
        known = None if y is None else self._known(y, given)
        if self.method == "vimco":
            self._fit_vimco(trained, shown, known, seed, recordings[0].n_rois)
        else:
            self._fit_sleep(trained, shown, recordings, known, seed)
        self.roi_ids_ = np.concatenate([r.roi_ids for r in recordings])
        return self

    def _first(self, recordings: list[Recording], seed: int) -> Trained:
        """Return the network to start from."""
        model = model_of(self.generative)
        if self._from_pretrained():
            found = weights.pretrained(model.name)
        else:
            config = replace(self.config or RecognitionConfig(), correlated=self.posterior == "correlated")
            model = model.of_indicator(learning.common_indicator(recordings))
            found = Trained(build(config, model, seed % 2**31), config, model, {})
        return found if self.posterior == "correlated" else weights.without_sequence(found)

    def _from_pretrained(self) -> bool:
        return self.start == "pretrained" and isinstance(self.generative, str) and self.config is None

    def _updates(self, known: bool = False) -> int:
        if self.n_updates is not None:
            return self.n_updates
        if self.method == "sleep" and self._from_pretrained():
            return _WITH_KNOWN if known else 0
        return 2000

    def _fit_sleep(
        self, trained: Trained, shown: list[Shown], recordings: list[Recording], known: Any, seed: int
    ) -> None:
        draw = None
        if known is not None:
            stride = around(trained.config)[1]
            draw = learning.known_spikes(shown, trained.model, recordings, known, -self.lag, _BATCH, stride)
        n, self.history_ = self._updates(draw is not None), np.zeros((0, 2))
        if n:
            prior = self._prior(trained, [s for s in shown if len(s.rois)])
            with _progress(n, self.verbose) as report:
                network, self.history_ = sleep(
                    trained.network,
                    trained.model,
                    prior.world,
                    n,
                    seed,
                    centre=prior.centre,
                    spread=prior.spread,
                    learning_rate=5e-4 if self._from_pretrained() else 2e-3,
                    known=draw,
                    report=report,
                )
            trained = trained._replace(network=network)
        self._store(trained)
        found = [self._of_units(s, r) for s, r in zip(shown, recordings, strict=True)]
        self._store_cells(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def _prior(self, trained: Trained, shown: list[Shown]) -> learning.Population:
        """Return what to dream of to read these recordings."""
        world, model = self.world or World(), trained.model
        if self._from_pretrained():
            return learning.population(shown, trained.network, trained.config, model, world)
        near = learning.like_recordings(shown, world)
        return learning.Population(np.asarray(model.medians()), np.asarray(model.spreads()), near)

    def _of_units(self, shown: Shown, recording: Recording) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return mean and sd of the logarithms of parameters of all units, NaN where there is no trace."""
        trained = self.trained_
        n = trained.model.n_channels
        mean, sd = (np.full((recording.n_rois // n, len(trained.model.names)), np.nan) for _ in range(2))
        if len(shown.rois):
            units = shown.rois[::n] // n
            mean[units], sd[units] = cell_parameters(shown, trained.network, trained.config, trained.model)
        return mean, sd

    def _fit_vimco(self, trained: Trained, shown: list[Shown], known: Any, seed: int, n_rois: int) -> None:
        if len(shown) != 1:
            raise DataError(f"method='vimco' fits one recording, and X is a list of {len(shown)}. Fit them one by one.")
        if known is not None:
            raise DataError("method='vimco' learns from the traces alone. Use method='sleep' with known spikes.")
        model, config = trained.model, trained.config
        cells = learning.start_cells(shown[0], model, (self.world or World()).mean_rate)
        draw = learning.snippets_of(shown[0], model, _BATCH, around(config)[1])
        n = self._updates()
        with _progress(n, self.verbose) as report:
            network, cells, self.history_ = vimco(
                trained.network, cells, draw, self._setting(trained, shown[0], "binomial"), n, seed, report=report
            )
        self._store(trained._replace(network=network))
        n_channels = model.n_channels
        values = np.full((n_rois // n_channels, len(model.names)), np.nan)
        values[shown[0].rois[::n_channels] // n_channels] = np.asarray(cells.log_values, float)
        self._store_cells(values, np.full(values.shape, np.nan))

    def _known(self, y: Any, given: Given) -> list[list[NDArray[np.floating] | None]]:
        """Return the spike times of each ROI of each recording; None where they are not known."""
        parts = list(y) if given.is_list else [y]
        if len(parts) != len(given.items):
            raise DataError(f"y has {len(parts)} entries for {len(given.items)} Recordings; expected one for each.")
        out: list[list[NDArray[np.floating] | None]] = []
        for part, item in zip(parts, given.items, strict=True):
            n = item.recording.n_rois
            if part is None:
                out.append([None] * n)
                continue
            missing = [isinstance(part, list | tuple) and i < len(part) and part[i] is None for i in range(n)]
            filled = [np.zeros(0) if p is None else p for p in part] if any(missing) else part
            times = spike_times(filled, Given([item], False))[0]
            out.append([None if m else t for m, t in zip(missing, times, strict=True)])
        return out

    def _check_channels(self, recordings: list[Recording], model: GenerativeModel) -> None:
        for recording in recordings:
            if recording.n_rois % model.n_channels:
                raise DataError(
                    f"X has {recording.n_rois} ROIs, but the generative model {model.name!r} takes them in groups of "
                    f"{model.n_channels}. Expected the columns of each unit side by side."
                )

    def _store(self, trained: Trained) -> None:
        self.trained_ = trained
        if not hasattr(self, "history_"):
            self.history_ = np.zeros((0, 2))
        self.parameters_, self.parameter_errors_ = {}, {}

    def _store_cells(self, mean: NDArray[np.floating], sd: NDArray[np.floating]) -> None:
        names = self.trained_.model.names
        self.parameters_ = {k: np.exp(mean[:, i]) for i, k in enumerate(names)}
        self.parameter_errors_ = {k: sd[:, i] for i, k in enumerate(names)}

    # -- Inference ------------------------------------------------------------------------------------------------

    def _warn_of(self, found: Findings, recording: Recording) -> None:
        super()._warn_of(found, recording)
        if self._from_pretrained():
            warn_of_what_was_not_dreamed(found, recording)

    def _show(self, recording: Recording) -> Shown:
        trained = self.trained_
        self._check_channels([recording], trained.model)
        return informed(show(recording, trained.model), trained.network, trained.config, trained.model)

    def _rates(self, recording: Recording) -> NDArray[np.floating]:
        shown = self._show(recording)
        return self._on_frames(recording, shown, self._moments(shown)[0])

    def _moments(self, shown: Shown) -> Any:
        trained = self.trained_
        return count_moments(shown, trained.network, trained.config, trained.model)

    def score(self, X: Any, y: Any = None, *, groups: Any = None, metric: str = "pearson") -> float:
        """Return the agreement with known spikes; without any, a bound on the log-likelihood of the traces.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        y : array_like or list, optional
            Known spikes, as in :meth:`fit`.
        metric : {"pearson", "spearman", "auc", "smooth_pearson"}
            See :meth:`SpikeEstimator.score`.

        Returns
        -------
        float
            With ``y``: the metric, averaged over ROIs. Without: nats per observed sample, from ``n_draws`` spike trains
            of each stretch of 512 frames, taken for independent; higher is better, and more draws make it tighter.
        """
        if y is not None:
            return super().score(X, y, groups=groups, metric=metric)
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        total, samples = 0.0, 0
        for item in given.items:
            nats, n = self._bound(item.recording)
            total, samples = total + nats, samples + n
        if not samples:
            raise DataError("No ROI of X can be scored: all are constant or never observed.")
        return total / samples

    # -- On disk and in results -----------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        about = super()._about()
        about["hyperparameters"] = self._plain_parameters()
        return about | {"description": "Recognition network of a generative model of spikes and fluorescence."}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(cast(dict[str, Any], super().__getstate__()))
        if "trained_" in state:  # how the network is built follows from its shape, and holds functions of JAX
            state["trained_"] = weights.without_graph(state["trained_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "trained_" in state:
            self.trained_ = weights.with_graph(self.trained_)

    def save_weights(self, path: str | Path) -> Path:
        """Save the network for :meth:`from_pretrained`, without the constructor's arguments."""
        check_is_fitted(self)
        return weights.write_weights(Path(path), self.trained_)

    def _plain_parameters(self) -> dict[str, Any]:
        parameters = self.get_params(deep=False)
        if isinstance(self.generative, GenerativeModel):
            parameters["generative"] = self.generative.name
        for name in ("config", "world"):
            if parameters[name] is not None:
                parameters[name] = asdict(parameters[name])
        return parameters

    def _to_save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        header, arrays = weights.to_plain(self.trained_)
        fitted: dict[str, Any] = {"trained_": header, "history_": self.history_}
        fitted |= {k: v for k, v in vars(self).items() if k in ("roi_ids_",)}
        fitted |= {f"parameter:{k}": v for k, v in self.parameters_.items()}
        fitted |= {f"error:{k}": v for k, v in self.parameter_errors_.items()}
        return self._plain_parameters(), fitted | {_WEIGHT + k: v for k, v in arrays.items()}

    @classmethod
    def _restore(cls, parameters: dict[str, Any], fitted: dict[str, Any]) -> Self:
        kinds = {"config": RecognitionConfig, "world": World}
        made = {k: kind(**_tuples(parameters[k])) for k, kind in kinds.items() if parameters.get(k) is not None}
        estimator = cls(**parameters | made)
        own = {k.removeprefix(_WEIGHT): v for k, v in fitted.items() if k.startswith(_WEIGHT)}
        estimator._store(weights.from_plain(fitted["trained_"], own))
        for name in ("history_", "roi_ids_"):
            if name in fitted:
                setattr(estimator, name, fitted[name])
        for prefix, into in (("parameter:", estimator.parameters_), ("error:", estimator.parameter_errors_)):
            into.update({k.removeprefix(prefix): v for k, v in fitted.items() if k.startswith(prefix)})
        return estimator


@contextmanager
def _progress(n: int, verbose: int) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of updates; what is yielded is told how many are done, and how well."""
    from tqdm.auto import tqdm

    with tqdm(total=n, disable=not verbose, unit="update", desc="VAE") as shown:

        def report(done: int, value: float) -> None:
            shown.update(done - shown.n)
            shown.set_postfix_str(f"{value:.4g}")

        yield report


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
