"""CalciumHMM and CalciumGPFA as scikit-learn estimators: its own checks, pipelines, searches, copies."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwb_calcium_lvm import CalciumGPFA, CalciumHMM
from nwb_calcium_lvm.simulate import hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

_NEIGHBOURS = "a frame is judged by its neighbours in time too, so that order and context matter"
_EXPECTED_FAILURES = {
    "check_methods_sample_order_invariance": _NEIGHBOURS,
    "check_methods_subset_invariance": _NEIGHBOURS,
}


@parametrize_with_checks(
    [
        CalciumHMM(n_states=2, n_init=1, max_iter=5, max_spikes_per_frame=8),
        CalciumGPFA(n_latents=1, n_init=1, max_iter=3),
    ],
    expected_failed_checks=lambda _: _EXPECTED_FAILURES,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def session():
    return hmm_experiment(n_states=2, n_rois=4, n_frames=200, rate_on=0.6, measurement_sd=0.0, random_state=0)


@pytest.fixture(scope="module")
def traces(session):
    return session.traces


def small(**options):
    return CalciumHMM(
        **{"n_states": 2, "n_init": 1, "max_iter": 5, "random_state": 0, "max_spikes_per_frame": 8, **options}
    )


def test_clone_and_parameters():
    model = small(stickiness=3.0, observation="gaussian")
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert set(model.get_params()) >= {"n_states", "observation", "ar_order", "solver", "sampling_rate"}
    assert CalciumHMM().get_params()["n_states"] == 3
    assert model.set_params(n_states=4).n_states == 4


def test_a_constructor_checks_nothing_and_a_fit_changes_no_parameter(traces):
    CalciumHMM(n_states=-1)
    model = small()
    before = model.get_params()
    model.fit(traces)
    assert model.get_params() == before


def test_output_as_pandas(traces):
    frame = pd.DataFrame(traces, columns=list("abcd"), index=np.arange(200) / 10)
    model = small().set_output(transform="pandas").fit(frame)
    probs = model.transform(frame)
    assert list(probs.columns) == list(model.get_feature_names_out()) == ["calciumhmm0", "calciumhmm1"]
    pd.testing.assert_index_equal(probs.index, frame.index)
    np.testing.assert_array_equal(model.feature_names_in_, frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c", "d"]])


def test_pipeline_into_a_classifier(session):
    pipeline = make_pipeline(small(max_iter=20), LogisticRegression())
    pipeline.fit(session.traces, session.states)
    assert pipeline.score(session.traces, session.states) > 0.8


def test_fit_transform_minds_groups(traces):
    groups = np.repeat([0, 1, 2, 3], 50)
    together = small().fit_transform(traces, groups=groups)
    apart = small().fit(traces, groups=groups).transform(traces, groups=groups)
    np.testing.assert_array_equal(together, apart)
    assert not np.array_equal(together, small().fit(traces, groups=groups).transform(traces))


def test_grid_search_over_trials(traces):
    search = GridSearchCV(small(), {"n_states": [1, 2]}, cv=KFold(2)).fit(traces.reshape(4, 50, 4))
    assert search.best_params_ == {"n_states": 2}
    assert search.predict(traces.reshape(4, 50, 4)).shape == (4, 50)


def test_grid_search_over_frames_with_groups(traces):
    groups = np.repeat([0, 1, 2, 3], 50)
    search = GridSearchCV(small(), {"n_states": [1, 2]}, cv=GroupKFold(2)).fit(traces, groups=groups)
    assert search.best_params_ == {"n_states": 2}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_metadata_routing_hands_groups_to_fit_and_score(traces):
    groups = np.repeat([0, 1, 2, 3], 50)
    with sklearn.config_context(enable_metadata_routing=True):
        search = GridSearchCV(small(), {"n_states": [2]}, cv=GroupKFold(2), refit=False).fit(traces, groups=groups)
    by_hand = []
    for train, test in GroupKFold(2).split(traces, groups=groups):
        model = small().fit(traces[train], groups=groups[train])
        by_hand.append(model.score(traces[test], groups=groups[test]))
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(by_hand), rel=1e-12)


def test_cross_validation_over_ragged_trials(traces):
    trials = [traces[:40], traces[40:100], traces[100:130], traces[130:]]
    scores = cross_val_score(small(), trials, cv=2, error_score="raise")
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


def test_pickle_and_joblib(traces, tmp_path):
    model = small().fit(traces)
    joblib.dump(model, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(copy.predict_proba(traces), model.predict_proba(traces))


def test_works_in_threads(traces):
    fits = joblib.Parallel(n_jobs=2, prefer="threads")(joblib.delayed(small().fit)(traces) for _ in range(2))
    alone = small().fit(traces)
    for fit in fits:
        np.testing.assert_array_equal(fit.spikes_per_frame_, alone.spikes_per_frame_)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "filter_proba", "transform", "score", "infer", "bic"])
def test_unfitted(traces, method):
    with pytest.raises(NotFittedError):
        getattr(small(), method)(traces)


def test_unfitted_properties_and_saving(tmp_path):
    for name in ("firing_rates_", "influx_", "decay_time_", "dwell_time_", "rate_calibrated_"):
        assert not hasattr(small(), name)
    with pytest.raises(NotFittedError):
        small().sample(3)
    with pytest.raises(NotFittedError):
        small().save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_says_when_it_did_not_converge(traces):
    with pytest.warns(ConvergenceWarning, match=r"max_iter=2.*Raise max_iter"):
        small(max_iter=2).fit(traces)
