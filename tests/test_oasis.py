"""OASISSpikeEstimator: against a general solver, against Suite2p's and the authors' own code, and as an estimator."""

import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwb_calcium_lvm import OASISSpikeEstimator, Recording, load_model, write_nwb
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.spikes import oasis as oasis_module
from nwb_calcium_lvm.spikes.oasis import decay_factor, deconvolve, penalty_for_noise


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def simulate(rng, n=1800, n_rois=3, rate=30.0, decay=0.6, amplitude=0.3, noise=0.05):
    counts = rng.poisson(0.02, (n, n_rois))
    kernel = amplitude * np.exp(-np.arange(200) / (decay * rate))
    clean = np.stack([np.convolve(c, kernel)[:n] for c in counts.T], axis=1)
    return clean + noise * rng.normal(size=clean.shape), counts


def test_it_solves_the_problem(rng):
    n, n_rois = 60, 5
    decay, penalty = rng.uniform(0.6, 0.98, n_rois), rng.uniform(0, 0.5, n_rois)
    penalty[0] = 0.0
    traces = rng.normal(size=(n, n_rois)) + 0.5
    found = deconvolve(traces, decay, penalty)
    for roi in range(n_rois):
        # A general solver of non-negative least squares; the penalty is completed into the square.
        age = np.subtract.outer(np.arange(n), np.arange(n))
        kernel = np.where(age >= 0, decay[roi] ** np.maximum(age, 0), 0.0)
        lowered = traces[:, roi] - np.linalg.solve(kernel.T, np.full(n, penalty[roi]))
        spikes, _ = nnls(kernel, lowered, maxiter=20000)
        np.testing.assert_allclose(found.spikes[:, roi], spikes, atol=1e-9)
        np.testing.assert_allclose(found.calcium[:, roi], kernel @ spikes, atol=1e-9)


def test_stretches_are_joined_without_a_seam(rng, monkeypatch):
    traces, _ = simulate(rng, n=900)
    decay = np.array([0.8, 0.95, 0.99])
    whole = deconvolve(traces, decay, np.full(3, 0.1))
    monkeypatch.setattr(oasis_module, "_LARGEST_EXPONENT", 1.0)
    parts = deconvolve(traces, decay, np.full(3, 0.1))
    np.testing.assert_allclose(parts.spikes, whole.spikes, atol=1e-9)


def test_each_trace_is_solved_as_if_alone(rng):
    traces = rng.normal(size=(200, 4))
    decay = np.array([0.7, 0.8, 0.9, 0.95])
    together = deconvolve(traces, decay, np.zeros(4)).spikes
    for roi in range(4):
        alone = deconvolve(traces[:, [roi]], decay[[roi]], np.zeros(1)).spikes[:, 0]
        np.testing.assert_array_equal(together[:, roi], alone)


def test_the_penalty_leaves_the_noise_over(rng):
    traces, _ = simulate(rng)
    decay, noise = np.full(3, np.exp(-1 / 18)), np.full(3, 0.05)
    penalty = penalty_for_noise(traces, decay, noise)
    left_over = np.mean((traces - deconvolve(traces, decay, penalty).calcium) ** 2, axis=0)
    np.testing.assert_allclose(left_over, noise**2, rtol=0.05)


def test_the_decay_of_a_short_trace_written_out():
    x = np.convolve(np.random.default_rng(0).poisson(0.2, 40), 0.8 ** np.arange(40))[:40]
    centred = x - x.mean()
    # Each covariance is a mean over the pairs there are: a sum would fall with the lag.
    covariance = [np.mean([centred[t] * centred[t - k] for t in range(k, 40)]) for k in range(1, 7)]
    ratio = np.dot(covariance[:-1], covariance[1:]) / np.dot(covariance[:-1], covariance[:-1])
    expected = np.clip(ratio, np.exp(-1 / (0.05 * 10)), np.exp(-1 / (5 * 10)))
    assert 0.2 < ratio < 0.97
    np.testing.assert_allclose(decay_factor(x[:, None], 10.0), [expected], rtol=1e-9)


def test_decay_is_found_under_noise(rng):
    traces, _ = simulate(rng, n=20000, noise=0.1)
    np.testing.assert_allclose(-1 / (30 * np.log(decay_factor(traces, 30.0))), 0.6, rtol=0.15)


@pytest.mark.peers
def test_agrees_with_the_authors_code(rng):
    functions = pytest.importorskip("oasis.functions")
    traces, _ = simulate(rng)
    found = deconvolve(traces, np.full(3, 0.95), np.full(3, 0.1))
    for roi in range(3):
        calcium, spikes = functions.oasisAR1(traces[:, roi].copy(), 0.95, lam=0.1)
        np.testing.assert_allclose(found.spikes[1:, roi], spikes[1:], atol=1e-8)
        np.testing.assert_allclose(found.calcium[:, roi], calcium, atol=1e-8)


@pytest.mark.suite2p
def test_agrees_with_suite2p(rng):
    dcnv = pytest.importorskip("suite2p.extraction.dcnv")
    traces, _ = simulate(rng)
    traces[0] += 1.0  # Suite2p lets the first pool fall below 0, and counts no spike in it
    theirs = dcnv.oasis(traces.T, 10, 0.6, 30.0).T
    ours = deconvolve(traces, np.full(3, np.exp(-1 / 18)), np.zeros(3)).spikes
    np.testing.assert_allclose(ours[1:], theirs[1:], atol=1e-4)


def test_spikes_are_found_and_counted(rng):
    traces, counts = simulate(rng)
    oasis = OASISSpikeEstimator(sampling_rate=30.0).fit(traces, counts)
    assert oasis.score(traces, counts) > 0.5
    assert oasis.predict(traces).sum() == pytest.approx(counts.sum(), rel=1e-3)
    assert oasis.amplitude_ == pytest.approx(0.3, rel=0.3)
    np.testing.assert_allclose(oasis.transform(traces), 30 * oasis.predict(traces), rtol=1e-5)


def test_lag_and_smoothing(rng):
    traces, _ = simulate(rng)
    options = {"decay_time": 0.6, "penalty": 0.0, "spike_amplitude": 0.3, "sampling_rate": 30.0}
    plain = OASISSpikeEstimator(**options).fit(traces).transform(traces)
    earlier = OASISSpikeEstimator(lag=-2 / 30, **options).fit(traces).transform(traces)
    np.testing.assert_allclose(earlier[:-2], plain[2:], atol=1e-3)
    smooth = OASISSpikeEstimator(smoothing=0.1, **options).fit(traces).transform(traces)
    assert smooth.std() < plain.std()
    np.testing.assert_allclose(smooth.sum(0), plain.sum(0), rtol=0.02)


def test_where_amplitudes_come_from(rng):
    traces, _ = simulate(rng)
    named = Recording(traces, sampling_rate=30.0, indicator="gcamp6f")
    plain = Recording(traces, sampling_rate=30.0)
    oasis = OASISSpikeEstimator().fit(plain)
    with pytest.warns(DataWarning, match=r"0\.2 is assumed"):
        assumed = oasis.transform(plain)
    np.testing.assert_allclose(oasis.transform(named) * 0.19, assumed * 0.2, rtol=1e-5)


def test_units_trials_and_silent_rois(rng):
    traces, _ = simulate(rng)
    oasis = OASISSpikeEstimator(spike_amplitude=0.3).fit(Recording(traces, sampling_rate=30.0))
    unknown = [oasis.transform(Recording(k * traces + 5, sampling_rate=30.0, units="unknown")) for k in (1.0, 40.0)]
    np.testing.assert_allclose(unknown[0], unknown[1], rtol=1e-3, atol=1e-2)
    constant = traces.copy()
    constant[:, 1] = 2.0
    with pytest.warns(DataWarning, match="1 of 3 ROIs are constant"):
        rates = oasis.transform(Recording(constant, sampling_rate=30.0))
    assert np.isnan(rates[:, 1]).all()
    assert np.isfinite(rates[:, [0, 2]]).all()


def test_on_disk_and_in_nwb(rng, tmp_path):
    recording = Recording(simulate(rng)[0], sampling_rate=30.0)
    oasis = OASISSpikeEstimator(spike_amplitude=0.3).fit(recording)
    again = load_model(oasis.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.transform(recording), oasis.transform(recording))
    assert write_nwb(oasis.infer(recording), tmp_path / "rates.nwb").exists()


@pytest.mark.parametrize(
    "options", [{"ar_order": 2}, {"decay_time": 0.0}, {"penalty": -1.0}, {"spike_amplitude": -1.0}, {"smoothing": -1.0}]
)
def test_wrong_settings(options, rng):
    with pytest.raises(DataError, match=next(iter(options))):
        OASISSpikeEstimator(sampling_rate=30.0, **options).fit(simulate(rng)[0])


_NEIGHBOURS = "a frame is judged by its neighbours in time too, so that order and context matter"
_ANY_ROIS = "each trace is taken alone, so that a fitted estimator takes any number of ROIs"


@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
@parametrize_with_checks(
    [OASISSpikeEstimator(sampling_rate=3.0)],
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": _NEIGHBOURS,
        "check_methods_subset_invariance": _NEIGHBOURS,
        "check_n_features_in": _ANY_ROIS,
        "check_n_features_in_after_fitting": _ANY_ROIS,
        "check_transformer_general": _ANY_ROIS,
    },
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
