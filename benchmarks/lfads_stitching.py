"""Several sessions of other neurons, one system: LFADS on all of them together, and on each alone.

    python benchmarks/lfads_stitching.py --seeds 5

The Lorenz experiment of lfads_lorenz.py cut into three sessions, each with ten of the thirty neurons and a third of
the trials, as where a field of view is changed from day to day. A quarter of the trials is for testing. R2 is that
of the true states regressed on the factors: ``own`` with a regression learned on the training trials of that session,
``carried`` with one learned on those of the two other sessions, which asks whether the sessions share one space.

Then the same with conditions: the trials to learn from begin in one of 25 states, the same ones in all sessions, three
times each; those to test begin anywhere. ``free`` is fitted as above, ``tied`` is told the conditions.
"""

from __future__ import annotations

import json
import time
import warnings
from itertools import product

import _common
import numpy as np

from nwb_calcium_lvm import CalciumLFADS, Recording
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import lorenz_experiment

N_SESSIONS = 3
N_CONDITIONS, REPEATS, N_TESTS = 25, 3, 25  # of a session


def recording_of(trials, rois):
    n_trials, n_frames, n_rois = trials.shape
    edges = np.arange(n_trials + 1) * n_frames
    segments = Segments(np.column_stack([edges[:-1], edges[1:]]), np.arange(n_trials))
    return Recording(trials.reshape(-1, n_rois), segments=segments, roi_ids=rois)


def r2(learn, found, true):
    """R2 of states (trial, time, 3) regressed on factors; ``learn`` holds the (factors, states) to learn from."""
    flat = lambda x: np.concatenate([a.reshape(-1, a.shape[-1]) for a in x])  # noqa: E731
    design = lambda x: np.column_stack([x, np.ones(len(x))])  # noqa: E731
    weights = np.linalg.lstsq(design(flat([f for f, _ in learn])), flat([s for _, s in learn]), rcond=None)[0]
    truth = flat([true])
    return 1.0 - ((truth - design(flat([found])) @ weights) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum()


def sessions_of(truth):
    trials = np.array_split(np.arange(len(truth.traces)), N_SESSIONS)
    neurons = np.array_split(np.arange(truth.traces.shape[-1]), N_SESSIONS)
    return [(truth.traces[np.ix_(t, np.arange(truth.traces.shape[1]), n)], truth.latents[t], n)
            for t, n in zip(trials, neurons, strict=True)]  # fmt: skip


def fit(recordings, seed, epochs, conditions=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CalciumLFADS(4, n_generator=64, max_epochs=epochs, random_state=seed)
        return model.fit(recordings, conditions=conditions)


def tied_scores(seed, args):
    n_conditions, repeats, n_tests = (4, 2, 4) if args.quick else (N_CONDITIONS, REPEATS, N_TESTS)
    told = np.tile(np.arange(n_conditions), repeats)
    n_learn = len(told)
    labels = np.concatenate([np.r_[told, n_conditions + i * n_tests + np.arange(n_tests)] for i in range(N_SESSIONS)])
    size = {"n_frames": 20, "n_rois": 12} if args.quick else {}
    cut = sessions_of(lorenz_experiment(len(labels), conditions=labels, random_state=seed, **size))
    training = [recording_of(y[:n_learn], rois) for y, _, rois in cut]
    found = {}
    for name, conditions in (("free", None), ("tied", [told] * N_SESSIONS)):
        model = fit(training, seed, args.epochs, conditions)
        factors = [model.transform(recording_of(y, rois)).reshape(*states.shape[:2], -1) for y, states, rois in cut]
        learn = [(f[:n_learn], states[:n_learn]) for f, (_, states, _) in zip(factors, cut, strict=True)]
        tests = [(f[n_learn:], states[n_learn:]) for f, (_, states, _) in zip(factors, cut, strict=True)]
        found[f"{name}, own"] = [r2([learn[i]], *tests[i]) for i in range(N_SESSIONS)]
        found[f"{name}, carried"] = [r2(learn[:i] + learn[i + 1 :], *tests[i]) for i in range(N_SESSIONS)]
    return found


def scores(seed, args):
    truth = lorenz_experiment(
        random_state=seed, **({"n_trials": 36, "n_frames": 20, "n_rois": 12} if args.quick else {})
    )
    cut = sessions_of(truth)
    learn = [len(states) * 3 // 4 for _, states, _ in cut]
    training = [recording_of(y[:n], rois) for (y, _, rois), n in zip(cut, learn, strict=True)]
    everything = [recording_of(y, rois) for y, _, rois in cut]
    together = fit(training, seed, args.epochs)
    alone = [fit(r, seed, args.epochs) for r in training]

    def by_trial(model, i):
        return model.transform(everything[i]).reshape(*cut[i][1].shape[:2], -1)

    stitched = [by_trial(together, i) for i in range(N_SESSIONS)]
    single = [by_trial(model, i) for i, model in enumerate(alone)]
    found = {"together": [], "carried": [], "alone": []}
    for i, (_, states, _) in enumerate(cut):
        n, others = learn[i], [j for j in range(N_SESSIONS) if j != i]
        mine = lambda x, j: (x[j][: learn[j]], cut[j][1][: learn[j]])  # noqa: E731
        found["together"].append(r2([mine(stitched, i)], stitched[i][n:], states[n:]))
        found["carried"].append(r2([mine(stitched, j) for j in others], stitched[i][n:], states[n:]))
        found["alone"].append(r2([mine(single, i)], single[i][n:], states[n:]))
    return found


def main():
    parser = _common.parser(__doc__, 5)
    parser.add_argument("--parts", nargs="*", default=["sessions", "conditions"])
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=120)
    args = parser.parse_args()
    args.epochs = 2 if args.quick else args.epochs
    began, results = time.perf_counter(), {}
    parts = {"conditions": tied_scores, "sessions": scores}
    kept = args.out / "lfads_stitching.json"
    if kept.exists() and not args.quick:  # takes up what an earlier run has
        results = json.loads(kept.read_text(encoding="utf-8"))["results"]
    for part, seed in product(args.parts, range(args.first_seed, args.first_seed + args.seeds)):
        results.setdefault(str(seed), {}).update(parts[part](seed, args))
        print(seed, {k: np.round(v, 3).tolist() for k, v in results[str(seed)].items()}, flush=True)
        _common.write("lfads_stitching", args, began, results)
    for name in sorted({name for r in results.values() for name in r}):
        values = [np.mean(r[name]) for r in results.values() if name in r]
        print(f"{name:10s} R2 {np.mean(values):.3f} +- {np.std(values):.3f}")


if __name__ == "__main__":
    main()
