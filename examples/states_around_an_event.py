"""Which hidden states follow an event: fit an NWB file, then draw the fraction of trials in each state around it.

Without a file, a session is simulated in which each trial's event triggers a state.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from nwb_calcium_lvm import CalciumHMM, metrics, plotting, read_nwb, simulate
from nwb_calcium_lvm.io.demo_file import write_session_nwb

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("file", nargs="?", help="NWB file with a trials table; default: a simulated one")
parser.add_argument("--event", default="event_time", help="column of the trials table, in s")
parser.add_argument("--window", nargs=2, type=float, default=(-2.0, 6.0), help="around the event, in s")
parser.add_argument("--n-states", type=int, default=3)
parser.add_argument("--out", default="states_around_an_event.png", help="where the picture goes")
options = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    path = options.file
    if path is None:
        session = simulate.session(n_states=3, n_rois=30, duration=240, sampling_rate=10, nu=1.0, random_state=0)
        path = write_session_nwb(session, Path(folder) / "session.nwb")
    recording = read_nwb(path)

# Fit the whole session, so that nothing is known of the event; look at the windows around it only afterwards.
hmm = CalciumHMM(n_states=options.n_states, n_init=3, random_state=0).fit(recording)
windows = recording.align(options.event, window=tuple(options.window))
result = hmm.infer(windows)

n_trials = len(windows.segments)
probabilities = result["state_probabilities"].reshape(n_trials, -1, options.n_states)
time = options.window[0] + np.arange(probabilities.shape[1]) / recording.sampling_rate
ax = plotting.states_around_event(probabilities, time)
ax.figure.savefig(options.out, dpi=150)

fractions = metrics.fraction_in_states(probabilities)
after, before = fractions[time >= 0], fractions[time < 0].mean(axis=0)
called = int(np.argmax(after.max(axis=0) - before))
peak = metrics.peak_and_width(after[:, called], time[time >= 0])
print(f"State {called} follows the event: in {100 * before[called]:.0f} % of {n_trials} trials before it, in")
print(f"{100 * peak.height:.0f} % at its peak {peak.time:.1f} s after it, {peak.width:.1f} s wide. Drew {options.out}")
