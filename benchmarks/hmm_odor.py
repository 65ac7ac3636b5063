"""When do piriform neurons answer an odor, and for how long? Calcium against Gaussian states, on a surrogate.

    python benchmarks/hmm_odor.py                   5 seeds, under an hour on one core
    python benchmarks/hmm_odor.py --quick           1 small seed, about a minute

The surrogate has the shape of the published recording: 79 trials of 30 s at 4.53 Hz, 284 neurons, odor from 10 to 11 s.
Models are fitted to the first and last 30 trials, with the number of states chosen by cross-validation among these
(three folds, one standard error), and tested on the middle 19. The onset state is the one whose probability rises most
from before the odor to the 2.5 s after it came on, in the training trials. Reported, on the test trials: when the
fraction of trials in it peaks, and the full width of the peak at half its height. On the real recording the paper found
10.63 s and 2.65 s with the calcium model, 12.85 s and 6.64 s with a Gaussian one.
"""

import time
from pathlib import Path

import numpy as np
from _common import parser, progress, spread, table, write

from nwb_calcium_lvm import CalciumHMM
from nwb_calcium_lvm.hmm import select_n_states
from nwb_calcium_lvm.metrics import fraction_in_states, peak_and_width
from nwb_calcium_lvm.simulate import odor_surrogate

MODELS = {"calcium": "calcium", "AR-Gaussian": "ar_gaussian", "Gaussian": "gaussian"}
CANDIDATES = (2, 4, 6, 8, 10, 12)
ODOR_ON = 10.0


def split(n_trials):
    """Return the training and the test trials: the middle quarter is for testing (19 of 79)."""
    side = round(n_trials * 30 / 79)
    test = np.arange(side, n_trials - side)
    return np.setdiff1d(np.arange(n_trials), test), test


def onset_state(curves, time):
    """Return the state whose fraction of trials rises most when the odor comes on; ``curves`` is (time, state)."""
    after = (time >= ODOR_ON) & (time < ODOR_ON + 2.5)
    return int(np.argmax(curves[after].mean(0) - curves[time < ODOR_ON].mean(0)))


def fit_and_look(truth, observation, candidates, seed):
    train, test = split(len(truth.traces))
    model = CalciumHMM(
        observation=observation, sampling_rate=truth.sampling_rate, n_init=1, tol=1e-4, random_state=seed
    )
    choice = select_n_states(model, truth.traces[train], candidates, cv=3)
    model.set_params(n_states=choice.chosen[observation], n_init=5, tol=1e-5)
    began = time.perf_counter()
    model.fit(truth.traces[train])
    seconds = time.perf_counter() - began
    state = onset_state(fraction_in_states(model.predict_proba(truth.traces[train])), truth.time)
    curve = fraction_in_states(model.predict_proba(truth.traces[test]))[:, state]
    peak = peak_and_width(curve, truth.time)
    return {
        "n_states": model.n_states,
        "mean_score": choice.mean[0],
        "test_score": model.score(truth.traces[test]),
        "peak": peak.time,
        "height": peak.height,
        "width": peak.width,
        "curve": curve,
        "seconds": seconds,
    }


def true_answer(truth):
    curve = fraction_in_states(truth.states[split(len(truth.traces))[1]], truth.n_states)[:, 0]
    peak = peak_and_width(curve, truth.time)
    return {
        "n_states": truth.n_states,
        "peak": peak.time,
        "height": peak.height,
        "width": peak.width,
        "curve": curve,
    }


def report(found):
    rows = []
    for name in found[0]:
        results = [f[name] for f in found]
        states = " ".join(str(r["n_states"]) for r in results)
        rows.append([name, states, *(spread([r[k] for r in results], 2) for k in ("peak", "width", "height"))])
    table(["model", "states, per seed", "peak, s", "width, s", "height"], rows)
    calcium, gaussian = ([f[name]["width"] for f in found] for name in ("calcium", "Gaussian"))
    print(f"\nThe calcium model's peak is narrower in {np.sum(np.less(calcium, gaussian))} of {len(found)} seeds.")


def draw(path, found, time):
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name in found[0]:
        style = {"color": "0.2", "lw": 2.5, "alpha": 0.5} if name == "truth" else {}
        axis.plot(time, np.mean([f[name]["curve"] for f in found], 0), label=name, **style)
    axis.axvspan(ODOR_ON, ODOR_ON + 1, color="0.9", zorder=0)
    axis.set(xlabel="time in the trial (s)", ylabel="fraction of test trials\nin the onset state", xlim=(5, 25))
    axis.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main():
    args = parser(__doc__, seeds=5).parse_args()
    began = time.perf_counter()
    shape = {"n_trials": 26, "n_rois": 60} if args.quick else {}
    candidates = (4, 8) if args.quick else CANDIDATES
    found = []
    for seed in range(1 if args.quick else args.seeds):
        truth = odor_surrogate(random_state=seed, **shape)
        found.append({"truth": true_answer(truth)})
        for name, observation in MODELS.items():
            found[-1][name] = fit_and_look(truth, observation, candidates, seed)
        shown = (f"{n} {r['peak']:.2f} s, {r['width']:.2f} s ({r['n_states']} states)" for n, r in found[-1].items())
        progress(f"seed {seed}: " + "; ".join(shown))
    report(found)
    write("hmm_odor", args, began, {"candidates": candidates, "time": truth.time, "seeds": found})
    if not args.quick:
        draw(Path(args.out) / "hmm_odor.png", found, truth.time)


if __name__ == "__main__":
    main()
