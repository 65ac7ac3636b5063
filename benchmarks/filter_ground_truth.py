"""Spikes without training on recordings with known spikes: the noisy calcium model beside deconvolution.

    NWB_CALCIUM_LVM_DATA=FOLDER python benchmarks/filter_ground_truth.py --neurons 5

FOLDER holds ground_truth/ in CASCADE's layout. Of every data set some neurons, drawn once, are scored by the rules of
``metrics.spikes``: FilterSpikeEstimator as it is (one lag and one smoothing for all sets), OASIS and Suite2p's variant
of it as they are, and both 50 ms earlier and smoothed by 50 ms. Nothing is chosen on a set. Settings of the filter were
compared on a few neurons of DS01, DS03, DS05, DS12, DS17 and DS21; those rows are marked.

Held-out likelihood: parameters from the first half of each recording, nats per frame on the second half; the filter's
against that of the published likelihood (calcium without measurement noise, AR of the same order, constant rate).
"""

import json
import os
import time
import warnings
from pathlib import Path

import jax
import numpy as np
from _common import RESULTS, parser, progress, rounded, table, versions

from nwb_calcium_lvm import CalciumHMM, Recording
from nwb_calcium_lvm.io import read_ground_truth
from nwb_calcium_lvm.metrics import SpikeScoring, summarise_spikes
from nwb_calcium_lvm.observations import calcium_noisy
from nwb_calcium_lvm.spikes import FilterSpikeEstimator, OASISSpikeEstimator
from nwb_calcium_lvm.spikes.filtering import on_clock

LOOKED_AT = ("DS01", "DS03", "DS05", "DS12", "DS17", "DS21")
INTERNEURONS = ("DS22", "DS23", "DS24", "DS25", "DS26", "DS27")
CORRECTED = {"lag": -0.05, "smoothing": 0.05}
SUITE2P = {"penalty": 0.0, "decay_time": 1.0}
DECONVOLUTION = {
    "OASIS": {},
    "OASIS, 50 ms earlier, smoothed": CORRECTED,
    "Suite2p": SUITE2P,
    "Suite2p, 50 ms earlier, smoothed": SUITE2P | CORRECTED,
}
HELD_OUT = 2  # neurons of a set whose likelihood is compared
FILTER, PLAIN = "filter", "filter, no lag, no smoothing"


def estimators():
    made = {name: OASISSpikeEstimator(spike_amplitude=0.2, **options) for name, options in DECONVOLUTION.items()}
    return made | {FILTER: FilterSpikeEstimator()}


def score(estimator, neuron):
    return estimator.score_each(neuron.recording, [neuron.spikes], scoring=SpikeScoring())[0]


def held_out(neuron, order):
    """Nats per frame on the second half: measurement noise, and the published likelihood."""
    whole = on_clock(neuron.recording, np.array([0]), 30.0)
    half = len(whole.y) // 2
    first, second = (
        Recording(whole.y[part], mask=whole.mask[part], sampling_rate=whole.rate)
        for part in (slice(0, half), slice(half, None))
    )
    noisy = FilterSpikeEstimator(ar_order=order).fit(first)
    with jax.enable_x64(True):
        nats = calcium_noisy.log_likelihood(
            np.where(second.mask, second.dff, 0.0).astype(float),
            np.log(noisy.firing_rates_ / noisy.clock_rate_),
            noisy._params(np.array([0])),
            second.mask,
        )
    nats = np.asarray(nats)
    published = CalciumHMM(1, ar_order=order, n_init=1, max_iter=300).fit(first).score(second)
    return [float(nats[nats != 0].mean()), float(published)]


def run(args, path):
    everything = json.loads(path.read_text()) if path.exists() else {"benchmark": "filter_ground_truth", "sets": {}}
    neurons = read_ground_truth(Path(os.environ["NWB_CALCIUM_LVM_DATA"]) / "ground_truth")
    for dataset in sorted({n.dataset for n in neurons}):
        if args.sets and not dataset.startswith(tuple(args.sets)):
            continue
        of_set = [n for n in neurons if n.dataset == dataset]
        order = np.random.default_rng(0).permutation(len(of_set))[: args.neurons]
        mine = [of_set[i] for i in order]
        if everything["sets"].get(dataset, {}).get("n_neurons", 0) >= len(mine):
            continue
        began = time.perf_counter()
        entry = {"n_neurons": len(mine), "scores": {}, "held_out": [], "seconds": 0.0, "filter_seconds": 0.0}
        found = {}
        for i, neuron in enumerate(mine):
            for name, estimator in estimators().items():
                start = time.perf_counter()
                estimator.fit(neuron.recording)
                found.setdefault(name, []).append(score(estimator, neuron))
                if name == FILTER:
                    entry["filter_seconds"] += time.perf_counter() - start
                    found.setdefault(PLAIN, []).append(score(estimator.set_params(lag=0.0, smoothing=0.0), neuron))
            if i < HELD_OUT:
                entry["held_out"].append(held_out(neuron, 2))
            entry["seconds"] += neuron.recording.n_frames / neuron.recording.sampling_rate
        for name, scores in found.items():
            try:
                entry["scores"][name] = summarise_spikes(scores)._asdict()
            except ValueError:  # too few spikes in any of them
                continue
        everything["sets"][dataset] = rounded(entry)
        everything["versions"] = versions()
        path.write_text(json.dumps(everything, indent=None, separators=(",", ":")).replace('"DS', '\n"DS') + "\n")
        progress(f"{dataset}: {len(mine)} neurons, {time.perf_counter() - began:.0f} s")


def show(path):
    sets = json.loads(path.read_text())["sets"]
    names = [FILTER, PLAIN, *DECONVOLUTION]
    rows = []
    for dataset, entry in sets.items():
        mark = " *" if dataset.startswith(LOOKED_AT) else ""
        values = [entry["scores"].get(n) for n in names]
        rows.append([dataset + mark, *("" if v is None else f"{v['p25']:.3f}/{v['c30']:.3f}" for v in values)])
    for label, kept in (
        ("mean of pyramidal", lambda d: not d.startswith((*INTERNEURONS, "X-NAOMi"))),
        ("mean of those not looked at", lambda d: not d.startswith((*INTERNEURONS, *LOOKED_AT, "X-NAOMi"))),
        ("mean of all", lambda d: True),
    ):
        chosen = [e["scores"] for d, e in sets.items() if kept(d) and e["scores"]]
        rows.append(
            [f"{label} ({len(chosen)})"]
            + [
                f"{np.mean([c[n]['p25'] for c in chosen]):.3f}/{np.mean([c[n]['c30'] for c in chosen]):.3f}"
                for n in names
            ]
        )
    table(["data set (p25/c30)", *names], rows)
    rows = []
    for dataset, entry in sets.items():
        gain = np.array([a - b for a, b in entry["held_out"]])
        rows.append([dataset, f"{np.mean(gain):.3f}", f"{np.mean(gain > 0):.2f}", len(gain)])
    table(["held-out nats per frame", "gain over published", "share of neurons", "neurons"], rows)


def main():
    args = parser(__doc__, 1)
    args.add_argument("--neurons", type=int, default=5)
    args.add_argument("--sets", nargs="*", default=[])
    args.add_argument("--show", action="store_true", help="only print what has been found so far")
    args = args.parse_args()
    warnings.simplefilter("ignore")
    path = (args.out or RESULTS) / "filter_ground_truth.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not args.show:
        run(args, path)
    show(path)


if __name__ == "__main__":
    main()
