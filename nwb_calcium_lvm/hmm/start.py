"""Starting values for EM: where most fits of hidden Markov models to calcium are won or lost.

Clustering the traces, or their frame-to-frame differences, finds states of *calcium*, which outlast those of spiking.
We cluster the autoregressive residual, smoothed over a few decay times, which is a rough rate of spikes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from nwb_calcium_lvm._core.smoothing import smooth_within

__all__ = ["cluster", "complete", "smooth_within"]

_MAX_CLUSTERED = 20_000  # frames shown to k-means; the rest are assigned to the nearest centre


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
