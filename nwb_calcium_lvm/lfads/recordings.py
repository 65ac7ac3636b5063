"""What a fitted CalciumLFADS infers from a recording of one of its sessions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.lfads import checks, inference, learned, parameters
from nwb_calcium_lvm.lfads.data import Data, Session, gather
from nwb_calcium_lvm.lfads.inference import Inferred
from nwb_calcium_lvm.lfads.windows import Windows, windows_of
from nwb_calcium_lvm.recording import Recording


class Read(NamedTuple):
    """A recording in windows, and what was inferred from them.

    Attributes
    ----------
    found : Inferred
    windows : Windows
    scored : ndarray of bool, shape (window, T, roi)
        Samples whose density was scored.
    """

    found: Inferred
    windows: Windows
    scored: NDArray[np.bool_]


def windowed(estimator: Any, recording: Recording, number: int, overlap: float) -> tuple[Data, Windows]:
    """Return a recording of a session as the compiled functions want it."""
    checks.check_rate(estimator, recording)
    scale = estimator.scales_[number]
    windows = windows_of(recording.segments, estimator.window_frames_, overlap)
    y, innovations, _ = parameters.encode(recording, scale.mean, scale.sd, scale.encoding)
    order = parameters.order_of(estimator.observation, estimator.ar_order)
    session = Session(y, innovations, recording.mask, windows)
    return gather([session], order, estimator.shape_.n_rois, [number]), windows


def infer_recording(
    estimator: Any, recording: Recording, number: int, overlap: float, hidden: NDArray[np.bool_] | None = None
) -> Read:
    """Infer from a recording; the encoders do not see the neurons that are ``hidden`` (n_rois of the network,)."""
    data, windows = windowed(estimator, recording, number, overlap)
    model, weights = learned.network_of(estimator)
    key = jax.random.key(estimator.seed_)
    found = inference.infer(model, weights, data, key, estimator.n_draws, hidden)
    return Read(found, windows, np.asarray(data.scored)[:, :, : recording.n_rois])
