"""Gaussian processes against dense algebra, bounds against quadrature and Monte Carlo, slopes against differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import gammaln
from scipy.stats import multivariate_normal

from nwb_calcium_lvm.gpfa import frames, kalman, kernels
from nwb_calcium_lvm.gpfa.data import CHUNK
from nwb_calcium_lvm.gpfa.readouts import Block, GaussianReadout, Latents, LinearParams, Prior, SpikeReadout, Weights
from nwb_calcium_lvm.gpfa.vem import pace
from nwb_calcium_lvm.observations.calcium import CalciumParams
from nwb_calcium_lvm.observations.poisson import PoissonParams

MARKOV = ["matern32", "matern52"]
T, D = 24, 3
SCALES = np.array([3.0, 8.0, 500.0])
STEPS = np.array([1.0, np.inf, 4.5])
KIND = np.zeros(T, int)
KIND[[0, 10]], KIND[17] = 1, 2  # two trials, and a gap of 4.5 frames


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def dense_kernel(kernel, scales=SCALES):
    """Prior covariance (T D, T D), from the covariance function at the frames' times."""
    time = np.cumsum(np.where(np.isinf(STEPS[KIND]), 1e9, STEPS[KIND]))
    lag = np.abs(time[:, None] - time)[:, :, None] / scales
    r = np.sqrt({"matern32": 3.0, "matern52": 5.0}[kernel]) * lag
    values = (1 + r + (r**2 / 3 if kernel == "matern52" else 0.0)) * np.exp(-r)
    out = np.zeros((T, D, T, D))
    for j in range(D):
        out[:, j, :, j] = values[:, :, j]
    return out.reshape(T * D, T * D)


def random_sites(rng):
    root = rng.normal(size=(T, D, 4))
    root[5] = 0.0  # nothing observed
    root[7, :, 1:] = 0.0  # one direction only
    return frames.Sites(root @ root.transpose(0, 2, 1), np.einsum("tij,tj->ti", root, rng.normal(size=(T, 4))))


def dense_posterior(prior, sites):
    """Mean, covariance and log Z by solving with the whole covariance."""
    wide = np.zeros((T, D, T, D))
    wide[np.arange(T), :, np.arange(T)] = sites.precision
    system = np.eye(T * D) + prior @ wide.reshape(T * D, T * D)
    covariance = np.linalg.solve(system, prior)
    mean = covariance @ sites.linear.ravel()
    return mean, covariance, 0.5 * sites.linear.ravel() @ mean - 0.5 * np.linalg.slogdet(system)[1]


# -- Kernels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", MARKOV)
def test_state_space_form_has_the_kernel_as_its_covariance(kernel):
    moves = kernels.transitions(kernel, SCALES, np.array([0.3, 1.0, 20.0]))
    stationary = kernels.stationary(kernel)
    for k, lag in enumerate([0.3, 1.0, 20.0]):
        across = np.einsum("ijd,jl->ild", moves.matrix[k], stationary)[0, 0]
        np.testing.assert_allclose(across, kernels.covariance(kernel, lag, SCALES), atol=1e-12)
        kept = np.einsum("ijd,jl,mld->imd", moves.matrix[k], stationary, moves.matrix[k])
        np.testing.assert_allclose(
            kept + moves.noise[k], np.broadcast_to(stationary[..., None], kept.shape), atol=1e-12
        )


@pytest.mark.parametrize("kernel", MARKOV)
def test_transition_solves_the_differential_equation(kernel):
    form = kernels._FORMS[kernel]
    solved = solve_ivp(lambda _, y: (form.drift @ y.reshape(form.drift.shape)).ravel(), (0, 1.7),
                       np.eye(len(form.drift)).ravel(), rtol=1e-11, atol=1e-12)  # fmt: skip
    matrix = kernels.transitions(kernel, [form.decay], [1.7]).matrix[0, :, :, 0]
    np.testing.assert_allclose(matrix, solved.y[:, -1].reshape(form.drift.shape), atol=1e-9)


@pytest.mark.parametrize("kernel", MARKOV)
def test_noise_of_a_short_step_stays_positive(kernel):
    noise = kernels.transitions(kernel, [1e4], [1.0]).noise[0, :, :, 0]
    assert (np.linalg.eigvalsh(noise / np.sqrt(np.outer(np.diag(noise), np.diag(noise)))) > 1e-4).all()


def test_spectrum_is_that_of_the_kernel_on_a_circle():
    n, scale = 60, 4.0
    lag = np.arange(n)
    wrapped = sum(np.exp(-0.5 * ((lag + k * n) / scale) ** 2) for k in range(-3, 4))
    power = np.fft.rfft(wrapped / wrapped[0]).real / n
    np.testing.assert_allclose(kernels.spectrum([scale], n)[:, 0], power, atol=1e-12)


# -- Filter and smoother ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", MARKOV)
@pytest.mark.parametrize("chunk", [24, 8])
@pytest.mark.parametrize("at_once", [False, True])
def test_state_space_equals_dense_gaussian_process(kernel, chunk, at_once):
    sites = random_sites(np.random.default_rng(0))
    clock = kalman.Clock(jnp.asarray(STEPS), jnp.asarray(KIND))
    found = kalman.smooth(
        kernel, jnp.log(SCALES), clock, jax.tree.map(jnp.asarray, sites), chunk=chunk, at_once=at_once
    )
    mean, covariance, log_evidence = dense_posterior(dense_kernel(kernel), sites)
    within = covariance.reshape(T, D, T, D)[np.arange(T), :, np.arange(T)]
    np.testing.assert_allclose(found.mean, mean.reshape(T, D), atol=1e-10)
    np.testing.assert_allclose(found.covariance, within, atol=1e-10)
    np.testing.assert_allclose(found.log_evidence, log_evidence, atol=1e-10)
    step = 1e-4
    for j in range(D):
        up, down = (dense_posterior(dense_kernel(kernel, SCALES * np.exp(s * step * np.eye(D)[j])), sites)[2]
                    for s in (1, -1))  # fmt: skip
        np.testing.assert_allclose(found.gradient[j], (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


def test_at_once_is_for_accelerators_and_chunks_are_of_one_length():
    assert pace(4096, "cpu") == (CHUNK, False)
    for n_chunks in (1, 7, 16, 37, 832):
        chunk, at_once = pace(n_chunks * CHUNK, "gpu")
        assert at_once
        assert n_chunks * CHUNK % chunk == 0
        assert CHUNK <= chunk <= 32 * CHUNK
    assert pace(16 * CHUNK, "gpu")[0] == 16 * CHUNK


@pytest.mark.parametrize("kernel", MARKOV)
def test_gaussian_observations_equal_textbook_gpfa(kernel):
    """Posterior and evidence of y = C x + d + noise by conditioning the joint normal of all traces."""
    rng = np.random.default_rng(1)
    n_rois = 5
    loadings, offset, variance = rng.normal(size=(n_rois, D)), rng.normal(size=n_rois), rng.uniform(0.2, 1.0, n_rois)
    y = rng.normal(size=(T, n_rois))
    prior = dense_kernel(kernel)
    wide = np.kron(np.eye(T), loadings)
    joint = wide @ prior @ wide.T + np.kron(np.eye(T), np.diag(variance))
    gain = prior @ wide.T @ np.linalg.inv(joint)
    mean = (gain @ (y - offset).ravel()).reshape(T, D)
    evidence = multivariate_normal.logpdf((y - offset).ravel(), np.zeros(T * n_rois), joint)
    readout, weights = GaussianReadout(), Weights(loadings, offset, LinearParams(np.zeros((n_rois, 0)), variance))
    weights = jax.tree.map(jnp.asarray, weights)
    block = _block(y)
    nothing = Latents(jnp.zeros((T, D)), jnp.zeros((T, D, D)))
    look = readout.look(weights, block, nothing, _prior(n_rois), learn=False)
    sites = frames.Sites(look.precision, look.linear)
    clock = kalman.Clock(jnp.asarray(STEPS), jnp.asarray(KIND))
    found = kalman.smooth(kernel, jnp.log(SCALES), clock, sites, chunk=T)
    np.testing.assert_allclose(found.mean, mean, atol=1e-9)
    covariance = (prior - gain @ wide @ prior).reshape(T, D, T, D)[np.arange(T), :, np.arange(T)]
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-9)
    from nwb_calcium_lvm.gpfa.vem import divergence

    again = readout.look(weights, block, Latents(found.mean, found.covariance), _prior(n_rois), learn=False)
    np.testing.assert_allclose(again.bound.sum() - divergence(found, sites), evidence, atol=1e-8)


# -- Bounds -----------------------------------------------------------------------------------------------------------


def _block(y, observed=None, scored=None, starts=None):
    observed = np.ones(y.shape, bool) if observed is None else observed
    starts = np.arange(len(y)) == 0 if starts is None else starts
    return Block(*map(jnp.asarray, (y, observed, observed if scored is None else scored, starts)))


def _prior(n_rois, order=0, frames=1.0, precision=0.04):
    rows = (np.full(n_rois, -1.0), np.full(n_rois, 0.1), np.full(n_rois, 1e-6))
    none = np.zeros((n_rois, order))
    return Prior(*map(jnp.asarray, (np.full(D, precision), np.float64(frames), *rows, none, none)))


def _calcium_case(seed, n_frames=12, n_rois=3):
    rng = np.random.default_rng(seed)
    params = CalciumParams(np.full((n_rois, 1), 0.8), rng.uniform(0.8, 1.2, n_rois), rng.uniform(0.01, 0.1, n_rois),
                           rng.normal(0, 0.05, n_rois))  # fmt: skip
    weights = Weights(rng.normal(0, 0.5, (n_rois, D)), rng.normal(-1.0, 0.3, n_rois), params)
    mean = rng.normal(size=(n_frames, D))
    root = rng.normal(0, 0.4, (n_frames, D, D))
    latents = Latents(mean, root @ root.transpose(0, 2, 1))
    spikes = rng.poisson(np.exp(mean @ weights.loadings.T + weights.offset))
    y = np.zeros((n_frames, n_rois))
    for t in range(n_frames):
        drive = params.intercept + params.spike_amplitude * spikes[t] + rng.normal(size=n_rois) * 0.2
        y[t] = drive + (params.ar_coefs[:, 0] * y[t - 1] if t else 0.0)
    scored = np.ones(y.shape, bool)
    scored[0] = False
    return jax.tree.map(jnp.asarray, weights), _block(y, scored=scored), jax.tree.map(jnp.asarray, latents)


def _by_plain_sums(weights, block, eta):
    """log p(y_t | eta) by a sum over counts 0 .. 40, for eta of shape (..., T, N)."""
    p = weights.params
    y = np.asarray(block.y)
    e = y[1:] - np.asarray(p.ar_coefs)[:, 0] * y[:-1] - np.asarray(p.intercept)
    counts = np.arange(41.0)[:, None, None]
    normal = -0.5 * (e - np.asarray(p.spike_amplitude) * counts) ** 2 / np.asarray(p.noise_variance)
    normal = normal - 0.5 * np.log(2 * np.pi * np.asarray(p.noise_variance)) - gammaln(counts + 1)
    eta = eta[..., None, 1:, :]
    return np.logaddexp.reduce(normal + counts * eta - np.exp(eta), axis=-3)


def test_bound_on_the_expected_density_against_monte_carlo():
    weights, block, latents = _calcium_case(0)
    look = SpikeReadout("calcium", 1).look(weights, block, latents, _prior(3, 1), learn=False)
    rng = np.random.default_rng(2)
    roots = np.linalg.cholesky(np.asarray(latents.covariance) + 1e-12 * np.eye(D))
    draws = np.asarray(latents.mean) + np.einsum("tij,stj->sti", roots, rng.normal(size=(4_000, 12, D)))
    eta = draws @ np.asarray(weights.loadings).T + np.asarray(weights.offset)
    values = _by_plain_sums(weights, block, eta).sum(axis=1)
    error = values.std(axis=0) / np.sqrt(len(values))
    bound, expected = np.asarray(look.bound), values.mean(axis=0)
    assert (bound < expected + 4 * error).all()
    assert (bound > expected - 0.2).all()  # spikes are clear here, so that it is tight


def test_bound_against_quadrature_and_tight_without_doubt():
    weights, block, latents = _calcium_case(1)
    readout = SpikeReadout("calcium", 1)
    nodes, masses = np.polynomial.hermite_e.hermegauss(40)
    c, d = np.asarray(weights.loadings), np.asarray(weights.offset)
    mean = np.asarray(latents.mean) @ c.T + d
    spread = np.einsum("ni,tij,nj->tn", c, np.asarray(latents.covariance), c)
    eta = mean + nodes[:, None, None] * np.sqrt(spread)
    exact = np.einsum("s,stn->n", masses / masses.sum(), _by_plain_sums(weights, block, eta))
    look = readout.look(weights, block, latents, _prior(3, 1), learn=False)
    gap = exact - np.asarray(look.bound)
    assert (gap > 0).all()
    assert (gap < 0.1).all()
    sure = latents._replace(covariance=jnp.zeros_like(latents.covariance))
    look = readout.look(weights, block, sure, _prior(3, 1), learn=False)
    np.testing.assert_allclose(look.bound, _by_plain_sums(weights, block, mean).sum(axis=0), atol=1e-5)


def test_poisson_bound_is_the_expected_density():
    rng = np.random.default_rng(3)
    weights, _, latents = _calcium_case(3)
    weights = weights._replace(params=PoissonParams())
    y = rng.poisson(0.5, (12, 3)).astype(float)
    look = SpikeReadout("poisson").look(weights, _block(y), latents, _prior(3), learn=False)
    c, d = np.asarray(weights.loadings), np.asarray(weights.offset)
    mean = np.asarray(latents.mean) @ c.T + d
    spread = np.einsum("ni,tij,nj->tn", c, np.asarray(latents.covariance), c)
    np.testing.assert_allclose(look.bound, (y * mean - np.exp(mean + spread / 2) - gammaln(y + 1)).sum(axis=0))


@pytest.mark.parametrize("name", ["calcium", "poisson", "gaussian", "ar_gaussian"])
def test_sites_are_the_slopes_of_the_bound(name):
    """Precision and linear term of a site: d bound / dV = -W / 2, and d bound / dm = h - W m (Khan and Lin 2017)."""
    weights, block, latents = _calcium_case(4)
    readout, prior = _readout(name), _prior(3, 1)
    weights = _weights(name, weights)

    @jax.jit
    def bound(mean, covariance):
        return readout.look(weights, block, Latents(mean, covariance), prior, learn=False).bound.sum()

    look = readout.look(weights, block, latents, prior, learn=False)
    by_mean, by_covariance = jax.grad(bound, argnums=(0, 1))(latents.mean, latents.covariance)
    np.testing.assert_allclose(by_covariance, -0.5 * look.precision, atol=1e-9)
    np.testing.assert_allclose(by_mean, look.linear - jnp.einsum("tij,tj->ti", look.precision, latents.mean), atol=2e-5)
    step = np.zeros((12, D))
    step[5, 1] = 1e-5
    difference = (
        bound(latents.mean + step, latents.covariance) - bound(latents.mean - step, latents.covariance)
    ) / 2e-5
    np.testing.assert_allclose(by_mean[5, 1], difference, rtol=1e-4, atol=1e-6)


def _readout(name):
    return SpikeReadout(name, int(name == "calcium")) if "gaussian" not in name else GaussianReadout(int("ar" in name))


def _weights(name, weights):
    params = weights.params
    if name == "poisson":
        return weights._replace(params=PoissonParams())
    if "gaussian" in name:
        ar_coefs = params.ar_coefs if "ar" in name else params.ar_coefs[:, :0]
        return weights._replace(params=LinearParams(ar_coefs, params.noise_variance))
    return weights


def test_update_of_calcium_equals_regression_on_enumerated_counts():
    """One update of (alpha, b, c) and sigma2 from E[s] and E[s^2] by plain sums; the prior switched off."""
    weights, block, latents = _calcium_case(5, n_frames=60)
    prior = _prior(3, 1, frames=0.0)
    sure = latents._replace(covariance=jnp.zeros_like(latents.covariance))
    new = SpikeReadout("calcium", 1).look(weights, block, sure, prior, learn=True).weights.params
    p, y = weights.params, np.asarray(block.y)
    eta = (np.asarray(latents.mean) @ np.asarray(weights.loadings).T + np.asarray(weights.offset))[1:]
    e = y[1:] - np.asarray(p.ar_coefs)[:, 0] * y[:-1] - np.asarray(p.intercept)
    counts = np.arange(41.0)[:, None, None]
    logs = counts * eta - gammaln(counts + 1)
    logs = logs - 0.5 * (e - np.asarray(p.spike_amplitude) * counts) ** 2 / np.asarray(p.noise_variance)
    posterior = np.exp(logs - np.logaddexp.reduce(logs))
    first, second = (counts * posterior).sum(axis=0), (counts**2 * posterior).sum(axis=0)
    for n in range(3):
        design = np.column_stack([y[:-1, n], np.ones(59), first[:, n]])
        gram = design.T @ design
        gram[2, 2] = second[:, n].sum()
        theta = np.linalg.solve(gram, design.T @ y[1:, n])
        variance = (y[1:, n] @ y[1:, n] - theta @ design.T @ y[1:, n]) / 59
        learned = [new.ar_coefs[n, 0], new.intercept[n], new.spike_amplitude[n], new.noise_variance[n]]
        np.testing.assert_allclose(learned, [*theta, variance], rtol=2e-4, atol=1e-6)


@partial(jax.jit, static_argnames=("readout", "n_steps"))
def _learn(readout, weights, block, latents, prior, n_steps):
    """Learn for some steps: weights at the end, and the objective (step, roi) before each."""

    def step(weights, _):
        look = readout.look(weights, block, latents, prior, learn=True)
        return look.weights, look.bound + readout.log_prior(weights, prior)

    return jax.lax.scan(step, weights, length=n_steps)


def _learning_case(name, seed):
    weights, block, latents = _calcium_case(seed, n_frames=60)
    block = block._replace(scored=block.scored.at[20, 1].set(False))
    if name == "poisson":
        block = block._replace(y=jnp.round(jnp.abs(block.y)))
    order = 0 if name in ("poisson", "gaussian") else 1
    return _readout(name), _weights(name, weights), block, latents, _prior(3, order)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["calcium", "poisson", "gaussian", "ar_gaussian"])
def test_learning_the_weights_never_lowers_the_objective(name, seed):
    _, values = _learn(*_learning_case(name, seed), 200)
    values = np.asarray(values)
    assert (np.diff(values, axis=0) >= -1e-7).all()
    assert (values[-1] > values[0]).all()


@pytest.mark.parametrize("name", ["poisson", "gaussian", "ar_gaussian", "calcium"])
def test_learned_weights_are_a_stationary_point(name):
    readout, weights, block, latents, prior = _learning_case(name, 7)
    for _ in range(5):
        weights, _ = _learn(readout, weights, block, latents, prior, 200)

    def objective(weights):
        look = readout.look(weights, block, latents, prior, learn=False)
        return (look.bound + readout.log_prior(weights, prior)).sum()

    slopes = jax.jit(jax.grad(objective))(weights)
    for slope, value in zip(jax.tree.leaves(slopes), jax.tree.leaves(weights), strict=True):
        assert np.abs(np.asarray(slope) * (np.abs(np.asarray(value)) + 0.1)).max(initial=0.0) < 2e-2
