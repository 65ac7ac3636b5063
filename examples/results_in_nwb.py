"""Two models of one recording, both kept in its NWB file; later one is read back, drawn, and applied without a new fit.

Without a file, a session is simulated.
"""

import argparse
from pathlib import Path

from nwb_calcium_lvm import CalciumHMM, plotting, read_nwb, read_results, simulate, write_nwb
from nwb_calcium_lvm.io.demo_file import write_session_nwb

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("session", nargs="?", help="NWB file; default: a simulated one")
parser.add_argument("--out", default="session_with_results.nwb", help="a copy with the results; NAME.zarr for Zarr")


def simulated_session() -> Path:
    """Write a simulated session."""
    truth = simulate.session(
        n_states=3, n_rois=30, duration=200, sampling_rate=10, indicator="jGCaMP8s", nu=1.0, random_state=0
    )
    return write_session_nwb(truth, Path("session.nwb"))


if __name__ == "__main__":
    options = parser.parse_args()
    recording = read_nwb(options.session or simulated_session())
    first_half = recording.isel(time=slice(0, recording.n_frames // 2))

    for n_states in (2, 3):
        hmm = CalciumHMM(n_states=n_states, n_init=3, max_iter=300, random_state=0).fit(first_half)
        path = write_nwb(hmm.infer(recording), options.out, name=f"hmm_{n_states}_states", overwrite=True)

    # Later, elsewhere: from here on the file is all there is.
    for name, result in read_results(path).items():
        print(f"{name}: {result!r}, {len(result.roi_ids)} ROIs, fitted with {result.versions['nwb-calcium-lvm']}")
    hmm = CalciumHMM.from_nwb(path, "hmm_3_states")
    second_half = read_nwb(path).isel(time=slice(recording.n_frames // 2, None))
    print(f"Score of the second half, which the model has not seen: {hmm.score(second_half):.3f} nats per sample")

    result = read_results(path, "hmm_3_states")
    picture = path.with_suffix(".png")
    plotting.overview(result, read_nwb(path)).savefig(picture, dpi=150)
    print(f"Wrote {path} and {picture.name}")
