"""What all spike estimators share: rates on the recording's own clock, counts, scores, a result for NWB."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from nwb_calcium_lvm._core.base import CalciumEstimator
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.metrics import ScoredSegment, SpikeScores, SpikeScoring, score_spikes
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray
from nwb_calcium_lvm.spikes.inputs import (
    Findings,
    frame_durations,
    look_at,
    spike_times,
    take,
    warn_of_dead,
    warn_of_units,
)
from nwb_calcium_lvm.spikes.streaming import infer_stream, result_of, stream_of

METRICS = ("pearson", "spearman", "auc", "smooth_pearson")


class FineRates(NamedTuple):
    """Rates (time, roi) in spikes per s, the first at ``start`` (s), ``sampling_rate`` of them per s."""

    start: float
    sampling_rate: float
    rates: NDArray[np.floating]


class SpikeEstimator(TransformerMixin, CalciumEstimator):
    """Base class of spike estimators; a subclass gives rates of one recording, and fits.

    Where traces of each ROI are taken one by one, a fitted estimator takes any number of ROIs, and some at a time.
    """

    takes_any_rois = True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]  # rates are float32, whatever the traces
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.target_tags.positive_only = True
        return tags

    @abstractmethod
    def _rates(self, recording: Recording) -> NDArray[np.floating]:
        """Return spikes per s, shape (time, roi)."""

    def _fine_rates(self, recording: Recording) -> list[FineRates]:
        """Return the rates of each segment on the finest clock the estimator has, for scores."""
        rates = self._rates(recording)
        out = []
        for a, b in recording.segments.bounds:
            times = recording.timestamps[a:b]
            speed = (b - a - 1) / (times[-1] - times[0]) if b - a > 1 else recording.sampling_rate or 1.0
            out.append(FineRates(float(times[0]), speed, rates[a:b]))
        return out

    def _warn_of(self, found: Findings, recording: Recording) -> None:
        """Warn of what the estimator is not made for; of the recording only clock and unit are looked at."""
        warn_of_units(found)
        warn_of_dead(found)

    def transform(self, X: Any, *, groups: Any = None) -> Any:
        """Return spikes per s, shape (time, roi), on the recording's own clock and in the form of X.

        Parameters
        ----------
        X : array (time, roi), trials, Recording, list of Recordings, NWB file or Suite2p folder
            dF/F, or traces of unknown unit as ``Recording(..., units="unknown")``.
        groups : array_like, shape (time,), optional
            Trial of each frame of a 2-D array.
        """
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        return given.restore([self._checked_rates(item.recording) for item in given.items])

    def predict(self, X: Any, *, groups: Any = None) -> Any:
        """Return the expected number of spikes in each frame, shape (time, roi), in the form of X."""
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        rates = [self._checked_rates(item.recording) for item in given.items]
        frames = [frame_durations(item.recording)[:, None] for item in given.items]
        return given.restore([r * d for r, d in zip(rates, frames, strict=True)])

    def score(self, X: Any, y: Any, *, groups: Any = None, metric: str = "pearson") -> float:
        """Return the agreement with known spikes, averaged over ROIs.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`.
        y : array_like or list
            Spike counts per frame (time, roi), or the spike times of each ROI in s; a list of these for a list of
            Recordings.
        metric : {"pearson", "spearman", "auc", "smooth_pearson"}
            Of raw counts in bins of 40 ms; ``"smooth_pearson"``: of spikes smoothed by 50 ms, at 30 Hz. Higher is
            better. ROIs with fewer than 5 spikes count for nothing.
        """
        if metric not in METRICS:
            raise DataError(f"metric={metric!r} is not known. Expected one of {', '.join(METRICS)}.")
        found = [s for s in self.score_each(X, y, groups=groups) if s is not None]
        if not found:
            raise DataError("No ROI of X can be scored: each needs 5 spikes in segments of at least 3.2 s.")
        return float(np.nanmean([getattr(s, metric) for s in found]))

    def score_each(
        self, X: Any, y: Any, *, groups: Any = None, scoring: SpikeScoring | None = None
    ) -> list[SpikeScores | None]:
        """Return all scores of every ROI of every recording; None for an ROI with too few spikes.

        Parameters
        ----------
        X, y, groups
            As in :meth:`score`.
        scoring : SpikeScoring, optional
            Rules of the comparison.
        """
        check_is_fitted(self)
        given = take(self, X, groups=groups)
        known = spike_times(y, given)
        out: list[SpikeScores | None] = []
        for item, times in zip(given.items, known, strict=True):
            self._warn_of(look_at(item.recording), item.recording)
            fine = self._fine_rates(item.recording)
            out += [
                score_spikes(segments_to_score(item.recording, fine, roi, times[roi]), scoring)
                for roi in range(item.recording.n_rois)
            ]
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
    ) -> InferenceResult:
        """Return rates and expected spikes of one recording, ready to be written to NWB.

        Parameters
        ----------
        X, groups
            As in :meth:`transform`; or a stream of a recording larger than memory, from
            :func:`nwb_calcium_lvm.io.stream_nwb` or :func:`nwb_calcium_lvm.io.stream_suite2p`.
        stream : bool, optional
            True: files and folders are read, and rates computed and put on disk, some ROIs at a time; arrays of the
            result are read from there slice by slice, as :class:`~nwb_calcium_lvm.io.stored_array.StoredArray`. Rates
            are the same. Default: for files and folders with over 512 MB of traces.
        scratch : path, optional
            Folder of that temporary file, which is removed with the result. Default: the system's.
        spikes : bool or float
            Find single spikes, too, as many as are expected, or all of at least this confidence: ``result.spikes``; see
            ``predict_spikes`` of the estimators that have it.
        verbose : int
            1 shows a progress bar.
        """
        check_is_fitted(self)
        if spikes is not False and not hasattr(self, "predict_spikes"):
            raise DataError(f"{type(self).__name__} finds no single spikes: nothing says how sure they are.")
        source, on_disk = stream_of(self, X, groups, stream, scratch)
        return infer_stream(self, source, on_disk=on_disk, scratch=scratch, spikes=spikes, verbose=verbose)

    def _result(self, recording: Recording, arrays: dict[str, NamedArray]) -> InferenceResult:
        """Return the result that holds these arrays."""
        return result_of(self, recording, look_at(recording), arrays, recording.source, recording.roi_metadata)

    def _parameters(self, found: Findings, units: str) -> dict[str, NamedArray]:
        nu = found.noise_level
        return {"noise_level": NamedArray(nu, ("roi",), "%/sqrt(Hz)", "Median step between frames over √(frame rate).")}

    def _about(self) -> dict[str, Any]:
        """Return name, description and parameters of the model, for the result."""
        return {
            "name": type(self).__name__,
            "description": (type(self).__doc__ or "").split("\n")[0],
            "hyperparameters": self.get_params(deep=False),
        }

    def _checked_rates(self, recording: Recording) -> NDArray[np.floating]:
        self._warn_of(look_at(recording), recording)
        return self._rates(recording)


def segments_to_score(
    recording: Recording, fine: list[FineRates], roi: int, spikes: NDArray[np.floating]
) -> list[ScoredSegment]:
    """Return what is scored of one ROI: its segments, each with the spikes that fall into it."""
    out = []
    for (a, b), found in zip(recording.segments.bounds, fine, strict=True):
        start, stop = recording.timestamps[a], recording.timestamps[b - 1]
        inside = spikes[(spikes >= start - 1.0) & (spikes <= stop + 1.0)]
        rates = found.rates[:, roi]
        out.append(ScoredSegment(rates, found.sampling_rate, float(start), float(stop), inside, found.start))
    return out
