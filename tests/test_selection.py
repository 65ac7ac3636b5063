"""Choosing the number of states: held-out scores, the one-standard-error rule, and folds that cannot be made."""

import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut

from nwb_calcium_lvm import CalciumHMM, Recording
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.hmm import Selection, select_n_states
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def trials():
    session = hmm_experiment(
        n_states=2, n_rois=6, n_frames=400, rate_on=0.8, stay=0.97, measurement_sd=0.0, random_state=3
    )
    return list(session.traces.reshape(4, 100, 6))


def small(**options):
    return CalciumHMM(**{"n_init": 1, "max_iter": 15, "random_state": 0, **options})


def test_finds_the_number_of_states(trials):
    found = select_n_states(small(), trials, (1, 2, 3), cv=2)
    assert found.scores.shape == (1, 3, 2)
    assert found.chosen == {"calcium": 2}
    assert found.mean[0, 1] > found.mean[0, 0]


def test_compares_observation_models(trials):
    found = select_n_states(small(), trials, [1], observations=("gaussian", "ar_gaussian"), cv=2)
    assert found.observations == ("gaussian", "ar_gaussian")
    by_hand = small(n_states=1, observation="ar_gaussian").fit(trials[2:]).score(trials[:2])
    assert found.scores[1, 0, 0] == by_hand
    assert found.mean[1, 0] > found.mean[0, 0]  # calcium has a memory


def test_scores_are_those_of_fits_by_hand(trials):
    found = select_n_states(small(), trials, [2], cv=2)
    first = small(n_states=2).fit(trials[2:]).score(trials[:2])
    second = small(n_states=2).fit(trials[:2]).score(trials[2:])
    np.testing.assert_array_equal(found.scores, [[[first, second]]])


def test_every_form_of_trials_gives_the_same(trials):
    expected = select_n_states(small(), trials, [1, 2], cv=2).scores
    edges = np.arange(0, 500, 100)
    segments = Segments(np.column_stack([edges[:-1], edges[1:]]), np.arange(4))
    for form in (np.stack(trials), Recording(np.concatenate(trials), segments=segments)):
        np.testing.assert_array_equal(select_n_states(small(), form, [1, 2], cv=np.int64(2)).scores, expected)


def test_takes_a_splitter_and_leaves_the_estimator_alone(trials):
    model = small(n_states=7)
    found = select_n_states(model, trials, [1], cv=LeaveOneOut())
    assert found.scores.shape == (1, 1, 4)
    assert model.n_states == 7
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize(("n_trials", "cv"), [(4, 5), (1, 2), (0, 2)])
def test_more_folds_than_trials(trials, n_trials, cv):
    with pytest.raises(DataError, match=f"{n_trials} trials for {cv} folds.*blocks"):
        select_n_states(small(), trials[:n_trials], [1, 2], cv=cv)


def test_one_fold_has_no_spread(trials):
    class Once:
        def get_n_splits(self, X):
            return 1

    with pytest.raises(DataError, match="1 folds; expected 2 folds or more"):
        select_n_states(small(), trials, [1, 2], cv=Once())


def test_nothing_to_try(trials):
    with pytest.raises(DataError, match="n_states is empty"):
        select_n_states(small(), trials, [])


def test_one_standard_error_rule():
    """Paired differences to the best, 4 states, are 2 ± 2 for 2 states and 1 ± 2 for 3: sd/√2 is 2 for both."""
    scores = np.array([[[0.0, 0.0], [8.0, 4.0], [9.0, 5.0], [10.0, 6.0]]])
    scores[0, 1] = [6.0, 6.0]  # differences 4, 0: mean 2, standard error 2
    scores[0, 2] = [9.0, 5.0]  # differences 1, 1: mean 1, standard error 0
    found = Selection((1, 2, 3, 4), ("calcium",), scores)
    np.testing.assert_allclose(found.mean, [[0, 6, 7, 8]])
    np.testing.assert_allclose(found.standard_error, [[2, 2, 0, 0]])
    assert found.best == {"calcium": 4}
    assert found.chosen == {"calcium": 2}


def test_takes_more_states_where_each_fold_asks_for_them():
    """Folds differ by 100, the gain of a state is 1 in each: a plain standard error would hide it."""
    scores = np.array([[[0.0, 100.0, 200.0], [1.0, 101.0, 201.0]]])
    assert Selection((2, 3), ("calcium",), scores).chosen == {"calcium": 3}


def test_smallest_number_whatever_the_order():
    scores = np.array([[[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]])
    found = Selection((5, 3, 2), ("calcium",), scores)
    assert found.best == {"calcium": 5}
    assert found.chosen == {"calcium": 3}


def test_rules_hold_per_model():
    scores = np.array([[[0.0, 0.0], [5.0, 5.0]], [[5.0, 5.0], [0.0, 0.0]]])
    assert Selection((2, 3), ("calcium", "gaussian"), scores).chosen == {"calcium": 3, "gaussian": 2}


def test_table():
    scores = np.arange(12.0).reshape(2, 2, 3)
    table = Selection((2, 3), ("calcium", "gaussian"), scores).to_pandas()
    assert list(table.columns) == ["observation", "n_states", "fold", "score"]
    row = table[(table.observation == "gaussian") & (table.n_states == 3) & (table.fold == 1)]
    assert row.score.item() == scores[1, 1, 1]
    assert len(table) == 12
