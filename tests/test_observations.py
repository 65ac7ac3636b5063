"""Observation models against brute-force sums, scipy.stats and finite differences, in float64 unless said otherwise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads
from scipy.special import gammaln, logsumexp

from nwb_calcium_lvm import observations
from nwb_calcium_lvm.observations import ar_gaussian, autoregression, calcium, gaussian, poisson

COUNTS = np.arange(401)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def brute_terms(e, log_rate, c, sigma2):
    """Log of every term of the sum over counts, the last axis."""
    residual = e[..., None] - c[..., None] * COUNTS
    normal = -0.5 * (residual**2 / sigma2[..., None] + np.log(2 * np.pi * sigma2[..., None]))
    return normal + COUNTS * log_rate[..., None] - np.exp(log_rate[..., None]) - gammaln(COUNTS + 1)


def brute_moments(e, log_rate, c, sigma2):
    terms = brute_terms(e, log_rate, c, sigma2)
    total = logsumexp(terms, axis=-1)
    weights = np.exp(terms - total[..., None])
    mean = weights @ COUNTS
    return total, mean, weights @ COUNTS**2 - mean**2


def numpy_innovations(y, params):
    e = y - np.asarray(params.intercept)
    for lag in range(1, params.ar_coefs.shape[1] + 1):
        e[lag:] -= np.asarray(params.ar_coefs)[:, lag - 1] * y[:-lag]
    return e


def random_problem(seed=0, n_frames=60, n_neurons=7, order=2, ratio=2.0):
    """Traces with counts that fit the rates, counts that do not, and negative innovations; rates over five decades."""
    rng = np.random.default_rng(seed)
    c = rng.uniform(0.1, 2.0, n_neurons)
    params = calcium.CalciumParams(
        np.array(autoregression.stable_ar(rng.normal(size=(n_neurons, order)))),
        c,
        c**2 * np.exp(rng.uniform(np.log(1e-3), np.log(ratio), n_neurons)),
        rng.normal(0, 0.3, n_neurons),
    )
    log_rate = rng.uniform(np.log(1e-4), np.log(30), (n_frames, n_neurons))
    counts = np.where(
        rng.random(log_rate.shape) < 0.3, rng.uniform(-3, 60, log_rate.shape), rng.poisson(np.exp(log_rate))
    )
    drive = params.intercept + c * counts + rng.normal(size=log_rate.shape) * np.sqrt(params.noise_variance)
    y = np.array(autoregression.autoregress(drive, drive, params.ar_coefs))
    return y, log_rate, params


# ---------------------------------------------------------------------------------------------------- calcium: values


@pytest.mark.parametrize("order", [1, 2, 3])
def test_calcium_equals_the_sum_over_401_counts(order):
    y, log_rate, params = random_problem(order=order, n_frames=500)
    value = calcium.log_likelihood(y, log_rate, params)
    moments = calcium.posterior_counts(y, log_rate, params)
    e = numpy_innovations(y, params)
    total, mean, variance = brute_moments(e, log_rate, params.spike_amplitude, params.noise_variance)
    assert e[order:].max() > 20 * params.spike_amplitude.min()  # innovations far above what the rates explain
    np.testing.assert_allclose(value[order:], total[order:], rtol=1e-12, atol=5e-7)
    np.testing.assert_allclose(moments.mean[order:], mean[order:], atol=1e-5)
    np.testing.assert_allclose(moments.variance[order:], variance[order:], atol=2e-4)
    np.testing.assert_array_equal(value[:order], 0)
    np.testing.assert_allclose(moments.mean[:order], np.exp(log_rate[:order]))
    np.testing.assert_allclose(moments.variance[:order], np.exp(log_rate[:order]))
    np.testing.assert_array_equal(calcium.expected_counts(y, log_rate, params), moments.mean)


def test_the_window_widens_with_the_noise():
    y, log_rate, params = random_problem(seed=3, n_frames=400, ratio=20.0)
    window = calcium.window_for(params)
    exact = brute_moments(numpy_innovations(y, params), log_rate, params.spike_amplitude, params.noise_variance)[0]
    error = {
        w: np.abs(calcium.log_likelihood(y, log_rate, params, window=w)[2:] - exact[2:]).max() for w in (17, window)
    }
    assert window > 17
    assert window % 2 == 1
    assert error[window] < 1e-6 < 1e-4 < error[17]


def test_the_window_is_17_for_clear_spikes_and_refuses_spikes_far_below_the_noise():
    params = random_problem()[2]
    assert calcium.window_for(params._replace(noise_variance=2 * params.spike_amplitude**2)) == 17
    with pytest.raises(ValueError, match="ar_gaussian"):
        calcium.window_for(params._replace(spike_amplitude=np.full(7, 1e-4)))
    with pytest.raises(ValueError, match="ar_gaussian"):
        calcium.window_for(params._replace(noise_variance=np.full(7, np.nan)))


def test_float32_is_good_to_a_ten_thousandth_of_a_nat():
    """On traces as they come; a count of 60 read to a hundredth of a spike is beyond what float32 traces resolve."""
    log_rate = np.random.default_rng(8).uniform(-6, 1, (400, 2))
    params = TOY_PARAMS["calcium"]
    y = calcium.sample(jax.random.key(0), log_rate, params).y
    y, log_rate, params = jax.tree.map(lambda a: np.asarray(a, np.float32), (y, log_rate, params))
    double = jax.tree.map(lambda a: np.asarray(a, np.float64), (y, log_rate, params))
    for function in (calcium.log_likelihood, calcium.expected_counts):
        value = function(y, log_rate, params)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, function(*double), atol=1e-4)


def test_the_window_finds_counts_that_the_rate_contradicts():
    """The window's centre starts at the rate, 300 per frame, and has to come down to the 0 to 60 spikes seen."""
    params = calcium.CalciumParams(np.zeros((1, 1)), np.ones(1), np.full(1, 1e-2), np.zeros(1))
    y, log_rate = np.linspace(-2, 60, 200)[:, None], np.full((200, 1), np.log(300.0))
    exact = brute_moments(y, log_rate, params.spike_amplitude, params.noise_variance)[0]
    np.testing.assert_allclose(calcium.log_likelihood(y, log_rate, params)[1:], exact[1:], rtol=1e-12, atol=5e-7)


def test_small_amplitude_becomes_the_normal_with_matched_moments():
    """As c goes to 0 at a fixed influx, the sum over counts tends to Normal(c lambda, sigma2 + c^2 lambda)."""
    y, _, params = random_problem(n_neurons=1, n_frames=40)
    params = params._replace(spike_amplitude=np.array([0.01]), noise_variance=np.array([0.04]))
    log_rate = np.full((40, 1), np.log(8.0))
    y = np.array(calcium.sample(jax.random.key(1), log_rate, params).y)
    e = numpy_innovations(y, params)
    expected = scipy.stats.norm.logpdf(e, 0.01 * 8, np.sqrt(0.04 + 0.01**2 * 8))
    value = calcium.log_likelihood(y, log_rate, params, window=calcium.window_for(params))
    np.testing.assert_allclose(value[2:], expected[2:], atol=2e-3)


def test_vanishing_rate_becomes_the_plain_autoregression():
    y, _, params = random_problem()
    params = params._replace(noise_variance=2 * params.spike_amplitude**2)
    quiet = np.full(y.shape, -60.0)
    small = np.clip(numpy_innovations(y, params), None, 0.2)  # no innovation that only a spike explains
    trace = np.array(autoregression.autoregress(small + params.intercept, 0 * small, params.ar_coefs))
    expected = scipy.stats.norm.logpdf(numpy_innovations(trace, params), 0, np.sqrt(params.noise_variance))
    np.testing.assert_allclose(calcium.log_likelihood(trace, quiet, params)[2:], expected[2:], rtol=1e-9)


# ------------------------------------------------------------------------------------------------- calcium: gradients


def test_gradients_are_the_posterior_moments_of_the_brute_force_sum():
    y, log_rate, params = random_problem(n_frames=300)
    e = numpy_innovations(y, params)[2:]
    c, sigma2 = np.broadcast_arrays(params.spike_amplitude, params.noise_variance)
    c, sigma2 = np.broadcast_to(c, e.shape), np.broadcast_to(sigma2, e.shape)
    terms = brute_terms(e, log_rate[2:], c, sigma2)
    weights = np.exp(terms - logsumexp(terms, axis=-1, keepdims=True))
    residual = e[..., None] - c[..., None] * COUNTS
    mean, mean_residual = weights @ COUNTS, np.sum(weights * residual, -1)
    expected = calcium.CalciumParams(
        np.stack([np.sum(y[2 - lag : -lag] * mean_residual / sigma2, 0) for lag in (1, 2)], -1),
        np.sum(np.sum(weights * COUNTS * residual, -1) / sigma2, 0),
        np.sum((np.sum(weights * residual**2, -1) / sigma2 - 1) / (2 * sigma2), 0),
        np.sum(mean_residual / sigma2, 0),
    )
    by_rate, by_params = jax.jit(jax.grad(lambda r, p: calcium.log_likelihood(y, r, p).sum(), (0, 1)))(log_rate, params)
    np.testing.assert_allclose(by_rate[2:], mean - np.exp(log_rate[2:]), atol=1e-5)
    np.testing.assert_array_equal(by_rate[:2], 0)
    for name in calcium.CalciumParams._fields:
        np.testing.assert_allclose(
            getattr(by_params, name), getattr(expected, name), rtol=1e-6, atol=1e-4, err_msg=name
        )


def test_first_and_second_derivatives_agree_with_finite_differences():
    y, log_rate, params = random_problem(n_frames=8, n_neurons=2)
    params = params._replace(noise_variance=0.3 * params.spike_amplitude**2)  # away from ties of the window's centre

    def value(trace, rate, p):
        return calcium.log_likelihood(trace, rate, p, window=41).sum()

    check_grads(jax.jit(value), (y, log_rate, params), order=2, modes=["fwd", "rev"], atol=1e-5, rtol=1e-5)


def test_a_rate_that_underflows_is_no_spikes_for_sure():
    y = np.random.default_rng(0).normal(size=(20, 2)).cumsum(axis=0)  # innovations of both signs
    params = calcium.CalciumParams(np.full((2, 1), 0.9), np.ones(2), np.full(2, 0.05), np.zeros(2))
    small, none = (calcium.log_likelihood(y, np.full(y.shape, eta), params) for eta in (-300.0, -1e5))
    np.testing.assert_allclose(none[1:], small[1:], rtol=1e-12)
    assert (calcium.expected_counts(y, np.full(y.shape, -1e5), params)[1:] == 0).all()


def test_curvature_in_the_log_rate_is_the_posterior_variance_minus_the_rate():
    y, log_rate, params = random_problem(n_frames=20)
    ones = jnp.ones_like(log_rate)
    slope = jax.jit(jax.grad(lambda r: calcium.log_likelihood(y, r, params).sum()))
    curvature = jax.jvp(slope, (log_rate,), (ones,))[1]
    variance = calcium.posterior_counts(y, log_rate, params).variance
    np.testing.assert_allclose(curvature[2:], (variance - jnp.exp(log_rate))[2:], atol=1e-6)


# ------------------------------------------------------------------------------------------- masks, segments, batching

TOY_PARAMS = {
    "calcium": calcium.CalciumParams(np.array([[0.9], [0.5]]), np.array([1.0, 0.4]), np.array([0.1, 0.2]), np.ones(2)),
    "ar_gaussian": ar_gaussian.ARGaussianParams(
        np.array([[0.9], [0.5]]), np.array([1.0, 0.4]), np.array([0.1, 0.2]), np.ones(2)
    ),
    "gaussian": gaussian.GaussianParams(np.array([0.9, 0.5]), np.array([1.0, 0.4]), np.array([0.1, 0.2])),
    "poisson": poisson.PoissonParams(),
}


@pytest.fixture(params=sorted(TOY_PARAMS))
def toy(request):
    model, params = observations.get(request.param), TOY_PARAMS[request.param]
    log_rate = np.random.default_rng(5).normal(-1, 1, (30, 2))
    y = np.array(model.sample(jax.random.key(2), log_rate, params).y)
    return model, y, log_rate, params


def test_masked_samples_have_no_influence(toy):
    model, y, log_rate, params = toy
    mask = np.random.default_rng(6).random(y.shape) > 0.3

    @jax.jit
    def everything(trace):
        value, gradient = jax.value_and_grad(
            lambda r, p: model.log_likelihood(trace, r, p, mask).sum(), argnums=(0, 1)
        )(log_rate, params)
        return value, gradient, model.expected_counts(trace, log_rate, params, mask)

    reference = everything(y)
    for filler in (1e30, -7.0, np.nan, np.inf):
        jax.tree.map(np.testing.assert_array_equal, everything(np.where(mask, y, filler)), reference)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(reference))
    np.testing.assert_array_equal(model.log_likelihood(y, log_rate, params, mask)[~mask], 0)
    np.testing.assert_allclose(reference[2][~mask], np.exp(log_rate)[~mask])


def test_the_gradient_by_the_trace_is_finite_and_zero_at_masked_samples(toy):
    model, y, log_rate, params = toy
    mask = np.random.default_rng(6).random(y.shape) > 0.3
    gradient = jax.grad(lambda trace: model.log_likelihood(trace, log_rate, params, mask).sum())(
        np.where(mask, y, np.nan)
    )
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~mask], 0)


def test_samples_without_a_full_past_cannot_overflow_the_gradient():
    log_rate, y = np.full((6, 2), -1.0), np.zeros((6, 2))
    y[0], mask = 1e200, np.ones((6, 2), bool)
    mask[1] = False
    gradient = jax.grad(lambda p: calcium.log_likelihood(y, log_rate, p, mask).sum())(TOY_PARAMS["calcium"])
    assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_nan_is_missing_when_no_mask_is_given(toy):
    model, y, log_rate, params = toy
    mask = np.random.default_rng(6).random(y.shape) > 0.3
    np.testing.assert_array_equal(
        model.log_likelihood(np.where(mask, y, np.nan), log_rate, params),
        model.log_likelihood(y, log_rate, params, mask),
    )


def test_segments_put_end_to_end_are_the_segments_one_by_one(toy):
    model, y, log_rate, params = toy
    starts = np.zeros(30, bool)
    starts[[0, 11, 12, 20]] = True
    whole = model.log_likelihood(y, log_rate, params, starts=starts)
    counts = model.expected_counts(y, log_rate, params, starts=starts)
    for a, b in ((0, 11), (11, 12), (12, 20), (20, 30)):
        np.testing.assert_allclose(whole[a:b], model.log_likelihood(y[a:b], log_rate[a:b], params), rtol=1e-12)
        np.testing.assert_allclose(counts[a:b], model.expected_counts(y[a:b], log_rate[a:b], params), rtol=1e-12)


def test_vmapped_and_jitted_equals_looped(toy):
    model, y, log_rate, params = toy
    trials = y.reshape(3, 10, 2), log_rate.reshape(3, 10, 2), np.random.default_rng(7).random((3, 10, 2)) > 0.1
    for function in (model.log_likelihood, model.expected_counts):
        batched = jax.jit(jax.vmap(lambda a, b, m, f=function: f(a, b, params, m)))(*trials)
        looped = np.stack([function(a, b, params, m) for a, b, m in zip(*trials, strict=True)])
        np.testing.assert_allclose(batched, looped, rtol=1e-10, atol=1e-12)


def test_a_log_rate_that_broadcasts_is_broadcast(toy):
    model, y, _, params = toy
    for function in (model.log_likelihood, model.expected_counts):
        np.testing.assert_allclose(
            function(y, np.array([-1.0, 0.5]), params), function(y, np.tile([-1.0, 0.5], (30, 1)), params)
        )


def test_constrain_inverts_unconstrain(toy):
    model, _, _, params = toy
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), model.constrain(model.unconstrain(params)), params
    )


def test_constrained_parameters_are_admissible_wherever_the_optimiser_goes(toy):
    model, _, _, params = toy
    for shift in (-800.0, 800.0):
        far = model.constrain({k: v + shift for k, v in model.unconstrain(params).items()})
        for name in ("spike_amplitude", "gain", "noise_variance"):
            assert np.all(getattr(far, name, 1.0) > 0)
    at_floor = model.unconstrain(jax.tree.map(np.zeros_like, params))
    assert all(np.isfinite(v).all() for v in at_floor.values())


# ------------------------------------------------------------------------------------------------------ other densities


def test_gaussian_equals_scipy():
    params = TOY_PARAMS["gaussian"]
    y, log_rate = np.random.default_rng(0).normal(size=(2, 20, 2))
    expected = scipy.stats.norm.logpdf(
        y, params.offset + params.gain * np.exp(log_rate), np.sqrt(params.noise_variance)
    )
    np.testing.assert_allclose(gaussian.log_likelihood(y, log_rate, params), expected, rtol=1e-12)
    np.testing.assert_allclose(gaussian.expected_counts(y, log_rate, params), np.exp(log_rate))


@pytest.mark.parametrize("order", [1, 2])
def test_ar_gaussian_equals_scipy(order):
    y, log_rate, spiking = random_problem(order=order)
    params = ar_gaussian.ARGaussianParams(*spiking)
    expected = scipy.stats.norm.logpdf(
        numpy_innovations(y, params), params.gain * np.exp(log_rate), np.sqrt(params.noise_variance)
    )
    value = ar_gaussian.log_likelihood(y, log_rate, params)
    np.testing.assert_allclose(value[order:], expected[order:], rtol=1e-10)
    np.testing.assert_array_equal(value[:order], 0)


def test_poisson_equals_scipy_for_integer_and_floating_counts():
    log_rate = np.random.default_rng(0).normal(size=(20, 2))
    y = np.random.default_rng(1).poisson(np.exp(log_rate))
    expected = scipy.stats.poisson.logpmf(y, np.exp(log_rate))
    for counts in (y, y.astype(float)):
        np.testing.assert_allclose(poisson.log_likelihood(counts, log_rate), expected, rtol=1e-12)
        np.testing.assert_array_equal(poisson.expected_counts(counts, log_rate), y)


# ------------------------------------------------------------------------------------------------------- autoregression


def test_a_missing_sample_takes_its_successors_with_it():
    mask = np.ones((9, 2), bool)
    mask[4, 0] = False
    usable = np.asarray(autoregression.usable(mask, 2))
    np.testing.assert_array_equal(usable[:, 0], [0, 0, 1, 1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(usable[:, 1], [0, 0, 1, 1, 1, 1, 1, 1, 1])


def test_the_first_frames_of_every_segment_are_conditioned_on():
    mask, starts = np.ones((8, 1), bool), np.array([1, 0, 0, 0, 1, 0, 1, 0], bool)
    for order, expected in (
        (0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (1, [0, 1, 1, 1, 0, 1, 0, 1]),
        (2, [0, 0, 1, 1, 0, 0, 0, 0]),
    ):
        np.testing.assert_array_equal(autoregression.usable(mask, order, starts)[:, 0], expected)


def test_lagged_stacks_the_past():
    y = np.arange(1.0, 9.0).reshape(4, 2)
    np.testing.assert_array_equal(
        autoregression.lagged(y, 2), [[[0, 0], [1, 2], [3, 4], [5, 6]], [[0, 0], [0, 0], [1, 2], [3, 4]]]
    )
    assert autoregression.lagged(y, 0).shape == (0, 4, 2)
    assert autoregression.lagged(y, 6).shape == (6, 4, 2)


def test_innovations_undo_the_autoregression():
    y, _, params = random_problem(order=3)
    np.testing.assert_allclose(
        autoregression.innovations(y, params.ar_coefs, params.intercept), numpy_innovations(y, params), atol=1e-12
    )


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.tuples(st.just(3), st.integers(1, 4)), elements=st.floats(-3, 3)))
def test_free_numbers_give_stable_autoregressions_and_come_back(free):
    coefs = autoregression.stable_ar(free)
    poles = autoregression.poles(coefs)
    assert np.abs(poles).max() < 1
    if free.shape[1] <= 2:  # decay and rise, no oscillation; a double root's round-off shows as its square root
        assert np.abs(poles.imag).max() < 1e-6
        assert poles.real.min() > 0
    np.testing.assert_allclose(autoregression.unconstrain_ar(coefs), free, atol=1e-4)


def test_inadmissible_coefficients_are_moved_to_the_border():
    for coefs in ([[1.2]], [[-0.3]], [[1.81, -0.82]], [[1.9, -0.8]], [[0.5, 0.3]], [[3.0, -3.0, 1.0]]):
        free = autoregression.unconstrain_ar(np.array(coefs))
        assert np.isfinite(free).all()
        back = autoregression.stable_ar(free)
        assert np.abs(autoregression.poles(back)).max() <= 1 + 1e-6
    np.testing.assert_allclose(
        autoregression.stable_ar(autoregression.unconstrain_ar(np.array([[1.81, -0.82]]))),
        [[1.81, -(0.905**2)]],
        atol=1e-6,
    )


def test_decay_time_is_that_of_the_slowest_pole():
    np.testing.assert_allclose(autoregression.decay_time([[np.exp(-1 / 7)]]), 7)
    slow, fast = np.exp(-1 / 9), np.exp(-1 / 2)
    np.testing.assert_allclose(autoregression.decay_time([[slow + fast, -slow * fast]]), 9)
    np.testing.assert_array_equal(autoregression.decay_time([[1.0], [0.0], [1.1]]), [np.inf, 0, np.inf])


# ----------------------------------------------------------------------------------------------------- drawing, lookup


def test_drawn_traces_have_the_models_moments():
    for name, params in TOY_PARAMS.items():
        rate = np.array([0.7, 2.0])
        drawn = observations.get(name).sample(jax.random.key(3), np.tile(np.log(rate), (20_000, 1)), params)
        assert drawn.y.shape == drawn.counts.shape == (20_000, 2)
        np.testing.assert_allclose(drawn.counts.mean(0), rate, rtol=0.05)
        if name in ("calcium", "ar_gaussian"):
            e = numpy_innovations(np.array(drawn.y), params)[1:]
            spikes = params[1] ** 2 * rate if name == "calcium" else 0.0
            np.testing.assert_allclose(e.mean(0), params[1] * rate, rtol=0.05)
            np.testing.assert_allclose(e.var(0), params.noise_variance + spikes, rtol=0.1)
            # The start is no transient: the first frame is already near the stationary mean.
            stationary = (params.intercept + params[1] * rate) / (1 - params.ar_coefs[:, 0])
            assert np.all(np.abs(drawn.y[0] - stationary) < 6 * np.sqrt(params.noise_variance + params[1] ** 2 * rate))


def test_true_parameters_are_a_maximum_of_the_drawn_likelihood():
    """Score zero at the truth: the gradient per sample is within its sampling error."""
    params, log_rate = TOY_PARAMS["calcium"], np.full((20_000, 2), -0.5)
    starts = np.arange(20_000) % 100 == 0
    y = calcium.sample(jax.random.key(4), log_rate, params, starts=starts).y
    gradient = jax.jit(jax.grad(lambda p: calcium.log_likelihood(y, log_rate, p, starts=starts).sum()))(params)
    np.testing.assert_array_less(np.abs(gradient.intercept) * np.sqrt(params.noise_variance / 20_000), 4)
    np.testing.assert_array_less(np.abs(gradient.noise_variance) * params.noise_variance * np.sqrt(2 / 20_000), 4)


def test_get_lists_the_known_names():
    assert observations.get("calcium") is calcium
    with pytest.raises(ValueError, match=r"'calcum'.*ar_gaussian, calcium, calcium_noisy, gaussian, poisson"):
        observations.get("calcum")
