"""Baseline, scale and noise of traces, and training examples cut from them."""

import numpy as np
import pytest

from nwb_calcium_lvm import Recording
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.preprocessing import noise_level
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import DEFAULT, PUBLISHED
from nwb_calcium_lvm.spikes.calibration import Calibration, count_interval, find_dispersion, find_gain
from nwb_calcium_lvm.spikes.examples import Augmentation, draw_batch, draw_example, sampling_weights
from nwb_calcium_lvm.spikes.learning import neurons_of
from nwb_calcium_lvm.spikes.traces import conditions_of, noise_of, noise_to_reach, scale_of
from nwb_calcium_lvm.spikes.training import cut_of

PLAIN = Augmentation(resampled=0.0, noisier=0.0, unit_lost=0.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def whole(n):
    return Segments(np.array([[0, n]]))


def sparse(rng, n=6000, rate=30.0, noise=0.05, level=0.4):
    counts = rng.poisson(0.005, n)
    trace = np.convolve(counts, 0.5 * np.exp(-np.arange(60) / (0.4 * rate)))[:n]
    return (trace + level + noise * rng.normal(size=n))[:, None], counts[:, None]


def test_baseline_is_that_of_the_quiet_trace(rng):
    for noise in (0.001, 0.05, 0.2):
        x, _ = sparse(rng, noise=noise)
        scale = scale_of(x, np.ones(x.shape, bool), whole(len(x)), 30.0, "dff")
        assert scale.baseline[0] == pytest.approx(0.4, abs=0.02 + 0.1 * noise)
        assert scale.divisor[0] == 1.0
        assert scale.noise[0] == pytest.approx(noise, rel=0.1, abs=5e-4)


def test_scale_is_taken_off_where_the_unit_is_unknown(rng):
    x, _ = sparse(rng)
    mask = np.ones(x.shape, bool)
    one, other = (scale_of(k * x, mask, whole(len(x)), 30.0, "unknown") for k in (1.0, 50.0))
    np.testing.assert_allclose(other.divisor, 50 * one.divisor)
    np.testing.assert_allclose(other.noise / other.divisor, one.noise / one.divisor)
    z = scale_of(x, mask, whole(len(x)), 30.0, "zscore")
    np.testing.assert_allclose([z.baseline[0], z.divisor[0]], [x.mean(), x.std()])


def test_interpolated_traces_are_taken_for_the_slower_ones_they_were(rng):
    slow = 0.1 * rng.normal(size=800)
    fast = np.interp(np.arange(10000) / 100, np.arange(800) / 8, slow)[:, None]
    noise, rate = noise_of(fast, np.ones(fast.shape, bool), whole(len(fast)), 100.0)
    assert rate[0] == pytest.approx(10.0)
    assert 0.04 < noise[0] < 0.12  # interpolation has taken some of it, but steps between frames say 0.008
    plain = 0.1 * rng.normal(size=(10000, 1))
    noise, rate = noise_of(plain, np.ones(plain.shape, bool), whole(len(plain)), 100.0)
    assert rate[0] == 100.0
    assert noise[0] == pytest.approx(0.1, rel=0.05)


def test_what_is_told_of_a_trace(rng):
    x = 0.05 * rng.normal(size=(20000, 1))
    told = conditions_of(np.array([0.05]), 30.0, "unknown")[0]
    assert np.exp(told[0]) == pytest.approx(noise_level(x, 30.0)[0], rel=0.03)
    np.testing.assert_allclose(told[1:], [0.0, 1.0])
    added = noise_to_reach(4.0, float(np.exp(told[0])), 30.0)
    assert noise_level(x + added * rng.normal(size=x.shape), 30.0)[0] == pytest.approx(4.0, rel=0.03)


def test_an_example_is_the_recording_on_the_networks_clock(rng):
    x, counts = sparse(rng, noise=0.0)
    recording = Recording(x, sampling_rate=30.0)
    edges = (np.arange(len(x) + 1) - 0.5) / 30
    spikes = np.repeat(edges[:-1] + 1 / 60, counts[:, 0])
    config = DEFAULT.changed(target_sd=0.0)
    cut = cut_of(config)
    (neuron,) = neurons_of([recording], [[spikes]], ["a"], config)
    batch = draw_batch([neuron], np.ones(1), cut, PLAIN, 64, rng)
    assert batch.traces.shape == batch.targets.shape == (64, cut.length)
    assert set(np.unique(batch.weight)) == {0.0, 1.0}
    assert not batch.weight[:, : cut.before].any()
    # Every spike is a count of one, and stands where the trace begins to rise.
    assert set(np.round(np.unique(batch.targets) / cut.rate)) <= {0.0, 1.0, 2.0}
    rise = np.mean(
        [np.correlate(np.diff(t), c[1:], "full") for t, c in zip(batch.traces, batch.targets, strict=True)], 0
    )
    assert abs(np.argmax(rise) - (cut.length - 2)) <= 2
    assert neuron.spread == pytest.approx(np.var(batch.targets), rel=0.5)


def test_examples_are_made_noisier_and_slower(rng):
    x, counts = sparse(rng, noise=0.02)
    recording = Recording(x, sampling_rate=30.0)
    (neuron,) = neurons_of([recording], [[np.flatnonzero(counts[:, 0]) / 30]], ["a"], DEFAULT)
    loud = Augmentation(resampled=1.0, noisier=1.0, unit_lost=0.0)
    told = np.array([draw_example(neuron, cut_of(DEFAULT), loud, rng)[3] for _ in range(200)])
    nu, rate = np.exp(told[:, 0]), 30 * np.exp(told[:, 1])
    assert nu.max() > 5
    assert nu.max() < 8.5
    assert (rate <= 30.001).all()
    assert rate.min() < 8


def test_groups_are_drawn_by_the_root_of_their_size(rng):
    x, counts = sparse(rng, n=600)
    spikes = [np.flatnonzero(counts[:, 0]) / 30]
    recording = Recording(x, sampling_rate=30.0)
    neurons = neurons_of([recording] * 5, [spikes] * 5, ["big"] * 4 + ["small"], DEFAULT)
    weights = sampling_weights(neurons)
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:4].sum() / weights[4] == pytest.approx(2.0)
    np.testing.assert_allclose(sampling_weights(neurons, 1.0), 0.2)


def test_the_published_target_is_cut_off():
    cut = cut_of(PUBLISHED)
    assert (cut.rate, cut.length, cut.target_sd, cut.target_reach) == (100.0, 1000, 0.05, 5)


def test_examples_of_one_second_are_learned_from_to_their_ends(rng):
    with pytest.raises(DataError, match="leaves nothing to learn from"):
        cut_of(PUBLISHED.changed(seconds=1.0))
    config = PUBLISHED.changed(seconds=1.0, margins=False)
    cut = cut_of(config)
    assert (cut.length, cut.before, cut.after) == (100, 0, 0)
    x, counts = sparse(rng)
    (neuron,) = neurons_of([Recording(x, sampling_rate=30.0)], [[np.flatnonzero(counts[:, 0]) / 30]], ["a"], config)
    assert draw_batch([neuron], np.ones(1), cut, PLAIN, 8, rng).weight.min() == 1.0


def test_gain_and_dispersion(rng):
    true = np.array([10.0, 20.0, 30.0, 100.0])
    assert find_gain(true / 2, true, np.array(["a", "a", "b", "c"])) == pytest.approx(2.0)
    assert find_gain(np.zeros(4), true, np.array(list("aabc"))) == 1.0
    mean = [rng.gamma(2.0, 2.0, 5000) for _ in range(3)]
    counts = [rng.negative_binomial(2.0, 2.0 / (2.0 + m)).astype(float) for m in mean]
    assert find_dispersion(mean, counts) == pytest.approx(0.5, rel=0.1)
    poisson = [rng.poisson(m).astype(float) for m in mean]
    assert find_dispersion(mean, poisson) < 0.03
    for dispersion, drawn in ((0.5, counts), (0.0, poisson)):
        low, high = count_interval(mean[0], dispersion, 0.1)
        assert 0.88 < np.mean((drawn[0] >= low) & (drawn[0] <= high)) < 0.99


def test_dispersion_between_windows():
    calibration = Calibration(1.0, np.array([0.1, 1.0]), np.array([1.0, 0.25]), 3)
    assert calibration.dispersion_at(0.01) == pytest.approx(1.0)
    assert calibration.dispersion_at(np.sqrt(0.1)) == pytest.approx(0.5)
