"""When do piriform neurons answer an odor? Hidden states of the NWB files of DANDI 000167, calcium against Gaussian.

    python examples/odor_states_dandi_000167.py sub-*/*.nwb

The files are not part of this project: download them from dandiset 000167. Each is a session of about 80 trials of
30 s with an odor from 10 to 11 s. Models are fitted to the first and last 30 trials, with the number of states chosen
among these by held-out likelihood, and shown on the trials between. benchmarks/hmm_odor.py does the same on simulated
sessions whose truth is known.
"""

import argparse
from pathlib import Path

import numpy as np

from nwb_calcium_lvm import CalciumHMM, read_nwb, write_nwb
from nwb_calcium_lvm.hmm import select_n_states
from nwb_calcium_lvm.metrics import fraction_in_states, peak_and_width

MODELS = {"calcium": "calcium", "Gaussian": "gaussian"}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="NWB files")
    parser.add_argument("--plane", type=int, help="imaging plane (default: all that can be read as one)")
    parser.add_argument("--trial", type=float, default=30.0, help="length of a trial in s")
    parser.add_argument(
        "--odor-on", type=float, default=10.0, help="when the odor comes on, in s from the trial's start"
    )
    parser.add_argument("--n-states", type=int, nargs="+", default=[4, 7, 10, 13, 16], help="numbers of states to try")
    parser.add_argument("--train", type=int, default=30, help="trials to fit at each end of the session")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of pictures and results")
    return parser.parse_args()


def analyse(path, options):
    """Return, for each model, the fraction of test trials in its onset state over time; write states and a picture."""
    recording = read_nwb(path, plane=options.plane)
    trials = recording.align("start_time", window=(0.0, options.trial))
    print(f"{path.name}: {trials!r}")
    X = np.stack(trials.trial_list())
    time = np.arange(X.shape[1]) / trials.sampling_rate
    test = np.arange(options.train, len(X) - options.train)
    if len(test) == 0:
        raise SystemExit(f"{len(X)} trials leave none to test on; pass a smaller --train.")
    train = np.setdiff1d(np.arange(len(X)), test)
    curves = {}
    for name, observation in MODELS.items():
        model = CalciumHMM(observation=observation, sampling_rate=trials.sampling_rate, n_init=2, random_state=0)
        choice = select_n_states(model, X[train], options.n_states, cv=3)
        model.set_params(n_states=choice.chosen[observation], n_init=5).fit(X[train])
        onset = onset_state(fraction_in_states(model.predict_proba(X[train])), time, options.odor_on)
        curves[name] = fraction_in_states(model.predict_proba(X[test]))[:, onset]
        peak = peak_and_width(curves[name], time)
        print(f"  {name}: {model.n_states} states; the onset state peaks at {peak.time:.2f} s, {peak.width:.2f} s wide")
        if observation == "calcium":
            write_nwb(model.infer(trials), options.out / f"{path.stem}_states.nwb", source=path, overwrite=True)
    draw(options.out / f"{path.stem}_states.png", time, curves, options.odor_on)


def onset_state(curves, time, odor_on):
    """Return the state whose fraction of trials rises most in the 2.5 s from odor onset; curves: (time, state)."""
    after = (time >= odor_on) & (time < odor_on + 2.5)
    return int(np.argmax(curves[after].mean(0) - curves[time < odor_on].mean(0)))


def draw(path, time, curves, odor_on):
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
    for name, curve in curves.items():
        axis.plot(time, curve, label=name)
    axis.axvspan(odor_on, odor_on + 1, color="0.9", zorder=0)
    axis.set(xlabel="time in the trial (s)", ylabel="fraction of test trials\nin the onset state")
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    options = parse()
    if not options.files:
        print("No files given. Download NWB files of dandiset 000167 and pass their paths; --help says more.")
    for file in options.files:
        analyse(file, options)
