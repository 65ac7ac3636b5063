"""Spike estimators that need no training: networks of random weights, so that everything they could do they do."""

import jax
import numpy as np

from nwb_calcium_lvm import S2SSpikeEstimator
from nwb_calcium_lvm.spikes import DEFAULT
from nwb_calcium_lvm.spikes.calibration import WINDOWS, Calibration
from nwb_calcium_lvm.spikes.inference import Networks
from nwb_calcium_lvm.spikes.training import build

TINY = DEFAULT.changed(channels=4, dilations=(1, 2), n_members=1)


def random_weights(config, seed=0):
    """Return the graph of a network and weights none of which is zero."""
    graph, params = build(config, seed)
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return graph, jax.tree.unflatten(structure, [0.2 * rng.normal(size=x.shape).astype(np.float32) for x in leaves])


def untrained(config=TINY, seed=0, **parameters):
    """Return an estimator as if it had been fitted, with random weights."""
    graph, params = random_weights(config, seed)
    estimator = S2SSpikeEstimator(**parameters)
    calibration = Calibration(1.0, np.array(WINDOWS), np.ones(len(WINDOWS)), 10)
    estimator._store(config, Networks(graph, (params,), 1.0), calibration, np.zeros((0, 4)), {})
    return estimator
