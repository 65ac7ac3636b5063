"""Every formula of spike inference against another way to it: plain NumPy, sums written out, other libraries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _spike_networks import TINY, random_weights, untrained
from flax import nnx
from scipy.stats import nbinom, norm, poisson
from sklearn.metrics import log_loss

from nwb_calcium_lvm import Recording, S2SSpikeEstimator
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import DEFAULT, PUBLISHED, inference
from nwb_calcium_lvm.spikes.calibration import WINDOWS, Calibration, count_interval, find_dispersion, find_gain
from nwb_calcium_lvm.spikes.examples import smooth
from nwb_calcium_lvm.spikes.inference import Networks, fine_rates, rates_of
from nwb_calcium_lvm.spikes.inputs import frame_durations, spike_times, take
from nwb_calcium_lvm.spikes.interpretation import windowed
from nwb_calcium_lvm.spikes.losses import correlation, entropy_loss, pearson_loss, squared_loss
from nwb_calcium_lvm.spikes.traces import conditions_of, noise_of, scale_of
from nwb_calcium_lvm.spikes.training import cut_of


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def whole(n):
    return Segments(np.array([[0, n]]))


# -- Networks ---------------------------------------------------------------------------------------------------------


def by_hand(network, traces, told):
    """A default network written out: time by time, tap by tap, in double precision."""
    shape = network.shape
    s, c = shape.stride, shape.channels
    x = np.asarray(traces, float) / shape.input_scale
    strides = x.reshape(len(x), -1, s)
    n = strides.shape[1]

    def value(p):
        return np.asarray(p[...], float)

    def at(h, t):
        return h[:, t] if 0 <= t < n else np.zeros((len(h), h.shape[2]))

    def filtered(h, kernel, ahead):
        taps = len(kernel)
        out = np.zeros((len(h), n, kernel.shape[2]))
        for t in range(n):
            for k in range(taps):  # the last tap lies `ahead` strides after the present
                out[:, t] += at(h, t + ahead - (taps - 1 - k)) @ kernel[k]
        return out

    taps_in, taps_out = shape.analysis_width // s, shape.synthesis_width // s
    ahead_in = shape.lookahead // s if shape.causal else taps_in // 2
    ahead_out = 0 if shape.causal else (taps_out - 1) // 2
    h = np.maximum(filtered(strides, value(network.analysis.kernel), ahead_in), 0)
    for block in network.blocks:
        d = block.dilation
        offsets = (-2 * d, -d, 0) if shape.causal else (-d, 0, d)
        together = np.stack([np.concatenate([at(h, t + o) for o in offsets], axis=1) for t in range(n)], axis=1)
        mixed = together @ value(block.mix.kernel) + value(block.mix.bias)
        if block.modulate is not None:
            both = told @ value(block.modulate.kernel) + value(block.modulate.bias)
            mixed = mixed * (1 + both[:, None, :c]) + both[:, None, c:]
        h = h + np.maximum(mixed, 0) @ value(block.out.kernel) + value(block.out.bias)
    y = filtered(h, value(network.synthesis.kernel), ahead_out).reshape(x.shape)
    return np.log1p(np.exp(y + value(network.offset)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
def test_the_default_network_by_its_equations(causal, conditioned, rng):
    config = DEFAULT.changed(
        channels=4, dilations=(1, 3), causal=causal, conditioned=conditioned, lookahead=8 if causal else 0
    )
    network = nnx.merge(*random_weights(config))
    traces, told = rng.normal(size=(2, 96)), rng.normal(size=(2, 3))
    found = network(jnp.asarray(traces, jnp.float32), jnp.asarray(told, jnp.float32))
    np.testing.assert_allclose(found, by_hand(network, traces, told), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("sd", "reach"), [(0.05, 5), (0.10, 16), (0.11, 16)])
def test_the_published_targets(sd, reach):
    """11 samples of sd 5 at 100 Hz in the paper, 33 of 10 in its code, 33 of 11 in its ablation."""
    cut = cut_of(PUBLISHED.changed(target_sd=sd, target_reach=reach))
    pulse = np.zeros(201)
    pulse[100] = 100.0
    found = smooth(pulse, cut)
    expected = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (100 * sd)) ** 2)
    assert np.count_nonzero(found) == 2 * reach + 1
    np.testing.assert_allclose(found[100 - reach : 101 + reach], 100 * expected / expected.sum(), rtol=1e-9)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_published_configuration_learns(layers, rng):
    counts = rng.poisson(0.02, (1500, 3))
    x = np.stack([np.convolve(c, np.exp(-np.arange(60) / 15))[:1500] for c in counts.T], axis=1)
    config = PUBLISHED.changed(dense_layers=layers, steps=30, check_every=15, batch_size=4)
    s2s = S2SSpikeEstimator(config=config, sampling_rate=30.0, random_state=0).fit(x, counts)
    assert s2s.score(x, counts, metric="smooth_pearson") > 0.5


def test_the_same_seed_gives_the_same_weights(rng):
    x, y = rng.normal(size=(900, 2)) / 10, rng.poisson(0.05, (900, 2))
    config = TINY.changed(steps=2, check_every=2, batch_size=2, seconds=6.0, n_members=2)
    one, same = (S2SSpikeEstimator(config=config, sampling_rate=30.0, random_state=3).fit(x, y) for _ in range(2))
    leaves = [jax.tree.leaves(e.networks_.members) for e in (one, same)]
    assert all(np.abs(a - b).max() <= 1e-6 for a, b in zip(*leaves, strict=True))
    first, second = (jax.tree.leaves(m) for m in one.networks_.members)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, second, strict=True))


# -- Losses -----------------------------------------------------------------------------------------------------------


def test_losses_written_out(rng):
    rates, targets = rng.random((4, 60)), rng.poisson(0.2, (4, 60)).astype(float)
    targets[2] = 0.0
    weight = (rng.random((4, 60)) < 0.7).astype(float)
    spread = np.array([0.5, 1.0, 2.0, 4.0])
    seen = [(r[w > 0], t[w > 0]) for r, t, w in zip(rates, targets, weight, strict=True)]
    r = [np.corrcoef(a, b)[0, 1] for a, b in (seen[0], seen[1], seen[3])]  # the third has no spike
    assert float(pearson_loss(rates, targets, weight)) == pytest.approx(1 - np.mean(r), abs=1e-4)
    np.testing.assert_allclose(np.asarray(correlation(rates, targets, weight))[[0, 1, 3]], r, atol=1e-4)
    squared = sum(((a - b) ** 2).sum() / v for (a, b), v in zip(seen, spread, strict=True)) / weight.sum()
    assert float(squared_loss(rates, targets, weight, jnp.asarray(spread))) == pytest.approx(squared, rel=1e-5)
    logits = 4 * rates - 2
    label = targets > 0.5
    expected = log_loss(label[weight > 0], 1 / (1 + np.exp(-logits[weight > 0])))
    assert float(entropy_loss(logits, targets, weight, 50.0)) == pytest.approx(expected, rel=1e-5)


# -- Units ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [7.5, 30.0, 100.0])
def test_what_networks_are_shown_knows_no_shift_and_where_unknown_no_scale(rate, rng):
    x = np.abs(rng.normal(size=(2000, 3))).cumsum(axis=0) % 1.3
    mask = rng.random(x.shape) < 0.9

    def shown(y, units):
        scale = scale_of(y, mask, whole(len(y)), rate, units)
        told = conditions_of(scale.noise / scale.divisor, scale.rate, units)
        return (y - scale.baseline) / scale.divisor, told

    for units, other in (("dff", x + 3.7), ("unknown", 250.0 * x - 40.0), ("zscore", 250.0 * x - 40.0)):
        for a, b in zip(shown(x, units), shown(other, units), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(shown(2 * x, "dff")[0], 2 * shown(x, "dff")[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(shown(2 * x, "dff")[1][:, 0], shown(x, "dff")[1][:, 0] + np.log(2), rtol=1e-9)


@pytest.mark.parametrize(("units", "k", "b"), [("dff", 1.0, 0.7), ("unknown", 1.0, 0.7), ("unknown", 250.0, -40.0)])
def test_rates_know_no_shift_and_where_unknown_no_scale(units, k, b, rng):
    s2s = untrained()
    x = rng.gamma(1.0, 0.1, (600, 2))
    rates = [s2s.transform(Recording(y, sampling_rate=30.0, units=units)) for y in (x, k * x + b)]
    np.testing.assert_allclose(rates[1], rates[0], rtol=1e-4, atol=1e-5)
    assert np.ptp(rates[0]) > 0.1  # the networks do look at the trace


def test_scales_written_out(rng):
    x = rng.gamma(1.0, 0.2, (1000, 2))
    mask = rng.random(x.shape) < 0.8
    dff, unknown = (scale_of(x, mask, whole(1000), 30.0, u) for u in ("dff", "unknown"))
    for roi in range(2):
        seen = mask[:, roi]
        both = seen[1:] & seen[:-1]
        noise = np.median(np.abs(np.diff(x[:, roi])[both])) / (np.sqrt(2) * norm.ppf(0.75))
        low, high = np.percentile(x[seen, roi], [20, 98])
        base = low - norm.ppf(0.2) * noise
        np.testing.assert_allclose([dff.noise[roi], dff.baseline[roi], dff.divisor[roi]], [noise, base, 1], rtol=1e-4)
        np.testing.assert_allclose([unknown.baseline[roi], unknown.divisor[roi]], [base, high - base], rtol=1e-4)
    told = conditions_of(dff.noise, 15.0, "dff")
    nu = 100 * np.sqrt(2) * norm.ppf(0.75) * dff.noise / np.sqrt(15.0)
    np.testing.assert_allclose(told, np.column_stack([np.log(nu), np.full(2, np.log(0.5)), np.zeros(2)]), rtol=1e-4)
    extremes = conditions_of(np.array([0.0, 1e9]), np.array([1e-3, 1e6]), "unknown")
    np.testing.assert_allclose(extremes[:, 0], np.log([0.05, 50]))
    np.testing.assert_allclose(extremes[:, 1], np.log(np.array([1.0, 1000.0]) / 30))


def test_smooth_traces_are_told_by_steps_within_segments(rng):
    slow = np.interp(np.arange(3000) / 100, np.arange(301) / 10, rng.normal(size=301))[:, None]
    jumps = slow + 100.0 * (np.arange(3000) // 30)[:, None]  # a new level every 0.3 s, in a segment of its own
    cut = Segments(np.column_stack([np.arange(0, 3000, 30), np.arange(30, 3001, 30)]))
    mask = np.ones(jumps.shape, bool)
    noise, rate = noise_of(jumps, mask, cut, 100.0)
    far = np.concatenate([np.abs(slow[a + 10 : a + 30] - slow[a : a + 20]) for a in range(0, 3000, 30)])
    assert noise[0] == pytest.approx(np.median(far) / (np.sqrt(2) * norm.ppf(0.75)), rel=1e-4)
    assert rate[0] == 10.0


# -- Time -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def passing_through(monkeypatch):
    """Networks that give back what they are shown."""
    monkeypatch.setattr(inference, "run_networks", lambda traces, conditions, networks, shape: traces)


@pytest.mark.usefixtures("passing_through")
@pytest.mark.parametrize("rate", [5.0, 30.0, 120.0])
@pytest.mark.parametrize("lag", [-0.3, 0.0, 0.2, 1.0])
def test_a_lag_moves_rates_later_by_so_many_seconds(rate, lag):
    times = 100.0 + np.arange(int(20 * rate)) / rate
    x = norm.pdf(times, 110.0, 0.5)[:, None]
    found = rates_of(Recording(x, timestamps=times), Networks(None, (), 1.0), DEFAULT, lag)[:, 0]
    found = found - found.min()
    assert np.sum(times * found) / np.sum(found) == pytest.approx(110.0 + lag, abs=0.02)


@pytest.mark.usefixtures("passing_through")
@pytest.mark.parametrize("rate", [5.0, 30.0, 120.0])
def test_frames_hold_the_integral_over_them(rate, rng):
    """Rates on the recording's clock are the networks' rates averaged over each frame."""
    n = int(12 * rate)
    times = 3.0 + (np.arange(n) + 0.3 * rng.random(n)) / rate
    recording = Recording(rng.random((n, 2)), timestamps=times)
    (start, fine), *_ = fine_rates(recording, Networks(None, (), 1.0), DEFAULT)
    assert start == times[0]
    found = rates_of(recording, Networks(None, (), 1.0), DEFAULT, 0.0)
    middle = 0.5 * (times[1:] + times[:-1])
    edges = np.concatenate([[1.5 * times[0] - 0.5 * times[1]], middle, [1.5 * times[-1] - 0.5 * times[-2]]])
    clock = np.linspace(edges[0], edges[-1], 400_001)
    dense = fine[np.clip(np.round((clock - start) * 50), 0, len(fine) - 1).astype(int)]
    for i in (0, 1, n // 2, n - 2, n - 1):
        inside = (clock >= edges[i]) & (clock < edges[i + 1])
        np.testing.assert_allclose(found[i], dense[inside].mean(axis=0), rtol=5e-3)


def test_frame_durations_and_counts_in_windows(rng):
    times = np.array([0.0, 0.1, 0.2, 0.4, 2.0, 2.1])
    recording = Recording(np.zeros((6, 1)), timestamps=times, segments=Segments(np.array([[0, 4], [4, 5], [5, 6]])))
    np.testing.assert_allclose(frame_durations(recording)[:4], [0.1, 0.1, 0.15, 0.2])
    np.testing.assert_allclose(frame_durations(recording)[4:], 1 / recording.sampling_rate)
    counts = rng.random((50, 2))
    segments = Segments(np.array([[0, 20], [20, 50]]))
    found = windowed(counts, segments, 5)
    for t in (2, 10, 17, 22, 40):
        np.testing.assert_allclose(found[t], counts[t - 2 : t + 3].sum(axis=0))
    np.testing.assert_allclose(windowed(counts, segments, 4.6), found * 4.6 / 5)  # windows of no whole number of frames
    np.testing.assert_allclose(found[20], 3 * counts[20] + counts[21] + counts[22])  # the first stands for what is not


def test_spikes_of_a_frame_lie_evenly_in_it():
    s2s = untrained(sampling_rate=10.0)
    given = take(s2s, np.zeros((5, 2)) + np.arange(5)[:, None])
    counts = np.array([[0, 1], [2, 0], [0, 0], [0, 3], [0, 0]])
    first, second = spike_times(counts, given)[0]
    np.testing.assert_allclose(first, [0.075, 0.125])
    np.testing.assert_allclose(second, [0.0, 0.3 - 1 / 30, 0.3, 0.3 + 1 / 30])


# -- Calibration ------------------------------------------------------------------------------------------------------


def test_gain_is_by_the_median_neuron_of_each_set():
    predicted = np.array([1.0, 2.0, 30.0, 4.0, 100.0])
    true = np.array([1.0, 1.0, 1.0, 2.0, 0.0])
    groups = np.array(["a", "a", "a", "b", "b"])
    assert find_gain(predicted, true, groups) == pytest.approx(1 / np.mean([2.0, 2.0]))
    assert find_gain(predicted * 3, true, groups) == pytest.approx(1 / 6)
    unequal = np.array(["a", "a", "b", "b", "b"])
    assert find_gain(predicted, true, unequal) == pytest.approx(1 / np.mean([1.5, 16.0]))


def test_dispersion_is_that_of_all_neurons_alike():
    m = [np.array([1.0, 3.0]), np.array([2.0])]
    k = [np.array([3.0, 1.0]), np.array([5.0])]
    over = ((4 - 1) + (4 - 3)) / 2 + (9 - 2)
    assert find_dispersion(m, k) == pytest.approx(over / ((1 + 9) / 2 + 4))
    assert find_dispersion([np.ones(3)], [np.ones(3)]) == 0.0


@pytest.mark.parametrize("dispersion", [0.0, 0.4, 3.0])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.5])
def test_intervals_by_adding_up_probabilities(dispersion, alpha):
    mean = np.array([0.02, 0.5, 3.0, 20.0])
    k = np.arange(2000)
    low, high = count_interval(mean, dispersion, alpha)
    for i, m in enumerate(mean):
        p = poisson.pmf(k, m) if dispersion == 0 else nbinom.pmf(k, 1 / dispersion, 1 / (1 + dispersion * m))
        assert np.sum(k * p) == pytest.approx(m, rel=1e-3)
        assert np.sum((k - m) ** 2 * p) == pytest.approx(m + dispersion * m**2, rel=1e-2)
        assert p[: int(low[i])].sum() <= alpha / 2
        assert p[int(high[i]) + 1 :].sum() <= alpha / 2 + 1e-9
        assert p[: int(low[i]) + 1].sum() >= alpha / 2
        assert p[int(high[i]) :].sum() >= alpha / 2


def test_dispersion_outside_the_windows_is_that_of_the_nearest():
    calibration = Calibration(1.0, np.array(WINDOWS), np.linspace(2.0, 0.5, len(WINDOWS)), 3)
    assert calibration.dispersion_at(1e-4) == pytest.approx(2.0)
    assert calibration.dispersion_at(100.0) == pytest.approx(0.5)


# -- Input that is odd ------------------------------------------------------------------------------------------------


def test_a_network_is_not_shown_what_is_masked(rng):
    s2s = untrained()
    x = rng.normal(size=(600, 2)) / 10
    mask = np.ones(x.shape, bool)
    mask[200:230] = False
    rates = [
        s2s.transform(Recording(np.where(mask, x, fill), sampling_rate=30.0, mask=mask)) for fill in (0.0, np.nan, 1e6)
    ]
    np.testing.assert_array_equal(rates[0], rates[1])
    np.testing.assert_array_equal(rates[0], rates[2])


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_short_recordings_give_rates(n):
    s2s = untrained()
    x = np.linspace(0, 0.1, 2 * n).reshape(n, 2)
    if n == 1:
        with pytest.warns(match="constant or never observed"):
            assert np.isnan(s2s.transform(Recording(x, sampling_rate=30.0))).all()
    else:
        assert np.isfinite(s2s.transform(Recording(x, sampling_rate=30.0))).all()


@pytest.mark.parametrize(("rate", "warned"), [(2.9, True), (3.0, False), (500.0, False), (600.0, True)])
def test_frame_rates_outside_3_to_500_are_warned_of(rate, warned, recwarn, rng):
    x = 0.01 * np.sqrt(rate) * rng.normal(size=(200, 1))
    untrained().transform(Recording(x, timestamps=np.arange(200) / rate))
    assert any("frames per s; the networks are for" in str(w.message) for w in recwarn) is warned


@pytest.mark.parametrize(("nu", "said"), [(0.08, "cleaner"), (0.12, None), (7.0, None), (9.0, "noisier")])
def test_noise_levels_outside_those_of_training_are_warned_of(nu, said, recwarn, rng):
    x = nu / 95.4 * np.sqrt(30.0) * rng.normal(size=(3000, 1))  # white noise of noise level nu
    recording = Recording(x, sampling_rate=30.0)
    result = untrained().infer(recording)
    found = {w for w in ("cleaner", "noisier") if any(w in str(r.message) for r in recwarn)}
    assert found == ({said} if said else set())
    assert result["in_training_range"][0] == (said is None)
