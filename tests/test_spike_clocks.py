"""Traces and counts on other clocks: brute force, sums that must be kept, there and back."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nwb_calcium_lvm.spikes.clocks import average_over, count_over, frame_edges, grid_edges, grid_over, integrate_over


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_frame_edges_lie_half_way():
    np.testing.assert_allclose(frame_edges(np.array([0.0, 1.0, 3.0])), [-0.5, 0.5, 2.0, 4.0])
    with pytest.raises(ValueError, match="one frame alone"):
        frame_edges(np.array([1.0]))


@pytest.mark.parametrize("rate", [3.0, 7.5, 30.0, 50.0, 157.0])
def test_averages_by_brute_force(rng, rate):
    times = np.sort(rng.uniform(0, 10, 200))
    values = rng.normal(size=(200, 2))
    edges = grid_edges(1.0, int(8 * rate), rate)
    found = average_over(values, times, edges)
    for i in rng.integers(len(edges) - 1, size=10):
        fine = np.linspace(edges[i], edges[i + 1], 20001)
        for roi in range(2):
            assert found[i, roi] == pytest.approx(np.interp(fine, times, values[:, roi]).mean(), abs=2e-4)


def test_ends_are_held():
    times, values = np.array([0.0, 1.0, 2.0]), np.array([3.0, 0.0, 5.0])
    np.testing.assert_allclose(average_over(values, times, np.array([-4.0, -2.0, 0.0])), [3.0, 3.0])
    np.testing.assert_allclose(average_over(values, times, np.array([2.0, 2.5, 9.0])), [5.0, 5.0])


def test_a_straight_line_stays_one(rng):
    times = np.arange(100) / 30
    edges = grid_edges(0.5, 100, 50.0)
    found = average_over(2.0 * times, times, edges)
    np.testing.assert_allclose(found, edges[1:] + edges[:-1], atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=40),
    st.lists(st.floats(-5.0, 25.0), min_size=2, max_size=30, unique=True),
)
def test_integrals_add_up(rates, edges):
    edges = np.sort(edges)
    rates = np.array(rates)
    limits = np.arange(len(rates) + 1) / 2
    parts = integrate_over(rates, limits, edges)
    whole = integrate_over(rates, limits, edges[[0, -1]])
    np.testing.assert_allclose(parts.sum(), whole[0], atol=1e-8)
    assert (parts >= -1e-9).all()


def test_integrals_by_brute_force(rng):
    rates = rng.random((30, 2))
    limits = np.arange(31) / 10
    edges = np.array([-1.0, 0.03, 0.5, 0.55, 2.99, 7.0])
    fine = np.arange(0.00005, 3.0, 0.0001)
    per_point = rates[(fine * 10).astype(int)] * 1e-4
    expected = [per_point[(fine >= a) & (fine < b)].sum(axis=0) for a, b in pairwise(edges)]
    np.testing.assert_allclose(integrate_over(rates, limits, edges), expected, atol=1e-3)


def test_counts_keep_every_spike(rng):
    spikes = np.sort(rng.uniform(0, 10, 300))
    counts = count_over(spikes, np.linspace(0, 10, 77))
    assert counts.sum() == 300
    np.testing.assert_array_equal(counts, np.histogram(spikes, np.linspace(0, 10, 77))[0])


def test_a_spike_at_a_limit_belongs_to_what_begins_there():
    np.testing.assert_array_equal(count_over(np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])), [1, 2])


def test_one_frame_alone_is_held():
    np.testing.assert_array_equal(average_over(np.array([[2.0, 3.0]]), np.array([7.0]), np.arange(4.0)), [[2, 3]] * 3)


@pytest.mark.parametrize(
    ("times", "n"), [([4.0], 1), ([0.0, 0.1, 0.3], 16), ([0.0, 0.1 + 0.2], 16), ([0.0, 0.301], 17)]
)
def test_a_grid_reaches_from_the_first_frame_to_the_last(times, n):
    edges = grid_over(np.array(times), 50.0)
    middle = 0.5 * (edges[1:] + edges[:-1])
    assert len(middle) == n
    assert middle[0] == pytest.approx(times[0])
    assert middle[-1] > times[-1] - 1e-9
    np.testing.assert_allclose(np.diff(edges), 0.02)
