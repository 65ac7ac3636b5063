"""Generative models, densities, the bound and VIMCO's gradient against closed forms and enumeration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.scipy.special import logsumexp
from scipy import stats

from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes.traces import scale_of
from nwb_calcium_lvm.spikes.vae import wake
from nwb_calcium_lvm.spikes.vae.generative import (
    LINEAR,
    ML_PHYS,
    MODELS,
    SCDF,
    decaying,
    fluorescence,
    rising,
    spread_within,
)
from nwb_calcium_lvm.spikes.vae.objectives import (
    Density,
    bound,
    gaussian_loss,
    log_binomial,
    log_normal,
    log_poisson,
    trait_posterior,
    vimco_loss,
    vimco_signals,
)
from nwb_calcium_lvm.spikes.vae.recognition import Recognition, RecognitionConfig, log_prob_of, moments, reach
from nwb_calcium_lvm.spikes.vae.training import Network, build
from nwb_calcium_lvm.spikes.vae.views import levels_of

SMALL = RecognitionConfig(
    max_count=2, stride=1, channels=6, analysis_width=4, synthesis_width=2, dilations=(1,), units=5
)
STEP = 1 / 30


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomised(config, model=LINEAR, size=0.4):
    made = build(config, model, 0)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    return Network(made.graph, jax.tree.map(lambda p: p + size * jax.random.normal(next(keys), p.shape), made.params))


def conditions(n, model=LINEAR):
    return jnp.zeros((n, 3 + 2 * (len(model.names) + 1)))


# -- Generative models ------------------------------------------------------------------------------------------------


def test_calcium_that_decays_is_a_sum_of_exponentials(rng):
    counts = rng.poisson(0.2, size=(50, 1)).astype(float)
    expected = [np.sum(counts[: t + 1, 0] * np.exp(-(t - np.arange(t + 1)) * STEP / 0.4)) for t in range(50)]
    np.testing.assert_allclose(decaying(jnp.asarray(counts), 0.4, STEP)[:, 0], expected, rtol=1e-10)


def test_linear_response_is_a_difference_of_exponentials_that_peaks_at_the_amplitude():
    step = 1e-3
    one = jnp.zeros((3000, 1)).at[0].set(1.0)
    found = np.asarray(rising(one, 0.5, 0.06, step))[:, 0]
    t = step * np.arange(1, 3001)
    shape = np.exp(-t / 0.5) - np.exp(-t / 0.06)
    np.testing.assert_allclose(found, shape / shape.max(), atol=2e-3)
    assert found.max() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("model", [SCDF, ML_PHYS], ids=lambda m: m.name)
def test_nonlinear_models_follow_their_equations_frame_by_frame(model, rng):
    p = {k: np.exp(v) for k, v in zip(model.names, np.asarray(model.medians()), strict=True)}
    counts = rng.poisson(0.3, size=60).astype(float)

    def by_hand(spikes, step):
        calcium = bound = 0.0
        out = []
        for s in spikes:
            calcium = calcium * np.exp(-step / p["decay"]) + s
            if model is SCDF:
                into = step / p["rise"] * p["affinity"] * calcium ** p["exponent"]
                bound = (1 - np.exp(-into)) * (1 - min(bound, 1)) + np.exp(-step / p["unbinding"]) * min(bound, 1)
            else:
                drive = (p["rest"] + calcium) ** p["exponent"] - p["rest"] ** p["exponent"]
                ceiling = drive / (1 + p["saturation"] * drive)
                bound = ceiling + (bound - ceiling) * np.exp(-step / p["rise"] * (1 + p["saturation"] * drive))
            out.append(bound)
        return np.array(out)

    peak = by_hand(np.eye(1, 96)[0], 4 * p["rise"] / 96).max()
    found = fluorescence(model, jnp.asarray(counts)[None, :, None], model.medians()[None], STEP)[0, :, 0]
    np.testing.assert_allclose(found, p["amplitude"] * by_hand(counts, STEP) / peak, rtol=1e-8)


def test_indicators_that_follow_a_power_of_calcium_answer_bursts_more_than_in_proportion():
    one = jnp.zeros((1, 60, 1)).at[0, 0].set(1.0)
    for model, more in ((LINEAR, False), (SCDF, True), (ML_PHYS, True)):
        peaks = [float(fluorescence(model, n * one, model.medians()[None], STEP).max()) for n in (1, 2)]
        assert (peaks[1] > 2.05 * peaks[0]) == more


def test_an_indicator_that_saturates_does_not_rise_without_end():
    many = jnp.full((1, 300, 1), 20.0)
    for model in (SCDF, ML_PHYS):
        top = fluorescence(model, many, model.medians()[None], STEP)
        assert jnp.isfinite(top).all()
        assert float(top[0, -1, 0]) < 1.1 * float(
            fluorescence(model, 0.8 * many, model.medians()[None], STEP)[0, -1, 0]
        )


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda m: m.name)
def test_frames_are_averages_over_their_parts(model):
    counts = jnp.zeros((1, 40, 1)).at[0, 5].set(2.0)
    whole = fluorescence(model, counts, model.medians()[None], STEP, 8, jax.random.key(0))
    assert whole.shape == (1, 40, 1)
    assert jnp.isfinite(whole).all()
    # Spikes fall within their frame, so that nothing is seen before it and less than at once in it.
    at_once = fluorescence(model, counts, model.medians()[None], STEP)
    assert float(jnp.abs(whole[0, :5]).max()) == 0.0
    assert 0.0 < float(whole[0, 5, 0]) < float(at_once[0, 5, 0])


def test_spikes_are_spread_over_the_parts_of_their_frame_evenly(rng):
    counts = jnp.asarray(rng.poisson(2.0, size=(2, 4000, 1)).astype(float))
    fine = np.asarray(spread_within(jax.random.key(0), counts, 3)).reshape(2, 4000, 3)
    np.testing.assert_array_equal(fine.sum(axis=2), counts[..., 0])
    np.testing.assert_allclose(fine.mean(axis=(0, 1)), float(counts.mean()) / 3, rtol=0.05)


# -- Densities --------------------------------------------------------------------------------------------------------


def test_densities_agree_with_scipy(rng):
    counts = rng.poisson(0.5, size=(3, 7, 1)).astype(float)
    mask = np.array([[1, 1, 1, 0, 1, 1, 1]] * 3, float)
    by_hand = (stats.poisson.logpmf(counts, 0.4)[..., 0] * mask).sum(axis=1)
    np.testing.assert_allclose(log_poisson(counts, 0.4, mask), by_hand, rtol=1e-10)
    traces, expected = rng.normal(size=(3, 7, 2)), rng.normal(size=(3, 7, 2))
    noise = np.array([[0.3, 0.6]] * 3)
    by_hand = (stats.norm.logpdf(traces, expected, noise[:, None]).sum(axis=2) * mask).sum(axis=1)
    np.testing.assert_allclose(log_normal(traces, expected, noise, mask), by_hand, rtol=1e-10)
    binary = (counts > 0).astype(float)
    totals = (binary[..., 0] * mask).sum(axis=1)
    np.testing.assert_allclose(log_binomial(binary, 0.2, 1, mask), stats.binom.logpmf(totals, 6, 0.2), rtol=1e-10)
    pooled = rng.normal(size=(3, 4))
    mean, log_sd = trait_posterior(jnp.asarray(pooled))
    traits = rng.normal(size=(3, 2))
    by_hand = -stats.norm.logpdf(traits, mean, np.exp(log_sd)).sum(axis=1) - np.log(2 * np.pi)
    np.testing.assert_allclose(gaussian_loss(jnp.asarray(pooled), jnp.asarray(traits)), by_hand, rtol=1e-10)


def test_moments_of_counts(rng):
    logits = rng.normal(size=(4, 5))
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    mean = share @ np.arange(5)
    found = moments(jnp.asarray(logits))
    np.testing.assert_allclose(found[0], mean, rtol=1e-10)
    np.testing.assert_allclose(found[1], share @ np.arange(5) ** 2 - mean**2, rtol=1e-9)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("correlated", [False, True])
def test_the_posterior_sums_to_one_and_is_sampled_as_it_says(correlated, published):
    config = RecognitionConfig(**{**vars(SMALL), "max_count": 1, "correlated": correlated, "published": published})
    network = randomised(config)
    made = nnx.merge(*network)
    seen = made(jax.random.normal(jax.random.key(2), (1, 4, 2)), conditions(1))
    trains = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=4)))[..., None]
    log_q = jnp.array([made.log_prob(seen, t[None]).sum() for t in trains])
    assert float(logsumexp(log_q)) == pytest.approx(0.0, abs=1e-8)
    drawn = jax.vmap(lambda k: made.sample(seen, k)[0][0, :, 0])(jax.random.split(jax.random.key(3), 20_000))
    number = np.asarray(drawn @ jnp.array([8.0, 4.0, 2.0, 1.0])).astype(int)
    share = np.bincount(number, minlength=16) / len(number)
    np.testing.assert_allclose(share, np.exp(log_q), atol=4 * np.sqrt(0.25 / 20_000))


def test_a_sequence_knows_of_the_spikes_before():
    network = randomised(RecognitionConfig(**{**vars(SMALL), "max_count": 1}))
    made = nnx.merge(*network)
    seen = made(jnp.zeros((1, 4, 2)), conditions(1))
    after = [made.log_prob(seen, jnp.array([[[s], [0.0], [0.0], [0.0]]]))[0, 1] for s in (0.0, 1.0)]
    assert abs(float(after[0] - after[1])) > 1e-3


@pytest.mark.parametrize("published", [False, True])
def test_a_frame_depends_on_no_more_than_said(published):
    config = RecognitionConfig(
        stride=2, channels=6, analysis_width=8, synthesis_width=4, dilations=(1, 2), published=published
    )
    network = randomised(config)
    at = 200

    def output(x):
        return nnx.merge(*network)(x[None], conditions(1)).logits[0, at].sum()

    seen = np.flatnonzero(
        np.abs(np.asarray(jax.grad(output)(jnp.asarray(np.random.default_rng(0).normal(size=(400, 2)))))).sum(axis=1)
    )
    assert at - reach(config) <= seen.min() < at < seen.max() <= at + reach(config)


def test_simulated_traces_are_seen_as_recorded_ones_are(rng):
    traces = rng.normal(size=(500, 3)) + 3 * (rng.random((500, 3)) < 0.1)
    of_recording = scale_of(traces, np.ones(traces.shape, bool), Segments(np.array([[0, 500]])), 30.0, "unknown")
    baseline, size, noise = levels_of(jnp.asarray(traces.T[..., None]))
    np.testing.assert_allclose(noise[:, 0], of_recording.noise, rtol=1e-3)
    np.testing.assert_allclose(baseline[:, 0], of_recording.baseline, rtol=1e-3)
    np.testing.assert_allclose(size[:, 0], of_recording.divisor, rtol=1e-3)


# -- The bound and its gradient ---------------------------------------------------------------------------------------


def enumerable(rng, n_frames=5):
    """A trace of a few frames, all its spike trains of 0 to 2 spikes a frame, and the exact log-likelihood."""
    log_values = jnp.log(jnp.array([[0.5, 0.4, 0.04]]))
    truth = jnp.asarray(rng.poisson(0.4, size=(1, n_frames, 1)).clip(max=2).astype(float))
    traces = fluorescence(LINEAR, truth, log_values, STEP) + 0.4 * rng.normal(size=(1, n_frames, 1))
    cells = wake.Cells(log_values, jnp.log(jnp.array([[0.4]])), jnp.array([[0.03]]), jnp.log(jnp.array([0.4])))
    mask = jnp.ones((1, n_frames))
    snippets = wake.Snippets(jnp.concatenate([traces, traces], -1), conditions(1), traces, mask, jnp.zeros(1, int))
    trains = jnp.asarray(list(itertools.product([0.0, 1.0, 2.0], repeat=n_frames)))[..., None]
    every = len(trains)
    expected = fluorescence(LINEAR, trains, jnp.repeat(log_values, every, 0), STEP) + 0.03
    ones = jnp.ones((every, n_frames))
    joint = log_normal(traces, expected, jnp.full((every, 1), 0.4), ones) + log_poisson(trains, 0.4, ones)
    return cells, snippets, float(logsumexp(joint))


@pytest.mark.parametrize("correlated", [False, True])
def test_the_bound_comes_up_to_the_exact_likelihood(correlated, rng):
    cells, snippets, exact = enumerable(rng)
    network = randomised(RecognitionConfig(**{**vars(SMALL), "correlated": correlated}), size=0.2)
    network.params["offset"] = network.params["offset"].replace(jnp.array([0.0, -1.0, -2.0]))  # few spikes are too few
    means = []
    for n_draws, n_repeats in ((1, 300), (10, 100), (2000, 3)):
        setting = wake.Setting(LINEAR, STEP, n_draws, 2, "poisson")
        found = [wake.bounds_of(network, cells, snippets, jax.random.key(i), setting)[0] for i in range(n_repeats)]
        means.append(np.mean(found))
    assert means[0] + 0.2 < means[1] < exact - 0.05
    assert means[2] == pytest.approx(exact, abs=0.05)


def test_signals_are_the_bound_less_that_of_the_other_draws(rng):
    log_f = rng.normal(size=(5, 3))
    signal, weights = vimco_signals(jnp.asarray(log_f))
    f = np.exp(log_f)
    for i in range(5):
        others = np.delete(f, i, axis=0)
        np.testing.assert_allclose(signal[i], np.log(f.mean(axis=0)) - np.log(others.mean(axis=0)), rtol=1e-8)
    np.testing.assert_allclose(weights, f / f.sum(axis=0), rtol=1e-8)


def test_vimco_is_the_exact_gradient_on_average(rng):
    """Over all pairs of draws of three binary frames: the mean of the estimate, and the gradient of the mean bound."""
    trains = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=3)))
    target = jnp.asarray(rng.normal(size=8))  # log p(x, z)

    def log_q(phi):  # each frame after the first leans on the one before
        total = 0.0
        for t in range(3):
            logit = phi[t] + (phi[3] * trains[:, t - 1] if t else 0.0)
            total = total + trains[:, t] * logit - jnp.logaddexp(0.0, logit)
        return total

    pairs = jnp.asarray(list(itertools.product(range(8), repeat=2)))

    def mean_bound(both):
        phi, theta = both
        q = log_q(phi)
        log_f = (theta * target - q)[pairs]
        return (jnp.exp(q[pairs].sum(axis=1)) * bound(log_f.T)).sum()

    def estimate(both, pair):
        phi, theta = both
        posterior = log_q(phi)[pair][:, None]
        data = (theta * target)[pair][:, None]
        return -vimco_loss(Density(data, jnp.zeros((2, 1)), posterior))

    at = (jnp.asarray(rng.normal(size=4)), jnp.array(1.3))
    exact = jax.grad(mean_bound)(at)
    chance = jnp.exp(log_q(at[0])[pairs].sum(axis=1))
    each = jax.vmap(lambda pair: jax.grad(estimate)(at, pair))(pairs)
    mean = jax.tree.map(lambda g: jnp.tensordot(chance, g, axes=1), each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), mean, exact)


def test_vimco_climbs_the_bound(rng):
    cells, snippets, exact = enumerable(rng)
    network = randomised(RecognitionConfig(**{**vars(SMALL), "correlated": False}), size=0.1)
    setting = wake.Setting(LINEAR, STEP, 16, 2, "poisson")
    found, _, history = wake.vimco(network, cells, lambda _: snippets, setting, 300, 0, learning_rate=2e-2, every=50)
    assert history[-1, 1] > history[0, 1]
    before, after = (
        np.mean([wake.bounds_of(n, cells, snippets, jax.random.key(i), setting)[0] for i in range(50)])
        for n in (network, found)
    )
    assert before < after < exact + 0.05


def test_counts_beyond_the_last_category_count_as_the_last():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    assert float(log_prob_of(logits, jnp.array(7.0))) == pytest.approx(np.log(0.2))


def test_recognition_has_no_more_parameters_than_its_sizes_say():
    made = Recognition(SMALL, 2, 3, nnx.Rngs(0))
    seen = made(jnp.zeros((4, 12, 4)), jnp.zeros((4, 9)))
    assert seen.logits.shape == (4, 12, 2, 3)
    assert seen.pooled.shape == (4, 6)
