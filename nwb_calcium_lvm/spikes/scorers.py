"""Scores of spike estimators as scikit-learn takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.spikes.base import METRICS


@dataclass(frozen=True)
class SpikeScorer:
    """A score to choose by, such as ``cross_val_score(s2s, recordings, spikes, scoring=SpikeScorer("auc"))``.

    Parameters
    ----------
    metric : {"pearson", "spearman", "auc", "smooth_pearson"}
        As of :meth:`nwb_calcium_lvm.S2SSpikeEstimator.score`; higher is better.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import cross_val_score
    >>> from nwb_calcium_lvm import OASISSpikeEstimator, Recording
    >>> rng = np.random.default_rng(0)
    >>> counts = [rng.poisson(0.05, (600, 1)) for _ in range(4)]
    >>> decay = np.exp(-np.arange(60) / 15)
    >>> traces = [Recording(np.convolve(c[:, 0], decay)[:600, None], sampling_rate=30.0) for c in counts]
    >>> oasis = OASISSpikeEstimator(decay_time=0.5, penalty=0.0)
    >>> cross_val_score(oasis, traces, counts, scoring=SpikeScorer("auc"), cv=2).round(2)
    array([1., 1.])
    """

    metric: str = "pearson"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise DataError(f"metric={self.metric!r} is not known. Expected one of {', '.join(METRICS)}.")

    def __call__(self, estimator: Any, X: Any, y: Any, **options: Any) -> float:
        """Return the score of a fitted estimator."""
        return estimator.score(X, y, metric=self.metric, **options)
