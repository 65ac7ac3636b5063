"""How noisy a trace is, from the differences of neighbouring frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.preprocessing.frames import as_floats, full_mask
from nwb_calcium_lvm.provenance import Segments

# Median |a - b| of two independent normal samples is this many standard deviations: sqrt(2) * Phi^-1(3/4).
_MEDIAN_STEP = 0.9538725524


def noise_level(
    dff: ArrayLike, sampling_rate: float, mask: ArrayLike | None = None, segments: Segments | None = None
) -> NDArray[np.floating]:
    r"""Return CASCADE's noise level of each ROI: :math:`\nu = 100\,\mathrm{median}_t|y_{t+1} - y_t| / \sqrt{f_s}`.

    Comparable across frame rates; about 1 is very good, 2 to 4 usual, above 8 poor. Denoised or smoothed traces
    give a value that is too low.

    Parameters
    ----------
    dff : array_like of float, shape (time, roi)
        dF/F as a fraction.
    sampling_rate : float
        Frames per second.
    mask : array_like of bool, shape (time, roi) or (time,), optional
        True where observed; only steps between two observed frames count.
    segments : Segments, optional
        Steps from one segment to the next do not count.

    Returns
    -------
    ndarray of float, shape (roi,)
        In % per square root of Hz; NaN for an ROI without two neighbouring observed frames.

    References
    ----------
    Rupprecht et al. 2021, Nature Neuroscience 24, 1324.
    """
    if not (np.isfinite(sampling_rate) and sampling_rate > 0):
        raise DataError(f"sampling_rate={sampling_rate!r} is not a rate. Expected frames per second, above 0.")
    return 100 * _median_step(dff, mask, segments) / np.sqrt(sampling_rate)


def frame_noise(
    traces: ArrayLike, mask: ArrayLike | None = None, segments: Segments | None = None
) -> NDArray[np.floating]:
    """Return the standard deviation of the noise of each ROI, shape (roi,), in the unit of the traces.

    From the median absolute step between neighbouring frames, so that rare transients do not count.
    """
    return _median_step(traces, mask, segments) / _MEDIAN_STEP


def _median_step(traces: ArrayLike, mask: ArrayLike | None, segments: Segments | None) -> NDArray[np.floating]:
    values = as_floats(traces)
    observed = full_mask(mask, values.shape) & np.isfinite(values)
    both = observed[1:] & observed[:-1]
    if segments is not None:
        both[segments.bounds[1:, 0] - 1] = False
    steps = np.abs(np.diff(np.where(observed, values, 0.0), axis=0))
    if both.size and both.all():
        return np.median(steps, axis=0).astype(float)
    return np.array([np.median(s[b]) if b.any() else np.nan for s, b in zip(steps.T, both.T, strict=True)], float)
