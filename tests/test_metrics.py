"""Metrics: matching, agreement, dwell times, event-aligned fractions, and the one-standard-error rule."""

from itertools import permutations

import numpy as np
import pytest

from nwb_calcium_lvm import metrics
from nwb_calcium_lvm.provenance import Segments


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def noisy_copy(states, n_states, rng, wrong=0.2):
    return np.where(rng.random(states.shape) < wrong, rng.integers(n_states, size=states.shape), states)


def test_match_undoes_any_renaming(rng):
    true = rng.integers(5, size=400)
    names = rng.permutation(5)
    match = metrics.match_states(true, names[true])
    np.testing.assert_array_equal(match[names[true]], true)


def test_match_is_the_best_of_all_permutations(rng):
    true = rng.integers(4, size=100)
    found = noisy_copy(rng.permutation(4)[true], 4, rng, wrong=0.6)
    best = max(np.mean(np.array(p)[found] == true) for p in permutations(range(4)))
    assert metrics.state_accuracy(true, found) == pytest.approx(best)


def test_more_states_found_than_there_are_agree_with_nothing():
    match = metrics.match_states([0, 0, 0, 1, 1, 1], [0, 0, 2, 1, 1, 3])
    assert match.tolist() == [0, 1, 2, 3]
    assert metrics.state_accuracy([0, 0, 0, 1, 1, 1], [0, 0, 2, 1, 1, 3]) == pytest.approx(4 / 6)


def test_fewer_states_found_than_there_are():
    match = metrics.match_states([0, 1, 1, 2, 2, 2], [0, 1, 1, 1, 1, 1])
    assert match.tolist() == [0, 2]


def test_states_never_visited_have_a_label_of_their_own():
    match = metrics.match_states([0, 0, 1], [3, 3, 0], n_states=5)
    assert match[3] == 0
    assert match[0] == 1
    assert sorted(match.tolist()) == [0, 1, 2, 3, 4]


def test_match_from_the_training_half_is_applied_as_it_is(rng):
    true = rng.integers(3, size=90)
    assert metrics.state_accuracy(true, true, match=[1, 2, 0]) == 0.0
    with pytest.raises(ValueError, match=r"found has state 2 but match has 2 entries.*n_states"):
        metrics.state_accuracy(true, true, match=[0, 1])


def test_correlation_is_pearson_of_matched_labels(rng):
    true = rng.integers(4, size=300)
    found = noisy_copy(true, 4, rng)
    assert metrics.state_correlation(true, 3 - found) == pytest.approx(np.corrcoef(true, found)[0, 1])
    assert np.isnan(metrics.state_correlation(true, np.zeros_like(true)))


def test_confusion_counts_every_frame(rng):
    true, found = rng.integers(3, size=50), rng.integers(5, size=50)
    counts = metrics.confusion_matrix(true, found, 3, 6)
    assert counts.shape == (3, 6)
    assert counts.sum() == 50
    assert counts[1, 4] == np.sum((true == 1) & (found == 4))


def test_rate_correlation(rng):
    rates = rng.random((50, 3))
    found = metrics.rate_correlation(rates, 4 * rates + 1)
    assert found.overall == pytest.approx(1.0)
    np.testing.assert_allclose(found.per_roi, 1.0)
    mixed = metrics.rate_correlation(rates, np.column_stack([rates[:, 0], -rates[:, 1], np.ones(50)]))
    np.testing.assert_allclose(mixed.per_roi, [1.0, -1.0, np.nan])


def test_dwell_times_add_up_and_respect_breaks():
    states = np.array([0, 0, 1, 1, 1, 0, 2, 2])
    found = metrics.dwell_times(states)
    assert found.state.tolist() == [0, 1, 0, 2]
    assert found.duration.tolist() == [2, 3, 1, 2]
    np.testing.assert_allclose(found.mean(4), [1.5, 3, 2, np.nan])
    broken = metrics.dwell_times(states, sampling_rate=10.0, segments=Segments(np.array([[0, 4], [4, 8]])))
    np.testing.assert_allclose(broken.duration, [0.2, 0.2, 0.1, 0.1, 0.2])
    trials = metrics.dwell_times(np.zeros((3, 4), int))
    assert trials.duration.tolist() == [4, 4, 4]


def test_occupancy():
    np.testing.assert_allclose(metrics.occupancy([0, 0, 1, 0], n_states=3), [0.75, 0.25, 0.0])


def test_fraction_in_states_of_labels_and_of_probabilities(rng):
    states = rng.integers(3, size=(20, 7))
    fraction = metrics.fraction_in_states(states, 4)
    assert fraction.shape == (7, 4)
    np.testing.assert_allclose(fraction.sum(axis=1), 1.0)
    assert fraction[2, 1] == np.mean(states[:, 2] == 1)
    np.testing.assert_allclose(metrics.fraction_in_states(np.eye(4)[states]), fraction)


def test_peak_and_width_of_a_triangle_and_of_a_gaussian():
    time = np.linspace(0.0, 20.0, 81)
    triangle = np.maximum(0.0, 1.0 - np.abs(time - 10.0) / 4.0)
    peak = metrics.peak_and_width(0.8 * triangle, time)
    assert peak == pytest.approx((10.0, 0.8, 4.0))
    gaussian = np.exp(-0.5 * ((time - 8.0) / 1.5) ** 2)
    assert metrics.peak_and_width(gaussian, time).width == pytest.approx(2 * np.sqrt(2 * np.log(2)) * 1.5, rel=1e-2)
    rising = metrics.peak_and_width([0.0, 0.5, 1.0], [0.0, 1.0, 2.0])
    assert rising == pytest.approx((2.0, 1.0, 1.0))
    assert metrics.peak_and_width(np.zeros(3), np.arange(3.0)) == pytest.approx((np.nan, 0.0, np.nan), nan_ok=True)


def test_one_standard_error_choice_prefers_the_simple():
    scores = np.array([[0.0, 0.2, 0.1], [0.9, 1.1, 1.0], [0.95, 1.15, 1.05], [0.5, 0.7, 0.6]])
    assert metrics.one_standard_error_choice(scores) == 1
    np.testing.assert_allclose(metrics.standard_error(scores), 0.1 / np.sqrt(3))
    assert metrics.one_standard_error_choice(scores + np.array([[0], [0], [1], [0]])) == 2


def test_one_fold_has_no_error_and_missing_folds_do_not_count():
    assert metrics.one_standard_error_choice([[0.0], [2.0], [1.9]]) == 1
    scores = np.array([[1.0, np.nan, 3.0]])
    np.testing.assert_allclose(metrics.standard_error(scores), [np.sqrt(2.0) / np.sqrt(2.0)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.match_states([0, 1], [0, 1, 2]), r"shape \(2,\) and found \(3,\)"),
        (lambda: metrics.match_states([], []), "not empty|not state labels"),
        (lambda: metrics.match_states([0.5, 1], [0, 1]), "true .* not state labels.*argmax"),
        (lambda: metrics.state_accuracy([0, -1], [0, 1]), "from 0"),
        (lambda: metrics.match_states([0, 1], [0, 3], n_states=2), "n_states=2 but there is a state 3"),
        (lambda: metrics.rate_correlation(np.ones(3), np.ones(3)), r"expected the same shape, \(time, roi\)"),
        (lambda: metrics.fraction_in_states([0, 1]), r"expected \(trial, time\)"),
        (lambda: metrics.peak_and_width([1, 2], [1, 2, 3]), "one value per time"),
        (lambda: metrics.one_standard_error_choice([1.0, 2.0]), r"expected \(model, fold\)"),
    ],
)
def test_bad_input_is_answered_with_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()
