"""What CalciumHMM promises to those who call it: shapes, identities, units, and results to work with."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from nwb_calcium_lvm import CalciumHMM, InferenceResult, Recording
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.metrics import state_accuracy
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

OBSERVATIONS = ["calcium", "ar_gaussian", "gaussian", "poisson"]


def small(**options):
    given = {"n_states": 2, "n_init": 1, "max_iter": 5, "random_state": 0, "max_spikes_per_frame": 8}
    return CalciumHMM(**given | options)


@pytest.fixture(scope="module")
def session():
    return hmm_experiment(2, 4, 200, rate_on=0.6, measurement_sd=0.0, random_state=0)


@pytest.fixture(scope="module")
def traces(session):
    return session.traces


@pytest.fixture(scope="module")
def fits(session):
    """A model per observation, with the data it was fitted to."""
    data = {o: np.asarray(session.spikes if o == "poisson" else session.traces, float) for o in OBSERVATIONS}
    return {o: (small(observation=o, sampling_rate=10.0).fit(X), X) for o, X in data.items()}


@pytest.fixture(scope="module")
def per_frame(traces):
    return small().fit(traces)


# -- Identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_probabilities(fits, observation):
    model, X = fits[observation]
    edges = np.array([0, 50, 120, 200])
    trials = [X[a:b] for a, b in itertools.pairwise(edges)]
    for smoothed, online in zip(model.predict_proba(trials), model.filter_proba(trials), strict=True):
        assert smoothed.min() >= 0
        np.testing.assert_allclose(smoothed.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(online.sum(axis=1), 1.0, atol=1e-12)
        np.testing.assert_allclose(online[-1], smoothed[-1], atol=1e-12)
        assert not np.allclose(online, smoothed, atol=1e-6)
    np.testing.assert_array_equal(model.transform(X), model.predict_proba(X))
    path = model.predict(X)
    assert path.shape == (200,)
    assert np.issubdtype(path.dtype, np.integer)
    assert np.mean(path == model.predict_proba(X).argmax(axis=1)) > 0.9


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_filtering_knows_nothing_of_the_future(fits, observation):
    model, X = fits[observation]
    changed = X.copy()
    changed[100:] = X[100:][::-1]
    np.testing.assert_allclose(model.filter_proba(changed)[:100], model.filter_proba(X)[:100], atol=1e-12)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_score_times_samples_is_the_log_likelihood(fits, observation):
    model, X = fits[observation]
    order = 1 if observation in ("calcium", "ar_gaussian") else 0
    assert model.n_samples_ == (200 - order) * 4
    assert model.score(X) * model.n_samples_ == pytest.approx(model.log_likelihood(X), rel=1e-12)
    assert model.log_likelihood(X) == model.log_likelihood_
    assert model.n_iter_ == len(model.log_likelihood_history_) == len(model.log_posterior_history_) == 5
    assert model.log_likelihood_ > model.log_likelihood_history_[0]


def test_score_counts_observed_samples_only(per_frame, traces):
    mask = np.ones(traces.shape, bool)
    mask[100, 0] = False  # takes itself and its successor
    edges = np.array([0, 80, 200])
    recording = Recording(traces, mask=mask, segments=Segments(np.column_stack([edges[:-1], edges[1:]])))
    n = 200 * 4 - 2 * 4 - 2
    assert per_frame.score(recording) * n == pytest.approx(per_frame.log_likelihood(recording), rel=1e-12)


def test_the_density_is_that_of_the_traces_as_given(traces):
    """Traces in another unit have the same states, and a log density lower by log(factor) per sample."""
    plain, scaled = small().fit(traces), small().fit(100 * traces + 7)
    np.testing.assert_allclose(scaled.score(100 * traces + 7), plain.score(traces) - np.log(100), atol=1e-6)
    np.testing.assert_allclose(scaled.predict_proba(100 * traces + 7), plain.predict_proba(traces), atol=1e-5)
    np.testing.assert_allclose(scaled.spike_amplitude_, 100 * plain.spike_amplitude_, rtol=1e-5)
    np.testing.assert_allclose(scaled.noise_variance_, 1e4 * plain.noise_variance_, rtol=1e-5)
    np.testing.assert_allclose(scaled.baseline_, 100 * plain.baseline_ + 7, atol=1e-3)
    np.testing.assert_allclose(
        scaled.log_likelihood_history_[-1], plain.log_likelihood_history_[-1] - 796 * np.log(100)
    )


def test_bic(fits):
    model, X = fits["gaussian"]
    free = 1 + 2 + 2 * 4 + 2 * 4  # start, transitions, means, variances
    assert model.bic(X) == pytest.approx(-2 * model.log_likelihood(X) + free * np.log(200))


def test_same_seed_same_fit(traces, per_frame):
    again = small().fit(traces)
    np.testing.assert_array_equal(again.spikes_per_frame_, per_frame.spikes_per_frame_)
    np.testing.assert_array_equal(again.transition_matrix_, per_frame.transition_matrix_)


# -- States -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_states_are_sorted_by_how_often_they_occur(fits, observation):
    model, X = fits[observation]
    occupancy = model.predict_proba(X).mean(axis=0)
    assert (np.diff(occupancy) <= 0).all()
    np.testing.assert_allclose(model.transition_matrix_.sum(axis=1), 1.0)
    np.testing.assert_allclose(model.initial_probs_.sum(), 1.0)


def _as_given(states):
    return {
        "array": (states, lambda x: x),
        "list": (states.tolist(), lambda x: x),
        "trials": (states.reshape(4, 50), lambda x: x.reshape(4, 50, 4)),
        "ragged": ([states[:80], states[80:].tolist()], lambda x: [x[:80], x[80:]]),
        "recording": (states, Recording),
    }


@pytest.mark.parametrize("form", ["array", "list", "trials", "ragged", "recording"])
@pytest.mark.parametrize("flip", [False, True])
def test_known_states_keep_their_numbers(session, form, flip):
    states = 1 - session.states if flip else session.states
    labels, shaped = _as_given(states)[form]
    X = shaped(session.traces)
    model = small().fit(X, init_states=labels)
    path = model.predict(X)
    path = np.concatenate(path) if isinstance(path, list) else np.ravel(path)
    assert np.mean(path == states) > 0.85


def test_states_known_in_part(session):
    states = np.full(200, -1)
    states[:60] = session.states[:60]
    assert set(states[:60]) == {0, 1}
    for wanted in (states, np.where(states >= 0, 1 - states, -1)):
        truth = session.states if wanted is states else 1 - session.states
        model = small(max_iter=20).fit(session.traces, init_states=wanted)
        assert np.mean(model.predict(session.traces) == truth) > 0.85


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"init_states has shape \(0,\)"),
        (np.zeros(100, int), r"shape \(100,\).*a whole number per frame, \(200,\)"),
        (np.repeat([0.0, 1.0], 100), "dtype float64; expected a whole number per frame"),
        (np.zeros(200, int), r"holds the states \[0\]; expected each of 0 .. 1 at least once"),
        (np.repeat([0, 2], 100), r"holds the states \[0, 2\]"),
        (np.repeat([0, 1, 2, 1], 50), r"holds the states \[0, 1, 2\]"),
        (np.repeat([0, 1, -2, 1], 50), r"holds the states \[-2, 0, 1\].*-1 where unknown"),
        ("stimulus", "init_states has shape"),
        ([["a"] * 100, ["b"] * 100], "dtype <U1; expected a whole number"),
    ],
)
def test_bad_known_states(traces, labels, message):
    with pytest.raises(DataError, match=message):
        small().fit(traces, init_states=labels)


# -- Units ------------------------------------------------------------------------------------------------------------


def test_rates_and_times(fits):
    model, _ = fits["calcium"]
    np.testing.assert_allclose(model.firing_rates_, 10.0 * model.spikes_per_frame_)
    np.testing.assert_allclose(model.influx_, model.firing_rates_ * model.spike_amplitude_)
    np.testing.assert_allclose(model.decay_time_, -0.1 / np.log(model.ar_coefs_[:, 0]))
    np.testing.assert_allclose(model.dwell_time_, 0.1 / (1 - np.diag(model.transition_matrix_)))
    np.testing.assert_array_equal(model.rate_calibrated_, model.spike_amplitude_ > 2 * np.sqrt(model.noise_variance_))


def test_a_state_that_is_never_left(traces):
    model = small(n_states=1, sampling_rate=10.0).fit(traces)
    assert model.dwell_time_ == [np.inf]
    assert set(model.predict(traces)) == {0}
    np.testing.assert_allclose(model.predict_proba(traces), 1.0)


@pytest.mark.parametrize("name", ["firing_rates_", "influx_", "decay_time_", "dwell_time_"])
def test_nothing_in_seconds_without_a_clock(per_frame, name):
    with pytest.raises(DataError, match=f"{name} needs a sampling rate.*Pass sampling_rate .Hz. to CalciumHMM"):
        getattr(per_frame, name)


@pytest.mark.parametrize(
    ("observation", "missing"),
    [
        ("ar_gaussian", ["firing_rates_", "influx_", "rate_calibrated_"]),
        ("gaussian", ["firing_rates_", "influx_", "rate_calibrated_", "decay_time_"]),
        ("poisson", ["influx_", "rate_calibrated_", "decay_time_"]),
    ],
)
def test_what_a_model_has_not(fits, observation, missing):
    model, X = fits[observation]
    for name in missing:
        with pytest.raises(DataError, match=f"observation='{observation}' has no"):
            getattr(model, name)
    if observation != "poisson":
        with pytest.raises(DataError, match="has no spikes, hence no expected_spikes"):
            model.expected_spikes(X)


def test_refit_forgets_the_model_before(session):
    model = small(observation="calcium").fit(session.traces)
    model.set_params(observation="poisson").fit(session.spikes)
    fresh = small(observation="poisson").fit(session.spikes)
    assert set(vars(model)) == set(vars(fresh))


# -- Spikes -----------------------------------------------------------------------------------------------------------


def test_expected_spikes(session, fits):
    model, X = fits["calcium"]
    mean, variance = model.expected_spikes(X, return_variance=True)
    assert mean.shape == variance.shape == (200, 4)
    assert (mean >= 0).all()
    assert (variance >= 0).all()
    np.testing.assert_array_equal(model.expected_spikes(X), mean)
    assert np.corrcoef(mean[1:].ravel(), session.spikes[1:].ravel())[0, 1] > 0.95
    counts, none = fits["poisson"][0].expected_spikes(session.spikes, return_variance=True)
    np.testing.assert_array_equal(counts, session.spikes)
    assert not none.any()


def test_unseen_spikes_are_those_of_the_states(fits):
    model, X = fits["calcium"]
    mask = np.ones(X.shape, bool)
    mask[50:60, 2] = False
    recording = Recording(X, mask=mask)
    mean, variance = model.expected_spikes(recording, return_variance=True)
    np.testing.assert_allclose(
        mean[50:60, 2], (model.predict_proba(recording) @ model.spikes_per_frame_)[50:60, 2], rtol=1e-5
    )
    assert (variance[50:60, 2] >= mean[50:60, 2] * (1 - 1e-5)).all()  # Poisson, and the states' doubt on top


# -- Sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_sample(fits, observation):
    model, _ = fits[observation]
    traces, states, spikes = model.sample(30, random_state=1)
    assert traces.shape == (30, 4)
    assert states.shape == (30,)
    assert spikes.shape == (30, 4 if observation in ("calcium", "poisson") else 0)
    np.testing.assert_array_equal(model.sample(30, random_state=1)[0], traces)
    assert not np.array_equal(model.sample(30, random_state=2)[0], traces)
    with pytest.raises(ValueError, match="n=0; expected at least one frame"):
        model.sample(0)


def test_samples_follow_the_model(fits):
    model, _ = fits["calcium"]
    traces, states, spikes = model.sample(20000, random_state=0)
    for k in (0, 1):
        np.testing.assert_allclose(spikes[states == k].mean(axis=0), model.spikes_per_frame_[k], atol=0.03)
        follow = np.bincount(states[1:][states[:-1] == k], minlength=2)
        np.testing.assert_allclose(follow / follow.sum(), model.transition_matrix_[k], atol=0.02)
    drive = traces[1:] - model.ar_coefs_[:, 0] * traces[:-1] - model.spike_amplitude_ * spikes[1:]
    np.testing.assert_allclose(drive.mean(axis=0), model.baseline_ * (1 - model.ar_coefs_[:, 0]), atol=0.005)
    np.testing.assert_allclose(drive.var(axis=0), model.noise_variance_, rtol=0.1)


def test_a_refit_to_a_sample_finds_the_model_again(fits):
    model, _ = fits["calcium"]
    traces, states, _ = model.sample(3000, random_state=3)
    again = small(max_iter=60, sampling_rate=10.0).fit(traces, init_states=states)
    np.testing.assert_allclose(again.spikes_per_frame_, model.spikes_per_frame_, atol=0.08)
    np.testing.assert_allclose(again.ar_coefs_, model.ar_coefs_, atol=0.02)
    np.testing.assert_allclose(again.spike_amplitude_, model.spike_amplitude_, rtol=0.05)
    np.testing.assert_allclose(again.transition_matrix_, model.transition_matrix_, atol=0.03)
    unlabelled = small(max_iter=60).fit(traces)
    assert state_accuracy(states, unlabelled.predict(traces)) > 0.9


# -- Results ----------------------------------------------------------------------------------------------------------


def test_infer_holds_what_the_methods_return(fits):
    model, X = fits["calcium"]
    result = model.infer(X)
    assert isinstance(result, InferenceResult)
    np.testing.assert_array_equal(result["states"], model.predict(X))
    np.testing.assert_array_equal(result["state_probabilities"], model.predict_proba(X))
    np.testing.assert_array_equal(result["expected_spikes"], model.expected_spikes(X))
    rates = model.predict_proba(X) @ model.firing_rates_
    np.testing.assert_allclose(result["firing_rates"], rates, rtol=1e-5)
    np.testing.assert_allclose(result["influx"], rates * model.spike_amplitude_, rtol=1e-5)
    np.testing.assert_allclose(result["state_rates"], model.firing_rates_.T)
    np.testing.assert_allclose(result["decay_time"], model.decay_time_)
    np.testing.assert_allclose(result["dwell_time"], model.dwell_time_)
    np.testing.assert_allclose(result["occupancy"].sum(), 1.0)
    assert (result.time_unit, result.sampling_rate) == ("s", 10.0)
    np.testing.assert_allclose(result.time, np.arange(200) / 10)
    assert result.model["log_likelihood"] == model.log_likelihood(X)
    assert result.model["hyperparameters"]["n_states"] == 2
    assert result.converged is model.converged_


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_result_as_tables(fits, observation):
    model, X = fits[observation]
    result = model.infer(X)
    table = result.to_pandas()
    assert len(table) == 200
    assert {"states", "state_probabilities_0", "state_probabilities_1"} <= set(table.columns)
    dataset = result.to_xarray()
    assert dataset["state_probabilities"].dims == ("time", "state")
    assert dataset["transition_matrix"].dims == ("state", "next_state")
    assert set(dataset.data_vars) == set(result.arrays) | set(result.parameters)
    for name, array in {**result.arrays, **result.parameters}.items():
        assert np.ndim(array.values) == len(array.dims), name
        assert np.isfinite(array.values).all(), name
        assert array.description.endswith("."), name


def test_result_without_a_clock(per_frame, traces):
    result = per_frame.infer(traces)
    assert (result.time_unit, result.sampling_rate) == ("frames", None)
    np.testing.assert_array_equal(result.time, np.arange(200))
    in_seconds = {"firing_rates", "influx", "decay_time", "dwell_time"}
    assert not in_seconds & (set(result.arrays) | set(result.parameters))
    assert result.parameters["state_rates"].unit == "spikes/frame"
    assert result.to_pandas().index.name == "time_frames"
    result.to_xarray()


def test_result_of_trials(per_frame, traces):
    times = np.arange(200) / 10
    times[100:] += 5.0
    recording = Recording(traces, timestamps=times, roi_ids=["a", "b", "c", "d"])
    result = per_frame.infer(recording)
    assert len(result.segments) == 2
    assert not result.is_regular
    np.testing.assert_array_equal(result.time, times)
    assert "expected_spikes_a" in result.to_pandas().columns
    by_group = per_frame.infer(traces, groups=np.repeat([7, 8], 100))
    np.testing.assert_array_equal(by_group.trial_id, np.repeat([7, 8], 100))


def test_progress_and_solvers(traces, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        climbed = small(solver="gradient", max_iter=10, verbose=1).fit(traces)
    assert "nats/sample" in capfd.readouterr().err
    assert climbed.log_posterior_history_[-1] > climbed.log_posterior_history_[0]
    small().fit(traces)
    assert capfd.readouterr() == ("", "")
