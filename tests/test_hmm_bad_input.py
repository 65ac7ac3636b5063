"""Bad input to CalciumHMM: each error says what was received, what was expected, and what to do; nothing is written.

Then input that is extreme but legal: no NaN may come of it.
"""

import warnings

import numpy as np
import pytest
from _nwb_files import S, build, iscell, raw_traces
from _suite2p_folders import FakePlane, write_suite2p_folder
from pynwb.ophys import DfOverF

from nwb_calcium_lvm import CalciumHMM, Recording
from nwb_calcium_lvm.exceptions import DataError, DataWarning, UnsafeFileError
from nwb_calcium_lvm.simulate import hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small(**options):
    given = {"n_states": 2, "n_init": 1, "max_iter": 5, "random_state": 0, "max_spikes_per_frame": 8}
    return CalciumHMM(**given | options)


@pytest.fixture(scope="module")
def traces():
    return hmm_experiment(2, 4, 200, rate_on=0.6, measurement_sd=0.0, random_state=0).traces


# -- Constructor ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[(name, 0, "a whole number of at least 1") for name in ("n_states", "ar_order", "n_init", "max_iter")],
        *[("n_states", value, "a whole number of at least 1") for value in (2.0, "3", None, True, -1)],
        *[(name, -1, "a number of at least 0") for name in ("tol", "stickiness", "transition_prior", "prior_frames")],
        *[("tol", value, "a number of at least 0") for value in ("small", None, np.nan, np.inf)],
        ("observation", "fluorescence", "one of calcium, calcium_noisy, ar_gaussian, gaussian, poisson"),
        ("observation", ["calcium"], "one of calcium"),
        ("solver", "newton", "one of em, gradient"),
        *[("max_spikes_per_frame", v, "a whole number of at least 1, or None") for v in (0, 2.5, "8")],
        *[("sampling_rate", v, "frames per second, above 0, or None") for v in (0, -5.0, np.nan, np.inf, "10")],
    ],
)
def test_constructor_arguments(traces, name, value, expected):
    model = small(**{name: value})
    with pytest.raises(ValueError, match=expected) as caught:
        model.fit(traces)
    assert str(caught.value).startswith(f"{name}={value!r}; expected ")
    assert not hasattr(model, "n_features_in_")


def test_seed(traces):
    with pytest.raises(ValueError, match="cannot be used to seed"):
        small(random_state="seed").fit(traces)


# -- Arrays -----------------------------------------------------------------------------------------------------------


def test_transposed(traces):
    """Suite2p's F.npy is (roi, time); with few frames left to learn from, the warning is all there is."""
    with pytest.warns(DataWarning, match=r"shape \(12, 40\): fewer frames than ROIs.*pass F.T or use read_suite2p"):
        small().fit(np.random.default_rng(0).normal(size=(12, 40)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", [lambda x: x, lambda x: x.reshape(4, 50, 4), lambda x: [x], lambda x: x.tolist()])
def test_not_a_number(traces, bad, form):
    X = traces.copy()
    X[7, 2] = X[9, 1] = bad
    with pytest.raises(DataError, match=r"2 samples, the first at frame 7 of ROI 2.*mask=np.isfinite\(dff\)"):
        small().fit(form(X))
    model = small().fit(traces)
    with pytest.raises(DataError, match="frame 7 of ROI 2"):
        model.predict(form(X))


def test_not_a_number_names_the_roi_by_its_id(traces):
    X = np.where(np.arange(200)[:, None] == 3, np.nan, traces)
    with pytest.raises(DataError, match="frame 3 of ROI cell a"):
        small().fit(Recording(X, roi_ids=["cell a", "b", "c", "d"]))


def test_constant_and_dead_rois(traces):
    X = traces.copy()
    X[:, 1] = 0.25
    for form in (X, [X], Recording(X)):
        with pytest.raises(DataError, match=r"1 of 4 ROIs are constant or never observed: 1\..*leave these out"):
            small().fit(form)
    mask = np.ones(X.shape, bool)
    mask[:, 3] = False
    recording = Recording(X, roi_ids=["a", "b", "c", "d"], mask=mask)
    with pytest.raises(DataError, match=r"2 of 4 ROIs are constant or never observed: b, d\."):
        small().fit(recording)
    remedied = small().fit(recording.isel(roi=recording.usable))  # as the message says
    assert remedied.roi_ids_.tolist() == ["a", "c"]


def test_an_roi_seen_too_seldom(traces):
    mask = np.ones(traces.shape, bool)
    mask[2:, 3] = False
    with pytest.raises(DataError, match=r"1 of 4 ROIs have fewer than 3 samples to fit.*leave out ROIs 3"):
        small().fit(Recording(traces, mask=mask))


def test_fewer_frames_than_states(traces):
    with pytest.raises(DataError, match=r"X has 20 frames .*the model has 30 states. Expected many more frames"):
        small(n_states=30).fit(traces[:20])


@pytest.mark.parametrize("form", [lambda x: x, lambda x: [x], lambda x: x[None], Recording])
def test_one_frame(traces, form):
    with pytest.raises(ValueError, match=r"1 sample|1 frame"):
        small().fit(form(traces[:1]))


def test_trials_of_one_frame(traces):
    with pytest.raises(DataError, match="each sample needs 1 observed frames before it in its trial"):
        small().fit(traces[:, None, :])


def test_too_few_frames_to_score(traces):
    model = small().fit(traces)
    with pytest.raises(DataError, match="No sample of X can be scored"):
        model.score(traces[:1])
    np.testing.assert_allclose(model.predict_proba(traces[:1]), model.initial_probs_[None])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((50, 4)) * 1j, "Complex data not supported"),
        ([np.ones((50, 4)) * 1j], "dtype complex128. Expected real numbers"),
        (np.full((50, 4), "a"), "could not convert string to float"),
        ([np.full((50, 4), "a")], "dtype <U1. Expected real numbers"),
        (np.zeros((0, 4)), "0 sample"),
        (np.zeros((50, 0)), "0 feature"),
    ],
)
def test_no_numbers(X, message):
    with pytest.raises(ValueError, match=message):
        small().fit(X)


@pytest.mark.parametrize("factor", [1e100, 1e-100])
def test_values_that_are_no_fluorescence(traces, factor):
    with pytest.raises(DataError, match=r"4 of 4 ROIs hold values up to .*: 0, 1, 2, 3. Expected dF/F"):
        small().fit(factor * traces)


def test_counts_that_are_none(traces):
    with pytest.raises(DataError, match=r'takes spike counts, but X holds.*use observation="calcium"'):
        small(observation="poisson").fit(traces)


# -- Files and folders ------------------------------------------------------------------------------------------------


def _listing(folder):
    return {p.relative_to(folder): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def _folder_without_cells(parent):
    plane = FakePlane()
    plane.iscell[:, 0] = 0
    return write_suite2p_folder(parent, [plane])


def _folder_that_disagrees(parent):
    plane = FakePlane()
    plane.iscell = plane.iscell[:-1]
    return write_suite2p_folder(parent, [plane])


def _empty(parent):
    (parent / "empty").mkdir()
    return parent / "empty"


def _nwb_of(*series, **facts):
    return lambda parent: build(parent / "session.nwb", series, **facts)


def _text(parent):
    (parent / "notes.nwb").write_text("not HDF5")
    return parent / "notes.nwb"


_BACK = np.arange(400) / 10
_BACK[200:] -= 5.0
_TRACES = raw_traces()

_SOURCES = {
    "no accepted cell": (_folder_without_cells, "No cell is accepted.*iscell.npy rejects all 5.*accepted=False"),
    "no rate": (lambda p: write_suite2p_folder(p, [FakePlane(fs=None)]), "does not say its sampling rate.*Pass"),
    "no ROI": (lambda p: write_suite2p_folder(p, [FakePlane(n_rois=0)]), "Suite2p found no ROIs.*Run its"),
    "iscell of another length": (_folder_that_disagrees, "iscell"),
    "empty folder": (_empty, "empty"),
    "nothing there": (lambda p: p / "gone", "does not exist. Expected an NWB file or a Suite2p folder"),
    "no HDF5": (_text, "cannot be opened. Expected an NWB file"),
    "no traces": (_nwb_of(), "no"),
    "several candidates": (
        _nwb_of(S("ophys/A/x", _TRACES / 200, container=DfOverF), S("ophys/B/y", _TRACES / 200, container=DfOverF)),
        "series=",
    ),
    "no accepted row": (
        _nwb_of(S("ophys/Fluorescence/a", _TRACES), columns=[{"iscell": iscell([0] * 5)}]),
        "accepted",
    ),
    "time goes back": (_nwb_of(S("ophys/DfOverF/a", _TRACES, container=DfOverF, facts={"timestamps": _BACK})), "back"),
    "no clock": (_nwb_of(S("ophys/Fluorescence/a", _TRACES, facts={"rate": 0.0})), "no clock. Pass sampling_rate=HZ"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", list(_SOURCES))
def test_sources(tmp_path, case):
    make, message = _SOURCES[case]
    path = make(tmp_path)
    before = _listing(tmp_path)
    model = small()
    with pytest.raises(DataError, match=message) as caught:
        model.fit(path)
    assert len(str(caught.value)) > 60  # a sentence or two, not a bare fact
    assert _listing(tmp_path) == before
    assert not hasattr(model, "n_features_in_")


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_that_calls(tmp_path):
    folder = write_suite2p_folder(tmp_path, [FakePlane()])
    np.save(folder / "plane0" / "settings.npy", np.array({"fs": _Bomb()}, dtype=object), allow_pickle=True)
    before = _listing(tmp_path)
    with pytest.raises(UnsafeFileError):
        small().fit(folder)
    assert _listing(tmp_path) == before


# -- Extreme but legal ------------------------------------------------------------------------------------------------


def _outlier(x):
    return np.where((np.arange(200)[:, None] == 50) & (np.arange(4) == 1), 1e6, x)


def _seldom(x):
    mask = np.ones(x.shape, bool)
    mask[12:, 2] = False
    return Recording(x, mask=mask)


_EXTREMES = {
    "an outlier of 1e6": (_outlier, {}),
    "scale of 1e-9": (lambda x: 1e-9 * x, {}),
    "scale of 1e-9 in single precision": (lambda x: (1e-9 * x).astype(np.float32), {}),
    "counts of light around 1e4": (lambda x: 1e4 + 100 * x, {}),
    "the same in single precision": (lambda x: (1e4 + 100 * x).astype(np.float32), {}),
    "whole numbers": (lambda x: np.round(1000 * x).astype(np.int32), {}),
    "one ROI": (lambda x: x[:, :1], {}),
    "one state": (lambda x: x, {"n_states": 1}),
    "more states than the data hold": (lambda x: x, {"n_states": 8}),
    "an ROI hardly seen": (_seldom, {}),
    "a tenth missing": (lambda x: Recording(x, mask=np.random.default_rng(0).random(x.shape) > 0.1), {}),
    "negative": (lambda x: -x, {}),
    "rectified": (lambda x: np.maximum(x - 1, 0), {}),
}


@pytest.mark.parametrize("observation", ["calcium", "gaussian"])
@pytest.mark.parametrize("case", list(_EXTREMES))
def test_no_nan(traces, case, observation):
    make, options = _EXTREMES[case]
    X = make(traces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        model = small(observation=observation, **options).fit(X)
    learned = {k: v for k, v in vars(model).items() if k.endswith("_")}
    for name, value in learned.items():
        if np.asarray(value).dtype.kind == "f":
            assert np.isfinite(value).all(), name
    result = model.infer(X)
    for name, array in {**result.arrays, **result.parameters}.items():
        assert np.isfinite(array.values).all(), name
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1.0)
    assert np.isfinite([model.score(X), model.bic(X)]).all()
    assert np.isfinite(model.sample(50, random_state=0)[0]).all()
