"""From a Suite2p folder to spikes per second of every cell, written as NWB, with a picture of the most active one.

Without a folder, a session is simulated and its rates are compared with the true spikes.
"""

import argparse
from pathlib import Path

import numpy as np

from nwb_calcium_lvm import S2SSpikeEstimator, plotting, read_nwb, read_suite2p, simulate, write_nwb
from nwb_calcium_lvm.io.demo_file import write_session_nwb

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", help="Suite2p folder; default: a simulated session")
parser.add_argument("--out", default="spike_rates.nwb", help="where the rates go")
options = parser.parse_args()

spikes = None
if options.folder is None:
    session = simulate.session(n_states=2, n_rois=10, duration=120, sampling_rate=30, nu=1.5, random_state=0)
    recording = read_nwb(write_session_nwb(session, Path(options.out).with_name("simulated_session.nwb")))
    spikes = session.spikes
else:
    recording = read_suite2p(options.folder)

s2s = S2SSpikeEstimator.from_pretrained()
result = s2s.infer(recording)
write_nwb(result, options.out, source=recording if options.folder else None, overwrite=True)

best = int(np.nanargmax(np.nanmean(result["firing_rates"], axis=0)))
times = None if spikes is None else np.repeat(recording.timestamps, spikes[:, best])
ax = plotting.spike_rates(result, recording, roi=best, spikes=times)
ax.figure.savefig(Path(options.out).with_suffix(".png"), dpi=150)

print(result)
if spikes is not None:
    print(f"Pearson r with the true spikes at 25 Hz: {s2s.score(recording, spikes):.2f}")
