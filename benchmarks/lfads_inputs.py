"""When was a pendulum struck? Inferred inputs against the true ones, from calcium.

    python benchmarks/lfads_inputs.py --seeds 5

200 trials of 100 frames, 30 neurons, a damped pendulum struck twice a trial at random moments. The network is told
nothing of it. The strength of the inferred input in a frame is the length of its posterior mean, whitened over all
frames. ``auc``: chance that the strongest input within 2 frames of a kick is larger than the strongest within 2 frames
of a frame that is further than 7 from any. ``hits``: share of kicks within 2 frames of one of the strongest local
maxima, as many as there are kicks. Training and test trials as 160 and 40; all figures are of test trials. By chance:
auc 0.5, hits about 0.1. ``observer`` knows the pendulum, the neurons' tuning and the law of the kicks, and sees the
true spikes: what it does is the most that anything can.
"""

from __future__ import annotations

import time
import warnings

import _common
import _pendulum
import numpy as np
from scipy.ndimage import maximum_filter1d
from sklearn.metrics import roc_auc_score

from nwb_calcium_lvm import CalciumLFADS
from nwb_calcium_lvm.simulate import kicked_pendulum

NEAR, FAR = 2, 7


def strength(inputs):
    """Length of whitened inputs, (trial, time)."""
    flat = inputs.reshape(-1, inputs.shape[-1])
    centred = flat - flat.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(centred.T) + 1e-9 * np.eye(flat.shape[1]))
    return np.linalg.norm(centred @ vectors / np.sqrt(values), axis=1).reshape(inputs.shape[:2])


def agreement(found, kicks):
    struck = kicks[..., 0] != 0
    far = maximum_filter1d(struck.astype(float), 2 * FAR + 1, axis=1) == 0
    strongest = maximum_filter1d(found, 2 * NEAR + 1, axis=1)
    auc = roc_auc_score(np.r_[np.ones(struck.sum()), np.zeros(far.sum())], np.r_[strongest[struck], strongest[far]])
    peaks = np.where(found == maximum_filter1d(found, 2 * NEAR + 1, axis=1), found, -np.inf)
    limit = np.sort(peaks, axis=None)[-struck.sum()]
    close = maximum_filter1d((peaks >= limit).astype(float), 2 * NEAR + 1, axis=1) > 0
    return {"auc": auc, "hits": close[struck].mean()}


def quality(found, true, n_train):
    design = np.concatenate([found, np.ones((*found.shape[:2], 1))], axis=-1)
    flat = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731
    weights = np.linalg.lstsq(flat(design[:n_train]), flat(true[:n_train]), rcond=None)[0]
    residual = true[n_train:] - design[n_train:] @ weights
    return 1.0 - (residual**2).sum() / ((true[n_train:] - true[n_train:].mean(axis=(0, 1))) ** 2).sum()


def main():
    parser = _common.parser(__doc__, 5)
    parser.add_argument("--epochs", type=int, default=300)
    args = parser.parse_args()
    began, results = time.perf_counter(), {}
    for seed in range(args.seeds):
        shape = {"n_trials": 20, "n_frames": 40, "n_rois": 8} if args.quick else {}
        truth = kicked_pendulum(random_state=seed, **shape)
        n_train = int(0.8 * len(truth.traces))
        known = _pendulum.probability_of_a_kick(truth, slice(n_train, None))
        results.setdefault("observer", []).append(agreement(known, truth.inputs[n_train:]))
        print(seed, "observer", {k: round(float(v), 3) for k, v in results["observer"][-1].items()}, flush=True)
        for observation in ("calcium", "ar_gaussian"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                lfads = CalciumLFADS(
                    4,
                    observation=observation,
                    n_generator=64,
                    n_controller_inputs=2,
                    max_epochs=2 if args.quick else args.epochs,
                    random_state=seed,
                ).fit(truth.traces[:n_train])
            inputs = strength(lfads.predict_inputs(truth.traces))
            found = agreement(inputs[n_train:], truth.inputs[n_train:])
            found["r2"] = quality(lfads.transform(truth.traces), truth.latents, n_train)
            results.setdefault(observation, []).append(found)
            print(seed, observation, {k: round(float(v), 3) for k, v in found.items()}, flush=True)
            _common.write("lfads_inputs", args, began, results)
    for observation, rows in results.items():
        line = [f"{k} {np.mean([r[k] for r in rows]):.3f} +- {np.std([r[k] for r in rows]):.3f}" for k in rows[0]]
        print(f"{observation:12s} " + ", ".join(line))


if __name__ == "__main__":
    main()
