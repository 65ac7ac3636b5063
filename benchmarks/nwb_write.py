"""Time, memory and size of writing a long recording's rates into NWB, and of reading them back.

    python benchmarks/nwb_write.py                  about 4 minutes when idle; 13 GB of free disk, 1 GB of memory
    python benchmarks/nwb_write.py --quick          small sizes, under a minute

The rates of 10,000 ROIs over an hour at 30 Hz (108,000 frames, float32, 4.3 GB) are made while they are written, so
that the peak memory is the writer's own: the highest resident set of a process that does nothing else. They are the
exponential of eight slow latents, as a latent-variable model gives them; noise is the worst case for compression. The
file is then added to in place, which copies it first. At a tenth of the frames, the same is written by plain pynwb from
an array in memory, and by HDF5 with other chunks and compressions. Read are one ROI over all time and one second of all
ROIs, from a file that the system no longer has in its cache. Seconds depend on the machine and its disk.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from _common import parser, progress, table, write

FRAMES, ROIS, RATE = 108_000, 10_000, 30.0
SMALLER = 10  # so many times fewer frames where things are compared
N_LATENTS = 8
OURS, OURS_NOISE, IN_PLACE = "write_nwb", "write_nwb, noise", "write_nwb, second result in place"
CONTIGUOUS, GZIP = "pynwb, contiguous", "pynwb, gzip, default chunks"
SERIES = "rates"  # of the peers
PLACES = ("processing/ophys/rates/firing_rates/data", f"processing/ophys/{SERIES}/data")
LAYOUTS = [  # chunk (frames, ROIs), compression, its level, shuffle
    ((2048, 64), "gzip", 4, True),
    ((2048, 64), "gzip", 1, True),
    ((2048, 64), "gzip", 4, False),
    ((2048, 64), "lzf", None, True),
    ((2048, 64), None, None, False),
    ((4096, 32), "gzip", 4, True),
    ((1024, 64), "gzip", 4, True),
    ((512, 128), "gzip", 4, True),
    ((512, 64), "gzip", 4, True),
    ((256, 64), "gzip", 4, True),
]


class Lazy:
    """Rates (time, roi) in Hz, made when they are asked for."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, n_frames, n_rois, noise=False):
        self.shape = (n_frames, n_rois)
        self._noise = noise
        rng = np.random.default_rng(0)
        steps = rng.normal(0, 0.02, (n_frames, N_LATENTS))
        self._latents = np.sin(np.cumsum(steps, axis=0)).astype(np.float32)
        self._loadings = rng.normal(0, 0.5, (N_LATENTS, n_rois)).astype(np.float32)

    def __len__(self):
        return self.shape[0]

    @property
    def nbytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, key):
        frames, *others = key if isinstance(key, tuple) else (key,)
        if self._noise:
            first, last, _ = frames.indices(len(self))
            values = np.random.default_rng(first).random((last - first, self.shape[1]), dtype=np.float32)
        else:
            values = self._latents[frames] @ self._loadings
            np.exp(values, out=values)
        return values[(slice(None), *others)] if others else values


# -- Writing ----------------------------------------------------------------------------------------------------------


def result_of(n_frames, n_rois, arrays, name):
    from nwb_calcium_lvm.provenance import Segments
    from nwb_calcium_lvm.result import InferenceResult

    return InferenceResult(
        arrays=arrays,
        parameters={},
        time=np.arange(n_frames) / RATE,
        roi_ids=np.arange(n_rois),
        segments=Segments(np.array([[0, n_frames]])),
        model={"name": name, "description": "Rates for timing", "hyperparameters": {}, "objective_history": []},
        converged=True,
        sampling_rate=RATE,
    )


def ours(path, n_frames, n_rois, noise=False):
    from nwb_calcium_lvm.io import write_nwb
    from nwb_calcium_lvm.result import NamedArray

    rates = NamedArray(Lazy(n_frames, n_rois, noise), ("time", "roi"), "Hz", "Expected rate")
    return lambda: write_nwb(result_of(n_frames, n_rois, {"firing_rates": rates}, "rates"), path)


def in_place(path, n_frames, n_rois):
    """Add the states of a second model to the file."""
    from nwb_calcium_lvm.io import write_nwb
    from nwb_calcium_lvm.result import NamedArray

    states = NamedArray(np.zeros(n_frames, np.int32), ("time",), "", "Most likely path")
    result = result_of(n_frames, n_rois, {"states": states}, "states")
    return lambda: write_nwb(result, path, overwrite=True)


def plain(path, n_frames, n_rois, **how):
    """The way of the tutorials: the array in memory, wrapped or not."""
    from pynwb import NWBHDF5IO, H5DataIO, NWBFile, TimeSeries

    def call():
        values = Lazy(n_frames, n_rois)[:]
        nwbfile = NWBFile("Rates.", "plain", datetime(2024, 1, 1, tzinfo=UTC))
        room = nwbfile.create_processing_module("ophys", "Rates.")
        data = H5DataIO(values, **how) if how else values
        room.add(TimeSeries(name=SERIES, data=data, unit="Hz", rate=RATE))
        with NWBHDF5IO(str(path), "w") as io:
            io.write(nwbfile)
        flush(path)

    return call


def chunked(path, n_frames, n_rois, layout):
    """The same values by h5py alone, in chunks of a shape."""
    import h5py

    chunks, compression, level, shuffle = layout
    chunks = tuple(np.minimum(chunks, (n_frames, n_rois)).tolist())

    def call():
        lazy = Lazy(n_frames, n_rois)
        with h5py.File(path, "w") as file:
            data = file.create_dataset(
                PLACES[1],
                lazy.shape,
                np.float32,
                chunks=chunks,
                compression=compression,
                compression_opts=level,
                shuffle=shuffle,
            )
            for start in range(0, n_frames, 4096):
                data[start : start + 4096] = lazy[start : start + 4096]
        flush(path)

    return call


def flush(path):
    handle = os.open(path, os.O_RDWR)
    os.fsync(handle)
    os.close(handle)


# -- Reading ----------------------------------------------------------------------------------------------------------


def read(path, n_frames, n_rois):
    """Return the seconds that one ROI over all time and one second of all ROIs take, from the disk; best of three."""
    import h5py

    roi, frame = n_rois // 2, n_frames // 2
    cuts = {"roi_seconds": np.s_[:, roi], "second_seconds": np.s_[frame : frame + int(RATE), :]}
    lazy = Lazy(n_frames, n_rois)
    found = {}
    for name, cut in cuts.items():
        seconds = []
        for _ in range(3):
            forget(path)
            with h5py.File(path, "r") as file:
                began = time.perf_counter()
                values = next(file[place] for place in PLACES if place in file)[cut]
                seconds.append(time.perf_counter() - began)
        if name == "second_seconds" and "noise" not in path.name:
            np.testing.assert_allclose(values, lazy[cut[0]], rtol=1e-5)
        found[name] = min(seconds)
    return found


def forget(path):
    """Have the system drop what it holds of a file in its cache (Linux; elsewhere reads are from the cache)."""
    if hasattr(os, "posix_fadvise"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


# -- Measuring --------------------------------------------------------------------------------------------------------


def measure(what, path, n_frames, n_rois):
    """Write in this process; return seconds, processor seconds and bytes of memory and file."""
    calls = {
        OURS: lambda: ours(path, n_frames, n_rois),
        OURS_NOISE: lambda: ours(path, n_frames, n_rois, noise=True),
        IN_PLACE: lambda: in_place(path, n_frames, n_rois),
        CONTIGUOUS: lambda: plain(path, n_frames, n_rois),
        GZIP: lambda: plain(path, n_frames, n_rois, compression="gzip"),
    }
    call = calls[what]() if what in calls else chunked(path, n_frames, n_rois, LAYOUTS[int(what)])
    started = peak()
    began, worked = time.perf_counter(), time.process_time()
    call()
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": time.process_time() - worked,
        "peak_bytes": peak(),
        "peak_bytes_before": started,
        "file_bytes": path.stat().st_size,
    }


def peak():
    """Highest resident set of this process so far, in bytes."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else 1024 * size


def in_a_process(what, path, n_frames, n_rois):
    command = [sys.executable, __file__, "--measure", what, str(path), str(n_frames), str(n_rois)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = {"what": what, "frames": n_frames, "rois": n_rois} | json.loads(done.stdout.splitlines()[-1])
    found["values_bytes"] = 4 * n_frames * n_rois
    if what != IN_PLACE:
        found |= read(path, n_frames, n_rois)
    progress(f"  {what}: {found['seconds']:.1f} s, {found['peak_bytes'] / 2**30:.2f} GB of memory")
    return found


def show(found, names=None):
    rows = [
        [
            name,
            f"{r['frames']} x {r['rois']}",
            f"{r['seconds']:.1f}",
            f"{r['processor_seconds']:.1f}",
            f"{r['values_bytes'] / 1e6 / r['seconds']:.0f}",
            f"{r['peak_bytes'] / 2**30:.2f}",
            f"{r['file_bytes'] / r['values_bytes']:.2f}",
            f"{r['roi_seconds']:.3f}" if "roi_seconds" in r else "",
            f"{r['second_seconds']:.3f}" if "second_seconds" in r else "",
        ]
        for name, r in zip(names or [r["what"] for r in found], found, strict=True)
    ]
    header = ["", "frames x ROIs", "s", "processor s", "MB/s", "peak GB", "file/values", "one ROI, s", "one second, s"]
    table(header, rows)
    print()


def layout_name(layout):
    (frames, rois), compression, level, shuffle = layout
    parts = [f"{frames} x {rois}", compression or "none", *([str(level)] if level else []), *(["shuffle"] * shuffle)]
    return " ".join(parts)


def side_by_side(folder, n_frames, n_rois):
    found = []
    for n, what in enumerate((OURS, OURS_NOISE, CONTIGUOUS, GZIP)):
        path = folder / f"{n}{'_noise' if what == OURS_NOISE else ''}.nwb"
        found.append(in_a_process(what, path, n_frames, n_rois))
        path.unlink()
    show(found)
    return found


def layouts(folder, n_frames, n_rois):
    found = []
    for n in range(len(LAYOUTS)):
        found.append(in_a_process(str(n), folder / f"{n}.h5", n_frames, n_rois) | {"layout": layout_name(LAYOUTS[n])})
        (folder / f"{n}.h5").unlink()
    show(found, [r["layout"] for r in found])
    return found


def whole(folder, n_frames, n_rois):
    path = folder / "whole.nwb"
    found = [in_a_process(OURS, path, n_frames, n_rois)]
    forget(path)
    began = time.perf_counter()
    shutil.copyfile(path, folder / "copy.nwb")
    flush(folder / "copy.nwb")
    copying = time.perf_counter() - began
    (folder / "copy.nwb").unlink()
    found.append(in_a_process(IN_PLACE, path, n_frames, n_rois))
    show(found)
    gigabytes = path.stat().st_size / 1e9
    print(f"Copying the file of {gigabytes:.2f} GB alone: {copying:.1f} s\n")
    return {"written": found, "copy_seconds": copying, "copy_gigabytes": gigabytes}


def main():
    if sys.argv[1:2] == ["--measure"]:
        what, path, *sizes = sys.argv[2:]
        print(json.dumps(measure(what, Path(path), *map(int, sizes))))
        return
    p = parser(__doc__, seeds=1)
    p.add_argument("--frames", type=int, default=FRAMES, help="frames of the large file (default: %(default)s)")
    p.add_argument("--rois", type=int, default=ROIS, help="ROIs (default: %(default)s)")
    args = p.parse_args()
    n_frames, n_rois = (6_000, 500) if args.quick else (args.frames, args.rois)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        needed = 12 * n_frames * n_rois  # two files and a temporary one, uncompressed
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{needed / 1e9:.0f} GB are needed in {folder}; set TMPDIR to a folder on another disk.")
        large = whole(folder, n_frames, n_rois)
        beside = side_by_side(folder, n_frames // SMALLER, n_rois)
        shapes = layouts(folder, n_frames // SMALLER, n_rois)
    write("nwb_write", args, began, {"whole": large, "side_by_side": beside, "layouts": shapes})


if __name__ == "__main__":
    main()
