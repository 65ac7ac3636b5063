"""Bad input to CalciumGPFA: each error says what was received, what was expected, and what to do.

Then input that is extreme but legal: no NaN may come of it.
"""

import warnings

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumGPFA, Recording
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.simulate import gpfa_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small(**options):
    return CalciumGPFA(**{"n_latents": 2, "n_init": 1, "max_iter": 4} | options)


@pytest.fixture(scope="module")
def traces():
    return gpfa_experiment(4, 200, timescales=[20, 40], mean_rate=0.4, ar_coefs=[0.8], random_state=0).traces


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[(name, 0, "a whole number of at least 1") for name in ("n_latents", "ar_order", "n_init", "max_iter")],
        *[("n_latents", value, "a whole number of at least 1") for value in (2.0, "3", None, True, -1)],
        *[(name, -1, "a number of at least 0") for name in ("tol", "prior_frames")],
        *[("tol", value, "a number of at least 0") for value in ("small", None, np.nan, np.inf)],
        ("observation", "fluorescence", "one of calcium, calcium_noisy, ar_gaussian, gaussian, poisson"),
        ("kernel", "linear", "one of matern32, matern52"),
        ("inference", "magic", "one of auto, kalman"),
        ("ard", "yes", "True or False"),
        *[("sampling_rate", v, "frames per second, above 0, or None") for v in (0, -5.0, np.nan, np.inf, "10")],
        *[("timescales", v, "a number above 0 in frames") for v in (0, -1.0, "slow", [1.0, 2.0, 3.0], np.nan, [[5.0]])],
    ],
)
def test_constructor_arguments(traces, name, value, expected):
    model = small(**{name: value})
    with pytest.raises(ValueError, match=expected) as caught:
        model.fit(traces)
    assert str(caught.value).startswith(f"{name}={value!r}; expected ")
    assert not hasattr(model, "loadings_")


def test_what_noisy_calcium_does_not_take(traces):
    with pytest.raises(ValueError, match='ar_order=3; observation="calcium_noisy" takes 1 or 2'):
        small(observation="calcium_noisy", ar_order=3).fit(traces)
    with pytest.raises(ValueError, match="inference='blackbox' does not know observation='calcium_noisy'"):
        small(observation="calcium_noisy", kernel="rbf", inference="blackbox").fit(traces)


@pytest.mark.parametrize("scale", [0.5, 500.0, [10.0, 1e6]])
def test_time_scales_under_a_frame_or_beyond_the_recording(traces, scale):
    with pytest.raises(DataError, match=r"the longest trial has 200 frames. Expected between 1 frame and twice"):
        small(timescales=scale).fit(traces)
    with pytest.raises(DataError, match=r"s are .* frames"):
        small(timescales=np.asarray(scale) / 10.0, sampling_rate=10.0).fit(traces)


def test_more_latents_than_neurons(traces):
    with pytest.raises(DataError, match=r"n_latents=5 but X has 4 ROIs.*Lower n_latents; is X \(time, roi\)"):
        small(n_latents=5).fit(traces)


@pytest.mark.filterwarnings("ignore:.*spikes in all")
def test_transposed():
    with pytest.warns(DataWarning, match=r"shape \(12, 40\): fewer frames than ROIs.*pass F.T or use read_suite2p"):
        small().fit(np.random.default_rng(0).normal(size=(12, 40)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number(traces, bad):
    X = traces.copy()
    X[7, 2] = X[9, 1] = bad
    with pytest.raises(DataError, match=r"2 samples, the first at frame 7 of ROI 2.*mask=np.isfinite\(dff\)"):
        small().fit(X)


def test_constant_and_dead_rois(traces):
    X = traces.copy()
    X[:, 1] = 0.25
    with pytest.raises(DataError, match=r"1 of 4 ROIs are constant or never observed: 1\..*leave these out"):
        small().fit(X)


def test_trials_of_one_frame_and_too_short_to_score(traces):
    with pytest.raises(DataError, match="each sample needs 1 observed frames before it in its trial"):
        small().fit(traces[:, None, :])
    model = small().fit(traces)
    with pytest.raises(DataError, match="No sample of X can be scored"):
        model.score(traces[:1])
    assert np.isfinite(model.transform(traces[:1])).all()


def test_counts_that_are_none(traces):
    with pytest.raises(DataError, match=r'takes spike counts, but X holds.*use observation="calcium"'):
        small(observation="poisson").fit(traces)


def test_another_rate_or_other_neurons(traces):
    model = small(sampling_rate=10.0).fit(traces)
    with pytest.raises(DataError, match="at 20 Hz but the model was fitted at 10 Hz"):
        model.transform(Recording(traces, sampling_rate=20.0))
    with pytest.raises(DataError, match="X has 3 ROIs, but CalciumGPFA was fitted on 4"):
        model.transform([traces[:, :3]])


def test_silent_neurons_are_named(traces):
    counts = np.random.default_rng(0).poisson(0.5, (200, 4)).astype(float)
    counts[:, 2] = 0
    counts[17, 2] = 1
    with pytest.warns(DataWarning, match=r"1 ROIs have fewer than 3 spikes in all by the fit: 2\."):
        model = small(observation="poisson").fit(counts)
    assert np.isfinite(model.loadings_).all()


def _outlier(x):
    return np.where((np.arange(len(x))[:, None] == 50) & (np.arange(4) == 1), 1e6, x)


def _missing(x):
    return Recording(x, mask=np.random.default_rng(0).random(x.shape) > 0.1)


_EXTREMES = {
    "an outlier of 1e6": _outlier,
    "scale of 1e-9": lambda x: 1e-9 * x,
    "counts of light in single precision": lambda x: (1e4 + 100 * x).astype(np.float32),
    "whole numbers": lambda x: np.round(1000 * x).astype(np.int32),
    "a tenth missing": _missing,
    "negative": lambda x: -x,
    "rectified": lambda x: np.maximum(x - 1, 0),
    "a single trial of 5 frames": lambda x: x[40:45],
    "trials of 5 frames": lambda x: x.reshape(40, 5, 4),
}


@pytest.mark.parametrize("observation", ["calcium", "gaussian"])
@pytest.mark.parametrize("case", list(_EXTREMES))
def test_no_nan(traces, case, observation):
    X = _EXTREMES[case](traces)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        model = small(observation=observation).fit(X)
    assert (np.diff(model.elbo_history_) >= 0).all()
    for name, value in vars(model).items():
        if name.endswith("_") and np.asarray(value).dtype.kind == "f":
            assert np.isfinite(value).all(), name
    result = model.infer(X)
    for name, array in {**result.arrays, **result.parameters}.items():
        assert np.isfinite(array.values).all(), name
    assert np.isfinite(model.score(X))
    assert np.isfinite(model.sample(50, random_state=0)[0]).all()
