"""States behind calcium with measurement noise: against sums over all paths and counts, and against its neighbours."""

import itertools
from math import factorial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from nwb_calcium_lvm.hmm import em, lockstep, propagation
from nwb_calcium_lvm.hmm.data import after_first, pack, pack_noisy
from nwb_calcium_lvm.hmm.emissions import CalciumEmission, CalciumNoisyEmission, calcium, calcium_noisy
from nwb_calcium_lvm.hmm.inference import Chain
from nwb_calcium_lvm.observations import calcium_noisy as single
from nwb_calcium_lvm.observations.starting import scored

CHUNK, COUNTS = 4, 4


def _model(rng, order=1, k=2, n=2, noise=0.01, measurement=0.04):
    ar = np.tile([[0.8]] if order == 1 else [[1.1, -0.25]], (n, 1))
    rates, amplitude = rng.gamma(2.0, 0.15, (k, n)), rng.uniform(0.8, 1.2, n)
    variances = np.full(n, noise), np.full(n, measurement)
    params = calcium_noisy.Params(*map(np.asarray, (rates, ar, amplitude, *variances, rng.normal(0.0, 0.2, n))))
    stay = 0.7 * np.eye(k) + 0.3 * rng.dirichlet(np.ones(k), size=k)
    return em.Model(Chain(rng.dirichlet(np.ones(k)), stay), params)


def _draw(rng, model, n_frames):
    p = model.params
    k, n = p.rates.shape
    order = p.ar_coefs.shape[1]
    states, traces = np.zeros(n_frames, int), np.zeros((n_frames, n))
    past = np.zeros((order, n))
    for t in range(n_frames):
        chances = model.chain.transition_matrix[states[t - 1]] if t else model.chain.initial_probs
        states[t] = rng.choice(k, p=chances)
        spikes = np.minimum(rng.poisson(p.rates[states[t]]), COUNTS)
        x = (p.ar_coefs.T * past).sum(axis=0) + p.spike_amplitude * spikes
        x = x + np.sqrt(p.noise_variance) * rng.standard_normal(n)
        past = np.concatenate([x[None], past[:-1]])
        traces[t] = x + p.baseline + np.sqrt(p.measurement_variance) * rng.standard_normal(n)
    return traces, states


def _enumerate(model, y, mask, counts=COUNTS):
    """Exact p(state | y), E[s | y] and log p(y): Gaussian densities of traces given counts, summed over all."""
    p = model.params
    n_frames, n = y.shape
    k, order = len(p.rates), p.ar_coefs.shape[1]
    grid = np.array(list(itertools.product(range(counts + 1), repeat=n_frames)))
    paths = np.array(list(itertools.product(range(k), repeat=n_frames)))
    chain = model.chain.initial_probs[paths[:, 0]] * np.prod(
        [model.chain.transition_matrix[paths[:, t - 1], paths[:, t]] for t in range(1, n_frames)], axis=0
    )
    by_path, spikes_by_path = np.ones(len(paths)), np.zeros((len(paths), n_frames, n))
    for i in range(n):
        c, b = p.spike_amplitude[i], p.baseline[i]
        response = np.zeros((n_frames, n_frames))  # of calcium to an input
        start = np.zeros((n_frames, order))  # and to calcium before the first frame
        for t in range(n_frames):
            for lag, a in enumerate(p.ar_coefs[i], 1):
                if t >= lag:
                    response[t] += a * response[t - lag]
                    start[t] += a * start[t - lag]
                else:
                    start[t, lag - t - 1] += a
            response[t, t] = 1.0
        vague = 1e3 * (c**2 + p.measurement_variance[i])
        covariance = p.noise_variance[i] * response @ response.T + vague * start @ start.T
        covariance += p.measurement_variance[i] * np.eye(n_frames)
        seen = mask[:, i]
        density = multivariate_normal(np.zeros(seen.sum()), covariance[np.ix_(seen, seen)])
        given_counts = density.pdf(((y[:, i] - b) - c * grid @ response.T)[:, seen])
        law = np.array([[np.exp(-lam) * lam**r / factorial(r) for r in range(counts + 1)] for lam in p.rates[:, i]])
        for j, path in enumerate(paths):
            weight = given_counts * np.prod([law[z, grid[:, t]] for t, z in enumerate(path)], axis=0)
            total = weight.sum()
            by_path[j] *= total
            spikes_by_path[j, :, i] = weight @ grid / total
    weight = chain * by_path
    posterior = weight / weight.sum()
    probs = np.stack([posterior @ (paths == z) for z in range(k)], axis=1)
    return probs, np.einsum("j,jtn->tn", posterior, spikes_by_path), np.log(weight.sum())


def _believe(model, y, mask, first=(0,), passes=40, counts=COUNTS):
    first = np.asarray(first)
    order = model.params.ar_coefs.shape[1]
    emission = CalciumNoisyEmission(order=order, max_spikes=counts)
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, model)
        data, told = pack_noisy(y, mask, first, after_first(mask, first, order), CHUNK)
        found = propagation.believe(emission, model, data, told, passes, chunk=CHUNK)
        return jax.tree.map(lambda a: np.asarray(a)[: len(y)] if np.ndim(a) else float(a), found)


def _filter(model, y, mask, first=(0,), rule=scored, counts=COUNTS):
    first = np.asarray(first)
    order = model.params.ar_coefs.shape[1]
    emission = CalciumNoisyEmission(order=order, max_spikes=counts)
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, model)
        data, told = pack_noisy(y, mask, first, rule(mask, first, order), CHUNK)
        return tuple(np.asarray(a)[: len(y)] for a in lockstep.filter_together(emission, model, data, told))


# Noise sd 0.05, 0.2 and 0.4 of a spike. Bounds are the largest errors over these draws, rounded up.
@pytest.mark.parametrize(
    ("measurement", "of_states", "of_spikes", "of_evidence"),
    [(0.0025, 2e-3, 3e-3, 0.06), (0.04, 0.03, 0.15, 0.6), (0.16, 0.05, 0.05, 0.2)],
)
@pytest.mark.parametrize("order", [1, 2])
def test_propagation_is_near_the_sum_over_all_paths_and_counts(order, measurement, of_states, of_spikes, of_evidence):
    errors = np.array([_errors(seed, order, measurement, gap=False) for seed in range(6)])
    assert (errors.max(axis=0) < [of_states, of_spikes, of_evidence]).all(), errors


def test_after_a_gap_states_are_near_the_sum_and_spikes_may_swap_frames():
    # A spike in the missing frame or a smaller one after it: one normal law per frame cannot say "either, not both".
    errors = np.array([_errors(seed, 1, measurement, gap=True) for seed in range(3) for measurement in (0.0025, 0.04)])
    assert errors[:, 0].max() < 0.05
    assert errors[:, 1].max() < 0.5


def _errors(seed, order, measurement, gap):
    rng = np.random.default_rng(seed)
    model = _model(rng, order, measurement=measurement)
    y, _ = _draw(rng, model, 6)
    mask = np.ones(y.shape, bool)
    mask[3, seed % 2] = not gap
    probs, spikes, evidence = _enumerate(model, y, mask)
    evidence -= _enumerate(model, y[:order], mask[:order])[2]
    found = _believe(model, np.where(mask, y, 0.0), mask)
    return np.abs(found.probs - probs).max(), np.abs(found.count_mean - spikes).max(), abs(found.evidence - evidence)


@pytest.mark.parametrize("order", [1, 2])
def test_filter_is_near_the_sum_over_all_paths_and_counts(order):
    cases = [(1e-4, 0.01, 0.06), (0.0025, 0.01, 0.2), (0.16, 0.03, 0.2)]
    for seed, (measurement, of_states, of_evidence) in enumerate(cases):
        rng = np.random.default_rng(seed)
        model = _model(rng, order, measurement=measurement)
        y, _ = _draw(rng, model, 6)
        mask = np.ones(y.shape, bool)
        probs, _, evidence = _enumerate(model, y, mask)
        evidence -= _enumerate(model, y[:order], mask[:order])[2]
        found, told = _filter(model, y, mask)
        np.testing.assert_allclose(found[-1], probs[-1], atol=of_states)  # nothing is left to come
        np.testing.assert_allclose(told.sum(), evidence, atol=of_evidence)


def test_filter_keeps_the_mean_of_calcium():
    """Taking in one sample loses nothing of states and mean calcium, hence nothing of the next sample's mean."""
    model = _model(np.random.default_rng(0), n=1, noise=0.01, measurement=0.25)
    model = model._replace(params=model.params._replace(rates=np.array([[0.1], [2.0]])))
    grid = np.linspace(-4.0, 8.0, 61)
    for second in (0.6, 1.3):
        means = []
        for density in (_filtered_density, _exact_density):
            weight = np.array([density(model, np.array([[0.2], [second], [last]])) for last in grid])
            means.append((weight * grid).sum() / weight.sum())
        np.testing.assert_allclose(means[0], means[1], atol=3e-3)


def test_filter_carries_mean_and_variance_over_a_gap():
    """The missing frame may have been any state's; states here have no memory, or it would matter for the next too."""
    model = _model(np.random.default_rng(0), n=1, noise=0.01, measurement=0.04)
    chain = model.chain._replace(transition_matrix=np.array([[0.6, 0.4], [0.6, 0.4]]))
    model = em.Model(chain, model.params._replace(rates=np.array([[0.05], [1.2]])))
    grid, seen = np.linspace(-4.0, 10.0, 141), np.array([[True], [False], [True]])
    moments = []
    for density in (_filtered_density, _exact_density):
        weight = np.array([density(model, np.array([[0.2], [0.0], [last]]), seen, after_first, 9) for last in grid])
        mean = (weight * grid).sum() / weight.sum()
        moments.append([mean, (weight * (grid - mean) ** 2).sum() / weight.sum()])
    np.testing.assert_allclose(moments[0], moments[1], rtol=2e-3)


def _filtered_density(model, y, mask=None, rule=scored, counts=COUNTS):
    mask = np.ones(y.shape, bool) if mask is None else mask
    return np.exp(_filter(model, y, mask, rule=rule, counts=counts)[1][-1])


def _exact_density(model, y, mask=None, rule=None, counts=COUNTS):
    return np.exp(_enumerate(model, y, np.ones(y.shape, bool) if mask is None else mask, counts)[2])


def test_filter_is_a_density():
    """The density of a frame given those before it integrates to 1, over both neurons' samples together."""
    rng = np.random.default_rng(0)
    model = _model(rng, measurement=0.04)
    y, _ = _draw(rng, model, 4)
    grid = np.linspace(-4.0, 9.0, 140)
    pairs = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    emission = CalciumNoisyEmission(order=1, max_spikes=12)
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, model)
        mask = np.ones((4, 2), bool)
        data, told = pack_noisy(y, mask, np.array([0]), scored(mask, np.array([0]), 1), 1)

        def last(pair):
            there = data._replace(y=data.y.at[3].set(pair))
            return lockstep.filter_together(emission, model, there, told).log_evidence[3]

        density = np.exp(np.asarray(jax.vmap(last)(jnp.asarray(pairs))))
    np.testing.assert_allclose(density.sum() * (grid[1] - grid[0]) ** 2, 1.0, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_without_measurement_noise_it_is_the_calcium_model(order):
    rng = np.random.default_rng(order)
    model = _model(rng, order, k=3, n=4, measurement=1e-9)
    y, _ = _draw(rng, model, 60)
    mask, first = np.ones(y.shape, bool), np.array([0, 25])
    p = model.params
    intercept = p.baseline * (1.0 - p.ar_coefs.sum(axis=1))
    exact = calcium.Params(p.rates, p.ar_coefs, p.spike_amplitude, p.noise_variance, intercept)
    with jax.enable_x64(True):
        data = pack(y, mask, first, order, CHUNK)
        emission = CalciumEmission(order=order, max_spikes=COUNTS)
        plain = jax.tree.map(jnp.asarray, em.Model(model.chain, exact))
        expected = em.infer_states(emission, plain, data, chunk=CHUNK)
        mean, variance = em.infer_activity(emission, plain.params, data, expected.probs, chunk=CHUNK)
        filtered = em.filter_states(emission, plain, data, chunk=CHUNK).filtered
    n = len(y)
    found, (probs, told) = _believe(model, y, mask, first), _filter(model, y, mask, first)
    inside = np.ones(n, bool)
    inside[[f + i for f in first for i in range(order)]] = False  # there the calcium model knows nothing of spikes
    # Of calcium before a trial this model has a belief, if a broad one; the other has none.
    np.testing.assert_allclose(found.probs, np.asarray(expected.probs)[:n], atol=0.02)
    np.testing.assert_allclose(found.count_mean[inside], np.asarray(mean)[:n][inside], atol=2e-3)
    np.testing.assert_allclose(found.count_variance[inside], np.asarray(variance)[:n][inside], atol=2e-3)
    np.testing.assert_allclose(probs, np.asarray(filtered)[:n], atol=0.02)
    np.testing.assert_allclose(found.evidence, float(expected.log_likelihood), atol=0.1)
    np.testing.assert_allclose(told.sum(), float(expected.log_likelihood), atol=0.1)


def test_one_state_is_every_cell_by_itself():
    rng = np.random.default_rng(3)
    # Noise at which counts are uncertain and none is torn between two, where the two differ in what they do.
    model = _model(rng, k=1, n=3, measurement=0.01)
    y, _ = _draw(rng, model, 60)
    mask = np.ones(y.shape, bool)
    mask[20:28, 1] = False
    y = np.where(mask, y, 0.0)
    p = model.params
    first, counts = np.array([0, 35]), 12
    starts = np.isin(np.arange(len(y)), first)
    with jax.enable_x64(True):
        params = single.CalciumNoisyParams(*p[1:])
        alone = single.posterior(y, np.log(p.rates), params, mask, starts=starts, passes=30)
        alone = jax.tree.map(np.asarray, alone)
        told = np.asarray(single.log_likelihood(y, np.log(p.rates), params, mask, starts=starts))
    found = _believe(model, y, mask, first, counts=counts)
    np.testing.assert_allclose(found.count_mean, alone.count_mean, atol=1e-3)
    np.testing.assert_allclose(found.count_variance, alone.count_variance, atol=1e-3)
    np.testing.assert_allclose(found.calcium_mean, alone.calcium_mean, atol=1e-3)
    np.testing.assert_allclose(found.calcium_variance, alone.calcium_variance, atol=1e-3)
    np.testing.assert_allclose(found.evidence, alone.log_evidence.sum(), atol=1e-2)
    np.testing.assert_allclose(_filter(model, y, mask, first, after_first, counts)[1].sum(), told.sum(), atol=1e-4)


def test_trials_are_computed_apart():
    rng = np.random.default_rng(4)
    model = _model(rng, k=2, n=5)
    y, _ = _draw(rng, model, 24)
    mask = rng.random(y.shape) > 0.1
    mask[3:8, 2] = False
    y = np.where(mask, y, 0.0)
    both, told = _believe(model, y, mask, [0, 12]), _filter(model, y, mask, [0, 12])
    parts = [slice(0, 12), slice(12, 24)]
    one, two = (_believe(model, y[part], mask[part]) for part in parts)
    for name in ("probs", "count_mean", "calcium_mean", "calcium_variance"):
        apart = np.concatenate([getattr(one, name), getattr(two, name)])
        np.testing.assert_allclose(getattr(both, name), apart, atol=1e-9)
    np.testing.assert_allclose(both.evidence, one.evidence + two.evidence, atol=1e-8)
    apart = [_filter(model, y[part], mask[part]) for part in parts]
    np.testing.assert_allclose(told[0], np.concatenate([a[0] for a in apart]), atol=1e-9)
    np.testing.assert_allclose(told[1], np.concatenate([a[1] for a in apart]), atol=1e-9)


def test_blocks_of_rois_are_the_whole(monkeypatch):
    rng = np.random.default_rng(5)
    model = _model(rng, n=5)
    y, _ = _draw(rng, model, 20)
    mask, first = rng.random(y.shape) > 0.1, np.array([0])
    emission = CalciumNoisyEmission(order=1, max_spikes=COUNTS)
    with jax.enable_x64(True):
        model = jax.tree.map(jnp.asarray, model)
        data, told = pack_noisy(np.where(mask, y, 0.0), mask, first, after_first(mask, first, 1), CHUNK)
        sites = propagation.first_sites(model, data)
        whole = jax.jit(lambda: propagation.around(emission, model.params, data, told, sites))()
        monkeypatch.setattr(propagation, "_SAMPLES_AT_ONCE", 50)  # blocks of 2, the last of them filled up
        blocks = jax.jit(lambda: propagation.around(emission, model.params, data, told, sites))()
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-9, atol=1e-12)
