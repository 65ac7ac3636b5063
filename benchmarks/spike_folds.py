"""Spike estimators on recordings with known spikes, each data set left out of training in turn.

    NWB_CALCIUM_LVM_DATA=FOLDER python benchmarks/spike_folds.py --model default --seeds 0 --checkpoints CHECKPOINTS

FOLDER holds ground_truth/ in CASCADE's layout. For each of eight data sets a model is trained on all others (never on
interneurons, and without recordings of the same neurons) and scored on the one left out, as it is: no lag, no
smoothing, nothing chosen on the set. Several minutes a fold and seed on a core; what is in CHECKPOINTS is not trained
again, and results/spike_folds.json grows with every run. With several seeds there, the mean of the networks is scored
too.
"""

import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from _cascade import Cascade
from _common import RESULTS, parser, progress, rounded, table, versions

from nwb_calcium_lvm.exceptions import DataWarning
from nwb_calcium_lvm.io import read_ground_truth
from nwb_calcium_lvm.metrics import SpikeScores, SpikeScoring, summarise_spikes
from nwb_calcium_lvm.preprocessing import noise_level
from nwb_calcium_lvm.spikes import DEFAULT, PUBLISHED, OASISSpikeEstimator, S2SSpikeEstimator

FOLDS = ("DS04", "DS07", "DS09", "DS10", "DS13", "DS14", "DS18", "DS19")
INTERNEURONS = ("DS22", "DS23", "DS24", "DS25", "DS26", "DS27")
# The published network goes on for hours if nothing stops it; 800 steps are 44 h of traces, nearly three times all
# there are. Examples of 100 samples, as in the paper, are learned from to their ends.
CONFIGS = {
    "default": DEFAULT,
    "published": PUBLISHED.changed(steps=800, check_every=100),
    "published, 1 s": PUBLISHED.changed(steps=4000, check_every=400, seconds=1.0, margins=False),
}
CASCADE_STEPS = {"cascade": 5000, "cascade, twice as long": 10000}
# Deconvolution has nothing to learn but the rise per spike. Without a penalty, at a decay of 1 s, it is what Suite2p
# does out of the box after its baseline.
UNTRAINED = {
    "OASIS": {},
    "OASIS, 50 ms earlier, smoothed": {"lag": -0.05, "smoothing": 0.05},
    "OASIS without penalty": {"penalty": 0.0, "decay_time": 1.0},
    "OASIS without penalty, 50 ms earlier, smoothed": {
        "penalty": 0.0,
        "decay_time": 1.0,
        "lag": -0.05,
        "smoothing": 0.05,
    },
}


def read(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        neurons = read_ground_truth(root / "ground_truth")
    return [n for n in neurons if not n.dataset.startswith(INTERNEURONS)]


def level_of(left_out):
    """The noise level of the set left out, by which CASCADE's users choose a network."""
    nu = [noise_level(r.dff, r.sampling_rate, r.mask, r.segments)[0] for r in (n.recording for n in left_out)]
    return max(round(float(np.median(nu))), 1.0)


def train_cascade(seed, learned, level, path, steps=5000):
    """CASCADE's network for a noise level."""
    made = Cascade(seed=seed, steps=steps, level=level)
    if path.exists():
        return made.load(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.fit(learned)
    made.save(path)
    return made


def train(model, seed, learned, folder):
    config = CONFIGS[model].changed(n_members=1)
    return S2SSpikeEstimator(config=config, random_state=seed, checkpoint_dir=folder).fit(learned)


def together(estimators):
    """The mean of networks that were trained from different seeds."""
    whole = S2SSpikeEstimator()
    networks = [e.networks_ for e in estimators]
    gain = float(np.exp(np.mean([np.log(n.gain) for n in networks])))
    members = tuple(m for n in networks for m in n.members)
    first = estimators[0]
    whole._store(
        first.config_, networks[0]._replace(members=members, gain=gain), first.calibration_, first.history_, {}
    )
    return whole


def scores(estimator, neurons):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return [estimator.score_each(n.recording, [n.spikes], scoring=SpikeScoring())[0] for n in neurons]


def record(found, neurons, seconds):
    summary = summarise_spikes(found)._asdict()
    each = {n.neuron.split("/")[1]: list(s) for n, s in zip(neurons, found, strict=True) if s is not None}
    return {**summary, "training_seconds": seconds, "fields": list(SpikeScores._fields), "neurons": each}


def store(path, key, fold, entry):
    everything = json.loads(path.read_text()) if path.exists() else {"benchmark": "spike_folds", "results": {}}
    everything["versions"] = versions()
    everything["results"].setdefault(key, {})[fold] = rounded(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(everything, indent=None, separators=(",", ":")).replace('"DS', '\n"DS') + "\n")


def show(path):
    results = json.loads(path.read_text())["results"]
    columns = ("p25", "c30", "spearman", "auc", "bias", "error")
    rows = []
    for key, folds in results.items():
        for fold, entry in sorted(folds.items()):
            rows.append([key, fold, *(f"{entry[c]:.3f}" for c in columns)])
        rows.append(
            [key, f"mean of {len(folds)}", *(f"{np.mean([e[c] for e in folds.values()]):.3f}" for c in columns)]
        )
    table(["model", "left out", *columns], rows)


def main():
    args = parser(__doc__, 1)
    args.add_argument("--model", choices=[*sorted(CONFIGS), *CASCADE_STEPS, "oasis"], default="default")
    args.add_argument("--first-seed", type=int, default=0)
    args.add_argument("--folds", nargs="*", default=list(FOLDS))
    args.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    args.add_argument("--show", action="store_true", help="only print what has been found so far")
    args = args.parse_args()
    path = (args.out or RESULTS) / "spike_folds.json"
    if not args.show:
        run(args, path)
    show(path)


def run(args, path):
    neurons = read(Path(os.environ["NWB_CALCIUM_LVM_DATA"]))
    if args.model == "oasis":
        run_untrained(args, path, neurons)
        return
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for fold in args.folds:
            learned = [n for n in neurons if not n.dataset.startswith(fold)]
            left_out = [n for n in neurons if n.dataset.startswith(fold)]
            began = time.perf_counter()
            folder = args.checkpoints / args.model.replace(", ", "-").replace(" ", "-") / fold
            if args.model.startswith("cascade"):
                steps = CASCADE_STEPS[args.model]
                made = train_cascade(seed, learned, level_of(left_out), folder / f"seed{seed}.npz", steps)
            else:
                made = train(args.model, seed, learned, folder / f"seed{seed}")
                made.save_weights(folder / f"seed{seed}.npz")
            seconds = time.perf_counter() - began
            entry = record(scores(made, left_out), left_out, seconds)
            store(path, f"{args.model}, seed {seed}", fold, entry)
            there = [folder / f"seed{k}.npz" for k in range(seed + 1) if (folder / f"seed{k}.npz").exists()]
            if len(there) > 1 and args.model in CONFIGS:
                whole = together([S2SSpikeEstimator.from_pretrained(p) for p in there])
                store(path, f"{args.model}, {len(there)} networks", fold, record(scores(whole, left_out), left_out, 0))
            progress(f"{args.model} {fold} seed {seed}: p25 {entry['p25']:.3f} c30 {entry['c30']:.3f} {seconds:.0f} s")


def run_untrained(args, path, neurons):
    for name, options in UNTRAINED.items():
        # Rises per spike, one per neuron: the median of those of other sets calibrates the one left out.
        rises = {n.neuron: OASISSpikeEstimator(**options).fit(n.recording, [n.spikes]).amplitude_ for n in neurons}
        for fold in args.folds:
            left_out = [n for n in neurons if n.dataset.startswith(fold)]
            known = [rises[n.neuron] for n in neurons if not n.dataset.startswith(fold)]
            made = OASISSpikeEstimator(spike_amplitude=float(np.nanmedian(known)), **options).fit(left_out[0].recording)
            store(path, name, fold, record(scores(made, left_out), left_out, 0.0))
        progress(name)


if __name__ == "__main__":
    main()
