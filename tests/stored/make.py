"""Write the stored file of this version, which later versions must read: ``python make.py VERSION``; then commit it.

A file of a version that was released is never written again.
"""

import json
import sys
from pathlib import Path

import numpy as np

from nwb_calcium_lvm import CalciumHMM, read_nwb, simulate, write_nwb
from nwb_calcium_lvm.io.demo_file import write_session_nwb

FOLDER = Path(__file__).parent


def main(version: str) -> None:
    """Write ``results_VERSION.nwb`` and, as JSON, what is expected of it."""
    truth = simulate.session(
        n_states=2, n_rois=4, duration=30.0, sampling_rate=5.0, trial_every=8.0, nu=1.0, random_state=0
    )
    session = write_session_nwb(truth, FOLDER / "session.nwb")
    recording = read_nwb(session)
    hmm = CalciumHMM(n_states=2, n_init=1, max_iter=10, random_state=0).fit(recording)
    target = FOLDER / f"results_{version}.nwb"
    write_nwb(hmm.infer(recording), target, name="whole")
    trials = recording.select_trials([2, 0])
    result = hmm.infer(trials)
    write_nwb(result, target, name="trials", overwrite=True)
    session.unlink()
    expected = {
        "score": hmm.score(recording),
        "states": hmm.predict(recording).tolist(),
        "trial_times": trials.timestamps.tolist(),
        "trial_ids": np.asarray(trials.segments.trial_ids).tolist(),
        "decay_time": np.asarray(result["decay_time"]).tolist(),
    }
    target.with_suffix(".json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(sys.argv[1])
