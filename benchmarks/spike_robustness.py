"""The networks of spike_folds.py on their left-out sets under other conditions, and what their intervals are worth.

    NWB_CALCIUM_LVM_DATA=FOLDER python benchmarks/spike_robustness.py --checkpoints CHECKPOINTS

Takes the weights that spike_folds.py has left in CHECKPOINTS: the default's seed 0, and the mean of its seeds 0 to 2.
Trains nothing but CASCADE's network for the noise level below, for sets that the results do not hold yet (two minutes
a set).

- Frame rates: recordings that are fast enough are averaged to 100, 60, 30, 15 and 7.5 Hz.
- Noise: white noise is added at 30 Hz (slower recordings: at their own rate) until the noise level is 4; beside
  CASCADE's network trained for that level without the set.
- Intervals: 90 % intervals of counts, their dispersion from the other folds' left-out sets.
- Interneurons: the package's weights on the sets that no network is trained on.
- Spikefinder: sets 4 and 5, of which the package's weights have seen nothing, as traces of unknown unit (set 6 is DS17
  once more).

--weights FILE puts the dispersion found on left-out sets into a file of weights.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from _common import parser, progress, rounded, table, write
from spike_folds import FOLDS, INTERNEURONS, read, scores, together, train_cascade

from nwb_calcium_lvm import Recording
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.io import GroundTruth, read_ground_truth, read_spikefinder
from nwb_calcium_lvm.metrics import summarise_spikes
from nwb_calcium_lvm.preprocessing import noise_level
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import OASISSpikeEstimator, S2SSpikeEstimator
from nwb_calcium_lvm.spikes.calibration import WINDOWS, Calibration, count_interval, find_dispersion, find_gain
from nwb_calcium_lvm.spikes.clocks import average_over, grid_edges
from nwb_calcium_lvm.spikes.learning import predicted_counts
from nwb_calcium_lvm.spikes.traces import noise_to_reach
from nwb_calcium_lvm.spikes.weights import read_weights, write_weights

RATES = (100.0, 60.0, 30.0, 15.0, 7.5)
NU = 4.0
ALPHA = 0.1


def at_rate(neuron, rate):
    """The neuron averaged to a slower clock, segment by segment; itself where its clock is nearly this one."""
    recording = neuron.recording
    if abs(recording.sampling_rate / rate - 1) < 0.1:
        return neuron
    times, values, bounds, n = [], [], [], 0
    for a, b in recording.segments.bounds:
        t = recording.timestamps[a:b]
        grid = grid_edges(t[0], int((t[-1] - t[0]) * rate) + 1, rate)
        values.append(average_over(recording.dff[a:b, 0], t, grid))
        times.append(0.5 * (grid[1:] + grid[:-1]))
        bounds.append((n, n + len(values[-1])))
        n = bounds[-1][1]
    made = Recording(
        np.concatenate(values)[:, None], timestamps=np.concatenate(times), segments=Segments(np.array(bounds))
    )
    return GroundTruth(made, neuron.spikes, neuron.neuron, neuron.dataset, neuron.segment_numbers)


def noisier(neuron, nu, rng):
    recording = neuron.recording
    rate = recording.sampling_rate
    present = noise_level(recording.dff, rate, recording.mask, recording.segments)[0]
    noise = noise_to_reach(nu, float(present), rate) * rng.normal(size=recording.shape)
    made = Recording(recording.dff + noise, timestamps=recording.timestamps, segments=recording.segments)
    return GroundTruth(made, neuron.spikes, neuron.neuron, neuron.dataset, neuron.segment_numbers)


def noisy_sets(neurons):
    """Each left-out set at 30 Hz or its own slower rate, with noise of level NU: the same for every estimator."""
    rng = np.random.default_rng(0)
    out = {}
    for fold in FOLDS:
        left_out = [n for n in neurons if n.dataset.startswith(fold)]
        at_30 = [at_rate(n, 30.0) if n.recording.sampling_rate > 30.0 else n for n in left_out]
        out[fold] = [noisier(n, NU, rng) for n in at_30]
    return out


def cascade_at_noise(args, neurons, noisy, known, keep):
    """Scores of CASCADE's network, trained for level NU, on the left-out sets at that level; ``known`` are kept."""
    out = dict(known)
    for fold in FOLDS:
        if fold not in out:
            learned = [n for n in neurons if not n.dataset.startswith(fold)]
            path = args.checkpoints / f"cascade-level-{NU:g}" / fold / "seed0.npz"
            out[fold] = at_noise(train_cascade(0, learned, NU, path), noisy[fold])
            keep(out)
        progress(f"{fold}: CASCADE at nu {NU:g}: {out[fold]['c30']:.3f}")
    return out


def add(args, neurons, noisy):
    """Put what needs none of the default's checkpoints beside what is in the results."""
    path = args.out / "spike_robustness.json"

    def keep(**found):
        record = json.loads(path.read_text())
        record["results"] |= rounded(found)
        path.write_text(json.dumps(record, indent=1, allow_nan=True) + "\n", encoding="utf-8")
        return record["results"]

    apart = interneurons(Path(os.environ["NWB_CALCIUM_LVM_DATA"]))
    show_interneurons(apart)
    results = keep(interneurons=apart)
    name = f"noise_{NU:g}"
    of_cascade = cascade_at_noise(
        args, neurons, noisy, results.get(f"{name}_cascade", {}), lambda found: keep(**{f"{name}_cascade": found})
    )
    ours = {k.removeprefix(f"{name}_"): v for k, v in results.items() if k.startswith(f"{name}_mean")}
    show_noise({"one network": results[name], **ours, "CASCADE": of_cascade})


def show_noise(compared):
    table(
        ["left out", *(f"{k}, c30 at nu {NU:g}" for k in compared)],
        [[f, *(f"{v[f]['c30']:.3f}" for v in compared.values())] for f in FOLDS]
        + [["mean", *(f"{np.mean([v[f]['c30'] for f in FOLDS]):.3f}" for v in compared.values())]],
    )


def show_interneurons(apart):
    columns = ("p25", "c30", "bias", "error", "ratio")
    table(
        ["interneurons", "neurons", *columns[:-1], "predicted / true"],
        [[k, v["n_neurons"], *(f"{v[c]:.3f}" for c in columns)] for k, v in apart.items()],
    )


def at_noise(made, noisy):
    found = summarise_spikes(scores(made, noisy))
    return {"p25": found.p25, "c30": found.c30, "bias": found.bias, "error": found.error}


def main():
    args = parser(__doc__, 1)
    args.add_argument("--add", action="store_true", help="only CASCADE and interneurons, beside older results")
    args.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    args.add_argument("--weights", type=Path, help="file of weights to put the calibration into")
    args = args.parse_args()
    warnings.simplefilter("ignore", DataWarning)
    neurons = read(Path(os.environ["NWB_CALCIUM_LVM_DATA"]))
    noisy = noisy_sets(neurons)
    if not args.add:
        measure(args, neurons, noisy)
    add(args, neurons, noisy)


def measure(args, neurons, noisy):
    """Measure the default's networks; of an earlier run only CASCADE's scores at noise are kept."""
    began = time.perf_counter()
    rates, rates_of_mean, noise, noise_of_mean, pairs = {}, {}, {}, {}, {}
    for fold in FOLDS:
        there = sorted((args.checkpoints / "default" / fold).glob("seed[0-2].npz"))
        members = [S2SSpikeEstimator.from_pretrained(p) for p in there]
        s2s, mean = members[0], together(members)
        left_out = [n for n in neurons if n.dataset.startswith(fold)]
        typical = float(np.median([n.recording.sampling_rate for n in left_out]))
        for made, kept in ((s2s, rates), (mean, rates_of_mean)):
            kept[fold] = {
                f"{r:g}": summarise_spikes(scores(made, [at_rate(n, r) for n in left_out])).c30
                for r in RATES
                if typical >= 1.5 * r or abs(typical / r - 1) < 0.1  # over little more than a frame it only blurs
            }
        noise[fold], noise_of_mean[fold] = at_noise(s2s, noisy[fold]), at_noise(mean, noisy[fold])
        pairs[fold] = [predicted_counts(n.recording, [n.spikes], s2s.networks_, s2s.config_)[0] for n in left_out]
        progress(f"{fold}: {rates[fold]} nu {NU:g}: {noise[fold]['c30']:.3f}")
    intervals = {fold: coverage(pairs, fold) for fold in FOLDS}
    table(
        ["left out", *map(str, RATES)], [[f, *(f"{rates[f].get(f'{r:g}', np.nan):.3f}" for r in RATES)] for f in FOLDS]
    )
    for name, found in (("One network", rates), (f"Mean of {len(members)}", rates_of_mean)):
        lost = {r: [v["30"] - v[r] for v in found.values() if {r, "30"} <= set(v)] for r in ("100", "60", "15", "7.5")}
        print(f"{name}, c30 lost from 30 Hz:", {r: f"{np.mean(d):.3f}" for r, d in lost.items()})
    table(
        ["left out", "predicted / true", *(f"{w:.3g} s" for w in WINDOWS)],
        [[f, f"{v['ratio']:.2f}", *(f"{c:.2f}" for c in v["coverage"])] for f, v in intervals.items()],
    )
    unknown = spikefinder(Path(os.environ["NWB_CALCIUM_LVM_DATA"]) / "spikefinder")
    table(
        ["Spikefinder", "set 4, p25", "c30", "set 5, p25", "c30"],
        [[k, *(f"{v[n][m]:.3f}" for n in ("4", "5") for m in ("p25", "c30"))] for k, v in unknown.items()],
    )
    path = args.out / "spike_robustness.json"
    earlier = json.loads(path.read_text())["results"] if path.exists() else {}
    results = {
        "frame_rates": rates,
        f"frame_rates_mean_of_{len(members)}": rates_of_mean,
        f"noise_{NU:g}": noise,
        f"noise_{NU:g}_mean_of_{len(members)}": noise_of_mean,
        f"noise_{NU:g}_cascade": earlier.get(f"noise_{NU:g}_cascade", {}),
        "intervals": intervals,
        "spikefinder": unknown,
    }
    # Folders of one machine are not part of the result.
    told = argparse.Namespace(**vars(args) | {"checkpoints": None, "weights": None, "add": None})
    write("spike_robustness", told, began, results)
    if args.weights is not None:
        recalibrate(args.weights, pairs)


def spikefinder(root):
    """Scores of the package's weights and of deconvolution on traces of unknown unit."""
    models = {
        "default": S2SSpikeEstimator.from_pretrained(),
        "OASIS": OASISSpikeEstimator(spike_amplitude=1.0),
        "OASIS, 50 ms earlier, smoothed": OASISSpikeEstimator(spike_amplitude=1.0, lag=-0.05, smoothing=0.05),
    }
    out = {}
    for number in (4, 5):
        neurons = read_spikefinder(root / f"{number}.train.calcium.csv.gz")
        for name, model in models.items():
            fitted = model if name == "default" else model.fit(neurons[0].recording)
            found = summarise_spikes(scores(fitted, neurons))
            out.setdefault(name, {})[str(number)] = {"p25": found.p25, "c30": found.c30, "auc": found.auc}
    return out


def interneurons(root):
    """Scores of the package's weights on sets of interneurons, of which they have seen none."""
    made, out = S2SSpikeEstimator.from_pretrained(), {}
    for folder in sorted((root / "ground_truth").iterdir()):
        if not folder.name.startswith(INTERNEURONS):
            continue
        try:
            neurons = read_ground_truth(folder)
        except DataError as error:  # every clock of one set runs backward
            progress(str(error))
            continue
        found = summarise_spikes(scores(made, neurons))._asdict()
        pairs = [predicted_counts(n.recording, [n.spikes], made.networks_, made.config_)[0] for n in neurons]
        totals = [p.total_rate / p.total_spikes for p in pairs if p is not None and p.total_spikes]
        out[folder.name] = {**found, "ratio": float(np.median(totals))}
    return out


def coverage(pairs, fold):
    """Share of true counts inside 90 % intervals, by window, with the dispersion of all other folds."""
    others = [p for f, found in pairs.items() if f != fold for p in found]
    inside = []
    for window in WINDOWS:
        dispersion = dispersion_of(others, window)
        shares = []
        for p in pairs[fold]:
            if (counts := p.in_windows(window)) is not None:
                low, high = count_interval(counts[0], dispersion, ALPHA)
                shares.append(np.mean((counts[1] >= low) & (counts[1] <= high)))
        inside.append(float(np.mean(shares)) if shares else float("nan"))
    totals = [p.total_rate / p.total_spikes for p in pairs[fold] if p.total_spikes]
    return {"ratio": float(np.median(totals)), "coverage": inside}


def dispersion_of(found, window):
    counted = [c for p in found if (c := p.in_windows(window)) is not None]
    return find_dispersion([m for m, _ in counted], [k for _, k in counted])


def recalibrate(path, pairs):
    """Put what left-out sets say of gain and dispersion into a file of weights."""
    config, networks, calibration, card = read_weights(path)
    everything = [(fold, p) for fold, found in pairs.items() for p in found]
    predicted = np.array([p.total_rate for _, p in everything])
    true = np.array([p.total_spikes for _, p in everything])
    ratio = find_gain(predicted, true, np.array([fold for fold, _ in everything]))
    dispersion = np.array([dispersion_of([p for _, p in everything], w) for w in WINDOWS])
    print(f"Gain {calibration.gain:.3f} as found on the training sets; left-out sets ask for {ratio:.3f} times that.")
    made = Calibration(calibration.gain, np.array(WINDOWS), dispersion, len(everything))
    write_weights(path, config, networks, made, card)


if __name__ == "__main__":
    main()
