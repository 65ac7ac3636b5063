"""The weights that come with the package: small, no pickle, and good on spikes that were recorded."""

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, S2SSpikeEstimator, read_results, write_nwb
from nwb_calcium_lvm.exceptions import DataWarning
from nwb_calcium_lvm.simulate import session
from nwb_calcium_lvm.spikes.weights import available

DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")
FOLDER = files("nwb_calcium_lvm.spikes") / "pretrained"


@pytest.fixture(scope="module")
def s2s():
    return S2SSpikeEstimator.from_pretrained()


def test_weights_are_small_and_hold_only_numbers():
    assert "default" in available()
    for name in available():
        path = Path(str(FOLDER / f"{name}.npz"))
        assert path.stat().st_size < 5e6
        with np.load(path, allow_pickle=False) as stored:
            assert all(stored[key].dtype.kind in "fiu" for key in stored.files)
        assert (FOLDER / f"{name}.md").is_file()


def test_the_card_names_every_data_set(s2s):
    text = (FOLDER / "default.md").read_text(encoding="utf-8")
    for name in s2s.card_["data_sets"]:
        assert name in text, name
    assert not any(name.startswith(("DS22", "DS23", "DS24", "DS25", "DS27")) for name in s2s.card_["data_sets"])


def test_rates_of_a_simulated_session(s2s):
    made = session(n_states=2, n_rois=6, duration=60.0, sampling_rate=30.0, indicator="gcamp6f", nu=1.0, random_state=0)
    counts = np.asarray(made.spikes)
    recording = made.recording()
    assert s2s.score(recording, counts, metric="smooth_pearson") > 0.6


def test_intervals_know_their_dispersion(s2s):
    assert s2s.calibration_.n_neurons > 50
    assert (s2s.calibration_.dispersion > 0.1).all()


def test_monotone_in_scale_and_deaf_to_shift(s2s):
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.02, (3000, 3))
    kernel = 0.2 * np.exp(-np.arange(90) / 15)
    trace = np.stack([np.convolve(c, kernel)[:3000] for c in counts.T], axis=1) + 0.02 * rng.normal(size=(3000, 3))
    totals = np.array(
        [s2s.predict(Recording(k * trace + 0.3, sampling_rate=30.0)).sum(axis=0) for k in (0.25, 0.5, 1, 2, 4)]
    )
    assert (np.diff(totals, axis=0) > 0).all()
    unknown = [s2s.transform(Recording(k * trace - 3, sampling_rate=30.0, units="unknown")) for k in (1.0, 1000.0)]
    np.testing.assert_allclose(unknown[0], unknown[1], atol=2e-3 * unknown[0].max())


@pytest.mark.parametrize("kind", ["s2s", "oasis"])
def test_results_and_networks_come_back_from_the_file(tmp_path, s2s, kind):
    made = session(n_states=2, n_rois=3, duration=30.0, sampling_rate=30.0, indicator="gcamp6f", nu=1.0, random_state=0)
    recording = made.recording()
    estimator = s2s if kind == "s2s" else OASISSpikeEstimator().fit(recording)
    result = estimator.infer(recording)
    path = write_nwb(result, tmp_path / "spikes.nwb", source=recording)
    back = read_results(path, type(estimator).__name__)
    np.testing.assert_array_equal(back["firing_rates"], result["firing_rates"])
    assert back.arrays["firing_rates"].unit == "Hz"
    copy = type(estimator).from_nwb(path)
    np.testing.assert_array_equal(copy.transform(recording), estimator.transform(recording))


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA")
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
def test_real_recordings_it_has_learned_from(s2s):
    from nwb_calcium_lvm.io import read_ground_truth

    root = Path(DATA or ".") / "ground_truth"
    for name, least in (("DS14-GCaMP6s-m-V1", 0.85), ("DS18-R-CaMP-m-CA3", 0.8)):
        neurons = read_ground_truth(root / name)
        score = s2s.score([n.recording for n in neurons], [[n.spikes] for n in neurons], metric="smooth_pearson")
        assert score > least


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA")
def test_a_population_with_rois_that_hold_nothing(s2s):
    from scipy.io import loadmat

    path = Path(DATA or ".") / "populations" / "zebrafish_pDp_OGB1_7.5hz_trial01.mat"
    traces = np.asarray(loadmat(path)["dF_traces"], float).T  # written (roi, time)
    mask = np.isfinite(traces)
    with pytest.warns(DataWarning, match="constant or never observed"):
        rates = s2s.transform(Recording(traces, sampling_rate=7.5, mask=mask))
    seen = mask.any(axis=0)
    assert np.isfinite(rates[:, seen]).all()
    assert np.isnan(rates[:, ~seen]).all()
