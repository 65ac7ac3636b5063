"""Spike rates of recordings larger than memory: from F.npy and from an NWB file to NWB, with the memory of a block.

    python benchmarks/spike_streaming.py            15 minutes on one core; 6 GB of free disk
    python benchmarks/spike_streaming.py --quick    small sizes, a minute or two

2,000 ROIs of half an hour at 30 Hz (54,000 frames) are made as Suite2p leaves them (F.npy and Fneu.npy, neuropil
subtracted and baseline found on the way) and as an NWB file of raw fluorescence and its neuropil, uncompressed, frame
by frame. A process that does nothing else reads, infers with one of the shipped networks (three take three times as
long and no more memory) and writes; its memory is its highest resident set. The same with a quarter of the ROIs shows
whether memory grows with them, and at that size rates are compared with those of the recording read whole. Seconds
depend on the machine and its disk.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from _common import parser, progress, table, write

ROIS, FRAMES, RATE = 2000, 54_000, 30.0
BLOCK = 50  # ROIs made at a time
SMALLER = 4


def traces(n_rois, n_frames, first):
    """Raw fluorescence and neuropil of some ROIs, (roi, time)."""
    rng = np.random.default_rng(first)
    counts = rng.random((n_rois, n_frames), np.float32) < 0.01
    decay = np.float32(np.exp(-1 / (0.5 * RATE)))
    calcium = np.zeros((n_rois, n_frames), np.float32)
    for t in range(1, n_frames):
        calcium[:, t] = decay * calcium[:, t - 1] + 0.3 * counts[:, t]
    neuropil = 50 + 5 * np.sin(np.arange(n_frames, dtype=np.float32) / 900)
    neuropil = neuropil + rng.standard_normal((n_rois, n_frames), np.float32)
    noise = 10 * rng.standard_normal((n_rois, n_frames), np.float32)
    return 300 * (1 + calcium) + 0.7 * neuropil + noise, neuropil


def make_suite2p(folder, n_rois, n_frames):
    plane = folder / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    files = [
        np.lib.format.open_memmap(plane / name, "w+", np.float32, (n_rois, n_frames)) for name in ("F.npy", "Fneu.npy")
    ]
    for a in range(0, n_rois, BLOCK):
        rows = slice(a, min(a + BLOCK, n_rois))
        files[0][rows], files[1][rows] = traces(rows.stop - a, n_frames, a)
    np.save(plane / "iscell.npy", np.ones((n_rois, 2)))
    pixels = np.arange(3)
    stat = [{"med": [i, i], "npix": 3, "ypix": pixels, "xpix": pixels, "lam": np.ones(3)} for i in range(n_rois)]
    np.save(plane / "stat.npy", np.array(stat, dtype=object), allow_pickle=True)
    settings = {"fs": RATE, "neucoeff": 0.7, "baseline": "maximin", "win_baseline": 60.0, "sig_baseline": 10.0}
    np.save(plane / "ops.npy", np.array(settings, dtype=object), allow_pickle=True)
    return plane


def make_nwb(plane, path):
    """The same traces in an NWB file, (time, roi)."""
    from hdmf.backends.hdf5 import H5DataIO
    from hdmf.data_utils import DataChunkIterator
    from pynwb import NWBHDF5IO, NWBFile
    from pynwb.ophys import Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries

    nwbfile = NWBFile("Simulated.", "streaming", datetime(2026, 1, 1, tzinfo=UTC))
    device = nwbfile.create_device(name="Microscope")
    imaging = nwbfile.create_imaging_plane(
        name="ImagingPlane",
        optical_channel=OpticalChannel(name="Green", description="Green.", emission_lambda=510.0),
        description="Simulated.",
        device=device,
        excitation_lambda=920.0,
        indicator="GCaMP6f",
        location="nowhere",
        imaging_rate=RATE,
    )
    room = nwbfile.create_processing_module("ophys", "Simulated.")
    images = ImageSegmentation()
    room.add(images)
    cells = images.create_plane_segmentation(name="PlaneSegmentation", description="ROIs.", imaging_plane=imaging)
    F = np.load(plane / "F.npy", mmap_mode="r")
    for i in range(len(F)):
        cells.add_roi(pixel_mask=[(i % 64, i // 64, 1.0)])
    region = cells.create_roi_table_region("All.", region=list(range(len(F))))
    for container, name in (("Fluorescence", "F.npy"), ("Neuropil", "Fneu.npy")):
        values = np.load(plane / name, mmap_mode="r")
        data = DataChunkIterator(rows_of(values), buffer_size=1024, dtype=np.dtype("f4"), maxshape=values.shape[::-1])
        series = RoiResponseSeries(
            name="RoiResponseSeries", data=H5DataIO(data, chunks=(64, len(F))), rois=region, unit="n.a.", rate=RATE
        )
        room.add(Fluorescence(name=container, roi_response_series=[series]))
    with NWBHDF5IO(path, "w") as io:
        io.write(nwbfile)


def rows_of(values):
    """Yield frame after frame."""
    for a in range(0, values.shape[1], 1024):
        yield from np.ascontiguousarray(values[:, a : a + 1024].T)


def measure(source, out, check):
    """Infer and write in this process; print what it took as JSON."""
    from nwb_calcium_lvm import S2SSpikeEstimator, read_nwb, read_results, read_suite2p, write_nwb

    s2s = S2SSpikeEstimator.from_pretrained()
    s2s.networks_ = s2s.networks_._replace(members=s2s.networks_.members[:1])
    start = peak()
    began, cpu = time.perf_counter(), time.process_time()
    result = s2s.infer(source, stream=True, scratch=Path(out).parent)
    inferred = time.perf_counter()
    write_nwb(result, out, name="rates")
    found = {
        "ROIs": len(result.roi_ids),
        "frames": len(result.time),
        "infer_s": inferred - began,
        "write_s": time.perf_counter() - inferred,
        "cpu_s": time.process_time() - cpu,
        "memory_before": start,
        "memory": peak(),
        "file": os.path.getsize(out),
    }
    if check:
        recording = read_nwb(source) if source.endswith(".nwb") else read_suite2p(source)
        whole = s2s.transform(recording)
        streamed = np.asarray(read_results(out, "rates")["firing_rates"])
        found["difference"] = np.abs(whole - streamed).max() / whole.max()
    print(json.dumps({k: float(v) for k, v in found.items()}))


def peak():
    """Highest resident set of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def main():
    p = parser(__doc__, seeds=1)
    p.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.measure:
        measure(*args.measure[:2], check=args.measure[2] == "check")
        return
    began = time.perf_counter()
    n_rois, n_frames = (160, 3000) if args.quick else (ROIS, FRAMES)
    rows, results = [], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for size in (n_rois // SMALLER, n_rois):
            place = root / str(size)
            plane = make_suite2p(place, size, n_frames)
            make_nwb(plane, place / "session.nwb")
            progress(f"made {size} ROIs x {n_frames} frames")
            for name, source in (("F.npy", plane), ("NWB", place / "session.nwb")):
                out = place / f"{name}_rates.nwb"
                check = "check" if size < n_rois else "no"
                command = [sys.executable, __file__, "--measure", str(source), str(out), check]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                out.unlink()
                results.append({"source": name, "traces": 2 * 4 * size * n_frames, **found})
                progress(f"{name}, {size} ROIs: {found['infer_s']:.0f} s, {found['memory'] / 2**20:.0f} MB")
    for r in results:
        mb = [f"{r[k] / 2**20:,.0f}" for k in ("traces", "memory_before", "memory")]
        difference = f"{r['difference']:.1e}" if "difference" in r else ""
        rows.append([r["source"], int(r["ROIs"]), *mb, f"{r['infer_s']:.0f}", f"{r['write_s']:.0f}", difference])
    table(["from", "ROIs", "F, Fneu (MB)", "memory at start", "at most", "infer (s)", "write (s)", "difference"], rows)
    write("spike_streaming", args, began, results)


if __name__ == "__main__":
    main()
