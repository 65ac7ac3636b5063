"""Spikes, denoised calcium and cell parameters without any training set, on simulated traces, with a picture."""

import argparse

import numpy as np

from nwb_calcium_lvm import FilterSpikeEstimator, Recording, plotting

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--out", default="spikes_without_training.png", help="where the picture goes")
options = parser.parse_args()

# Two cells at 30 frames per s: 0.9 spikes per s, each a transient of 0.2 dF/F that decays in 0.5 s. Noise is of both
# kinds: some decays as calcium does, most is gone in the next frame.
rng = np.random.default_rng(0)
spikes = rng.poisson(0.03, size=(3600, 2))
kernel = 0.2 * np.exp(-np.arange(90) / 15.0)
entering = spikes + 0.05 * rng.standard_normal(spikes.shape)
calcium = np.stack([np.convolve(u, kernel)[:3600] for u in entering.T], axis=1)
recording = Recording(calcium + 0.06 * rng.standard_normal(calcium.shape), sampling_rate=30.0)

estimator = FilterSpikeEstimator(ar_order=1, vary_amplitude=False, lag=0.0, standard_errors=True).fit(recording)
result = estimator.infer(recording)
error = estimator.errors_["spike_amplitude"]
print("Amplitude of a spike:", *(f"{c:.3f} ± {e:.3f}" for c, e in zip(estimator.spike_amplitude_, error, strict=True)))
print("Decay time (s):", estimator.decay_time_.round(3))
print(f"Pearson r with the true spikes at 25 Hz: {estimator.score(recording, spikes):.2f}")
times = np.repeat(recording.timestamps, spikes[:, 0])
plotting.spike_rates(result, recording, spikes=times, window=(0, 30)).figure.savefig(options.out, dpi=150)
