"""The hidden Markov model against enumeration: of spike counts, of paths, and of both."""

import itertools
from math import factorial

import jax
import numpy as np
import pytest

from nwb_calcium_lvm.hmm import em
from nwb_calcium_lvm.hmm.data import pack
from nwb_calcium_lvm.hmm.emissions import CalciumEmission, GaussianEmission, PoissonEmission, calcium, gaussian, poisson
from nwb_calcium_lvm.hmm.inference import Chain
from nwb_calcium_lvm.observations.starting import scored

K, N, CHUNK = 2, 2, 4


def _chain(rng, k=K):
    initial, transition = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), size=k)
    return Chain(np.asarray(initial), np.asarray(transition))


def _calcium_params(rng, order, k=K, n=N):
    ar = np.tile([[0.7]], (n, 1)) if order == 1 else np.tile([[1.1, -0.25]], (n, 1))
    rates, amplitude = rng.gamma(2.0, 0.3, (k, n)), rng.uniform(0.8, 1.2, n)
    return calcium.Params(*map(np.asarray, (rates, ar, amplitude, rng.uniform(0.02, 0.2, n), rng.normal(0, 0.1, n))))


def _normal(x, variance):
    return np.exp(-0.5 * x**2 / variance) / np.sqrt(2 * np.pi * variance)


def _frame_densities(params, y, kept, r_max):
    """p(y_tn, s = r | past, z = k), shape (time, roi, state, count), by plain loops."""
    rates, ar, c, variance, b = (np.asarray(x) for x in params)
    order = ar.shape[1]
    out = np.zeros((len(y), y.shape[1], len(rates), r_max + 1))
    for t, n, k, r in itertools.product(*map(range, out.shape)):
        prior = rates[k, n] ** r * np.exp(-rates[k, n]) / factorial(r)
        out[t, n, k, r] = prior
        if kept[t, n]:
            e = y[t, n] - b[n] - sum(ar[n, i] * y[t - 1 - i, n] for i in range(order))
            out[t, n, k, r] *= _normal(e - c[n] * r, variance[n])
    return out


def _enumerate(chain, state_density, first):
    """Posterior, transition counts, evidence and best path of every state sequence of each trial."""
    initial, transition = (np.asarray(x) for x in chain)
    n_frames, k = state_density.shape
    ends = np.append(first[1:], n_frames)
    probs, counts = np.zeros((n_frames, k)), np.zeros((k, k))
    log_evidence, best = 0.0, np.zeros(n_frames, int)
    for a, b in zip(first, ends, strict=True):
        total, top = 0.0, -1.0
        trial_probs, trial_counts = np.zeros((b - a, k)), np.zeros((k, k))
        for path in itertools.product(range(k), repeat=b - a):
            weight = initial[path[0]] * np.prod([state_density[a + i, z] for i, z in enumerate(path)])
            for i, j in itertools.pairwise(path):
                weight *= transition[i, j]
            total += weight
            trial_probs[np.arange(b - a), path] += weight
            for i, j in itertools.pairwise(path):
                trial_counts[i, j] += weight
            if weight > top:
                top, best[a:b] = weight, path
        probs[a:b], log_evidence = trial_probs / total, log_evidence + np.log(total)
        counts += trial_counts / total
    return probs, counts, log_evidence, best


def _traces(rng, n_frames=9):
    y = rng.normal(0.4, 0.6, (n_frames, N))
    mask = np.ones(y.shape, bool)
    mask[4, 1] = False
    return y, mask, np.array([0, 5])


@pytest.mark.parametrize("order", [1, 2])
def test_calcium_hmm_equals_sum_over_all_paths_and_counts(order):
    rng = np.random.default_rng(order)
    params, chain = _calcium_params(rng, order), _chain(rng)
    y, mask, first = _traces(rng)
    kept = scored(mask, first, order)
    emission = CalciumEmission(order=order, max_spikes=12)
    joint = _frame_densities(params, y, kept, 12)
    by_state = np.where(kept[:, :, None], joint.sum(axis=3), 1.0).prod(axis=1)
    probs, counts, log_evidence, best = _enumerate(chain, by_state, first)
    with jax.enable_x64(True):
        data = pack(y, mask, first, order, CHUNK)
        model = em.Model(chain, params)
        out = em.infer_states(emission, model, data, chunk=CHUNK)
        path = em.decode_states(emission, model, data, chunk=CHUNK)
        mean, variance = em.infer_activity(emission, params, data, out.probs, chunk=CHUNK)
    n = len(y)
    np.testing.assert_allclose(float(out.log_likelihood), log_evidence, rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.asarray(out.probs)[:n], probs, atol=1e-12)
    np.testing.assert_allclose(np.asarray(out.transitions), counts, atol=1e-11)
    np.testing.assert_array_equal(np.asarray(path)[:n], best)
    # Spikes: given the state of a frame its counts depend on nothing else, so the two posteriors multiply.
    posterior = joint / joint.sum(axis=3, keepdims=True)
    count = np.einsum("tk,tnkr->tnr", probs, posterior)
    expected = count @ np.arange(13)
    spread = count @ np.arange(13) ** 2 - expected**2
    np.testing.assert_allclose(np.asarray(mean)[:n], expected, rtol=2e-6)
    np.testing.assert_allclose(np.asarray(variance)[:n], spread, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_gaussian_hmm_equals_sum_over_all_paths(order):
    rng = np.random.default_rng(10 + order)
    ar = np.tile([[0.6], [1.1, -0.25]][order - 1], (N, 1)) if order else np.zeros((N, 0))
    params = gaussian.Params(*map(np.asarray, (rng.normal(size=(K, N)), rng.uniform(0.1, 1.0, (K, N)), ar)))
    chain, (y, mask, first) = _chain(rng), _traces(rng)
    kept = scored(mask, first, order)
    density = np.ones((len(y), K))
    for t, n, k in itertools.product(range(len(y)), range(N), range(K)):
        if kept[t, n]:
            e = y[t, n] - sum(ar[n, i] * y[t - 1 - i, n] for i in range(order))
            density[t, k] *= _normal(e - float(params.means[k, n]), float(params.variances[k, n]))
    probs, counts, log_evidence, best = _enumerate(chain, density, first)
    emission = GaussianEmission(order=order)
    with jax.enable_x64(True):
        data = pack(y, mask, first, order, CHUNK)
        out = em.infer_states(emission, em.Model(chain, params), data, chunk=CHUNK)
        path = em.decode_states(emission, em.Model(chain, params), data, chunk=CHUNK)
    np.testing.assert_allclose(float(out.log_likelihood), log_evidence, atol=1e-10)
    np.testing.assert_allclose(np.asarray(out.probs)[: len(y)], probs, atol=1e-12)
    np.testing.assert_allclose(np.asarray(out.transitions), counts, atol=1e-11)
    np.testing.assert_array_equal(np.asarray(path)[: len(y)], best)


def test_poisson_hmm_equals_sum_over_all_paths():
    rng = np.random.default_rng(20)
    rates, chain, first = rng.gamma(2.0, 0.5, (K, N)), _chain(rng), np.array([0, 5])
    y = rng.poisson(1.0, (9, N)).astype(float)
    mask = rng.random(y.shape) > 0.1
    density = np.ones((9, K))
    for t, n, k in itertools.product(range(9), range(N), range(K)):
        if mask[t, n]:
            density[t, k] *= rates[k, n] ** y[t, n] * np.exp(-rates[k, n]) / factorial(int(y[t, n]))
    probs, _, log_evidence, _ = _enumerate(chain, density, first)
    with jax.enable_x64(True):
        data = pack(y, mask, first, 0, CHUNK)
        model = em.Model(chain, poisson.Params(np.asarray(rates)))
        out = em.infer_states(PoissonEmission(), model, data, chunk=CHUNK)
    np.testing.assert_allclose(float(out.log_likelihood), log_evidence, atol=1e-10)
    np.testing.assert_allclose(np.asarray(out.probs)[:9], probs, atol=1e-12)


def test_filter_sees_only_the_past():
    rng = np.random.default_rng(3)
    params, chain = _calcium_params(rng, 1), _chain(rng)
    y, mask, first = _traces(rng)
    emission = CalciumEmission(order=1, max_spikes=12)
    for t in range(1, len(y) + 1):
        trials = first[first < t]
        kept = scored(mask[:t], trials, 1)
        joint = _frame_densities(params, y[:t], kept, 12)
        density = np.where(kept[:, :, None], joint.sum(axis=3), 1.0).prod(axis=1)
        probs, *_ = _enumerate(chain, density, trials)
        with jax.enable_x64(True):
            out = em.filter_states(emission, em.Model(chain, params), pack(y, mask, first, 1, CHUNK), chunk=CHUNK)
        np.testing.assert_allclose(np.asarray(out.filtered)[t - 1], probs[-1], atol=1e-12)


def test_chunks_do_not_show():
    rng = np.random.default_rng(4)
    params, chain = _calcium_params(rng, 2), _chain(rng)
    y, mask, first = rng.normal(0.4, 0.6, (50, N)), np.ones((50, N), bool), np.array([0, 23])
    emission, results = CalciumEmission(order=2, max_spikes=9), []
    with jax.enable_x64(True):
        for chunk in (4, 32, 64):
            data = pack(y, mask, first, 2, chunk)
            out = em.infer_states(emission, em.Model(chain, params), data, chunk=chunk)
            statistics = em.expected_statistics(emission, params, data, out.probs, chunk)
            results.append((out.log_likelihood, out.probs[:50], *statistics))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(two), rtol=1e-10, atol=1e-10)


def test_likelihood_survives_what_no_state_explains():
    """States that are all but impossible, and counts beyond the grid, give finite numbers and no NaN."""
    params = calcium.Params(*map(np.asarray, ([[1e-12], [1e-3]], [[0.5]], [1.0], [1e-4], [0.0])))
    chain = Chain(np.asarray([1.0, 0.0]), np.asarray([[1.0, 0.0], [0.0, 1.0]]))
    y = np.array([0.0, 0.0, 3.0, 1e4, -5.0, 0.0])[:, None]
    with jax.enable_x64(True):
        model = em.Model(jax.tree.map(lambda x: x.astype(float), chain), params)
        data = pack(y, np.ones_like(y, bool), np.array([0]), 1, CHUNK)
        out = em.infer_states(CalciumEmission(max_spikes=4), model, data, chunk=CHUNK)
    assert np.isfinite(out.log_likelihood)
    np.testing.assert_allclose(np.asarray(out.probs)[:6, 0], 1.0)
