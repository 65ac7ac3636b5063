"""CalciumHMM with measurement noise, as those who call it see it."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwb_calcium_lvm import CalciumHMM, Recording, load_model
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.hmm.data import after_first
from nwb_calcium_lvm.metrics import match_states, state_accuracy
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import ar_calcium, hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_FRAMES, N_ROIS = 400, 6


def small(**options):
    given = {"n_states": 2, "observation": "calcium_noisy", "n_init": 1, "max_iter": 20, "random_state": 0}
    return CalciumHMM(**given | {"sampling_rate": 10.0, "max_spikes_per_frame": 8} | options)


@pytest.fixture(scope="module")
def session():
    return hmm_experiment(2, N_ROIS, N_FRAMES, rate_on=0.5, stay=0.97, ar_coefs=[0.85], random_state=1)


@pytest.fixture(scope="module")
def model(session):
    return small().fit(session.traces)


def test_finds_states_and_parameters(session, model):
    labels = model.predict(session.traces)
    match = match_states(session.states, labels, 2)
    assert state_accuracy(session.states, labels, match) > 0.95
    np.testing.assert_allclose(model.ar_coefs_, session.ar_coefs, atol=0.05)
    np.testing.assert_allclose(model.spike_amplitude_, session.spike_amplitude, rtol=0.15)
    np.testing.assert_allclose(model.measurement_variance_, session.measurement_sd**2, rtol=0.4)
    np.testing.assert_allclose(model.baseline_, 0.0, atol=0.25)
    np.testing.assert_allclose(model.decay_time_, -0.1 / np.log(0.85), rtol=0.3)
    spikes = model.expected_spikes(session.traces)
    assert np.corrcoef(spikes.ravel(), session.spikes.ravel())[0, 1] > 0.95
    assert model.log_posterior_history_.shape == (model.n_iter_,)
    assert np.isfinite(model.log_posterior_history_).all()


def test_held_out_score_tells_which_noise_there_is(session, model):
    longer = hmm_experiment(2, N_ROIS, N_FRAMES, rate_on=0.5, stay=0.97, ar_coefs=[0.85], random_state=2)
    published = CalciumHMM(2, n_init=1, random_state=0).fit(session.traces)
    assert model.score(longer.traces) > published.score(longer.traces) + 0.02


def test_probabilities_filter_and_score(session, model):
    X = session.traces
    smoothed, online = model.predict_proba(X), model.filter_proba(X)
    np.testing.assert_allclose(smoothed.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(online.sum(axis=1), 1.0, atol=1e-12)
    assert np.abs(online[-1] - smoothed[-1]).max() < 0.05
    future = X.copy()
    future[300:] += 1.0
    np.testing.assert_allclose(model.filter_proba(future)[:300], online[:300], atol=1e-12)
    np.testing.assert_allclose(model.score(X) * model.n_samples_, model.log_likelihood(X), rtol=1e-12)
    np.testing.assert_allclose(model.log_likelihood_, model.log_likelihood(X), rtol=1e-12)
    assert model.bic(X) > -2 * model.log_likelihood(X)


def test_the_density_is_that_of_the_traces_as_given(session, model):
    """In units ten times as small the same fit has parameters and a density in those units."""
    scaled = small().fit(10.0 * session.traces + 3.0)
    np.testing.assert_allclose(scaled.spike_amplitude_, 10.0 * model.spike_amplitude_, rtol=1e-3)
    np.testing.assert_allclose(scaled.measurement_variance_, 100.0 * model.measurement_variance_, rtol=1e-3)
    np.testing.assert_allclose(scaled.noise_variance_, 100.0 * model.noise_variance_, rtol=1e-2)
    np.testing.assert_allclose(scaled.baseline_, 10.0 * model.baseline_ + 3.0, atol=1e-2)
    shift = model.n_samples_ * np.log(10.0)
    np.testing.assert_allclose(scaled.log_likelihood_, model.log_likelihood_ - shift, atol=0.5)
    np.testing.assert_allclose(scaled.log_likelihood_history_, model.log_likelihood_history_ - shift, atol=0.5)


def test_missing_samples_and_trials(session, model):
    X = session.traces.copy()
    X[100:140, 2] = np.nan
    X[250:260] = np.nan
    X[-5:, 0] = np.nan
    X[0, 1] = np.nan
    segments = Segments(np.array([[0, 200], [200, N_FRAMES]]))
    recording = Recording(X, mask=np.isfinite(X), sampling_rate=10.0, segments=segments)
    spikes, variance = model.expected_spikes(recording, return_variance=True)
    states = model.predict_proba(recording)
    for values in (spikes, variance, states, model.filter_proba(recording)):
        assert np.isfinite(values).all()
    assert np.isfinite(model.score(recording))
    # Far from any sample: what the states have it fire.
    np.testing.assert_allclose(spikes[115:125, 2], states[115:125] @ model.spikes_per_frame_[:, 2], rtol=0.3)
    np.testing.assert_allclose(spikes[-4:, 0], states[-4:] @ model.spikes_per_frame_[:, 0], rtol=1e-6)
    spread = model.infer(recording)["calcium_variance"]
    assert (spread[105:135, 2] > 2 * spread[50, 2]).all()
    assert spread.max() < 10.0
    refit = small().fit(recording)
    assert np.isfinite(refit.log_posterior_history_).all()
    np.testing.assert_allclose(refit.spike_amplitude_, session.spike_amplitude, rtol=0.2)


def test_infer_and_store(session, model, tmp_path):
    X = session.traces
    found = model.infer(X)
    np.testing.assert_array_equal(found["states"], model.predict(X))
    np.testing.assert_array_equal(found["expected_spikes"], model.expected_spikes(X))
    calcium = ar_calcium(session.spikes, session.ar_coefs, session.spike_amplitude)
    assert np.mean((found["calcium"] - calcium) ** 2) < 0.5 * np.mean((X - calcium) ** 2)
    assert found.parameters["measurement_variance"].unit == "(dF/F)^2"
    np.testing.assert_array_equal(found.parameters["measurement_variance"].values, model.measurement_variance_)
    model.save(tmp_path / "model")
    back = load_model(tmp_path / "model")
    np.testing.assert_array_equal(back.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(back.measurement_variance_, model.measurement_variance_)
    assert back.score(X) == model.score(X)


def test_samples_have_all_the_noise(model):
    traces, _, spikes = model.sample(4000, random_state=0)
    innovation = traces[1:] - model.baseline_ - model.ar_coefs_[:, 0] * (traces[:-1] - model.baseline_)
    rest = innovation - model.spike_amplitude_ * spikes[1:]
    lagged = (rest[1:] * rest[:-1]).mean(axis=0)  # white noise on top turns up in the next frame's with the other sign
    np.testing.assert_allclose(-lagged / model.ar_coefs_[:, 0], model.measurement_variance_, rtol=0.15)


def test_refit_forgets_measurement_noise(session):
    model = small(max_iter=2).fit(session.traces)
    model.set_params(observation="gaussian").fit(session.traces)
    assert not hasattr(model, "measurement_variance_")
    assert clone(model).get_params()["observation"] == "gaussian"


@pytest.mark.parametrize(
    ("options", "message"), [({"solver": "gradient"}, "expectation propagation"), ({"ar_order": 3}, "takes 1 or 2")]
)
def test_what_it_does_not_do(session, options, message):
    with pytest.raises(ValueError, match=message):
        small(**options).fit(session.traces)


def test_too_little_data(session):
    with pytest.raises(DataError, match="fewer than"):
        small().fit(Recording(session.traces, mask=np.arange(N_FRAMES)[:, None] % 200 == 0 + np.zeros((1, N_ROIS))))


def test_short_decay_points_to_it(session):
    recording = Recording(session.traces, sampling_rate=10.0, indicator="GCaMP6s")
    noisy = recording.dff + np.random.default_rng(0).normal(0.0, 3.0, recording.dff.shape)
    with pytest.warns(DataWarning, match="calcium_noisy"):
        CalciumHMM(2, n_init=1, max_iter=3, random_state=0).fit(
            Recording(noisy, sampling_rate=10.0, indicator="GCaMP6s")
        )


def test_samples_after_the_first_of_a_trial():
    mask = np.array([[1, 0, 1, 1, 1, 0, 0, 1, 1]], bool).T
    told = after_first(mask, np.array([0, 4]), 1)[:, 0]
    np.testing.assert_array_equal(told, [0, 0, 1, 1, 0, 0, 0, 1, 1])


_NEIGHBOURS = "a frame is judged by its neighbours in time too, so that order and context matter"


@pytest.mark.thorough  # a minute, most of it compilation
@parametrize_with_checks(
    [CalciumHMM(n_states=2, observation="calcium_noisy", n_init=1, max_iter=5, max_spikes_per_frame=8)],
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": _NEIGHBOURS,
        "check_methods_subset_invariance": _NEIGHBOURS,
    },
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
