"""Networks that learned from dreams alone, on recordings with known spikes, beside deconvolution and trained networks.

    NWB_CALCIUM_LVM_DATA=FOLDER python benchmarks/vae_ground_truth.py            two minutes on a core

FOLDER holds ground_truth/ in CASCADE's layout. The package's networks are used as they come: no fit, one lag (0) and
one smoothing (50 ms) for all sets, no recording with spikes ever seen in training. Lag, smoothing and what is dreamed
of were compared on DS01, DS03, DS05, DS12, DS17 and DS21 (four neurons each); those rows are marked.

- rivals: the neurons of filter_ground_truth.py, beside its scores of the filter, OASIS and Suite2p.
- folds: all neurons of the eight data sets of spike_folds.py, beside its scores of deconvolution and of networks that
  learned from the other sets; with and without the name of the indicator told.
"""

import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from _common import RESULTS, parser, progress, table, write
from filter_ground_truth import LOOKED_AT
from spike_folds import FOLDS, INTERNEURONS, scores

from nwb_calcium_lvm import Recording
from nwb_calcium_lvm.indicators import find
from nwb_calcium_lvm.io import GroundTruth, read_ground_truth
from nwb_calcium_lvm.metrics import summarise_spikes
from nwb_calcium_lvm.spikes import VAESpikeEstimator

COLUMNS = ("p25", "c30", "spearman", "auc", "bias", "error")
OF_FILTER = ("filter", "OASIS, 50 ms earlier, smoothed", "Suite2p, 50 ms earlier, smoothed", "OASIS", "Suite2p")
OF_FOLDS = ("default, seed 0", "cascade, seed 0", "OASIS, 50 ms earlier, smoothed", "OASIS")
MODELS = ("ml_phys", "scdf", "linear")


def told(neuron):
    """The neuron with the indicator that the name of its data set says."""
    words = [w for w in neuron.dataset.split("-") if find(w) is not None]
    r = neuron.recording
    made = Recording(
        r.dff, timestamps=r.timestamps, segments=r.segments, mask=r.mask, indicator=words[0] if words else None
    )
    return GroundTruth(made, neuron.spikes, neuron.neuron, neuron.dataset, neuron.segment_numbers)


def summary(estimator, neurons):
    try:
        found = summarise_spikes(scores(estimator, neurons))
    except ValueError:  # too few spikes in any of them
        return None
    return {c: getattr(found, c) for c in COLUMNS}


def beside_rivals(neurons, estimators, known):
    """The neurons that filter_ground_truth.py drew of each set."""
    out = {}
    for dataset, entry in known.items():
        of_set = [n for n in neurons if n.dataset == dataset]
        order = np.random.default_rng(0).permutation(len(of_set))[: entry["n_neurons"]]
        mine = [of_set[i] for i in order]
        out[dataset] = {name: summary(e, mine) for name, e in estimators.items()}
        out[dataset] |= {name: entry["scores"].get(name) for name in OF_FILTER}
        progress(f"{dataset}: {out[dataset]['vae ml_phys']}")
    return out


def on_folds(neurons, estimators):
    out = {}
    for fold in FOLDS:
        mine = [n for n in neurons if n.dataset.startswith(fold)]
        out[fold] = {name: summary(e, mine) for name, e in estimators.items()}
        out[fold]["vae ml_phys, indicator told"] = summary(estimators["vae ml_phys"], [told(n) for n in mine])
        progress(f"{fold}: {out[fold]['vae ml_phys']}")
    return out


def show(found, mark=()):
    names = list(next(iter(found.values())))
    rows = [
        [
            d + (" *" if d.startswith(mark) and mark else ""),
            *("" if v is None else f"{v['p25']:.3f}/{v['c30']:.3f}" for v in e.values()),
        ]
        for d, e in found.items()
    ]
    for label, kept in (
        ("mean", lambda d: True),
        ("mean of those not looked at", lambda d: not (mark and d.startswith(mark))),
    ):
        chosen = [e for d, e in found.items() if kept(d) and all(v is not None for v in e.values())]
        means = [
            f"{np.mean([e[n]['p25'] for e in chosen]):.3f}/{np.mean([e[n]['c30'] for e in chosen]):.3f}" for n in names
        ]
        rows.append([f"{label} ({len(chosen)})", *means])
    table(["p25/c30", *names], rows)


def main():
    args = parser(__doc__, 1).parse_args()
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    neurons = read_ground_truth(Path(os.environ["NWB_CALCIUM_LVM_DATA"]) / "ground_truth")
    neurons = [n for n in neurons if not n.dataset.startswith((*INTERNEURONS, "X-NAOMi"))]
    estimators = {f"vae {m}": VAESpikeEstimator.from_pretrained(m) for m in MODELS}
    known = json.loads((RESULTS / "filter_ground_truth.json").read_text())["sets"]
    rivals = beside_rivals(neurons, estimators, known)
    folds = on_folds(neurons, estimators)
    of_folds = json.loads((RESULTS / "spike_folds.json").read_text())["results"]
    for fold, entry in folds.items():
        entry |= {name: {c: of_folds[name][fold][c] for c in COLUMNS} for name in OF_FOLDS}
    show(rivals, LOOKED_AT)
    show(folds)
    bias = {
        n: [np.mean([abs(e[n]["bias"]) for e in folds.values()]), np.mean([e[n]["error"] for e in folds.values()])]
        for n in folds[FOLDS[0]]
    }
    table(["folds", "mean |bias|", "error"], [[n, *(f"{v:.3f}" for v in b)] for n, b in bias.items()])
    write("vae_ground_truth", args, began, {"rivals": rivals, "folds": folds})


if __name__ == "__main__":
    main()
