"""Which recordings X holds, and which session of a fitted model each is of."""

from __future__ import annotations

from typing import Any

import numpy as np

from nwb_calcium_lvm._core.coerce import Trials, check_traces, coerce
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.recording import Recording


def is_list_of_sessions(X: Any) -> bool:
    """Whether X is several recordings, of other neurons each."""
    return isinstance(X, list | tuple) and len(X) > 1 and all(isinstance(x, Recording) for x in X)


def to_fit(estimator: Any, X: Any, groups: Any) -> list[Trials]:
    """Return the sessions to fit."""
    if not is_list_of_sessions(X):
        return [coerce(estimator, X, groups=groups, reset=True)]
    if groups is not None:
        raise DataError("groups are for one array; a list of Recordings has its trials in each of them.")
    rates = [r.sampling_rate for r in X]
    known = [r for r in rates if r is not None]
    if 0 < len(known) < len(rates) or (known and max(known) > 1.02 * min(known)):
        raise DataError(
            f"The recordings are at {rates} Hz, and dynamics are per frame. Expected one sampling rate; resample them."
        )
    for recording in X:
        check_traces(recording, stacklevel=5)
    estimator.n_features_in_ = X[0].n_rois
    return [Trials(r, "recording") for r in X]


def to_infer(estimator: Any, X: Any, groups: Any) -> tuple[list[Trials], list[int]]:
    """Return recordings and the number of the session each is of.

    Raises
    ------
    DataError
        If a recording's neurons are those of no session, or of several.
    """
    ids = estimator.session_roi_ids_
    if is_list_of_sessions(X):
        if len(X) != len(ids):
            raise DataError(
                f"X holds {len(X)} Recordings, and the model was fitted on {len(ids)} sessions. Expected a recording "
                "of each, in the same order, or a single Recording."
            )
        for number, recording in enumerate(X):
            _check_width(recording.n_rois, len(ids[number]), number)
        return [Trials(r, "recording") for r in X], list(range(len(ids)))
    if len(ids) == 1:
        return [coerce(estimator, X, groups=groups, reset=False)], [0]
    if not isinstance(X, Recording):
        raise DataError(
            f"The model was fitted on {len(ids)} sessions, and X is a {type(X).__name__}. Expected Recordings, whose "
            "roi_ids say which session each is of, or a list of them, one for each session."
        )
    same = [i for i, mine in enumerate(ids) if np.array_equal(mine, X.roi_ids)]
    if len(same) != 1:
        raise DataError(
            f"The roi_ids of X are those of {len(same)} of the {len(ids)} sessions. Expected those of one; else pass a "
            "list with a recording of every session, in their order."
        )
    return [Trials(X, "recording")], same


def _check_width(given: int, fitted: int, number: int) -> None:
    if given != fitted:
        raise DataError(
            f"Recording {number} has {given} ROIs, and session {number} was fitted on {fitted}. Expected the same "
            "neurons in the same order."
        )
