"""Recordings larger than memory: the same rates, block by block and chunk by chunk, from a file into a file."""

import gc
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from _nwb_files import S, build, raw_traces
from _spike_networks import untrained
from _suite2p_folders import FakePlane, write_suite2p_folder
from pynwb.ophys import DfOverF
from typer.testing import CliRunner

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, read_nwb, read_results, read_suite2p, write_nwb
from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.exceptions import DataError, DataWarning, WriteError
from nwb_calcium_lvm.io import stream_nwb, stream_suite2p
from nwb_calcium_lvm.io.stored_array import StoredArray
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import chunks, inference, streaming
from nwb_calcium_lvm.stream import RecordingStream

SAME = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def s2s():
    return untrained()


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(RecordingStream, "block_size", 2)


# -- Seams in time ----------------------------------------------------------------------------------------------------


def bursting(rate, seconds, rng):
    """Two traces that are active throughout, so that every border lies inside a burst."""
    n = int(seconds * rate)
    counts = rng.poisson(3.0 / rate, (n, 2))
    kernel = 0.3 * np.exp(-np.arange(max(int(2 * rate), 2)) / (0.5 * rate))
    clean = np.stack([np.convolve(c, kernel)[:n] for c in counts.T], axis=1)
    return clean + 0.05 * rng.normal(size=clean.shape)


@pytest.mark.filterwarnings("ignore:.*noisier:nwb_calcium_lvm.exceptions.DataWarning")
@pytest.mark.parametrize("rate", [3.0, 7.5, 30.0, 31.7, 100.0, 500.0])
@pytest.mark.parametrize("kind", ["whole", "gaps", "trials", "missing", "uneven"])
def test_chunks_in_time_leave_no_seam(s2s, rate, kind, monkeypatch):
    rng = np.random.default_rng(0)
    x = bursting(rate, 40.0, rng)
    n = len(x)
    times, options = np.arange(n) / rate + 5.0, {}
    if kind == "gaps":
        times = times + 3.0 * (np.arange(n) > n // 3) + 0.9 * (np.arange(n) > n // 2)
    elif kind == "trials":
        options["segments"] = Segments(np.array([[0, n // 5], [n // 5, n // 2], [n // 2, n]]), np.arange(3))
    elif kind == "missing":
        options["mask"] = rng.random(x.shape) > 0.1
        options["mask"][n // 2 : n // 2 + 20, 0] = False
        x = np.where(options["mask"], x, np.nan)
    elif kind == "uneven":
        times = times + 0.2 / rate * rng.random(n)
    recording = Recording(x, timestamps=times, **options)
    whole = s2s.transform(recording)
    monkeypatch.setattr(chunks, "LONGEST", 256)  # 5 s, and the networks look more than 2 s to either side
    np.testing.assert_allclose(s2s.transform(recording), whole, **SAME)
    assert np.isfinite(whole).all()


def test_a_chunk_that_saw_too_little_would_show(s2s, monkeypatch):
    recording = Recording(bursting(30.0, 40.0, np.random.default_rng(0)), sampling_rate=30.0)
    whole = s2s.transform(recording)
    monkeypatch.setattr(chunks, "LONGEST", 256)
    before, after = inference.context(s2s.config_.architecture)
    monkeypatch.setattr(inference, "context", lambda shape: (before - 40, after))
    assert np.abs(s2s.transform(recording) - whole).max() > 1e-3


# -- Blocks of ROIs ---------------------------------------------------------------------------------------------------


def folder_of_planes(tmp_path):
    first, second = FakePlane(n_rois=5, seed=0, bad_frames=[7, 200, 201]), FakePlane(n_rois=3, n_frames=390, seed=1)
    first.F[1] = 300.0  # a dead ROI
    first.F[2, 50] = np.nan
    for plane in (first, second):
        plane.iscell[:, 0] = 1
        plane.iscell[-1, 0] = 0
    return write_suite2p_folder(tmp_path, [first, second])


def file_of(kind, path):
    x = raw_traces()
    x[100, 1] = np.nan
    x[:, 3] = 250.0
    if kind == "raw":
        neuropil = 50 + raw_traces(seed=1) / 20
        return build(path, [S("ophys/Fluorescence/F", x), S("ophys/Neuropil/Fneu", neuropil)])
    facts = {"timestamps": np.arange(400) / 10.0 + 20.0 * (np.arange(400) > 123), "rate": None, "conversion": 0.5}
    return build(path, [S("ophys/DfOverF/dff", x / 200 - 1, container=DfOverF, facts=facts)])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
@pytest.mark.parametrize("kind", ["suite2p", "raw", "dff"])
def test_blocks_are_the_recording(kind, tmp_path):
    path = folder_of_planes(tmp_path) if kind == "suite2p" else file_of(kind, tmp_path / "a.nwb")
    whole = read_suite2p(path) if kind == "suite2p" else read_nwb(path)
    stream = stream_suite2p(path) if kind == "suite2p" else stream_nwb(path)
    blocks = list(stream)
    assert max(b.n_rois for b in blocks) <= 2
    for name in ("dff", "mask"):
        found = np.concatenate([getattr(b, name) for b in blocks], axis=1)
        np.testing.assert_array_equal(found, getattr(whole, name))
    np.testing.assert_array_equal(np.concatenate([b.roi_ids for b in blocks]), whole.roi_ids)
    np.testing.assert_array_equal(np.concatenate([b.source.table_rows for b in blocks]), whole.source.table_rows)
    np.testing.assert_array_equal(stream.frames.timestamps, whole.timestamps)
    np.testing.assert_array_equal(stream.frames.segments.bounds, whole.segments.bounds)
    for key, values in whole.roi_metadata.items():
        np.testing.assert_array_equal(np.concatenate([b.roi_metadata[key] for b in blocks]), values)
    assert (blocks[0].units, blocks[0].sampling_rate) == (whole.units, whole.sampling_rate)
    assert stream.shape == (whole.n_frames, whole.n_rois + 1)  # the dead one might have come


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
@pytest.mark.parametrize("kind", ["suite2p", "raw", "dff"])
def test_rates_from_disk_to_disk_are_those_in_memory(kind, s2s, tmp_path):
    path = folder_of_planes(tmp_path) if kind == "suite2p" else file_of(kind, tmp_path / "a.nwb")
    recording = read_suite2p(path) if kind == "suite2p" else read_nwb(path)
    streamed, plain = s2s.infer(path, stream=True, scratch=tmp_path), s2s.infer(path)
    assert isinstance(streamed["firing_rates"], StoredArray)
    assert isinstance(plain["firing_rates"], np.ndarray)
    for result in (streamed, plain):
        np.testing.assert_allclose(result["firing_rates"], s2s.transform(recording), **SAME)
        np.testing.assert_allclose(result["expected_spikes"], s2s.predict(recording), **SAME)
        np.testing.assert_array_equal(result.time, recording.timestamps)
        np.testing.assert_array_equal(result.roi_ids, recording.roi_ids)
        np.testing.assert_array_equal(result["noise_level"], recording.roi_metadata["noise_level"])
        np.testing.assert_array_equal(result.source.table_rows, recording.source.table_rows)
    written = [write_nwb(r, tmp_path / f"{i}.nwb", name="s2s") for i, r in enumerate((streamed, plain))]
    back = [read_results(p, "s2s") for p in written]
    for key in ("firing_rates", "expected_spikes", "noise_level", "in_training_range"):
        np.testing.assert_allclose(back[0][key], back[1][key], **SAME)
    temporary = list(tmp_path.glob(".nwb_calcium_lvm_*"))
    assert len(temporary) == 1
    del streamed, result
    gc.collect()
    assert not temporary[0].exists()


@pytest.mark.usefixtures("small_blocks")
def test_recordings_in_memory_may_be_streamed(tmp_path, s2s):
    x = bursting(30.0, 20.0, np.random.default_rng(1)).repeat(3, axis=1) * np.arange(1, 7)
    recording = Recording(x, sampling_rate=30.0, segments=Segments(np.array([[0, 200], [200, 600]])))
    for estimator in (s2s, OASISSpikeEstimator(spike_amplitude=0.2).fit(recording)):
        found = estimator.infer(recording, stream=True, scratch=tmp_path)
        np.testing.assert_allclose(found["firing_rates"], estimator.transform(recording), **SAME)
        np.testing.assert_array_equal(found["firing_rates"][5:9], np.asarray(found["firing_rates"])[5:9])
    told = untrained(sampling_rate=30.0).infer(x, stream=True, scratch=tmp_path)
    assert told["firing_rates"].shape == x.shape


@pytest.mark.usefixtures("small_blocks")
def test_what_is_odd_is_said_once_for_all_blocks(s2s, tmp_path):
    x = bursting(30.0, 10.0, np.random.default_rng(1)).repeat(4, axis=1)
    x[:, [1, 6]] = 0.3
    x[:, [0, 5]] += 300.0
    with pytest.warns(DataWarning) as caught:
        s2s.infer(Recording(x, sampling_rate=30.0))
    messages = [str(w.message) for w in caught]
    assert sum("2 of 8 ROIs are constant or never observed" in m for m in messages) == 1
    assert sum("2 of 8 traces do not look like dF/F" in m for m in messages) == 1
    with pytest.warns(DataWarning, match="1 of 6 ROIs have no dF/F") as caught:
        s2s.infer(folder_of_planes(tmp_path), stream=True)
    assert len([w for w in caught if "have no dF/F" in str(w.message)]) == 1
    with pytest.warns(DataWarning, match=r"1 of 5 ROIs carry no signal.*: 3\.") as caught:
        s2s.infer(file_of("raw", tmp_path / "a.nwb"), stream=True)
    assert len([w for w in caught if "carry no signal" in str(w.message)]) == 1


def test_the_size_decides_where_nothing_is_said(s2s, tmp_path, monkeypatch):
    path = write_suite2p_folder(tmp_path, [FakePlane()])
    assert isinstance(s2s.infer(path)["firing_rates"], np.ndarray)
    monkeypatch.setattr(streaming, "LARGE", 1000)
    assert isinstance(s2s.infer(path)["firing_rates"], StoredArray)
    assert isinstance(s2s.infer(path, stream=False)["firing_rates"], np.ndarray)
    assert isinstance(s2s.infer(stream_suite2p(path, accepted=False))["firing_rates"], StoredArray)


def test_blocks_shrink_as_recordings_grow_longer():
    def size(n_frames):
        stream = RecordingStream.of(Recording(np.zeros((2, 100))))
        object.__setattr__(stream, "frames", type("Long", (), {"n_frames": n_frames})())
        return stream.block_size

    assert size(1000) == 64
    assert 1 <= size(10**6) <= 4
    assert size(10**9) == 1


def test_wrong_sources_and_full_disks(s2s, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        s2s.infer(tmp_path / "no.nwb", stream=True)
    recording = Recording(np.random.default_rng(0).normal(size=(100, 2)) / 20, sampling_rate=30.0)
    with pytest.raises(WriteError, match="No temporary file can be made"):
        s2s.infer(recording, stream=True, scratch=tmp_path / "no such folder")
    with pytest.raises(DataError, match="no sampling rate"):
        s2s.infer(RecordingStream.of(Recording(recording.dff)))
    dead = FakePlane()
    dead.F[:] = 1.0
    with pytest.raises(DataError, match="Nothing is left to read"):
        s2s.infer(write_suite2p_folder(tmp_path, [dead]), stream=True)


# -- The command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["s2s", "oasis"])
def test_the_command_streams_what_is_large(model, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "LARGE", 1000)
    weights = untrained().save_weights(tmp_path / "w.npz")
    folder = write_suite2p_folder(tmp_path, [FakePlane()])
    words = ["spikes", folder, "--model", model, "-o", tmp_path / "out.nwb"]
    words += ["--weights", weights] if model == "s2s" else []
    dry = CliRunner().invoke(app, [*map(str, words), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "some ROIs at a time" in dry.output
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output
    assert "Rates of 3 of 3 ROIs" in done.output
    name = "S2SSpikeEstimator" if model == "s2s" else "OASISSpikeEstimator"
    found = np.asarray(read_results(tmp_path / "out.nwb", name)["firing_rates"])
    assert found.shape == (400, 3)
    assert np.isfinite(found).all()
    gc.collect()
    assert not list(tmp_path.glob(".nwb_calcium_lvm_*"))


# -- Memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_memory_does_not_grow_with_the_number_of_rois(tmp_path):
    script = """
        import sys
        import numpy as np
        sys.path.insert(0, {tests!r})
        from _spike_networks import untrained
        from nwb_calcium_lvm import write_nwb
        from nwb_calcium_lvm.io import stream_suite2p
        result = untrained().infer(stream_suite2p({folder!r}), scratch={scratch!r})
        write_nwb(result, {out!r})
        print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
    """
    peaks = []
    for n_rois in (64, 1024):
        folder = tmp_path / str(n_rois)
        folder.mkdir()
        plane = FakePlane(n_rois=4, n_frames=5_000)
        for name in ("F", "Fneu", "iscell"):
            setattr(plane, name, np.tile(getattr(plane, name), (n_rois // 4, 1)))
        plane.iscell[:, 0] = 1
        plane.stat = plane.stat * (n_rois // 4)
        root = write_suite2p_folder(folder, [plane])
        text = textwrap.dedent(script).format(
            tests=os.path.dirname(__file__), folder=str(root), scratch=str(folder), out=str(folder / "out.nwb")
        )
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    # MB. A block of what is written is 20 to 30; the traces and neuropil of 960 more ROIs and their rates would be 77.
    assert peaks[1] - peaks[0] < 50
