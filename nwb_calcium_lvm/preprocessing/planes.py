"""Planes that were imaged one after the other, brought to the times of the first."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.preprocessing.frames import fill_missing
from nwb_calcium_lvm.recording import Recording, replaced


def at_frame_times(recording: Recording, offsets: ArrayLike | None = None) -> Recording:
    """Return the recording with every trace as it was at the frame times, by straight lines between its samples.

    A sample of ROI i at frame t was taken ``offsets[i]`` s after the frame's time. That matters where planes are
    compared with each other or with events at a few frames per s; rates of single cells are better moved by ``lag``.
    Averaging two samples lowers the noise of single frames, by up to a factor of √2.

    Parameters
    ----------
    recording : Recording
        With a clock.
    offsets : array_like of float, shape (roi,), optional
        In s, from 0 to less than the time between frames. Default: ``roi_metadata["time_offset"]``, which
        :func:`nwb_calcium_lvm.read_suite2p` sets for several planes.

    Returns
    -------
    Recording
        The first frame of each segment keeps its samples; where one of the two is missing, so is the result. Its
        ``time_offset`` is 0.

    Raises
    ------
    DataError
        If nothing is known of the offsets, or they do not fit the recording.
    """
    if offsets is None:
        if "time_offset" not in recording.roi_metadata:
            raise DataError(
                "The recording does not say when in a frame its ROIs were imaged: roi_metadata has no 'time_offset'. "
                "Expected a Suite2p folder of several planes, or offsets= in s, one per ROI."
            )
        offsets = recording.roi_metadata["time_offset"]
    shift = np.asarray(offsets, float)
    rate = recording.sampling_rate
    if rate is None or not recording.has_clock:
        raise DataError("The recording has no clock. Pass sampling_rate or timestamps (s) to Recording.")
    if shift.shape != (recording.n_rois,):
        raise DataError(f"offsets has shape {shift.shape}; expected one per ROI, ({recording.n_rois},).")
    if not ((shift >= 0) & (shift * rate < 1)).all():
        raise DataError(
            f"offsets go from {shift.min():.4g} to {shift.max():.4g} s. Expected 0 or more, and less than the time "
            f"between frames, {1 / rate:.4g} s."
        )
    traces, mask = np.array(recording.dff), np.array(recording.mask)
    filled = fill_missing(recording.dff, recording.mask)
    earlier = (shift * rate).astype(traces.dtype)  # share of the sample before
    moved = earlier > 0
    for a, b in recording.segments.bounds:
        now, before = filled[a + 1 : b, moved], filled[a : b - 1, moved]
        traces[a + 1 : b, moved] = (1 - earlier[moved]) * now + earlier[moved] * before
        mask[a + 1 : b, moved] &= recording.mask[a : b - 1, moved]
    return replaced(
        recording,
        dff=np.where(mask, traces, 0.0).astype(traces.dtype),
        mask=mask,
        roi_metadata=recording.roi_metadata | {"time_offset": np.zeros(recording.n_rois)},
    )
