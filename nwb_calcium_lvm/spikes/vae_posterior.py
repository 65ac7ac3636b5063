"""What users ask of the posterior beside rates: parameters of cells, spike trains, intervals, denoised traces."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Integral
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray
from nwb_calcium_lvm.spikes.base import SpikeEstimator
from nwb_calcium_lvm.spikes.clocks import count_over
from nwb_calcium_lvm.spikes.filtering import own_counts, own_levels
from nwb_calcium_lvm.spikes.inputs import frame_durations, look_at, take
from nwb_calcium_lvm.spikes.interpretation import windowed
from nwb_calcium_lvm.spikes.shifts import checked_lag, moved_and_smoothed
from nwb_calcium_lvm.spikes.vae import learning
from nwb_calcium_lvm.spikes.vae.inference import Shown, around, cell_parameters, limits_of, show
from nwb_calcium_lvm.spikes.vae.posterior import denoised, draws_of
from nwb_calcium_lvm.spikes.vae.simulation import World
from nwb_calcium_lvm.spikes.vae.wake import Cells, Setting, bounds_of
from nwb_calcium_lvm.spikes.vae.weights import Trained

_UNITS = {"decay": "s", "rise": "s", "unbinding": "s", "amplitude": "dF/F"}
_OF_BOUND = 512  # frames whose bound is computed together


class PosteriorEstimator(SpikeEstimator):
    """A spike estimator with a recognition network: what its posterior tells beside rates."""

    trained_: Trained
    n_draws: int
    lag: float
    smoothing: float
    world: World | None
    random_state: Any

    @abstractmethod
    def _show(self, recording: Recording) -> Shown:
        """Return the units of a recording as the network is shown them."""

    @abstractmethod
    def _moments(self, shown: Shown) -> Any:
        """Return mean and variance of the spikes of each frame of the clock, both (time, roi)."""

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _setting(self, trained: Trained, shown: Shown, prior: str) -> Setting:
        step = 1.0 / shown.clock.rate
        return Setting(trained.model, step, self.n_draws, trained.config.max_count, prior)

    def cell_parameters(self, X: Any, *, groups: Any = None) -> Any:
        """Return what one pass over the traces says of the parameters of each cell, as a table.

        Returns
        -------
        pandas.DataFrame
            One row per unit, named by its ROI (the first of several): median of each parameter, and the standard
            deviation of its logarithm as ``log_sd_...``. Times in s, amplitudes in the unit of the traces.
        """
        import pandas as pd

        check_is_fitted(self)
        recording = take(self, X, groups=groups).only_one("a table of parameters")
        trained = self.trained_
        shown = show(recording, trained.model)
        n = trained.model.n_channels
        index = pd.Index(np.asarray(recording.roi_ids)[::n], name="roi")
        columns = [*trained.model.names, *(f"log_sd_{k}" for k in trained.model.names)]
        table = pd.DataFrame(np.nan, index=index, columns=columns)
        if len(shown.rois):
            mean, sd = cell_parameters(shown, trained.network, trained.config, trained.model)
            table.iloc[shown.rois[::n] // n] = np.concatenate([np.exp(mean), sd], axis=1)
        return table

    def sample_spikes(self, X: Any, n: int = 100, *, groups: Any = None, random_state: Any = None) -> Any:
        """Draw spike trains from the posterior.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        n : int
            Spike trains.
        random_state : int, RandomState or None
            Default: that of the estimator.

        Returns
        -------
        list of ndarray of int, each in the form of X
            Counts per frame (time, roi), each a spike train that could have been. ROIs without a trace have 0.
        """
        check_is_fitted(self)
        if not (isinstance(n, Integral) and n >= 1):
            raise DataError(f"n={n!r} is not a number of spike trains. Expected 1 or more.")
        given = take(self, X, groups=groups)
        state = check_random_state(self.random_state if random_state is None else random_state)
        of_each = [self._draws(item.recording, n, state) for item in given.items]
        return [given.restore([draws[i] for draws in of_each]) for i in range(n)]

    def _draws(self, recording: Recording, n: int, state: np.random.RandomState) -> NDArray[np.integer]:
        """Return counts (draw, time, roi) on the recording's own frames."""
        shown = self._show(recording)
        out = np.zeros((n, *recording.shape), np.int16)
        if not len(shown.rois):
            return out
        trained = self.trained_
        limits = limits_of(recording, shown)
        seed = int(state.randint(2**31 - 1))
        rng = np.random.default_rng(seed)
        for part in draws_of(shown, trained.network, trained.config, trained.model, n, seed):
            which = next(i for i, (a, _) in enumerate(shown.clock.bounds) if a == part.frames.start)
            own, clock = limits[which]
            a, b = recording.segments.bounds[which]
            columns = shown.rois[part.units.start * trained.model.n_channels :]
            counts = part.counts.transpose(0, 1, 3, 2).reshape(n, -1, part.counts.shape[2])
            for draw in range(n):
                for row, roi in enumerate(columns[: counts.shape[1]]):
                    frames = np.repeat(np.arange(counts.shape[2]), counts[draw, row])
                    times = clock[frames] + rng.random(len(frames)) * np.diff(clock)[frames] + self.lag
                    out[draw, a:b, roi] = count_over(np.sort(times), own)
        return out

    def predict_interval(
        self, X: Any, alpha: float = 0.1, *, window: float | None = None, n: int = 200, groups: Any = None
    ) -> tuple[Any, Any]:
        """Return lowest and highest plausible spike counts, each of shape (time, roi) in the form of X.

        Quantiles of ``n`` spike trains from the posterior, so that counts of neighbouring frames hang together.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        alpha : float
            Share of the posterior outside.
        window : float, optional
            Count in windows of that many s, centred on each frame. Default: the frames themselves.
        n : int
            Spike trains.
        """
        check_is_fitted(self)
        if not 0 < alpha < 1:
            raise DataError(f"alpha={alpha!r} is not a share. Expected a number between 0 and 1, such as 0.1.")
        if window is not None and not window > 0:
            raise DataError(f"window={window!r} is not a length of time. Expected s, above 0, or None.")
        given = take(self, X, groups=groups)
        low, high = [], []
        for item in given.items:
            recording = item.recording
            self._warn_of(look_at(recording), recording)
            a, b = self._interval(recording, alpha, window, n)
            low.append(a)
            high.append(b)
        return given.restore(low), given.restore(high)

    def _interval(
        self, recording: Recording, alpha: float, window: float | None, n: int
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        state = check_random_state(self.random_state)
        low, high = (np.full(recording.shape, np.nan) for _ in range(2))
        step = self.trained_.model.n_channels * max(1, 2**24 // (n * recording.n_frames))
        for first in range(0, recording.n_rois, step):
            rois = np.arange(first, min(first + step, recording.n_rois))
            part = recording.isel(roi=rois)
            drawn = self._draws(part, n, state).astype(float)
            if window is not None:
                frames = window * (recording.sampling_rate or 1.0)
                drawn = np.stack([windowed(d, recording.segments, frames) for d in drawn])
            usable = part.usable
            low[:, rois[usable]] = np.quantile(drawn[..., usable], alpha / 2, axis=0, method="inverted_cdf")
            high[:, rois[usable]] = np.quantile(drawn[..., usable], 1 - alpha / 2, axis=0, method="inverted_cdf")
        return low, high

    def reconstruct(self, X: Any, *, groups: Any = None) -> Any:
        """Return the traces that the model explains, without noise: (time, roi) in the form and unit of X.

        Averages over spike trains of the posterior, with the parameters that one pass finds for each cell.
        """
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        return given.restore([self._reconstruct(item.recording)[0] for item in given.items])

    def _reconstruct(self, recording: Recording) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        trained, shown = self.trained_, self._show(recording)
        mean, sd = (np.full(recording.shape, np.nan, np.float32) for _ in range(2))
        if not len(shown.rois):
            return mean, sd
        seed = self._seed()
        values = cell_parameters(show(recording, trained.model), trained.network, trained.config, trained.model)[0]
        substeps = (self.world or World()).substeps
        found = denoised(
            shown, trained.network, trained.config, trained.model, values, substeps, min(self.n_draws, 32), seed
        )
        divisor, baseline = shown.scale.divisor, shown.scale.baseline
        mean[:, shown.rois] = own_levels(recording, shown.clock, found[0] * divisor + baseline)
        sd[:, shown.rois] = own_levels(recording, shown.clock, found[1] * divisor)
        return mean, sd

    def _bound(self, recording: Recording) -> tuple[float, int]:
        trained, shown = self.trained_, self._show(recording)
        if not len(shown.rois):
            return 0.0, 0
        key = jax.random.key(self._seed())
        model = trained.model
        values = cell_parameters(show(recording, model), trained.network, trained.config, model)[0]
        expected = self._moments(shown)[0].reshape(len(shown.traces), -1, model.n_channels).sum(axis=2).mean(axis=0)
        noise = np.log(np.maximum(np.asarray(shown.told.noise), 1e-4))
        cells = Cells(*map(jnp.asarray, (values, noise, np.zeros_like(noise), np.log(np.maximum(expected, 1e-5)))))
        setting = self._setting(trained, shown, "poisson")._replace(substeps=(self.world or World()).substeps)
        nats, samples = 0.0, 0
        for i, part in enumerate(learning.whole_snippets(shown, model, _OF_BOUND, around(trained.config)[1])):
            nats += bounds_of(trained.network, cells, part, jax.random.fold_in(key, i), setting).sum()
            samples += int(part.mask.sum()) * model.n_channels
        scale = np.log(shown.scale.divisor) * shown.clock.mask.sum(axis=0)  # densities of the traces as given
        return float(nats - scale.sum()), samples

    def _on_frames(self, recording: Recording, shown: Shown, per_frame: NDArray[np.floating]) -> NDArray[np.floating]:
        durations = frame_durations(recording)
        rates = own_counts(recording, shown.clock, per_frame.astype(float)) / durations[:, None]
        out = np.full(recording.shape, np.nan, np.float32)
        out[:, shown.rois] = moved_and_smoothed(rates, durations, recording, checked_lag(self.lag), self.smoothing)
        return out

    def infer(
        self,
        X: Any,
        *,
        groups: Any = None,
        stream: bool | None = None,
        scratch: str | Path | None = None,
        spikes: bool | float = False,
        verbose: int = 0,
        reconstruct: bool = False,
    ) -> InferenceResult:
        """Return rates and expected spikes of one recording, ready to be written to NWB.

        Parameters
        ----------
        X, groups, stream, scratch, spikes, verbose
            As in :meth:`SpikeEstimator.infer`.
        reconstruct : bool
            With the posterior's spread, the denoised traces and the cells' parameters; not for streams.
        """
        if not reconstruct:
            return super().infer(X, groups=groups, stream=stream, scratch=scratch, spikes=spikes, verbose=verbose)
        check_is_fitted(self)
        recording = take(self, X, groups=groups).only_one("a result")
        self._warn_of(look_at(recording), recording)
        return self._whole_result(recording)

    def _whole_result(self, recording: Recording) -> InferenceResult:
        shown = self._show(recording)
        mean, variance = self._moments(shown)
        rates = self._on_frames(recording, shown, mean)
        spread = np.full(recording.shape, np.nan, np.float32)
        spread[:, shown.rois] = np.sqrt(own_counts(recording, shown.clock, variance.astype(float)))
        calcium, noise = self._reconstruct(recording)
        dims, unit = ("time", "roi"), "dF/F" if recording.units == "dff" else "a.u."
        counts = rates * frame_durations(recording)[:, None].astype(np.float32)
        arrays = {
            "firing_rates": NamedArray(rates, dims, "Hz", "Spikes per second."),
            "expected_spikes": NamedArray(counts, dims, "spikes", "Expected number of spikes in each frame."),
            "expected_spikes_std": NamedArray(
                spread,
                dims,
                "spikes",
                "Posterior standard deviation of the spikes in each frame, before lag and smoothing.",
            ),
            "calcium": NamedArray(calcium, dims, unit, "Trace without measurement noise, baseline included."),
            "calcium_std": NamedArray(noise, dims, unit, "Posterior standard deviation of that."),
        }
        result = self._result(recording, arrays)
        if self.trained_.model.n_channels == 1:
            table = self.cell_parameters(recording)
            for name in self.trained_.model.names:
                text = f"Posterior median of the parameter {name} of the generative model."
                result.parameters[f"cell_{name}"] = NamedArray(
                    table[name].to_numpy(), ("roi",), _UNITS.get(name, "1"), text
                )
        return result
