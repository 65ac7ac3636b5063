"""Single spikes against spikes that were seen: how many are found, how many right, and what confidences are worth.

    NWB_CALCIUM_LVM_DATA=FOLDER python benchmarks/spike_events.py --checkpoints CHECKPOINTS          a few minutes

CHECKPOINTS holds the networks that spike_folds.py trained, each scored on the data set it was trained without; folds
that are not there are left out. Spikefinder's sets 4 and 5 are scored with the shipped networks, which have seen
neither. A found spike is right if a true one lies within 0.1 s of it that no other claims. F1 is that of all spikes of
a neuron together, its mean over neurons, of as many spikes as are expected. Nothing is tuned. Reliability: of the
spikes said to be as likely as 0.2 to 0.3, and so on, the share that is right.
"""

import os
import time
from pathlib import Path

import numpy as np
from _common import parser, progress, table, write
from spike_folds import FOLDS, read

from nwb_calcium_lvm.io import read_spikefinder
from nwb_calcium_lvm.metrics import match_spikes
from nwb_calcium_lvm.spikes import S2SSpikeEstimator

TOLERANCE, LEAST = 0.1, 0.2
BINS = np.arange(0.2, 1.01, 0.1)


def found_in(estimator, neurons):
    """Precision, recall and F1 of each neuron, and confidence and truth of every spike."""
    rows, pairs = [], []
    for neuron in neurons:
        found = estimator.predict_spikes(neuron.recording, threshold=LEAST)
        times, sure = found.times[0], found.confidence[0]
        order = np.argsort(times, kind="stable")
        times, sure = times[order], sure[order]
        clock, bounds = neuron.recording.timestamps, neuron.recording.segments.bounds
        true = np.sort(neuron.spikes)
        inside = [(true >= clock[a]) & (true <= clock[b - 1]) for a, b in bounds]
        true = true[np.any(inside, axis=0)]
        pairs.append(np.column_stack([sure, match_spikes(times, true, TOLERANCE)[0]]))
        if len(true) < 5:
            continue
        right, seen = match_spikes(np.sort(estimator.predict_spikes(neuron.recording).times[0]), true, TOLERANCE)
        precision = right.mean() if len(right) else 0.0
        rows.append((precision, seen.mean(), 2 * right.sum() / (len(right) + len(true)), len(right) / len(true)))
    return np.array(rows), np.concatenate(pairs)


def reliability(pairs):
    """Mean confidence, share that is right, and number, in bins of confidence."""
    which = np.clip(np.digitize(pairs[:, 0], BINS) - 1, 0, len(BINS) - 2)
    return [
        {"confidence": p[:, 0].mean(), "right": p[:, 1].mean(), "n": len(p)}
        for i in range(len(BINS) - 1)
        if len(p := pairs[which == i])
    ]


def main():
    p = parser(__doc__, seeds=1)
    p.add_argument("--checkpoints", type=Path, default=None)
    args = p.parse_args()
    began = time.perf_counter()
    root = Path(os.environ["NWB_CALCIUM_LVM_DATA"])
    sets = {}
    shipped = S2SSpikeEstimator.from_pretrained()
    for number in (4, 5):
        neurons = read_spikefinder(root / "spikefinder" / f"{number}.train.calcium.csv.gz")
        sets[f"Spikefinder {number}"] = (shipped, neurons[:2] if args.quick else neurons)
    everything = read(root) if args.checkpoints is not None else []
    for fold in FOLDS:
        path = (args.checkpoints or Path()) / "default" / fold / "seed0.npz"
        if path.exists():
            neurons = [n for n in everything if n.dataset.startswith(fold)]
            sets[fold] = (S2SSpikeEstimator.from_pretrained(path), neurons[:2] if args.quick else neurons)
    rows, results, all_pairs = [], {}, []
    for name, (estimator, neurons) in sets.items():
        scores, pairs = found_in(estimator, neurons)
        names = ("precision", "recall", "F1", "found_over_true")
        results[name] = dict(zip(names, scores.mean(axis=0), strict=True)) | {"neurons": len(scores)}
        results[name]["reliability"] = reliability(pairs)
        all_pairs.append(pairs)
        rows.append([name, len(scores), *(f"{v:.3f}" for v in scores.mean(axis=0))])
        progress(name)
    table(["set", "neurons", "precision", "recall", "F1", "found over true"], rows)
    whole = reliability(np.concatenate(all_pairs))
    print()
    table(["confidence", "right", "spikes"], [[f"{r['confidence']:.2f}", f"{r['right']:.2f}", r["n"]] for r in whole])
    args.checkpoints = None  # whose path says nothing
    write("spike_events", args, began, {"sets": results, "reliability": whole})


if __name__ == "__main__":
    main()
