"""From a Suite2p folder to hidden states, in a new NWB file with a picture beside it.

Without a folder, one is made up of simulated traces.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from nwb_calcium_lvm import CalciumHMM, plotting, read_suite2p, simulate, write_nwb

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", help="suite2p/ or planeN/; default: a simulated one")
parser.add_argument("--n-states", type=int, default=3)
parser.add_argument(
    "--out", default="suite2p_states.nwb", help="NWB file to write; a result of an earlier run in it is replaced"
)


def simulated_folder(parent: Path) -> Path:
    """Write simulated traces the way Suite2p does."""
    truth = simulate.session(n_states=3, n_rois=30, duration=200, sampling_rate=12, nu=1.0, random_state=0)
    plane = parent / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    np.save(plane / "F.npy", truth.fluorescence.T.astype(np.float32))
    np.save(plane / "Fneu.npy", truth.neuropil.T.astype(np.float32))
    np.save(plane / "iscell.npy", np.tile([1.0, 0.9], (truth.n_rois, 1)))
    pixels = np.arange(4)
    stat = [
        {"ypix": 8 * i + pixels, "xpix": pixels, "lam": np.ones(4), "med": [8 * i, 2], "npix": 4}
        for i in range(truth.n_rois)
    ]
    np.save(plane / "stat.npy", np.array(stat, dtype=object), allow_pickle=True)
    np.save(plane / "ops.npy", {"fs": 12.0, "tau": 0.7, "neucoeff": 0.7, "nplanes": 1}, allow_pickle=True)
    return plane.parent


if __name__ == "__main__":
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        folder = options.folder or simulated_folder(Path(parent))

        # All that is needed on your own folder:
        recording = read_suite2p(folder)
        hmm = CalciumHMM(n_states=options.n_states, n_init=3, random_state=0).fit(recording)
        result = hmm.infer(recording)
        path = write_nwb(result, options.out, source=recording, overwrite=True)
        plotting.overview(result, recording).savefig(path.with_suffix(".png"), dpi=150)

    print(f"{recording!r}\n{result!r}\nWrote {path} and {path.with_suffix('.png').name}")
