"""What each part of the spike networks is worth: the published network's choices, and ours.

    NWB_CALCIUM_LVM_DATA=FOLDER python benchmarks/spike_ablations.py published --checkpoints CHECKPOINTS

- published: the published network with one choice changed at a time, on two of the folds of spike_folds.py that were
  fixed beforehand (one set each of GCaMP6s and jRCaMP1a; 36 neurons), 400 steps each. Scored on raw and on
  smoothed counts, in bins of 40 and of 10 ms, and with padding scored as the published code does.
- indicators: both networks trained on GCaMP and tested on OGB, and the other way round.
- default: the default network with one choice changed at a time; trained on the eight folds' sets and the two extra
  ones, tested on the seven others, which is where its choices were made.
- loss: the default network beside one of the same shape trained for correlation only, on the two folds.
- spikefinder: Spikefinder's sets 4 to 6, half of the neurons left out at a time, as traces of unknown unit; without
  DS17, whose neurons set 6 holds again.

What is in CHECKPOINTS is not trained again, and results/spike_ablations.json grows with every run. One to two minutes a
network on a core.
"""

import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from _common import parser, progress, rounded, table, versions
from scipy.stats import wilcoxon
from spike_folds import UNTRAINED, read, scores
from spike_robustness import at_rate, noisier

from nwb_calcium_lvm.exceptions import DataWarning
from nwb_calcium_lvm.io import read_spikefinder
from nwb_calcium_lvm.metrics import SpikeScoring, pearson, summarise_spikes
from nwb_calcium_lvm.spikes import DEFAULT, PUBLISHED, OASISSpikeEstimator, S2SSpikeEstimator
from nwb_calcium_lvm.spikes.base import segments_to_score
from nwb_calcium_lvm.spikes.clocks import count_over, grid_edges, integrate_over

FIXED = ("DS13", "DS19")
DEVELOPMENT = ("DS01", "DS03", "DS05", "DS12", "DS17", "DS21")  # DS05 are two sets
REDUCED = PUBLISHED.changed(steps=400, check_every=100)
OF_PUBLISHED = {
    "as published: 3 hidden layers, target (11, 5), Pearson": {},
    "target discrete": {"target_sd": 0.0},
    "target (33, 11)": {"target_sd": 0.11, "target_reach": 16},
    "no hidden layer": {"dense_layers": 0},
    "1 hidden layer": {"dense_layers": 1},
    "squared error": {"loss": "squared"},
    "cross-entropy": {"loss": "entropy"},
    "cross-entropy, target discrete": {"loss": "entropy", "target_sd": 0.0},
    "dF/F instead of z-scores": {"scaling": "units"},
}
OF_DEFAULT = {
    "default": {},
    "three quarters slower, from 4 Hz": {"resampled": 0.75, "slowest": 4.0},
    "7.5 Hz only": {"resampled": 1.0, "slowest": 7.3, "fastest": 7.7},
    "without conditions": {"conditioned": False},
    "context of ± 0.9 s": {"dilations": (1, 1)},
    "one sample at a time, half the channels": {"stride": 1, "channels": 24, "dilations": (4, 8, 16, 32)},
    "no noise added": {"noisier": 0.0},
    "no slower clocks": {"resampled": 0.0},
    "z-scores": {"scaling": "zscore"},
}
SMOOTHED = SpikeScoring(smooth_rate=25.0)
FINE = SpikeScoring(bin_rate=100.0, smooth_rate=100.0)


def trained(config, seed, learned, path):
    """The network at PATH, or one that is trained and put there; and how many seconds that took."""
    if path.exists():
        return S2SSpikeEstimator.from_pretrained(path), None
    began = time.perf_counter()
    made = S2SSpikeEstimator(config=config.changed(n_members=1), random_state=seed, checkpoint_dir=path.with_suffix(""))
    made.fit(learned)
    made.save_weights(path)
    return made, time.perf_counter() - began


class Probability(S2SSpikeEstimator):
    """Rates where the network's output is the logit of a spike."""

    def _fine_rates(self, recording):
        return [
            f._replace(rates=f.sampling_rate / (1.0 + np.exp(-np.asarray(f.rates, float))))
            for f in super()._fine_rates(recording)
        ]


def binned(estimator, neuron, bin_rate=25.0, trim=1.1):
    """Predicted and true counts of a neuron in bins, segments put end to end."""
    fine = estimator._fine_rates(neuron.recording)
    predicted, true = [], []
    for s in segments_to_score(neuron.recording, fine, 0, neuron.spikes):
        edges = np.arange(s.start + trim, s.stop - trim, 1.0 / bin_rate)
        if len(edges) > 2:
            rates = np.nan_to_num(np.asarray(s.rate, float))
            predicted.append(integrate_over(rates, grid_edges(s.first, len(rates), s.sampling_rate), edges))
            true.append(count_over(s.spikes, edges))
    return np.concatenate(predicted), np.concatenate(true)


def padded_scores(estimator, neurons):
    """Correlations at 25 Hz with every neuron filled up to the longest of its set.

    As zeros: no spikes there, and what the network makes of a constant trace. As -1: the published code puts -1 where
    there are no spikes to know, which a network that has been trained on that can tell from the constant trace.
    """
    pairs = [binned(estimator, n) for n in neurons]
    longest = max(len(p) for p, _ in pairs)
    zeros, minus = [], []
    for predicted, true in pairs:
        n = longest - len(predicted)
        quiet = float(np.median(predicted))
        zeros.append(pearson(np.append(predicted, np.full(n, quiet)), np.append(true, np.zeros(n))))
        scale = true.std() / max(predicted.std(), 1e-12)
        known = scale * (predicted - predicted.mean()) + true.mean()
        minus.append(pearson(np.append(known, np.full(n, -1.0)), np.append(true, np.full(n, -1.0))))
    return zeros, minus


def published_entry(made, left_out, seconds):
    raw, smooth, fine = scores(made, left_out), each(made, left_out, SMOOTHED), each(made, left_out, FINE)
    kept = [i for i, s in enumerate(raw) if s is not None]
    zeros, minus = padded_scores(made, [left_out[i] for i in kept])
    return {
        "seconds": seconds,
        "steps": int(made.history_[-1][1]) if hasattr(made, "history_") and len(made.history_) else None,
        "c30": summarise_spikes(raw).c30,
        "neurons": [left_out[i].neuron for i in kept],
        "raw_25": [raw[i].pearson for i in kept],
        "raw_100": [fine[i].pearson for i in kept],
        "smoothed_25": [smooth[i].smooth_pearson for i in kept],
        "smoothed_100": [fine[i].smooth_pearson for i in kept],
        "padding_as_zeros": zeros,
        "padding_as_minus_one": minus,
    }


def each(estimator, neurons, scoring):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return [estimator.score_each(n.recording, [n.spikes], scoring=scoring)[0] for n in neurons]


def of_summary(made, left_out, seconds):
    found = summarise_spikes(scores(made, left_out))
    return {"seconds": seconds, **found._asdict()}


def run_published(args, neurons, keep):
    for name, changes in pick(OF_PUBLISHED, args):
        for fold in FIXED:
            learned, left_out = parted(neurons, fold)
            config = REDUCED.changed(**changes)
            made, seconds = trained(config, args.seed, learned, where(args, "ablations", name, fold))
            if changes.get("loss") == "entropy":
                made = as_probability(made)
            keep("published", name, fold, published_entry(made, left_out, seconds))


def as_probability(made):
    whole = Probability()
    whole._store(made.config_, made.networks_, made.calibration_, made.history_, {})
    return whole


def run_loss(args, neurons, keep):
    name, config = "Pearson only", DEFAULT.changed(loss="pearson")
    both = json.loads((args.out / "spike_folds.json").read_text())["results"]["default, seed 0"]
    for fold in FIXED:
        learned, left_out = parted(neurons, fold)
        made, seconds = trained(config, args.seed, learned, where(args, "loss", name, fold))
        keep("loss", name, fold, of_summary(made, left_out, seconds))
        kept = ("p25", "c30", "bias", "error")
        keep("loss", "both, the default", fold, {"seconds": None, **{k: both[fold][k] for k in kept}})


def run_default(args, neurons, keep):
    learned, left_out = parted(neurons, DEVELOPMENT)
    for name, changes in pick(OF_DEFAULT, args):
        path = where(args, "development", name, f"s{args.seed}")
        made, seconds = trained(DEFAULT.changed(**changes), args.seed, learned, path)
        rng = np.random.default_rng(0)
        for dataset in sorted({n.dataset for n in left_out}):
            own = [n for n in left_out if n.dataset == dataset]
            entry = of_summary(made, own, seconds)
            fast = float(np.median([n.recording.sampling_rate for n in own]))
            slow = [at_rate(n, 7.5) for n in own] if fast > 11 else own
            entry["c30_at_7.5"] = summarise_spikes(scores(made, slow)).c30
            at_30 = [at_rate(n, 30.0) if n.recording.sampling_rate > 30.0 else n for n in own]
            if fast > 28:
                entry["c30_at_30"] = summarise_spikes(scores(made, at_30)).c30
            entry["c30_at_nu_4"] = summarise_spikes(scores(made, [noisier(n, 4.0, rng) for n in at_30])).c30
            keep("default", f"{name}, seed {args.seed}", dataset, entry)


def run_indicators(args, neurons, keep):
    real = [n for n in neurons if not n.dataset.startswith("X-NAOMi")]
    sides = {k: [n for n in real if k in n.dataset] for k in ("GCaMP", "OGB1")}
    for config_name, config in pick({"published": REDUCED, "default": DEFAULT}, args):
        for source, target in (("GCaMP", "OGB1"), ("OGB1", "GCaMP")):
            name = f"{config_name}, {source} to {target}"
            made, seconds = trained(config, args.seed, sides[source], where(args, "indicators", name, "all"))
            for dataset in sorted({n.dataset for n in sides[target]}):
                own = [n for n in sides[target] if n.dataset == dataset]
                keep("indicators", name, dataset, of_summary(made, own, seconds))


def run_spikefinder(args, neurons, keep):
    """Every neuron of sets 4 to 6 (of one half: every other) is predicted by a network that has not seen it."""
    root = Path(os.environ["NWB_CALCIUM_LVM_DATA"]) / "spikefinder"
    tables = {k: read_spikefinder(root / f"{k}.train.calcium.csv.gz") for k in (4, 5, 6)}
    others = [n for n in neurons if not n.dataset.startswith("DS17")]
    found = {k: [] for k in tables}
    for half in range(args.halves):
        learned = others + [n for v in tables.values() for i, n in enumerate(v) if i % 2 != half]
        made, _ = trained(DEFAULT, args.seed, learned, where(args, "spikefinder", "default", str(half)))
        for k, v in tables.items():
            found[k] += scores(made, v[half::2])
    for k, v in tables.items():
        keep("spikefinder", "default", str(k), summarise_spikes(found[k])._asdict())
        left_out = [n for i, n in enumerate(v) if i % 2 < args.halves]
        for name, options in UNTRAINED.items():
            made = OASISSpikeEstimator(spike_amplitude=1.0, **options).fit(v[0].recording)
            keep("spikefinder", name, str(k), of_summary(made, left_out, None))


def parted(neurons, start):
    return [n for n in neurons if not n.dataset.startswith(start)], [n for n in neurons if n.dataset.startswith(start)]


def pick(variants, args):
    return [(k, v) for k, v in variants.items() if not args.only or k in args.only]


def where(args, *parts):
    plain = ["".join(c if c.isalnum() else "_" for c in p) for p in parts]
    path = args.checkpoints.joinpath(*plain[:-1], f"{plain[-1]}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def keeper(path):
    def keep(part, name, fold, entry):
        """Add one result; what an earlier run has measured of the training itself stays."""
        all_of_it = json.loads(path.read_text()) if path.exists() else {"benchmark": "spike_ablations", "results": {}}
        all_of_it["versions"] = versions()
        place = all_of_it["results"].setdefault(part, {}).setdefault(name, {})
        if entry.get("seconds") is None:
            entry["seconds"] = place.get(fold, {}).get("seconds")
        place[fold] = rounded(entry)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(all_of_it, separators=(",", ":")).replace('{"c30"', '\n{"c30"') + "\n")
        progress(f"{part} | {name} | {fold}")

    return keep


def show(path):
    results = json.loads(path.read_text())["results"]
    columns = ("raw_25", "raw_100", "smoothed_25", "smoothed_100", "padding_as_zeros", "padding_as_minus_one")
    reference = results.get("published", {}).get(next(iter(OF_PUBLISHED)))
    rows = []
    for name, folds in results.get("published", {}).items():
        pooled = [x for fold in FIXED if fold in folds for x in folds[fold]["raw_25"]]
        base = [x for fold in FIXED if fold in folds and fold in reference for x in reference[fold]["raw_25"]]
        differs = pooled != base and len(pooled) == len(base)
        p = f"{wilcoxon(pooled, base).pvalue:.1g}" if differs else ""
        means = [np.mean([np.mean(f[c]) for f in folds.values()]) for c in columns]
        seconds = np.mean([f["seconds"] or np.nan for f in folds.values()])
        c30 = np.mean([f["c30"] for f in folds.values()])
        rows.append([name, *(f"{m:.3f}" for m in means), f"{c30:.3f}", p, f"{seconds:.0f}", len(folds)])
    if rows:
        table(["published", *columns, "c30", "p of raw_25", "seconds", "folds"], rows)
    for part in ("default", "loss", "indicators", "spikefinder"):
        rows = []
        for name, folds in results.get(part, {}).items():
            keys = ("p25", "c30", "bias", "error", "c30_at_30", "c30_at_7.5", "c30_at_nu_4", "seconds")
            rows.append([name, *(mean_of(folds.values(), k) for k in keys), len(folds)])
            if part != "default":
                rows += [[f"  {f}", *(mean_of([e], k) for k in keys), ""] for f, e in folds.items()]
        if rows:
            table([part, *keys, "sets"], rows)


def mean_of(entries, key):
    found = [np.abs(e[key]) if key == "bias" else e[key] for e in entries if e.get(key) is not None]
    return f"{np.mean(found):.3f}" if found else ""


def main():
    runs = {
        "published": run_published,
        "indicators": run_indicators,
        "default": run_default,
        "loss": run_loss,
        "spikefinder": run_spikefinder,
    }
    args = parser(__doc__, 1)
    args.add_argument("parts", nargs="*", choices=[*runs, []], help="what to run; nothing: print what there is")
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--halves", type=int, default=2, help="halves of Spikefinder's neurons to leave out, 1 or 2")
    args.add_argument("--only", nargs="*", help="names of variants")
    args.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    args = args.parse_args()
    path = args.out / "spike_ablations.json"
    if args.parts:
        neurons = read(Path(os.environ["NWB_CALCIUM_LVM_DATA"]))
        for part in args.parts:
            runs[part](args, neurons, keeper(path))
    show(path)


if __name__ == "__main__":
    main()
