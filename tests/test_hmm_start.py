"""Starting values, and what they say about traces that no start can help."""

import warnings

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumHMM
from nwb_calcium_lvm.exceptions import DataWarning
from nwb_calcium_lvm.hmm import start
from nwb_calcium_lvm.observations import starting
from nwb_calcium_lvm.simulate import hmm_experiment

FIRST = np.array([0])


@pytest.fixture(scope="module")
def session():
    return hmm_experiment(n_frames=4000, random_state=2)


def _standardised(traces):
    traces = np.asarray(traces, float)
    return starting.standardise(traces, np.ones(traces.shape, bool))


def test_standardise_ignores_what_is_masked():
    rng = np.random.default_rng(0)
    traces, mask = rng.normal(3.0, 2.0, (500, 3)), rng.random((500, 3)) > 0.2
    y, mean, sd = starting.standardise(np.where(mask, traces, np.nan), mask)
    seen = np.where(mask, traces, np.nan)
    np.testing.assert_allclose(mean, np.nanmean(seen, axis=0))
    np.testing.assert_allclose(sd, np.nanstd(seen, axis=0))
    assert (y[~mask] == 0).all()
    np.testing.assert_allclose((y * sd + mean)[mask], traces[mask])


def test_ar_start_is_not_fooled_by_white_noise():
    """Regression on the last frame is pulled down by measurement noise; autocovariances at lags above 0 are not."""
    rng = np.random.default_rng(0)
    shocks, x = rng.poisson(0.1, (20_000, 5)) - 0.1, np.zeros((20_000, 5))
    for t in range(1, len(x)):
        x[t] = 0.9 * x[t - 1] + shocks[t]
    y, *_ = _standardised(x + rng.normal(0, 0.5, x.shape))
    found = starting.ar_start(y, np.ones(y.shape, bool), FIRST, 1)
    regression = (y[1:] * y[:-1]).sum(axis=0) / (y[:-1] ** 2).sum(axis=0)
    assert np.abs(found[:, 0] - 0.9).max() < 0.02
    assert regression.max() < 0.85


def test_ar_start_of_second_order():
    rng = np.random.default_rng(0)
    x = np.zeros((40_000, 3))
    drive = rng.poisson(0.1, x.shape)
    for t in range(2, len(x)):
        x[t] = 1.3 * x[t - 1] - 0.36 * x[t - 2] + drive[t]
    y, *_ = _standardised(x)
    np.testing.assert_allclose(starting.ar_start(y, np.ones(y.shape, bool), FIRST, 2), [[1.3, -0.36]] * 3, atol=0.1)


def test_spike_start_finds_amplitude_and_noise():
    rng = np.random.default_rng(0)
    spikes = rng.poisson(0.08, (20_000, 40))
    e = 0.1 + 1.5 * spikes + rng.normal(0, 0.2, spikes.shape)
    intercept, amplitude, noise = starting.spike_start(e, np.ones(e.shape, bool))
    np.testing.assert_allclose(intercept, 0.1, atol=0.05)
    np.testing.assert_allclose(amplitude, 1.5, rtol=0.15)
    np.testing.assert_allclose(noise, 0.04, rtol=0.3)


def test_smoothing_stays_within_trials_and_skips_what_is_missing():
    values, kept = np.ones((10, 1)), np.ones((10, 1), bool)
    values[5:] = 3.0
    kept[2] = False
    values[2] = 0.0
    out = start.smooth_within(values, kept, np.array([0, 5]), 3)
    np.testing.assert_allclose(out[:5], 1.0)
    np.testing.assert_allclose(out[5:], 3.0)


def test_frames_without_a_label_join_the_nearest_state():
    features = np.array([[0.0], [0.1], [5.0], [5.2], [0.2], [4.9]])
    labels = start.complete(np.array([1, -1, 0, -1, -1, -1]), features, 2)
    np.testing.assert_array_equal(labels, [1, 1, 0, 0, 1, 0])


def test_zero_inflated_traces_are_fitted():
    traces = (np.random.default_rng(0).random((200, 4)) < 0.05).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CalciumHMM(2, n_init=1, max_iter=10, random_state=0).fit(traces)
    assert np.isfinite(model.log_likelihood_)
    assert np.isfinite(model.spikes_per_frame_).all()


def test_fewer_frames_than_autocovariances():
    traces = np.random.default_rng(0).normal(size=(6, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert np.isfinite(CalciumHMM(2, n_init=1, max_iter=5, random_state=0).fit(traces).log_likelihood_)


def test_an_artefact_is_named(session):
    traces = np.array(session.traces[:300, :4], float)
    traces[123, 2] += 60.0
    with pytest.warns(DataWarning, match=r"2 \(frame 123\).*mask"):
        CalciumHMM(2, n_init=1, max_iter=100, tol=1e-3, random_state=0).fit(traces)


def test_clean_traces_raise_no_such_warning(session):
    traces = np.asarray(session.traces[:300, :4], float)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        CalciumHMM(2, n_init=1, max_iter=5, random_state=0).fit(traces)
    assert not [w for w in caught if issubclass(w.category, DataWarning)]
