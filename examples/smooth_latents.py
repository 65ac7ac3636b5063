"""Smooth latents of a population from an NWB file: fit, look, and write them back.

    python examples/smooth_latents.py [session.nwb]

Without a file, a simulated session is written first.
"""

import sys
from pathlib import Path

from nwb_calcium_lvm import CalciumGPFA, plotting, read_nwb, write_nwb
from nwb_calcium_lvm.io.demo_file import write_session_nwb
from nwb_calcium_lvm.simulate import session

path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("session.nwb")
if not path.exists():
    write_session_nwb(session(n_states=3, n_rois=20, duration=60.0, sampling_rate=10.0, random_state=0), path)

recording = read_nwb(path)
gpfa = CalciumGPFA(n_latents=3, kernel="matern52", max_iter=60).fit(recording)
result = gpfa.infer(recording)
print(f"Time scales {gpfa.timescales_.round(2)} s; {gpfa.score(recording):.3f} nats per sample")
print("Predicted from the others:", gpfa.cosmooth(recording, [0, 1]).bits_per_sample.round(4), "bits per sample")
plotting.latent_overview(result, recording).savefig("smooth_latents.png", dpi=120)
print("Wrote", write_nwb(result, path.with_name("session_latents.nwb"), overwrite=True))
