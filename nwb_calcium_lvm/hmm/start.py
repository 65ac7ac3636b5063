"""Starting values for EM: where most fits of hidden Markov models to calcium are won or lost.

Clustering the traces, or their frame-to-frame differences, finds states of *calcium*, which outlast those of spiking.
We cluster the autoregressive residual, smoothed over a few decay times, which is a rough rate of spikes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from sklearn.cluster import KMeans

_MAX_CLUSTERED = 20_000  # frames shown to k-means; the rest are assigned to the nearest centre


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


def cluster(features: NDArray[np.floating], n_states: int, rng: np.random.RandomState) -> NDArray[np.integer]:
    """K-means labels (time,) of features (time, roi), each feature scaled to unit variance."""
    spread = features.std(axis=0)
    scaled = (features / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    step = max(1, -(-len(scaled) // _MAX_CLUSTERED))
    model = KMeans(n_clusters=n_states, init="k-means++", random_state=rng.randint(2**31 - 1)).fit(scaled[::step])
    return np.asarray(model.predict(scaled))


def complete(labels: NDArray[np.integer], features: NDArray[np.floating], n_states: int) -> NDArray[np.integer]:
    """Give each frame labelled -1 the state whose known frames are nearest, in features (time, roi)."""
    centres = np.stack([features[labels == k].mean(axis=0) for k in range(n_states)])
    distance = (features**2).sum(axis=1)[:, None] - 2 * features @ centres.T + (centres**2).sum(axis=1)
    return np.where(labels >= 0, labels, np.argmin(distance, axis=1))
