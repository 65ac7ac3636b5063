"""CalciumGPFA from outside: what it returns, in which form and unit, and that no step of a fit goes down."""

import warnings
from copy import deepcopy

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, KFold

from nwb_calcium_lvm import CalciumGPFA, Recording, load_model, read_results, write_nwb
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.gpfa import leave_neuron_out
from nwb_calcium_lvm.gpfa.learned import orthonormal
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import gpfa_experiment

OBSERVATIONS = ["calcium", "ar_gaussian", "gaussian", "poisson"]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def small(**options):
    given = {"n_latents": 2, "n_init": 1, "max_iter": 8, "sampling_rate": 20.0, "random_state": 0}
    return CalciumGPFA(**given | options)


def r2(true, found):
    design = np.column_stack([found, np.ones(len(found))])
    residual = true - design @ np.linalg.lstsq(design, true, rcond=None)[0]
    return 1 - (residual**2).sum() / ((true - true.mean(axis=0)) ** 2).sum()


@pytest.fixture(scope="module")
def truth():
    return gpfa_experiment(8, 250, timescales=[15, 30], mean_rate=0.4, ar_coefs=[0.8], random_state=1)


@pytest.fixture(scope="module")
def fits(truth):
    out = {}
    for observation in OBSERVATIONS:
        X = truth.spikes.astype(float) if observation == "poisson" else truth.traces
        out[observation] = small(observation=observation).fit(X), X
    return out


# -- Fit --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_the_bound_never_falls(fits, observation):
    model, X = fits[observation]
    history = model.elbo_history_
    assert (np.diff(history) >= 0).all()
    assert history[-1] > history[0]
    assert model.n_iter_ == len(history) - 1 <= 8
    assert model.n_samples_ == X.size - (8 if observation in ("calcium", "ar_gaussian") else 0)
    # The posterior found anew for the fitted weights is at least as good as the one the fit ended with.
    assert model.score(X) * model.n_samples_ >= model.elbo_ - 1e-3


@pytest.mark.parametrize("observation", ["calcium", "poisson"])
@pytest.mark.parametrize("kernel", ["matern32", "rbf"])
def test_inference_does_not_go_astray_where_rates_vary_by_orders_of_magnitude(observation, kernel):
    """Rates that change e-fold many times over: a first step from rest would end at rates of e^60."""
    strong = gpfa_experiment(8, 300, timescales=[20, 30], mean_rate=0.2, loading_sd=3.0, ar_coefs=[0.8], random_state=0)
    X = strong.spikes.astype(float) if observation == "poisson" else strong.traces
    model = small(observation=observation, kernel=kernel, max_iter=20).fit(X)
    assert model.score(X) * model.n_samples_ >= model.elbo_ - 1e-3
    again = small(observation=observation, kernel=kernel, max_iter=20, warm_start=True).fit(X).fit(X)
    assert again.elbo_history_[0] > -10 * abs(model.elbo_)
    assert again.elbo_ >= model.elbo_ - 1.0


def test_latents_are_recovered(truth, fits):
    for observation, least in (("calcium", 0.7), ("poisson", 0.7)):
        model, X = fits[observation]
        assert r2(truth.latents, model.transform(X)) > least


def test_same_data_same_fit(truth, fits):
    again = small().fit(truth.traces)
    np.testing.assert_array_equal(again.loadings_, fits["calcium"][0].loadings_)


def test_a_second_fit_compiles_nothing(truth, fits):
    import jax

    del fits
    with jax.log_compiles(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import logging

        compiled = []
        handler = logging.Handler()
        handler.emit = lambda record: compiled.append(record.getMessage())
        logger = logging.getLogger("jax")
        logger.addHandler(handler)
        try:
            small().fit(truth.traces + 0.01).transform(truth.traces)
        finally:
            logger.removeHandler(handler)
    assert not [text for text in compiled if "Compiling" in text]


def test_density_of_the_traces_as_given(truth, fits):
    """Traces in another unit have the same latents, and a log density lower by log(factor) per sample."""
    plain = fits["calcium"][0]
    scaled = small().fit(100 * truth.traces + 7)
    assert scaled.score(100 * truth.traces + 7) == pytest.approx(plain.score(truth.traces) - np.log(100), abs=1e-5)
    np.testing.assert_allclose(scaled.loadings_, plain.loadings_, atol=1e-5)
    np.testing.assert_allclose(scaled.spike_amplitude_, 100 * plain.spike_amplitude_, rtol=1e-5)
    np.testing.assert_allclose(scaled.baseline_, 100 * plain.baseline_ + 7, atol=1e-3)


def test_warm_start_goes_on_from_the_last_fit(truth):
    model = small(warm_start=True).fit(truth.traces)
    before = model.elbo_history_[-1]
    model.fit(truth.traces)
    assert model.elbo_history_[-1] > before
    cold = small().fit(truth.traces)
    assert model.elbo_history_[0] > cold.elbo_history_[0]


def test_relevance_drops_what_is_not_needed(truth):
    spare = small(n_latents=4, ard=True, max_iter=150, observation="poisson").fit(truth.spikes.astype(float))
    assert (np.diff(spare.elbo_history_) >= 0).all()
    assert spare.n_latents_ == 2
    assert spare.loadings_.shape == (8, 2)
    assert spare.transform(truth.spikes.astype(float)).shape == (250, 2)


def test_says_when_it_did_not_converge(truth):
    with pytest.warns(ConvergenceWarning, match=r"max_iter=8.*Raise max_iter"):
        small().fit(truth.traces)


# -- Latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_latents_are_orthonormal_ordered_and_signed(fits, observation):
    model, X = fits[observation]
    loadings = model.loadings_
    np.testing.assert_allclose(loadings.T @ loadings, np.eye(2), atol=1e-10)
    assert (np.diff(model.explained_variance_ratio_) <= 0).all()
    assert model.explained_variance_ratio_.sum() == pytest.approx(1.0)
    assert (loadings[np.abs(loadings).argmax(axis=0), [0, 1]] > 0).all()
    np.testing.assert_allclose(loadings @ model.mixing_, model.process_loadings_, atol=1e-10)
    mean, std = model.predict_latents(X, return_std=True)
    assert mean.shape == std.shape == (250, 2)
    assert (std > 0).all()
    np.testing.assert_array_equal(model.transform(X), mean)


def test_orthonormalisation_keeps_what_neurons_see():
    rng = np.random.default_rng(0)
    loadings, processes = rng.normal(size=(7, 3)), rng.normal(size=(50, 3))
    unit, mixing, strength = orthonormal(loadings)
    np.testing.assert_allclose(processes @ mixing.T @ unit.T, processes @ loadings.T, atol=1e-12)
    np.testing.assert_allclose((mixing**2).sum(axis=1), strength**2)  # prior variances of the latents
    flipped = orthonormal(-loadings)
    np.testing.assert_allclose(flipped[0], unit, atol=1e-12)


def test_forms(truth, fits):
    model, X = fits["calcium"]
    stack = X.reshape(5, 50, 8)
    latents = model.transform(stack)
    assert latents.shape == (5, 50, 2)
    ragged = model.transform([X[:80], X[80:]])
    assert [len(part) for part in ragged] == [80, 170]
    # Trials of a stack and the same trials named by groups are the same data.
    grouped = model.transform(X, groups=np.repeat(np.arange(5), 50))
    np.testing.assert_allclose(latents.reshape(-1, 2), grouped, atol=1e-10)
    assert np.abs(grouped - model.transform(X)).max() > 1e-3
    recording = Recording(X, sampling_rate=20.0)
    np.testing.assert_array_equal(model.transform(recording), model.transform(X))


def test_latents_run_on_over_a_gap_but_not_from_trial_to_trial(fits):
    model, X = fits["calcium"]
    time = np.arange(250) / 20.0
    time[100:] += 0.05  # one frame is missing
    gap = Recording(X, timestamps=time)
    bounds = np.array([[0, 100], [100, 250]])
    trials = Recording(X, sampling_rate=20.0, segments=Segments(bounds, np.array([0, 1])))
    whole, over_gap, apart = (model.predict_latents(x, return_std=True)[1] for x in (X, gap, trials))
    at = slice(100, 103)
    assert (over_gap[at] < apart[at]).all()
    assert (over_gap[at] > whole[at]).all()


def test_missing_samples_widen_the_posterior(fits):
    model, X = fits["calcium"]
    mask = np.ones(X.shape, bool)
    mask[100:160] = False
    changed = np.where(mask, X, np.nan)
    mean, std = model.predict_latents(Recording(changed, sampling_rate=20.0, mask=mask), return_std=True)
    assert np.isfinite(mean).all()
    assert (std[130] > 1.3 * std[50]).all()


# -- Rates ------------------------------------------------------------------------------------------------------------


def test_rates_are_those_of_the_latents(truth, fits):
    model, X = fits["calcium"]
    latents = model.transform(X)
    rates, std = model.predict_rates(X, return_std=True)
    median = 20.0 * np.exp(model.offset_ + latents @ model.loadings_.T)
    assert (rates >= median).all()  # the mean of a log-normal lies above its median
    np.testing.assert_allclose(rates, median, rtol=0.5)
    assert (std > 0).all()
    assert np.corrcoef(rates.ravel(), 20.0 * truth.rates.ravel())[0, 1] > 0.7
    spikes = model.expected_spikes(X)
    assert np.corrcoef(spikes[1:].ravel(), truth.spikes[1:].ravel())[0, 1] > 0.95


def test_units(fits):
    model, _ = fits["calcium"]
    np.testing.assert_allclose(model.timescales_, model.timescales_frames_ / 20.0)
    np.testing.assert_allclose(model.decay_time_, -0.05 / np.log(model.ar_coefs_[:, 0]))


def test_nothing_in_seconds_without_a_clock(truth, fits):
    model = small(sampling_rate=None).fit(truth.traces)
    np.testing.assert_allclose(model.loadings_, fits["calcium"][0].loadings_)
    for name in ("timescales_", "decay_time_"):
        with pytest.raises(DataError, match=f"{name} needs a sampling rate.*Pass sampling_rate .Hz. to CalciumGPFA"):
            getattr(model, name)
    with pytest.raises(DataError, match="predict_rates needs a sampling rate"):
        model.predict_rates(truth.traces)
    result = model.infer(truth.traces)
    assert "firing_rates" not in result.arrays
    assert result.parameters["timescale"].unit == "frames"


def test_what_a_linear_model_has_not(fits):
    model, X = fits["gaussian"]
    for name in ("predict_rates", "expected_spikes"):
        with pytest.raises(DataError, match=f"has no spikes, hence no {name}"):
            getattr(model, name)(X)
    with pytest.raises(DataError, match="no autoregression, hence no decay time"):
        _ = model.decay_time_


# -- Co-smoothing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_co_smoothing_does_not_look_at_what_it_predicts(fits, observation):
    model, X = fits[observation]
    held = [1, 6]
    found = model.cosmooth(X, held)
    changed = X.copy()
    changed[:, held] = X[::-1, held]
    np.testing.assert_allclose(model.cosmooth(changed, held).rates, found.rates)
    assert found.rates.shape == found.rates_std.shape == (250, 2)
    assert np.isfinite(found.bits_per_sample).all()
    mask = np.zeros(8, bool)
    mask[held] = True
    np.testing.assert_array_equal(model.cosmooth(X, mask).log_likelihood, found.log_likelihood)


def test_co_smoothing_predicts_better_than_a_constant(fits):
    model, X = fits["poisson"]
    assert leave_neuron_out(model, X, n_folds=4) > 0.02
    flat = small(observation="poisson", max_iter=8).fit(X)
    flat.process_loadings_ = np.zeros_like(flat.process_loadings_)
    flat.offset_ = np.log(X.mean(axis=0))
    np.testing.assert_allclose(flat.cosmooth(X, [0, 5]).bits_per_sample, 0.0, atol=1e-8)


@pytest.mark.parametrize("observation", ["poisson", "calcium"])
def test_neurons_predicted_to_be_anywhere_have_finite_rates(fits, observation):
    """A neuron that is left out may be far from anything it did where it was seen; exponentials overflow there."""
    model, X = fits[observation]
    wild = deepcopy(model)
    wild.process_loadings_ = model.process_loadings_.copy()
    wild.process_loadings_[[1, 6]] *= 1e3  # of the neurons left out
    found = wild.cosmooth(X, [1, 6])
    for values in (found.rates, found.rates_std, found.log_likelihood, found.bits_per_sample):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("held", [[], [8], [-9], [1, 1], [0.5], np.ones(8, bool), list(range(8)), "a"])
def test_bad_held_out_neurons(fits, held):
    model, X = fits["calcium"]
    with pytest.raises(DataError, match="held_out"):
        model.cosmooth(X, held)


def test_model_selection_over_trials_and_neurons(truth):
    trials = truth.spikes.astype(float).reshape(5, 50, 8)
    search = GridSearchCV(
        small(observation="poisson", max_iter=5),
        {"n_latents": [2]},
        cv=KFold(2),
        scoring={"bound": lambda model, X, y=None: model.score(X), "neurons": leave_neuron_out},
        refit=False,
    ).fit(trials)
    assert np.isfinite(search.cv_results_["mean_test_bound"]).all()
    assert np.isfinite(search.cv_results_["mean_test_neurons"]).all()


# -- Samples, results, files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_sample(fits, observation):
    model, _ = fits[observation]
    traces, latents, spikes = model.sample(30, random_state=1)
    assert traces.shape == (30, 8)
    assert latents.shape == (30, 2)
    assert spikes.shape == (30, 8 if observation in ("calcium", "poisson") else 0)
    np.testing.assert_array_equal(model.sample(30, random_state=1)[0], traces)
    with pytest.raises(ValueError, match="n=0; expected at least one frame"):
        model.sample(0)


def test_samples_follow_the_model(fits):
    model, _ = fits["calcium"]
    _, latents, spikes = model.sample(20_000, random_state=0)
    np.testing.assert_allclose(latents.var(axis=0), (model.mixing_**2).sum(axis=1), rtol=0.25)
    rates = np.exp(model.offset_ + latents @ model.loadings_.T)
    np.testing.assert_allclose(spikes.mean(axis=0), rates.mean(axis=0), rtol=0.05)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_result_and_files(fits, observation, tmp_path):
    model, X = fits[observation]
    recording = Recording(X, sampling_rate=20.0, roi_ids=list("abcdefgh"))
    result = model.infer(recording)
    np.testing.assert_array_equal(result["latents"], model.transform(recording))
    for name, array in {**result.arrays, **result.parameters}.items():
        assert np.ndim(array.values) == len(array.dims), name
        assert np.isfinite(array.values).all(), name
    path = write_nwb(result, tmp_path / "out.nwb", source=recording, name="smooth")
    back = read_results(path, "smooth")
    np.testing.assert_allclose(back["latents"], result["latents"])
    np.testing.assert_allclose(back["latents_std"], result["latents_std"])
    restored = CalciumGPFA.from_nwb(path)
    saved = load_model(model.save(tmp_path / "model"))
    for copy in (restored, saved):
        np.testing.assert_allclose(copy.transform(recording), model.transform(recording))
        assert copy.score(X) == pytest.approx(model.score(X))


@pytest.mark.parametrize("method", ["transform", "predict_latents", "predict_rates", "score", "infer"])
def test_unfitted(truth, method):
    with pytest.raises(NotFittedError):
        getattr(small(), method)(truth.traces)
    with pytest.raises(NotFittedError):
        small().cosmooth(truth.traces, [0])
