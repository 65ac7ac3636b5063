"""The networks: parameters as published, context as stated, losses under masks, chunks without seams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from nwb_calcium_lvm._core.pytrees import flatten, unflatten
from nwb_calcium_lvm.spikes import DEFAULT, PUBLISHED, chunks
from nwb_calcium_lvm.spikes.inference import Networks, run_networks
from nwb_calcium_lvm.spikes.losses import correlation, entropy_loss, pearson_loss, squared_loss
from nwb_calcium_lvm.spikes.network import S2SNetwork, context, n_parameters
from nwb_calcium_lvm.spikes.training import build


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def randomised(config, seed=0):
    """Weights none of which is zero, so that everything a network could do it does."""
    graph, params = build(config, seed)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    leaves = [0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return graph, jax.tree.unflatten(structure, leaves)


@pytest.mark.parametrize(("layers", "expected"), [(0, 6000), (1, 6930), (3, 8790)])
def test_the_published_network_has_its_parameters(layers, expected):
    _, params = build(PUBLISHED.changed(dense_layers=layers), 0)
    assert n_parameters(params) == expected


def test_the_published_network_by_its_equations(rng):
    graph, params = randomised(PUBLISHED)
    network = nnx.merge(graph, params)
    trace = rng.normal(size=400).astype(np.float32)
    found = np.asarray(network(jnp.asarray(trace[None]), jnp.zeros((1, 3))))[0]
    # One frame of 100 samples at a time, written out: 49 before the present and 50 after it.
    analysis = np.asarray(network.analysis.kernel[...])[:, 0]
    synthesis = np.asarray(network.synthesis.kernel[...])[:, :, 0]
    padded = np.pad(trace, (49, 50))
    hidden = np.stack([padded[t : t + 100] @ analysis for t in range(400)])
    for layer in network.dense:
        hidden = np.maximum(hidden @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    added = np.zeros(400 + 99)
    for t in range(400):  # each time writes a window, and windows add up where they overlap
        added[t : t + 100] += (synthesis @ hidden[t])[::-1]
    ahead = 99 // 2
    np.testing.assert_allclose(found, added[ahead : ahead + 400], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("stride", [1, 4])
def test_context_is_what_an_output_depends_on(stride, causal, rng):
    config = DEFAULT.changed(stride=stride, channels=6, dilations=(1, 2), causal=causal, lookahead=8 if causal else 0)
    graph, params = randomised(config)
    before, after = context(config.architecture)
    n, at = 800, 400
    trace = rng.normal(size=n)

    def output(x):
        return nnx.merge(graph, params)(x[None], jnp.zeros((1, 3)))[0, at]

    moved = np.flatnonzero(np.asarray(jax.grad(output)(jnp.asarray(trace, jnp.float32))))
    assert at - before <= moved.min() < at
    assert moved.max() <= at + after
    if causal:
        assert moved.max() < at + 8 + 2 * stride


def test_chunks_leave_no_seam(rng, monkeypatch):
    config = DEFAULT.changed(channels=6)
    graph, params = randomised(config)
    networks = Networks(graph, (params,), 1.0)
    traces, told = rng.normal(size=(3, 3000)), rng.normal(size=(3, 3))
    whole = run_networks(traces, told, networks, config.architecture)
    monkeypatch.setattr(chunks, "LONGEST", 256)
    parts = run_networks(traces, told, networks, config.architecture)
    assert whole.shape == (3, 3000)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5)
    alone = run_networks(traces[1:2], told[1:2], networks, config.architecture)
    np.testing.assert_allclose(alone, whole[1:2], rtol=1e-5, atol=1e-5)


def test_default_rates_are_not_negative(rng):
    graph, params = randomised(DEFAULT)
    rates = run_networks(
        5 * rng.normal(size=(2, 500)), rng.normal(size=(2, 3)), Networks(graph, (params,), 1.0), DEFAULT.architecture
    )
    assert (rates >= 0).all()


def test_an_ensemble_is_the_mean_of_its_members(rng):
    graph, one = randomised(DEFAULT, 0)
    _, two = randomised(DEFAULT, 1)
    x, c = rng.normal(size=(2, 500)), rng.normal(size=(2, 3))
    run = [run_networks(x, c, Networks(graph, m, 2.0), DEFAULT.architecture) for m in ((one,), (two,), (one, two))]
    np.testing.assert_allclose(run[2], (run[0] + run[1]) / 2, rtol=1e-4, atol=1e-5)


def test_conditions_matter_only_where_they_should(rng):
    x = jnp.asarray(rng.normal(size=(1, 400)), jnp.float32)
    for conditioned in (True, False):
        network = nnx.merge(*randomised(DEFAULT.changed(conditioned=conditioned)))
        a, b = network(x, jnp.zeros((1, 3))), network(x, jnp.ones((1, 3)))
        assert bool(jnp.allclose(a, b)) is not conditioned


def test_losses_do_not_see_what_has_no_weight(rng):
    rates, targets = rng.random((2, 50)), rng.poisson(0.3, (2, 50)).astype(float)
    weight = np.ones((2, 50))
    weight[:, 30:] = 0
    spoiled = np.where(weight > 0, rates, 1e3), np.where(weight > 0, targets, 7.0)
    spread = np.array([1.0, 2.0])
    for loss in (pearson_loss, lambda *a: squared_loss(*a, spread), lambda *a: entropy_loss(*a, 50.0)):
        assert float(loss(rates, targets, weight)) == pytest.approx(float(loss(*spoiled, weight)), rel=1e-5)


def test_correlation_is_numpys(rng):
    a, b = rng.random((3, 40)), rng.random((3, 40))
    expected = [np.corrcoef(x[:25], y[:25])[0, 1] for x, y in zip(a, b, strict=True)]
    weight = np.r_[np.ones(25), np.zeros(15)] * np.ones((3, 1))
    np.testing.assert_allclose(correlation(a, b, weight), expected, atol=1e-4)


def test_squared_loss_of_a_constant_at_the_mean_is_one(rng):
    targets = rng.poisson(1.0, (4, 2000)).astype(float)
    flat = np.broadcast_to(targets.mean(1, keepdims=True), targets.shape)
    assert float(squared_loss(flat, targets, np.ones_like(targets), targets.var(1))) == pytest.approx(1.0, rel=1e-4)


def test_weights_survive_flattening():
    _, params = randomised(DEFAULT)
    _, other = build(DEFAULT, 1)
    back = unflatten(other, flatten(params))
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises((KeyError, ValueError)):
        unflatten(build(PUBLISHED, 0)[1], flatten(params))


def test_same_seed_same_weights_and_another_another():
    one, same, other = (S2SNetwork(DEFAULT.architecture, nnx.Rngs(s)).analysis.kernel[...] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
