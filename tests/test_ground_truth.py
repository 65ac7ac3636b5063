"""Readers of recordings with known spikes: files made here with every known quirk, and real ones."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.io import read_ground_truth, read_ground_truth_file, read_spikefinder

DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")


def segment(n=300, rate=30.0, start=0.0, spikes=(1.0, 2.5), **changes):
    fields = {
        "fluo_mean": np.linspace(0, 1, n),
        "fluo_time": start + np.arange(n) / rate,
        "events_AP": np.array(spikes) * 1e4,
    }
    return fields | changes


def write(path, segments):
    path.parent.mkdir(parents=True, exist_ok=True)
    attached = np.empty(len(segments), dtype=object)
    attached[:] = segments
    savemat(path, {"CAttached": segments[0] if len(segments) == 1 else attached})
    return path


def test_one_segment(tmp_path):
    neuron = read_ground_truth_file(write(tmp_path / "DS99-x" / "CAttached_1.mat", [segment()]))
    assert neuron is not None
    assert neuron.recording.shape == (300, 1)
    assert neuron.recording.sampling_rate == pytest.approx(30.0)
    np.testing.assert_allclose(neuron.spikes, [1.0, 2.5])
    assert (neuron.dataset, neuron.neuron) == ("DS99-x", "DS99-x/CAttached_1")


def test_segments_whose_clocks_overlap_are_put_apart(tmp_path):
    path = write(
        tmp_path / "DS99" / "a.mat", [segment(), segment(spikes=(4.0,)), segment(start=100.0, spikes=(103.0,))]
    )
    neuron = read_ground_truth_file(path)
    assert neuron is not None
    times, bounds = neuron.recording.timestamps, neuron.recording.segments.bounds
    assert (np.diff(times) > 0).all()
    assert bounds.tolist() == [[0, 300], [300, 600], [600, 900]]
    relative = [neuron.spikes_in(i) - times[a] for i, (a, _) in enumerate(bounds)]
    np.testing.assert_allclose(np.concatenate(relative), [1.0, 2.5, 4.0, 3.0])


def test_quirks(tmp_path):
    backward = np.arange(300)[::-1] / 30.0
    holes = np.linspace(0, 1, 300)
    holes[[5, 6, 200]] = np.nan
    path = write(
        tmp_path / "DS99" / "a.mat",
        [
            segment(fluo_time=backward),
            segment(n=60),
            segment(fluo_mean=np.linspace(0, 1, 310)),
            segment(fluo_mean=holes),
            segment(spikes=[]),
            segment(events_AP=np.array([np.nan, 2e4, 1e4])),
        ],
    )
    with pytest.warns(
        DataWarning, match=r"2 of 6 segments are left out: 0 \(its clock runs backward\), 1 \(under 4 s\)"
    ):
        neuron = read_ground_truth_file(path)
    assert neuron is not None
    assert neuron.segment_numbers == (2, 3, 4, 5)
    assert neuron.recording.segments.lengths.tolist() == [300, 297, 300, 300]
    assert np.isfinite(neuron.recording.dff).all()
    assert len(neuron.spikes_in(2)) == 0
    assert len(neuron.spikes_in(3)) == 2


def test_a_folder_of_sets_and_a_set(tmp_path):
    for name in ("DS01/a", "DS01/b", "DS02/a"):
        write(tmp_path / f"{name}.mat", [segment()])
    assert [g.neuron for g in read_ground_truth(tmp_path)] == ["DS01/a", "DS01/b", "DS02/a"]
    assert [g.neuron for g in read_ground_truth(tmp_path / "DS01")] == ["DS01/a", "DS01/b"]


def test_what_is_no_ground_truth(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.mat files"):
        read_ground_truth(tmp_path)
    savemat(tmp_path / "other.mat", {"x": np.ones(3)})
    with pytest.raises(DataError, match="no variable CAttached"):
        read_ground_truth(tmp_path)
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(DataError, match="could not be read"):
        read_ground_truth_file(tmp_path / "broken.mat")
    write(tmp_path / "sets" / "a.mat", [segment(n=20)])
    with pytest.warns(DataWarning), pytest.raises(DataError, match="None of the 1 files"):
        read_ground_truth(tmp_path / "sets")


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_spikefinder_padding_is_cut_off(tmp_path, suffix):
    n = 500
    calcium = pd.DataFrame({"0": np.arange(n, dtype=float), "1": np.arange(n, dtype=float)})
    spikes = pd.DataFrame({"0": np.zeros(n), "1": np.zeros(n)})
    calcium.loc[300:, "1"] = np.nan
    spikes.loc[300:, "1"] = np.nan
    spikes.loc[100, "1"] = 2
    calcium.to_csv(tmp_path / f"7.train.calcium{suffix}", index=False)
    spikes.to_csv(tmp_path / f"7.train.spikes{suffix}", index=False)
    whole, short = read_spikefinder(tmp_path / f"7.train.calcium{suffix}")
    assert whole.recording.shape == (500, 1)
    assert short.recording.shape == (300, 1)
    assert short.recording.mask.all()
    assert short.recording.units == "unknown"
    np.testing.assert_allclose(short.spikes, [1.0, 1.0])
    assert short.dataset == "spikefinder-7"


def test_spikefinder_without_its_spikes(tmp_path):
    (tmp_path / "7.train.calcium.csv").write_text("0\n1\n")
    with pytest.raises(DataError, match="does not exist"):
        read_spikefinder(tmp_path / "7.train.calcium.csv")


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA")
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
def test_real_folders():
    root = Path(DATA or ".")
    neurons = read_ground_truth(root / "ground_truth")
    assert len({n.neuron for n in neurons}) == len(neurons)
    assert {n.dataset for n in neurons} >= {"DS04-OGB1-zf-pDp", "DS24-GCaMP6f-m-PV-V1", "X-NAOMi-GCaMP6f-simulated"}
    assert all(np.isfinite(n.recording.dff).all() for n in neurons)
    assert 0.9 < np.mean([len(n.spikes) > 0 for n in neurons]) <= 1.0
    sixth = read_spikefinder(root / "spikefinder" / "6.train.calcium.csv.gz")
    assert len(sixth) == 9
    assert all(n.recording.mask.mean() > 0.99 for n in sixth)
