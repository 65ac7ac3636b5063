"""Running means that mind trials and missing samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d


def smooth_within(
    values: NDArray[np.floating], kept: NDArray[np.bool_], first: NDArray[np.integer], window: int
) -> NDArray[np.floating]:
    """Running mean over ``window`` frames, within trials, over kept samples only."""
    ends = np.append(first[1:], len(values))
    out = np.empty_like(values)
    for a, b in zip(first, ends, strict=True):
        size = min(window, b - a)
        mean = uniform_filter1d(values[a:b], size, axis=0, mode="nearest")
        share = uniform_filter1d(kept[a:b].astype(float), size, axis=0, mode="nearest")
        out[a:b] = np.where(share > 1e-9, mean / np.maximum(share, 1e-9), 0.0)
    return out
