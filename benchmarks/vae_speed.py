"""What a new cell costs once a network is trained: beside the filter, OASIS and S2S; and many cells in bounded memory.

    python benchmarks/vae_speed.py            twelve minutes on a core

Cells of 9,000 frames at 30 Hz, in one process, turn by turn, the fastest of three turns; compilation is left out by a
first call. The filter fits and infers; OASIS estimates its parameters and deconvolves. Then 10,000 cells in a process
of its own, from a file on disk to a file on disk, with its highest resident memory.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from _common import parser, progress, table, write

FRAMES, RATE = 9000, 30.0


def traces(n, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.random((FRAMES, n), np.float32) < 0.02
    kernel = 0.25 * np.exp(-np.arange(60, dtype=np.float32) / 15.0)
    spectrum = np.fft.rfft(counts, FRAMES + 64, axis=0) * np.fft.rfft(kernel, FRAMES + 64)[:, None]
    clean = np.fft.irfft(spectrum, FRAMES + 64, axis=0)[:FRAMES]
    return (clean + 0.05 * rng.standard_normal((FRAMES, n), np.float32)).astype(np.float32)


def many(n_cells):
    """In a process of its own: a Suite2p folder of so many cells, rates onto disk."""
    from nwb_calcium_lvm import VAESpikeEstimator

    with tempfile.TemporaryDirectory() as folder:
        plane = Path(folder) / "suite2p" / "plane0"
        plane.mkdir(parents=True)
        stored = np.lib.format.open_memmap(plane / "F.npy", "w+", np.float32, (n_cells, FRAMES))
        for a in range(0, n_cells, 500):
            stored[a : a + 500] = 100 * (1 + traces(min(500, n_cells - a), a).T)
        stored.flush()
        np.save(plane / "iscell.npy", np.ones((n_cells, 2)))
        np.save(plane / "Fneu.npy", np.lib.format.open_memmap(plane / "F.npy", "r") * 0 + 50)
        np.save(plane / "ops.npy", {"fs": RATE, "tau": 0.7, "neucoeff": 0.7, "nframes": FRAMES}, allow_pickle=True)
        vae = VAESpikeEstimator.from_pretrained()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.perf_counter()
        result = vae.infer(Path(folder) / "suite2p", stream=True, scratch=folder)
        mean = float(np.mean(result["firing_rates"][:, :10]))
        seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "cells": n_cells,
                "seconds": seconds,
                "MB_before": before / 1024,
                "MB_most": after / 1024,
                "mean_rate": mean,
            }
        )
    )


def side_by_side(n_cells, turns=3):
    from nwb_calcium_lvm import (
        FilterSpikeEstimator,
        OASISSpikeEstimator,
        Recording,
        S2SSpikeEstimator,
        VAESpikeEstimator,
    )

    recording = Recording(traces(n_cells), sampling_rate=RATE)
    vae, s2s = VAESpikeEstimator.from_pretrained(), S2SSpikeEstimator.from_pretrained()
    runs = {
        "vae": lambda: vae.transform(recording),
        "S2S, three networks": lambda: s2s.transform(recording),
        "OASIS, parameters estimated": lambda: (
            OASISSpikeEstimator(spike_amplitude=0.2).fit(recording).transform(recording)
        ),
        "filter, fit and inference": lambda: FilterSpikeEstimator().fit(recording).transform(recording),
    }
    best = dict.fromkeys(runs, np.inf)
    for turn in range(turns + 1):
        for name, run in runs.items():
            cpu = time.process_time()
            run()
            spent = time.process_time() - cpu
            if turn:  # the first compiles
                best[name] = min(best[name], spent)
        progress(f"turn {turn}: {best}")
    return {
        name: {"cpu_seconds_per_cell": s / n_cells, "neuron_frames_per_cpu_second": n_cells * FRAMES / s}
        for name, s in best.items()
    }


def main():
    args = parser(__doc__, 1)
    args.add_argument("--many", type=int, help="used by the script itself")
    args.add_argument("--cells", type=int, default=10_000)
    args = args.parse_args()
    warnings.simplefilter("ignore")
    if args.many:
        many(args.many)
        return
    began = time.perf_counter()
    found = side_by_side(4 if args.quick else 32, 1 if args.quick else 3)
    base = found["vae"]["cpu_seconds_per_cell"]
    table(
        ["", "CPU-s a cell", "neuron-frames a CPU-s", "times vae"],
        [
            [
                k,
                f"{v['cpu_seconds_per_cell']:.4f}",
                f"{v['neuron_frames_per_cpu_second']:.3g}",
                f"{v['cpu_seconds_per_cell'] / base:.2f}",
            ]
            for k, v in found.items()
        ],
    )
    sizes = [200] if args.quick else [args.cells // 4, args.cells]
    large = []
    for n in sizes:
        out = subprocess.run(
            [sys.executable, __file__, "--many", str(n)], capture_output=True, text=True, check=True, env=os.environ
        )
        large.append(json.loads(out.stdout.splitlines()[-1]))
        progress(str(large[-1]))
    table(["cells", "s", "MB most"], [[v["cells"], f"{v['seconds']:.0f}", f"{v['MB_most']:.0f}"] for v in large])
    write("vae_speed", args, began, {"side_by_side": found, "many": large})


if __name__ == "__main__":
    main()
