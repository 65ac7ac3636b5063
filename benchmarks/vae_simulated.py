"""Spikes of simulated cells of each generative model: recognition networks beside the filter, OASIS and S2S.

    python benchmarks/vae_simulated.py --seeds 5            six minutes on a core

Each seed draws twelve cells at 30 Hz, three minutes each, of each generative model: parameters from its prior, spikes
with a rate that wanders, noise of ν from 1 to 4. r: Pearson correlation with the true counts per frame. Counts: found
over true spikes, less 1, in size. Parameters: correlation of true and found logarithms over the cells. Coverage: share
of true counts in windows of a second inside the posterior's 80 % interval (at least 0.8 is right, counts being whole),
and how wide the interval is, for correlated and for independent frames.
"""

import time
import warnings

import jax
import numpy as np
from _common import parser, progress, spread, table, write

from nwb_calcium_lvm import FilterSpikeEstimator, OASISSpikeEstimator, Recording, S2SSpikeEstimator, VAESpikeEstimator
from nwb_calcium_lvm.spikes.vae import World
from nwb_calcium_lvm.spikes.vae.generative import MODELS
from nwb_calcium_lvm.spikes.vae.simulation import dream

RATE, FRAMES, CELLS = 30.0, 5400, 12
WORLD = World(
    frame_rates=(RATE, RATE * 1.0001),
    noise_levels=(1.0, 4.0),
    mean_rate=0.6,
    rate_spread=0.7,
    modulation=1.5,
    unit_lost=0.0,
    n_units=CELLS,
    n_frames=FRAMES,
)
PLAIN = {"lag": 0.0, "smoothing": 0.0}


def drawn(model, seed):
    made = dream(jax.random.key(1000 + seed), model, WORLD, model.medians(), model.spreads())
    return Recording(np.asarray(made.traces)[..., 0].T, sampling_rate=RATE), np.asarray(made.counts)[..., 0].T, made


def judged(counts, true):
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(counts.T, true.T, strict=True)]
    ratio = counts.sum(axis=0) / np.maximum(true.sum(axis=0), 1)
    return {"r": float(np.nanmean(r)), "counts": float(np.median(np.abs(ratio - 1)))}


def coverage(estimator, recording, true, window=1.0):
    low, high = estimator.predict_interval(recording, alpha=0.2, window=window)
    frames = int(window * RATE)
    truth = np.stack([np.convolve(c, np.ones(frames), "same") for c in true.T], axis=1)
    return {"coverage": float(np.mean((truth >= low) & (truth <= high))), "width": float(np.mean(high - low))}


def one_seed(name, seed):
    model = MODELS[name]
    recording, true, made = drawn(model, seed)
    out = {}
    for network in MODELS:
        vae = VAESpikeEstimator.from_pretrained(network, random_state=0, **PLAIN)
        out[f"vae {network}"] = judged(vae.predict(recording), true)
    of_filter = FilterSpikeEstimator(**PLAIN).fit(recording)
    out["filter"] = judged(of_filter.predict(recording), true)
    out["OASIS"] = judged(OASISSpikeEstimator(spike_amplitude=0.2).fit(recording).predict(recording), true)
    out["S2S"] = judged(S2SSpikeEstimator.from_pretrained().predict(recording), true)
    vae = VAESpikeEstimator.from_pretrained(name, random_state=0, **PLAIN)
    table_of = vae.cell_parameters(recording)
    traits = np.asarray(made.traits)
    parameters = {k: float(np.corrcoef(np.log(table_of[k]), traits[:, i])[0, 1]) for i, k in enumerate(model.names)}
    independent = VAESpikeEstimator.from_pretrained(name, posterior="factorised", random_state=0, **PLAIN)
    intervals = {"correlated": coverage(vae, recording, true), "factorised": coverage(independent, recording, true)}
    return {"spikes": out, "parameters": parameters, "intervals": intervals}


def main():
    args = parser(__doc__, 5).parse_args()
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    results = {name: [] for name in MODELS}
    for name in MODELS:
        for seed in range(1 if args.quick else args.seeds):
            results[name].append(one_seed(name, seed))
            progress(f"{name} {seed}: {results[name][-1]['spikes']['vae ' + name]}")
        runs = results[name]
        table(
            [f"cells of {name}", "r", "counts"],
            [[k, *(spread([r["spikes"][k][m] for r in runs]) for m in ("r", "counts"))] for k in runs[0]["spikes"]],
        )
        table(["parameter", "r"], [[k, spread([r["parameters"][k] for r in runs])] for k in runs[0]["parameters"]])
        table(
            ["80 % interval of a second", "coverage", "width"],
            [
                [k, *(spread([r["intervals"][k][m] for r in runs]) for m in ("coverage", "width"))]
                for k in ("correlated", "factorised")
            ],
        )
    write("vae_simulated", args, began, results)


if __name__ == "__main__":
    main()
