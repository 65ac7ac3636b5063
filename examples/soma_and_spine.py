"""Synaptic events of a spine apart from the spikes that run back into it, by a generative model of one's own."""

import argparse

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from nwb_calcium_lvm import Recording, VAESpikeEstimator
from nwb_calcium_lvm.spikes.vae import GenerativeModel, LogNormal, RecognitionConfig, World, decaying

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="soma_and_spine.png", help="where the picture goes")
options = parser.parse_args()


def two_signals(counts, p, step):
    """Spikes (first column) are seen in soma and spine, synaptic events (second) in the spine alone."""
    calcium = decaying(counts, p["decay"], step)
    soma = p["amplitude"] * calcium[:, 0]
    return jnp.stack([soma, p["backpropagated"] * soma + p["synaptic"] * calcium[:, 1]], axis=1)


MODEL = GenerativeModel(
    "soma and spine",
    two_signals,
    {
        "amplitude": LogNormal(0.3, 0.3),
        "backpropagated": LogNormal(0.7, 0.3),
        "synaptic": LogNormal(0.3, 0.3),
        "decay": LogNormal(0.3, 0.3),
    },
    n_channels=2,
)
WORLD = World(noise_levels=(0.6, 2.0), substeps=1, drift=0.0, neuropil=0.0, unit_lost=0.0, n_units=24, n_frames=256)
SHAPE = RecognitionConfig(max_count=3, channels=32, dilations=(1, 2, 4), correlated=False)

# Five cells at 30 frames per s, columns soma, spine, soma, spine, ...
rng = np.random.default_rng(0)
counts = rng.poisson([0.03, 0.04] * 5, size=(1800, 10)).astype(float)
p = {"amplitude": 0.35, "backpropagated": 0.6, "synaptic": 0.3, "decay": 0.35}
clean = np.concatenate([two_signals(counts[:, i : i + 2], p, 1 / 30) for i in range(0, 10, 2)], axis=1)
recording = Recording(clean + 0.08 * rng.standard_normal(clean.shape), sampling_rate=30.0)

vae = VAESpikeEstimator(
    generative=MODEL, posterior="factorised", config=SHAPE, world=WORLD, n_updates=500, lag=0.0, smoothing=0.0
).fit(recording)
found = vae.predict(recording)
r = [[np.corrcoef(found[:, i], counts[:, j])[0, 1] for j in (0, 1)] for i in (0, 1)]
print(f"Spikes found in the first cell: r = {r[0][0]:.2f} with spikes, {r[0][1]:.2f} with synaptic events")
print(f"Synaptic events:                r = {r[1][1]:.2f} with synaptic events, {r[1][0]:.2f} with spikes")

figure, axes = plt.subplots(2, 1, figsize=(8, 4), sharex=True)
for ax, i, name in zip(axes, (0, 1), ("soma: spikes", "spine: synaptic events"), strict=True):
    ax.plot(recording.timestamps[:600], recording.dff[:600, i], color="0.6", linewidth=0.8)
    ax.plot(recording.timestamps[:600], found[:600, i] - 1.2, color="C3", linewidth=0.8)
    ax.vlines(recording.timestamps[:600][counts[:600, i] > 0], -1.5, -1.3, color="0.2", linewidth=0.8)
    ax.set_ylabel(name)
axes[-1].set_xlabel("Time (s)")
figure.savefig(options.out, dpi=150)
