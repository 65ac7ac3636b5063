"""Whatever form the same traces come in, the model is the same, and outputs take the form of the input."""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from _nwb_files import S, build, raw_traces
from _suite2p_folders import FakePlane, write_suite2p_folder
from pynwb import NWBHDF5IO
from pynwb.ophys import DfOverF

from nwb_calcium_lvm import CalciumHMM, Recording, read_nwb, read_suite2p
from nwb_calcium_lvm._core.coerce import coerce
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

TRIALS = np.array([[0, 50], [50, 100], [100, 150], [150, 200]])
RAGGED = np.array([[0, 30], [30, 100], [100, 200]])


@pytest.fixture(scope="module")
def traces():
    return hmm_experiment(2, 4, 200, rate_on=0.6, measurement_sd=0.0, random_state=0).traces


def small(**options):
    given = {"n_states": 2, "n_init": 1, "max_iter": 5, "random_state": 0, "max_spikes_per_frame": 8}
    return CalciumHMM(**given | options)


def same_model(a, b, rtol=1e-6):
    """The same up to the order in which sums are taken, which the layout in memory decides."""
    for name in ("spikes_per_frame_", "ar_coefs_", "spike_amplitude_", "transition_matrix_", "log_likelihood_"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol)


def cut(values, bounds):
    return [values[a:b] for a, b in bounds]


# -- One run of frames ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(traces):
    return small().fit(traces)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.tolist(),
        lambda x: tuple(map(tuple, x.tolist())),
        lambda x: list(x),
        lambda x: pd.DataFrame(x),
        lambda x: np.asfortranarray(x),
        lambda x: x[None],
        lambda x: [x],
        lambda x: (x,),
        lambda x: [x.tolist()],
        lambda x: [pd.DataFrame(x)],
        lambda x: Recording(x),
        lambda x: [Recording(x)],
    ],
    ids=["lists", "tuples", "rows", "frame", "F order", "tensor", "[x]", "(x,)", "[lists]", "[frame]", "rec", "[rec]"],
)
def test_one_run(whole, traces, form):
    X = form(traces)
    model = small().fit(X)
    same_model(model, whole)
    assert model.n_features_in_ == 4
    probs = whole.predict_proba(X)
    np.testing.assert_allclose(np.reshape(probs, (200, 2)), whole.predict_proba(traces), atol=1e-12)


def test_precision_and_integers(whole, traces):
    single = small().fit(traces.astype(np.float32))
    np.testing.assert_allclose(single.spikes_per_frame_, whole.spikes_per_frame_, rtol=1e-3)
    assert single.predict_proba(traces.astype(np.float32)).dtype == np.float64
    counts = np.round(50 * traces).astype(np.int16)
    same_model(small().fit(counts), small().fit(counts.astype(float)))


def test_input_is_left_as_it_was(traces):
    before = traces.copy()
    small().fit(traces).infer(traces)
    np.testing.assert_array_equal(traces, before)


# -- Trials -----------------------------------------------------------------------------------------------------------


def forms_of_trials(x):
    table = {"start_time": TRIALS[:, 0] / 10, "stop_time": TRIALS[:, 1] / 10}
    recording = Recording(x, sampling_rate=10.0, trials=table)
    return {
        "tensor": x.reshape(4, 50, 4),
        "list": cut(x, TRIALS),
        "nested lists": x.reshape(4, 50, 4).tolist(),
        "frames": [pd.DataFrame(part) for part in cut(x, TRIALS)],
        "segments": Recording(x, segments=Segments(TRIALS)),
        "select_trials": recording.select_trials(),
        "align": recording.align(window=(0.0, 5.0)),
    }


@pytest.fixture(scope="module")
def by_trial(traces):
    return small().fit(traces, groups=np.repeat(["a", "b", "c", "d"], 50))


@pytest.mark.parametrize("name", list(forms_of_trials(np.zeros((200, 4)))))
def test_trials(by_trial, traces, name):
    X = forms_of_trials(traces)[name]
    same_model(small().fit(X), by_trial)
    expected = by_trial.predict_proba(traces, groups=np.repeat([3, 2, 1, 0], 50))
    probs, path, online = by_trial.predict_proba(X), by_trial.predict(X), by_trial.filter_proba(X)
    if name in ("list", "frames", "nested lists"):
        assert [p.shape for p in probs] == [(50, 2)] * 4
        assert [p.shape for p in path] == [(50,)] * 4
    elif name == "tensor":
        assert (probs.shape, path.shape, online.shape) == ((4, 50, 2), (4, 50), (4, 50, 2))
    else:
        assert (probs.shape, path.shape, online.shape) == ((200, 2), (200,), (200, 2))
    np.testing.assert_allclose(np.reshape(probs, (200, 2)), expected, atol=1e-12)


def test_trials_are_not_one_run(by_trial, whole, traces):
    assert not np.array_equal(by_trial.transition_matrix_, whole.transition_matrix_)
    groups = np.repeat([0, 1, 2, 3], 50)
    assert not np.array_equal(whole.predict_proba(traces, groups=groups), whole.predict_proba(traces))


def test_ragged_trials(traces):
    groups = np.repeat([0, 1, 2], RAGGED[:, 1] - RAGGED[:, 0])
    by_groups = small().fit(traces, groups=groups)
    X = cut(traces, RAGGED)
    same_model(small().fit(X), by_groups)
    spikes, variance = by_groups.expected_spikes(X, return_variance=True)
    expected = by_groups.expected_spikes(traces, groups=groups)
    for part, spread, want in zip(spikes, variance, cut(expected, RAGGED), strict=True):
        np.testing.assert_array_equal(part, want)
        assert spread.shape == want.shape
    assert by_groups.log_likelihood(X) == by_groups.log_likelihood(traces, groups=groups)


def test_a_trial_is_judged_alone(by_trial, traces):
    """Up to rounding: the frames of other trials say nothing about this one."""
    alone = by_trial.predict_proba([traces[50:100]])[0]
    np.testing.assert_allclose(by_trial.predict_proba(cut(traces, TRIALS))[1], alone, atol=1e-12)


def test_groups_that_come_back_are_other_trials(by_trial, traces):
    labels = np.repeat([0, 1, 0, 1], 50)
    same_model(small().fit(traces, groups=labels), by_trial)


def test_groups_of_the_wrong_length(traces):
    with pytest.raises(DataError, match=r"groups has shape \(4,\); expected the trial of each frame, \(200,\)"):
        small().fit(traces, groups=[0, 1, 2, 3])


def test_gaps_in_the_clock_part_the_frames(traces):
    times = np.arange(200) / 10
    times[100:] += 5.0
    same_model(small().fit(Recording(traces, timestamps=times)), small().fit(traces, groups=np.repeat([0, 1], 100)))


def test_masked_samples_are_never_looked_at(traces):
    mask = np.random.default_rng(0).random(traces.shape) > 0.1
    fits = [small().fit(Recording(np.where(mask, traces, fill), mask=mask)) for fill in (0.0, np.nan, 1e9)]
    same_model(fits[0], fits[1])
    same_model(fits[0], fits[2])


# -- Files and folders ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nwb(tmp_path_factory, traces) -> Path:
    path = tmp_path_factory.mktemp("nwb") / "session.nwb"
    series = [S("ophys/DfOverF/plane0", traces, container=DfOverF, facts={"rate": 8.0})]
    return build(path, series, n_rows=(4,))


@pytest.fixture(scope="module")
def from_nwb(nwb):
    return small().fit(read_nwb(nwb))


def test_nwb_path(nwb, from_nwb, whole):
    for X in (nwb, str(nwb)):
        same_model(small().fit(X), from_nwb)
    same_model(from_nwb, whole, rtol=1e-3)  # stored in single precision
    assert from_nwb.sampling_rate_ == 8.0
    assert from_nwb.predict_proba(nwb).shape == (200, 2)
    assert from_nwb.infer(nwb).source.path == nwb.resolve()


def test_nwb_path_at_home(nwb, from_nwb, monkeypatch):
    monkeypatch.setenv("HOME", str(nwb.parent))
    same_model(small().fit("~/session.nwb"), from_nwb)


def test_open_nwb_objects(nwb, from_nwb):
    with NWBHDF5IO(str(nwb), "r") as io:
        nwbfile = io.read()
        series = nwbfile.processing["ophys"]["DfOverF"]["plane0"]
        for X in (nwbfile, series):
            same_model(small().fit(X), from_nwb)
        assert series.data[0, 0] == nwbfile.processing["ophys"]["DfOverF"]["plane0"].data[0, 0]  # still open


def test_file_objects(nwb, from_nwb):
    with open(nwb, "rb") as file:
        same_model(small().fit(file), from_nwb)
    with h5py.File(nwb, "r") as file:
        same_model(small().fit(file), from_nwb)


def four_cells(**facts):
    plane = FakePlane(n_rois=4, n_frames=200, **facts)
    plane.iscell[:, 0] = 1.0
    return plane


def test_suite2p_folder(tmp_path):
    folder = write_suite2p_folder(tmp_path, [four_cells()])
    recording = read_suite2p(folder)
    expected = small().fit(recording)
    for X in (folder, str(folder), folder / "plane0"):
        same_model(small().fit(X), expected)
    assert expected.sampling_rate_ == 15.0
    np.testing.assert_array_equal(expected.roi_ids_, recording.roi_ids)


def test_a_folder_without_a_rate_takes_the_estimators(tmp_path):
    folder = write_suite2p_folder(tmp_path, [four_cells(fs=None)])
    with pytest.raises(DataError, match="sampling_rate="):
        small().fit(folder)
    assert small(sampling_rate=12.0).fit(folder).sampling_rate_ == 12.0


def test_a_wrong_rate_in_a_file_is_overruled_with_a_warning(nwb):
    with pytest.warns(DataWarning, match="sampling_rate=9 Hz is used, though the file says 8 Hz"):
        assert small(sampling_rate=9.0).fit(nwb).sampling_rate_ == 9.0


def test_raw_fluorescence_is_made_dff(tmp_path):
    path = build(tmp_path / "raw.nwb", [S("ophys/Fluorescence/plane0", raw_traces(200, 4))], n_rows=(4,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        same_model(small().fit(path), small().fit(read_nwb(path)))


# -- What does not fit together ---------------------------------------------------------------------------------------


def test_other_numbers_of_rois(whole, traces):
    for X in ([traces[:, :3]], traces[None, :, :3], Recording(traces[:, :3])):
        with pytest.raises(DataError, match="X has 3 ROIs, but CalciumHMM was fitted on 4"):
            whole.predict(X)
    with pytest.raises(ValueError, match="X has 3 features, but CalciumHMM is expecting 4"):
        whole.predict(traces[:, :3])


def test_the_same_rois_in_another_order(traces):
    model = small().fit(Recording(traces, roi_ids=["a", "b", "c", "d"]))
    with pytest.raises(DataError, match="X has the ROIs b, a, c, d, but CalciumHMM was fitted on a, b, c, d"):
        model.predict(Recording(traces[:, [1, 0, 2, 3]], roi_ids=["b", "a", "c", "d"]))
    model.predict(Recording(traces, roi_ids=["e", "f", "g", "h"]))  # tracked over days, under other names
    model.predict(traces)


def test_another_sampling_rate(from_nwb, traces):
    for method in ("predict", "predict_proba", "filter_proba", "score", "infer", "expected_spikes", "bic"):
        with pytest.raises(DataError, match=r"X is at 30 Hz but the model was fitted at 8 Hz.*Resample"):
            getattr(from_nwb, method)(Recording(traces, sampling_rate=30.0))
    from_nwb.predict(Recording(traces, sampling_rate=8.05))  # clocks are never exact
    from_nwb.predict(traces)


def test_a_recordings_rate_wins(traces):
    with pytest.warns(DataWarning, match="sampling_rate=30 Hz was asked for but the recording says 10 Hz"):
        model = small(sampling_rate=30.0).fit(Recording(traces, sampling_rate=10.0))
    assert model.sampling_rate_ == 10.0


def test_recordings_of_other_neurons(traces):
    with pytest.raises(DataError, match=r"list of 2 Recordings.*Fit one model per recording"):
        small().fit([Recording(traces), Recording(traces)])


def test_refit_on_another_form(traces):
    model = small().fit(pd.DataFrame(traces, columns=list("abcd")))
    model.fit(Recording(traces))
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (None, "X is a NoneType. Expected an array"),
        (5, "X is a int. Expected an array"),
        (b"bytes", "X is a bytes. Expected an array"),
        ({"a": 1}, "X is a dict. Expected an array"),
        ([], "X holds no trial. Expected an array"),
        (np.zeros((0, 50, 4)), "X holds no trial"),
        ([np.zeros((9, 4)), np.zeros((9, 3))], r"The trials have \[3, 4\] ROIs; expected the same neurons"),
        ([np.ones((9, 4)), np.zeros((0, 4))], "Trial 1 holds no frame; leave empty trials out"),
        ([np.zeros((9, 4)), np.zeros((1, 9, 4))], "things with 2 and 3 axes"),
        ([[[1, 2], [3, 4]], [[1, 2], [3]]], "Trial 1 is no array"),
        (np.ma.masked_array(np.eye(9), np.eye(9)), "mask would be lost. Pass Recording"),
        ("no/such/file.nwb", "no/such/file.nwb does not exist. Expected an NWB file or a Suite2p folder"),
        (np.zeros(9), "Expected 2D array, got 1D array"),
        (np.zeros((2, 2, 9, 4)), "dim 4"),
    ],
)
def test_what_is_no_recording(X, message):
    with pytest.raises(ValueError, match=message):
        coerce(small(), X, reset=True)
