"""Calcium behind measurement noise against enumeration of all spike counts, Kalman filters and the noiseless model."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import poisson

from nwb_calcium_lvm.observations import _state_space as space
from nwb_calcium_lvm.observations import _tilt, calcium, calcium_noisy
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams

T, LARGEST = 8, 3
RATE, AMPLITUDE, NOISE, BASELINE = 0.2, 1.0, 1e-2, 0.1
ORDERS = {1: [0.9], 2: [1.5, -0.56]}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def parameters(order: int, sd: float, n: int = 1, *, varied: float = 0.0, drift: float = 0.0) -> CalciumNoisyParams:
    def each(value: Any) -> np.ndarray:
        return np.full(n, float(value))

    return CalciumNoisyParams(
        np.tile(ORDERS[order], (n, 1)),
        each(AMPLITUDE),
        each(NOISE),
        each(sd**2),
        each(BASELINE),
        each(varied) if varied else None,
        each(drift) if drift else None,
    )


# -- Enumeration ------------------------------------------------------------------------------------------------------


def covariances(order: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """What inputs (frame, frame) and the state before the first frame (frame, order) do to calcium."""
    coefs = np.array(ORDERS[order])
    response = np.zeros(n_frames)
    for t in range(n_frames):
        past = sum(coefs[i] * response[t - 1 - i] for i in range(min(order, t)))
        response[t] = 1.0 if t == 0 else past
    inputs = np.array([[response[t - k] if k <= t else 0.0 for k in range(n_frames)] for t in range(n_frames)])
    companion = np.zeros((order, order))
    companion[0] = coefs
    companion[1:, :-1] = np.eye(order - 1)
    before = np.stack([np.linalg.matrix_power(companion, t + 1)[0] for t in range(n_frames)])
    return inputs, before


def enumerated(y: np.ndarray, order: int, sd: float, *, varied: float = 0.0, drift: float = 0.0):
    """Log density of a trace, and mean and variance of its counts, over all counts up to LARGEST in every frame."""
    n = len(y)
    inputs, before = covariances(order, n)
    vague, level = 1e3 * (AMPLITUDE**2 + sd**2), AMPLITUDE * RATE / (1 - np.sum(ORDERS[order]))
    walk = np.tril(np.ones((n, n)))
    fixed = sd**2 * np.eye(n) + vague * before @ before.T + drift * (walk @ walk.T + 100.0)
    counts = np.array(list(itertools.product(range(LARGEST + 1), repeat=n)))
    means = AMPLITUDE * counts @ inputs.T + BASELINE + level * before.sum(axis=1)
    if varied:
        covariance = fixed + np.einsum("tk,ck,uk->ctu", inputs, NOISE + varied * counts, inputs)
    else:
        covariance = (fixed + NOISE * inputs @ inputs.T)[None]
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, (y - means)[..., None])[..., 0]
    log_weight = -0.5 * (white**2).sum(axis=1) - np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    log_weight = log_weight - 0.5 * n * np.log(2 * np.pi) + poisson.logpmf(counts, RATE).sum(axis=1)
    total = np.logaddexp.reduce(log_weight)
    weight = np.exp(log_weight - total)
    mean = weight @ counts
    return total, mean, weight @ counts**2 - mean**2


def errors(order: int, sd: float, seed: int, **more: float) -> np.ndarray:
    """Errors of: filter's log density; EP's; EP's mean counts and their variances, largest; the filter's counts."""
    params = parameters(order, sd, **more)
    log_rate = jnp.full((T, 1), np.log(RATE))
    y = np.asarray(calcium_noisy.sample(jax.random.key(seed), log_rate, params).y)
    total, mean, variance = enumerated(y[:, 0], order, sd, **more)
    given = enumerated(y[:order, 0], order, sd, **more)[0]
    forward = calcium_noisy.filtered(y, log_rate, params)
    whole = calcium_noisy.posterior(y, log_rate, params, passes=10)
    late = slice(order, None)
    return np.array(
        [
            abs(float(forward.log_evidence.sum()) - (total - given)),
            abs(float(whole.log_evidence.sum()) - (total - given)),
            np.abs(np.asarray(whole.count_mean)[late, 0] - mean[late]).max(),
            np.abs(np.asarray(whole.count_variance)[late, 0] - variance[late]).max(),
            np.abs(np.asarray(forward.count_mean)[-1, 0] - mean[-1]),
        ]
    )


@pytest.mark.parametrize("order", [1, 2])
def test_little_noise_is_exact(order: int):
    found = np.max([errors(order, 0.02, seed) for seed in range(3)], axis=0)
    assert (found < 2e-3).all(), found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "sd", "typical", "worst"),
    [
        # Over 8 traces: nats by filter and by EP, EP's mean and variance of counts, the filter's last count. The
        # largest errors are of frames where two histories of spikes explain a trace about as well.
        (1, 0.2, [0.15, 0.02, 0.02, 0.02, 0.02], [0.7, 0.6, 0.5, 0.3, 0.1]),
        (1, 1.0, [0.04, 0.02, 0.005, 0.01, 0.01], [0.15, 0.02, 0.01, 0.02, 0.05]),
        (2, 0.2, [0.30, 0.10, 0.08, 0.06, 0.02], [0.9, 0.9, 0.75, 0.3, 0.25]),
    ],
)
def test_error_at_large_noise(order: int, sd: float, typical: list[float], worst: list[float]):
    found = [errors(order, sd, seed) for seed in range(8)]
    assert (np.median(found, axis=0) < typical).all(), np.median(found, axis=0)
    assert (np.max(found, axis=0) < worst).all(), np.max(found, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"varied": 0.04}, {"drift": 1e-3}])
def test_varied_amplitudes_and_drifting_baseline(more: dict[str, float]):
    found = np.max([errors(1, 0.1, seed, **more) for seed in range(3)], axis=0)
    assert (found < [0.1, 0.03, 0.03, 0.05, 0.03]).all(), found


# -- Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2])
def test_without_measurement_noise_it_is_the_published_likelihood(order: int):
    n_frames, n = 60, 3
    rng = np.random.default_rng(order)
    log_rate = jnp.asarray(np.log(rng.uniform(0.05, 0.5, (n_frames, n))))
    params = parameters(order, 1e-5, n)
    drawn = calcium_noisy.sample(jax.random.key(order), log_rate, parameters(order, 1e-9, n))
    intercept = params.baseline * (1 - np.asarray(params.ar_coefs).sum(axis=1))
    plain = calcium.CalciumParams(params.ar_coefs, params.spike_amplitude, params.noise_variance, intercept)
    starts = np.zeros(n_frames, bool)
    starts[[0, 25]] = True
    expected = calcium.log_likelihood(drawn.y, log_rate, plain, starts=starts)
    found = calcium_noisy.log_likelihood(drawn.y, log_rate, params, starts=starts)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    counts = calcium.posterior_counts(drawn.y, log_rate, plain, starts=starts)
    whole = calcium_noisy.posterior(drawn.y, log_rate, params, starts=starts)
    scored = np.asarray(expected != 0)
    np.testing.assert_allclose(np.asarray(whole.count_mean)[scored], np.asarray(counts.mean)[scored], atol=1e-4)
    np.testing.assert_allclose(np.asarray(whole.count_variance)[scored], np.asarray(counts.variance)[scored], atol=1e-4)
    np.testing.assert_allclose(whole.log_evidence.sum(axis=0), expected.sum(axis=0), atol=1e-3)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("drift", [0.0, 1e-3])
def test_with_gaussian_inputs_it_is_the_kalman_smoother(order: int, drift: float):
    """Spikes replaced by Gaussian inputs: smoothed calcium equals the conditional mean of a joint normal density."""
    n_frames, sd, spread = 12, 0.3, 0.25
    params = parameters(order, sd, drift=drift)
    dyn = calcium_noisy._dynamics(params)
    rng = np.random.default_rng(0)
    y, means = rng.normal(size=(n_frames, 1)), rng.normal(size=(n_frames, 1))
    observed = np.ones((n_frames, 1), bool)
    observed[[4, 5, 11]] = False
    starts = np.zeros(n_frames, bool)
    starts[0] = True
    sites = space.Sites(jnp.asarray(means), jnp.full((n_frames, 1), spread))
    found = space.messages(dyn, jnp.asarray(y), jnp.asarray(observed), jnp.asarray(starts), sites)

    inputs, before = covariances(order, n_frames)
    walk = np.tril(np.ones((n_frames, n_frames)))
    of_calcium = spread * inputs @ inputs.T + float(dyn.vague[0]) * before @ before.T
    of_level = of_calcium + drift * (walk @ walk.T + 100.0)
    seen = observed[:, 0]
    joint = of_level[np.ix_(seen, seen)] + sd**2 * np.eye(seen.sum())
    residual = y[seen, 0] - BASELINE - (inputs @ means)[seen, 0]
    gain = np.linalg.solve(joint, of_level[seen]).T
    np.testing.assert_allclose(found.calcium_mean[:, 0], (inputs @ means)[:, 0] + gain @ residual, atol=1e-7)
    variance = np.diag(of_level - gain @ of_level[seen])
    np.testing.assert_allclose(found.calcium_variance[:, 0], variance, atol=1e-6)
    # Log density, and the inputs' posterior: cavity times site
    ahead = found.error - sites.mean
    nats = -0.5 * (ahead**2 / (found.error_variance + spread) + jnp.log(2 * jnp.pi * (found.error_variance + spread)))
    _, log_det = np.linalg.slogdet(2 * np.pi * joint)
    expected = -0.5 * (residual @ np.linalg.solve(joint, residual) + log_det)
    np.testing.assert_allclose(np.asarray(nats)[seen].sum(), expected, atol=1e-6)
    with_input = spread * inputs[seen].T  # covariance of inputs and samples
    posterior_mean = means[:, 0] + with_input @ np.linalg.solve(joint, residual)
    posterior_variance = spread - np.einsum("ks,sk->k", with_input, np.linalg.solve(joint, with_input.T))
    precision = 1.0 / found.cavity_variance[:, 0] + 1.0 / spread
    weighted = found.cavity_mean[:, 0] / found.cavity_variance[:, 0] + means[:, 0] / spread
    np.testing.assert_allclose(1.0 / precision, posterior_variance, atol=1e-7)
    np.testing.assert_allclose(weighted / precision, posterior_mean, atol=1e-6)


# -- The law of an input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("varied", [None, 0.05])
def test_sums_over_counts(varied: float | None):
    rng = np.random.default_rng(0)
    n = 400
    log_rate, amplitude = np.log(rng.uniform(1e-3, 8.0, n)), rng.uniform(0.5, 2.0, n)
    mean, variance, noise = rng.uniform(-1.0, 12.0, n), rng.uniform(1e-4, 1.0, n), rng.uniform(1e-3, 0.3, n)
    extra = None if varied is None else np.full(n, varied)
    found = _tilt.poisson_tilt(25, *map(jnp.asarray, (mean, variance, log_rate, amplitude, noise)), extra)
    counts = np.arange(200.0)

    def terms(at: np.ndarray) -> np.ndarray:
        spread = (variance + noise)[:, None] + (0.0 if varied is None else varied) * counts
        density = -0.5 * ((at[:, None] - amplitude[:, None] * counts) ** 2 / spread + np.log(2 * np.pi * spread))
        return density + counts * log_rate[:, None] - np.exp(log_rate)[:, None] - gammaln(counts + 1)

    def evidence(at: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(terms(at), axis=1)

    weight = np.exp(terms(mean) - evidence(mean)[:, None])
    np.testing.assert_allclose(found.log_evidence, evidence(mean), atol=2e-6)
    np.testing.assert_allclose(found.count_mean, weight @ counts, atol=2e-5)
    expected = weight @ counts**2 - (weight @ counts) ** 2
    np.testing.assert_allclose(found.count_variance, expected, atol=2e-4)
    step = 1e-4
    slope = (evidence(mean + step) - evidence(mean - step)) / (2 * step)
    np.testing.assert_allclose(found.slope, slope, rtol=1e-3, atol=1e-4)
    bend = (evidence(mean + step) - 2 * evidence(mean) + evidence(mean - step)) / step**2
    np.testing.assert_allclose(found.curvature, -bend, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("varied", [None, 0.01])
def test_events_of_any_size_are_finite(varied: float | None):
    """A jump of hundreds of spikes, up or down, under parameters that have seen single ones, has a density."""
    mean = jnp.asarray([-300.0, -5.0, 0.8, 20.0, 400.0])
    variance, log_rate = jnp.full(5, 1e-3), jnp.full(5, np.log(0.02))
    amplitude, noise = jnp.full(5, 0.04), jnp.full(5, 1e-5)
    extra = None if varied is None else jnp.full(5, varied)

    def evidence(mean: jax.Array) -> jax.Array:
        return _tilt.poisson_tilt(9, mean, variance, log_rate, amplitude, noise, extra).log_evidence.sum()

    found = _tilt.poisson_tilt(9, mean, variance, log_rate, amplitude, noise, extra)
    assert all(np.isfinite(np.asarray(value)).all() for value in found)
    assert np.isfinite(np.asarray(jax.grad(evidence)(mean))).all()


def test_gradients_agree_with_differences():
    n_frames, n = 30, 2
    params = parameters(2, 0.2, n, varied=0.03, drift=1e-3)
    log_rate = jnp.full((n_frames, n), np.log(RATE))
    y = calcium_noisy.sample(jax.random.key(0), log_rate, params).y
    mask = np.ones((n_frames, n), bool)
    mask[10:13, 1] = False

    @jax.jit
    def loss(free: dict[str, jax.Array], log_rate: jax.Array) -> jax.Array:
        return calcium_noisy.log_likelihood(y, log_rate, calcium_noisy.constrain(free), mask).sum()

    free = calcium_noisy.unconstrain(params)
    gradient, of_rate = jax.grad(loss, argnums=(0, 1))(free, log_rate)
    step = 1e-5
    for name, value in free.items():
        for index in itertools.product(*map(range, value.shape)):
            up, down = (loss(free | {name: value.at[index].add(s)}, log_rate) for s in (step, -step))
            np.testing.assert_allclose(gradient[name][index], (up - down) / (2 * step), rtol=2e-4, atol=1e-4)
    for index in [(5, 0), (11, 1), (29, 0)]:
        up, down = (loss(free, log_rate.at[index].add(s)) for s in (step, -step))
        np.testing.assert_allclose(of_rate[index], (up - down) / (2 * step), rtol=2e-4, atol=1e-4)


# -- Missing samples, segments ----------------------------------------------------------------------------------------


def test_what_stands_at_missing_samples_has_no_influence():
    n_frames, n = 40, 2
    params = parameters(1, 0.2, n)
    log_rate = jnp.full((n_frames, n), np.log(RATE))
    y = np.array(calcium_noisy.sample(jax.random.key(1), log_rate, params).y)
    mask = np.ones((n_frames, n), bool)
    mask[8:14, 0] = False
    mask[0, 1] = mask[-1, 1] = False
    other = np.where(mask, y, 1e3)
    with_nan = np.where(mask, y, np.nan)
    for function in (calcium_noisy.filtered, calcium_noisy.posterior):
        first, second = function(y, log_rate, params, mask), function(other, log_rate, params, mask)
        third = function(with_nan, log_rate, params)
        for a, b, c in zip(first, second, third, strict=True):
            assert np.isfinite(np.asarray(a)).all()
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c)
    scored = np.asarray(calcium_noisy.log_likelihood(y, log_rate, params, mask)) != 0
    assert not scored[0].any()
    assert not scored[1, 1]  # its first observed sample is conditioned on
    assert not scored[8:14, 0].any()
    assert scored[14, 0]  # calcium is carried over the gap


@pytest.mark.parametrize("more", [{}, {"varied": 0.04}])
def test_a_gap_at_the_end_is_what_the_model_predicts(more: dict[str, float]):
    """Nothing follows, so that counts are as the rate has them, and calcium as uncertain as the filter says."""
    n_frames, gap = 60, 12
    params = parameters(1, 0.2, **more)
    log_rate = jnp.full((n_frames, 1), np.log(RATE))
    y = np.array(calcium_noisy.sample(jax.random.key(4), log_rate, params).y)
    y[-gap:] = np.nan
    whole, forward = (f(y, log_rate, params) for f in (calcium_noisy.posterior, calcium_noisy.filtered))
    np.testing.assert_allclose(whole.count_mean[-gap:], RATE, rtol=1e-6)
    np.testing.assert_allclose(whole.count_variance[-gap:], RATE, rtol=1e-6)
    np.testing.assert_allclose(whole.calcium_variance[-1], forward.calcium_variance[-1], rtol=0.05)
    np.testing.assert_allclose(whole.calcium_mean[-1], forward.calcium_mean[-1], atol=0.1)


@pytest.mark.parametrize("function", [calcium_noisy.filtered, calcium_noisy.posterior])
def test_inputs_are_what_their_counts_make_of_them(function):
    """Given its spikes an input is the mean of two normal densities, c s and the cavity, by their precisions."""
    params = parameters(2, 0.3)
    log_rate = jnp.full((60, 1), np.log(RATE))
    y = np.array(calcium_noisy.sample(jax.random.key(5), log_rate, params).y)
    y[20:25] = np.nan
    found = function(y, log_rate, params)
    own, cavity = 1 / NOISE, 1 / found.cavity_variance
    expected = (own * AMPLITUDE * found.count_mean + cavity * found.cavity_mean) / (own + cavity)
    if function is calcium_noisy.filtered:  # which has no cavity where there is no sample
        expected = np.where(np.isnan(y), AMPLITUDE * RATE, expected)
    np.testing.assert_allclose(found.input_mean, expected, atol=1e-9)


def test_segments_know_nothing_of_each_other():
    n_frames = 50
    params = parameters(2, 0.2)
    log_rate = jnp.full((n_frames, 1), np.log(RATE))
    starts = np.zeros(n_frames, bool)
    starts[[0, 20]] = True
    y = np.array(calcium_noisy.sample(jax.random.key(2), log_rate, params, starts=starts).y)
    for function in (calcium_noisy.filtered, calcium_noisy.posterior):
        whole = function(y, log_rate, params, starts=starts)
        parts = [function(y[a:b], log_rate[a:b], params) for a, b in ((0, 20), (20, 50))]
        for i, value in enumerate(whole):
            np.testing.assert_allclose(value, np.concatenate([part[i] for part in parts]), atol=1e-9)


def test_draws_have_the_moments_of_the_model():
    n_frames, n = 4000, 4
    params = parameters(1, 0.3, n, varied=0.2, drift=0.0)
    drawn = calcium_noisy.sample(jax.random.key(3), jnp.full((n_frames, n), np.log(0.5)), params)
    y, counts = np.asarray(drawn.y), np.asarray(drawn.counts)
    assert abs(counts.mean() - 0.5) < 0.02
    input_ = y[1:] - 0.9 * y[:-1] - 0.1 * BASELINE  # c s + noise + w_t - 0.9 w_{t-1}
    assert abs(input_.mean() - 0.5) < 0.03
    expected = NOISE + 0.5 * (AMPLITUDE**2 + 0.2) + 0.3**2 * (1 + 0.81)
    assert abs(input_.var() / expected - 1) < 0.06
    lagged = np.mean((input_[1:] - input_.mean()) * (input_[:-1] - input_.mean()))
    assert abs(lagged + 0.9 * 0.3**2) < 0.03


def test_free_parameters_go_there_and_back():
    params = parameters(2, 0.2, 3, varied=0.04, drift=1e-3)
    back = calcium_noisy.constrain(calcium_noisy.unconstrain(params))
    for a, b in zip(params, back, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    assert calcium_noisy.constrain(calcium_noisy.unconstrain(parameters(1, 0.2))).drift_variance is None


def test_slopes_where_spikes_are_very_clear():
    """Noise of a thirtieth of a spike: the sum over counts has one term, and its slopes stay finite."""
    with jax.enable_x64(True):
        at = jnp.array([1.98]), jnp.array([1e-3]), jnp.array([-1.0]), jnp.array([1.0])

        def sums(*at):
            return sum(part.sum() for part in _tilt.poisson_tilt(17, *at, jnp.zeros(1), None)[:3])

        slopes = jax.grad(sums, argnums=(0, 1, 2, 3))(*at)
        for i, slope in enumerate(slopes):
            step = 1e-6 * float(abs(at[i][0]))
            ends = [sums(*(a + sign * step * (j == i) for j, a in enumerate(at))) for sign in (1, -1)]
            assert float(slope[0]) == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-4)
