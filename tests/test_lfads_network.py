"""The formulas of LFADS against other ways to the same numbers: priors, network, bound, windows, what is hidden."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from scipy import integrate, stats
from scipy.special import expit, logsumexp

from nwb_calcium_lvm.lfads.data import Data, Session, gather
from nwb_calcium_lvm.lfads.fitting import model_of
from nwb_calcium_lvm.lfads.gates import advance
from nwb_calcium_lvm.lfads.network import Architecture, Batch, Cell, LFADSNetwork
from nwb_calcium_lvm.lfads.objective import Hyper, Weights, log_likelihood, loss, terms
from nwb_calcium_lvm.lfads.priors import AutoregressivePrior, Normal, divergence
from nwb_calcium_lvm.lfads.recurrence import recur
from nwb_calcium_lvm.lfads.windows import windows_of
from nwb_calcium_lvm.observations import get
from nwb_calcium_lvm.observations.gaussian import GaussianParams
from nwb_calcium_lvm.provenance import Segments

pytestmark = pytest.mark.usefixtures("quick_compilation")
RNG = np.random.default_rng(0)


# -- Priors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "variance"), [(0.3, 0.2), (-1.0, 3.0), (0.0, 1.5)])
def test_divergence_of_normals_is_the_integral(mean, variance):
    q, p = stats.norm(mean, variance**0.5), stats.norm(0.4, 1.5**0.5)
    expected, _ = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -20, 20)
    found = divergence(Normal(jnp.array(mean), jnp.log(variance)), Normal(jnp.array(0.4), jnp.log(1.5)))
    assert float(found) == pytest.approx(expected, abs=1e-5)


def autoregressive(n_frames, time_constant, variance):
    """The prior and its covariance over time."""
    prior = AutoregressivePrior(1, 1.0)
    prior.log_time_constant[...] = jnp.log(jnp.array([time_constant]))
    prior.log_variance[...] = jnp.log(jnp.array([variance]))
    lags = np.abs(np.subtract.outer(np.arange(n_frames), np.arange(n_frames)))
    return prior, variance * np.exp(-lags / time_constant)


def joint_divergence(mean, covariance, prior_covariance):
    precision = np.linalg.inv(prior_covariance)
    determinants = np.linalg.slogdet(prior_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(precision @ covariance) + mean @ precision @ mean - len(mean) + determinants)


@pytest.mark.parametrize("feedback", [0.0, 0.7])
@pytest.mark.parametrize("time_constant", [2.0, 400.0])
def test_divergence_from_the_autoregressive_prior_is_that_of_the_joint_normal(time_constant, feedback):
    """For a posterior u_t ~ N(k u_{t-1} + b_t, v_t) the joint is normal, and a mean over two points is exact."""
    n_frames, variance = 5, 0.6
    prior, prior_covariance = autoregressive(n_frames, time_constant, variance)
    b, v = RNG.normal(size=n_frames), RNG.uniform(0.05, 0.3, n_frames)
    # u = A (b + sqrt(v) e), A the inverse of I - k S, S the shift by a frame.
    through = np.linalg.inv(np.eye(n_frames) - feedback * np.eye(n_frames, k=-1))
    mean, covariance = through @ b, through @ np.diag(v) @ through.T
    total = 0.0
    for sign in (-1.0, 1.0):
        sample = mean + sign * np.sqrt(np.diag(covariance))
        given_before = b + feedback * np.append(0.0, sample[:-1])
        posterior = Normal(jnp.asarray(given_before)[None, :, None], jnp.log(jnp.asarray(v))[None, :, None])
        total += 0.5 * float(prior.divergence(posterior, jnp.asarray(sample)[None, :, None]).sum())
    assert total == pytest.approx(joint_divergence(mean, covariance, prior_covariance), rel=1e-3)


def test_draws_of_the_prior_have_its_covariance_and_go_on_from_a_start():
    prior, covariance = autoregressive(4, 2.0, 0.6)
    drawn = np.asarray(prior.draw(jax.random.key(0), None, (40_000, 4)))[..., 0]
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.02)
    following = np.asarray(prior.draw(jax.random.key(1), jnp.full((40_000, 1), 2.0), (40_000, 4)))[..., 0]
    memory = np.exp(-np.arange(1, 5) / 2.0)
    np.testing.assert_allclose(following.mean(axis=0), 2.0 * memory, atol=0.02)
    np.testing.assert_allclose(following.var(axis=0), 0.6 * (1 - memory**2), atol=0.02)


# -- Network ----------------------------------------------------------------------------------------------------------

SHAPE = Architecture(
    n_rois=3, n_sessions=2, n_encoder=4, n_controller=4, n_generator=5, n_initial=2, n_factors=2, n_inputs=1
)


@pytest.fixture(scope="module")
def network():
    net = LFADSNetwork(SHAPE, nnx.Rngs(0))
    net.log_rate[...] = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    return net


def next_state(cell, state, x):
    return advance(state, cell.driven(x), state @ cell.kernel())


def test_a_unit_is_that_of_flax_and_of_its_formula():
    cell, theirs = Cell(3, 4, False, nnx.Rngs(1)), nnx.GRUCell(3, 4, rngs=nnx.Rngs(2))
    theirs.dense_i.kernel[...], theirs.dense_i.bias[...] = cell.drive.kernel[...], cell.bias[...]
    theirs.dense_h.kernel[...] = cell.recur.kernel[...]
    w, u, bias = (np.asarray(a[...]) for a in (cell.drive.kernel, cell.recur.kernel, cell.bias))
    x, mine = RNG.normal(size=(6, 2, 3)).astype(np.float32), jnp.zeros((2, 4))
    flax_state, numpy_state = mine, np.zeros((2, 4))
    for frame in x:
        mine = next_state(cell, mine, frame)
        flax_state, _ = theirs(flax_state, jnp.asarray(frame))
        (r, z, n), (hr, hz, hn) = (np.split(a, 3, axis=1) for a in (frame @ w + bias, numpy_state @ u))
        keep = expit(z + hz)
        numpy_state = keep * numpy_state + (1 - keep) * np.tanh(n + expit(r + hr) * hn)
        np.testing.assert_allclose(mine, numpy_state, atol=1e-5)
        np.testing.assert_allclose(mine, flax_state, atol=1e-5)


def plain_unit(state, driven, recurrent):
    """The formula, for JAX to differentiate."""
    (r, z, n), (hr, hz, hn) = jnp.split(driven, 3, axis=1), jnp.split(recurrent, 3, axis=1)
    keep = jax.nn.sigmoid(z + hz)
    return jnp.clip(keep * state + (1 - keep) * jnp.tanh(n + jax.nn.sigmoid(r + hr) * hn), -5, 5)


def test_the_gradient_of_a_unit_is_that_of_its_formula_also_at_the_limit():
    state = RNG.normal(size=(6, 4)).astype(np.float32)
    state[0, :2] = 9.0, -9.0  # what the limit cuts off passes no gradient on
    driven, recurrent = RNG.normal(size=(2, 6, 12)).astype(np.float32)
    driven[0, 4:8] = 5.0
    weight = RNG.normal(size=(6, 4)).astype(np.float32)
    mine, theirs = (
        jax.grad(lambda *a, f=f: (weight * f(*a)).sum(), argnums=(0, 1, 2))(state, driven, recurrent)
        for f in (advance, plain_unit)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mine, theirs)
    assert (mine[0][0, :2] == 0).all()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_and_its_gradients_are_those_of_a_scan(reverse):
    """Of two products in a chain, with a constant, a mask and something stacked."""
    kernels = {"own": RNG.normal(size=(3, 3)), "out": RNG.normal(size=(3, 2))}
    learned = jax.tree.map(jnp.float32, (kernels, RNG.normal(size=3), RNG.normal(size=(4, 3))))
    driven, valid = RNG.normal(size=(7, 4, 3)).astype(np.float32), RNG.random((7, 4)) < 0.7
    weight = RNG.normal(size=(7, 4, 2)).astype(np.float32)

    def step(product, constant, state, frame):
        driven, ok = frame
        after = jnp.where(ok[:, None], jnp.tanh(driven + constant + product("own", state)), state)
        return after, product("out", after**2)

    def by_scan(kernels, constant, start, driven):
        body = lambda state, frame: step(lambda name, x: x @ kernels[name], constant, state, frame)  # noqa: E731
        return jax.lax.scan(body, start, (driven, valid), reverse=reverse)

    def mine(kernels, constant, start, driven):
        return recur(step, kernels, constant, start, (driven, valid), reverse=reverse)

    def score(run):
        def value(*learned):
            last, stacked = run(*learned)
            return (weight * stacked).sum() + (last**3).sum()

        return jax.value_and_grad(value, argnums=(0, 1, 2, 3))(*learned, driven)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), score(mine), score(by_scan))


@pytest.fixture(scope="module")
def passed(network):
    """A forward pass over two windows, of other sessions, the second shorter."""
    valid = np.array([[True] * 6, [True] * 4 + [False] * 2])
    inputs = np.where(valid[..., None], RNG.normal(size=(2, 6, 3)), 0.0).astype(np.float32)
    batch = Batch(jnp.asarray(inputs), jnp.asarray(valid), jnp.array([0, 1]))
    return batch, network(batch, jax.random.key(0))


def test_factors_are_the_generator_run_on_from_the_initial_condition_and_the_inputs(network, passed):
    batch, out = passed
    expected = network.run_on(network.to_generator(out.initial_sample), out.input_sample)
    valid = np.asarray(batch.valid)
    np.testing.assert_allclose(out.factors[valid], expected[valid], atol=1e-5)
    read_out, offset = np.asarray(network.read_out[...]), np.asarray(network.log_rate[...])
    for i in range(2):
        np.testing.assert_allclose(out.log_rates[i], out.factors[i] @ read_out[i] + offset[i], atol=1e-5)
    np.testing.assert_allclose(out.last @ network.factor_weights(), out.factors[np.arange(2), [5, 3]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(network.factor_weights(), axis=0), 1.0, atol=1e-5)


def test_initial_conditions_are_those_of_encoders_run_both_ways(network, passed):
    batch, out = passed
    for i, n_frames in enumerate((6, 4)):
        x = np.asarray(batch.inputs)[i, :n_frames] @ np.asarray(network.read_in[...])[i]
        ends = []
        for cell, order in ((network.initial_encoder.forward, x), (network.initial_encoder.backward, x[::-1])):
            state = jnp.zeros((1, 4))
            for frame in order:
                state = next_state(cell, state, frame[None])
            ends.append(state[0])
        mean, free = np.split(np.asarray(network.to_initial(jnp.concatenate(ends))), 2)
        np.testing.assert_allclose(out.initial.mean[i], mean, atol=1e-5)
        np.testing.assert_allclose(np.exp(out.initial.log_variance[i]), 0.1 * np.exp(free) + 1e-4, rtol=1e-4)


def test_what_stands_after_the_end_of_a_window_has_no_influence(network, passed):
    batch, out = passed
    garbage = jnp.where(batch.valid[..., None], batch.inputs, 1e3)
    again = network(batch._replace(inputs=garbage), jax.random.key(0))
    for name in ("factors", "log_rates", "input_sample"):
        valid = np.asarray(batch.valid)
        np.testing.assert_array_equal(getattr(again, name)[valid], getattr(out, name)[valid])
    np.testing.assert_array_equal(again.initial.mean, out.initial.mean)
    np.testing.assert_array_equal(again.last, out.last)


# -- The bound --------------------------------------------------------------------------------------------------------

TINY = Architecture(
    n_rois=4, n_sessions=1, n_encoder=4, n_controller=4, n_generator=4, n_initial=1, n_factors=2, n_inputs=1
)
N_FRAMES = 3


@pytest.fixture(scope="module")
def poisson():
    """A model of counts small enough for quadrature, one window, and the exact log density of it."""
    model, network = model_of(TINY, "poisson")
    network["initial_prior"][...] = jnp.array([[0.5], [np.log(0.8)]], jnp.float32)
    network["input_prior"]["log_variance"][...] = jnp.log(jnp.array([0.7]))
    for name in ("to_initial", "to_inputs"):  # posteriors wider than the priors, for weights that are not extreme
        network[name]["bias"][...] = jnp.array([0.0, np.log(20.0)])
    weights = Weights(network, {})
    y = np.array([[3, 0, 1, 2], [1, 0, 4, 0], [2, 1, 0, 1]])
    session = Session(
        y.astype(float), y - 1.0, np.ones(y.shape, bool), windows_of(Segments(np.array([[0, 3]])), 3, 0.0)
    )
    data = gather([session], 0, 4)
    net = nnx.merge(model.graph, network)
    # Gauss-Hermite nodes under the prior: the initial condition, then innovations of the inputs.
    nodes, mass = np.polynomial.hermite_e.hermegauss(12)
    grid = np.array(list(itertools.product(nodes, repeat=1 + N_FRAMES)))
    mass = np.prod(list(itertools.product(mass / mass.sum(), repeat=1 + N_FRAMES)), axis=1)
    memory = float(net.input_prior.memory()[0])
    drawn = np.zeros((len(grid), N_FRAMES, 1))
    before = np.sqrt(0.7) * grid[:, 1]
    for t in range(N_FRAMES):
        before = before if t == 0 else memory * before + np.sqrt(0.7 * (1 - memory**2)) * grid[:, 1 + t]
        drawn[:, t, 0] = before
    initial = 0.5 + np.sqrt(0.8) * grid[:, :1]
    factors = net.run_on(net.to_generator(jnp.asarray(initial, jnp.float32)), jnp.asarray(drawn, jnp.float32))
    rates = np.exp(np.asarray(net.rates_of(factors, jnp.zeros(len(grid), int))))
    exact = logsumexp(stats.poisson.logpmf(y, rates).sum(axis=(1, 2)), b=mass)
    return model, weights, data, exact


def test_the_bound_is_below_the_log_density_and_its_weights_average_to_it(poisson):
    model, weights, data, exact = poisson

    @jax.jit
    def draw(key):
        net = nnx.merge(model.graph, weights.network)
        out = net(data.batch(), key)
        found = terms(model, weights, net, data, out)
        total = log_likelihood(model, weights, data, out.log_rates).sum()
        return (found.log_likelihood - found.initial - found.inputs)[0], total, out, net.input_prior.memory()

    keys = jax.random.split(jax.random.key(0), 400_000)
    one, total, out, memory = jax.tree.map(np.asarray, jax.lax.map(draw, keys, batch_size=4000))
    # Windows are padded to four frames; what lies after the end is no part of the model.
    initial, u = out.initial_sample[:, 0], out.input_sample[:, 0, :N_FRAMES, 0]
    of_inputs = Normal(out.inputs.mean[:, 0, :N_FRAMES, 0], out.inputs.log_variance[:, 0, :N_FRAMES, 0])
    expected = np.concatenate([np.zeros((len(u), 1)), memory[0] * u[:, :-1]], axis=1)
    sd = np.sqrt(0.7 * np.where(np.arange(N_FRAMES) == 0, 1.0, 1 - memory[0] ** 2))
    prior = stats.norm.logpdf(initial, 0.5, np.sqrt(0.8)).sum(1) + stats.norm.logpdf(u, expected, sd).sum(1)

    def log_density(posterior, values):
        return stats.norm.logpdf(values, posterior.mean, np.exp(0.5 * posterior.log_variance)).sum(1)

    of_initial = Normal(out.initial.mean[:, 0], out.initial.log_variance[:, 0])
    log_weight = total + prior - log_density(of_initial, initial) - log_density(of_inputs, u)
    assert logsumexp(log_weight) - np.log(len(u)) == pytest.approx(exact, abs=0.03)
    assert one.mean() < exact - 0.02
    assert one.mean() == pytest.approx(log_weight.mean(), abs=4 * (one.std() + log_weight.std()) / len(u) ** 0.5)


# -- What is hidden from the encoders ---------------------------------------------------------------------------------


def gaussian_problem(whole):
    model, network = model_of(SHAPE, "gaussian")
    params = GaussianParams(jnp.zeros((2, 3)), jnp.ones((2, 3)), jnp.full((2, 3), 0.5))
    weights = Weights(network, get("gaussian").unconstrain(params))
    y = RNG.normal(size=(12, 3))
    segments = Segments(np.array([[0, 6], [6, 12]]))
    mask = RNG.random((12, 3)) < 0.9
    data = gather([Session(np.where(mask, y, 0.0), y, mask, windows_of(segments, 6, 0.0))], 0, 3)
    return model._replace(whole=whole), weights, data


@pytest.mark.parametrize("whole", [True, False], ids=["whole neurons", "single samples"])
def test_what_is_scored_is_not_seen(whole):
    model, weights, data = gaussian_problem(whole)
    hyper, share = Hyper(0.01, 0.0, 0.4, 0.1, 2.0, 3.0), jnp.array([1.0, 1.0])
    key = jax.random.key(3)

    @jax.jit
    def both(inputs):
        value = lambda x: loss(weights, model, data._replace(inputs=x), share, hyper, jnp.array(0.5), key)  # noqa: E731
        return jax.value_and_grad(value)(inputs)

    value, gradient = both(data.inputs)
    key_hidden, key_pass = jax.random.split(key)
    shape = (2, 1 if whole else 8, 3)
    hidden = np.broadcast_to(np.asarray(jax.random.bernoulli(key_hidden, 0.4, shape)), data.y.shape)
    valid = np.broadcast_to(np.asarray(data.valid)[..., None], hidden.shape)
    assert hidden.any()
    assert not hidden.all()
    gradient = np.asarray(gradient)
    assert (gradient[hidden] == 0).all()
    assert (gradient[~hidden & valid] != 0).all()
    # And only hidden samples are scored, each for itself and those that were visible.
    net = nnx.merge(model.graph, weights.network)
    seen = jnp.where(hidden, 0.0, data.inputs / 0.6)
    out = net(Batch(seen, data.valid, data.session), key_pass)
    mean = np.exp(np.asarray(out.log_rates))
    scored = np.asarray(data.scored)
    density = stats.norm.logpdf(np.asarray(data.y), mean, np.sqrt(0.5))[hidden & scored].sum() / 0.4
    spent = 2.0 * divergence(out.initial, net.prior_of_initial()).sum()
    per_frame = np.asarray(net.input_prior.divergence(out.inputs, out.input_sample).sum(axis=-1))
    spent = spent + 3.0 * per_frame[np.asarray(data.valid)].sum()
    kernels = [np.asarray(cell.recur.kernel[...]) for cell in (net.generator, net.controller)]
    decay = sum((k**2).mean() * len(k) for k in kernels)
    expected = (-density + 0.5 * spent) / scored.sum() + 0.1 * 0.5 * decay
    assert float(value) == pytest.approx(float(expected), rel=1e-4)


# -- Windows ----------------------------------------------------------------------------------------------------------


@st.composite
def cuts(draw):
    lengths = np.array(draw(st.lists(st.integers(1, 30), min_size=1, max_size=5)))
    ends = np.cumsum(lengths)
    segments = Segments(np.column_stack([ends - lengths, ends]))
    longest, overlap = draw(st.integers(1, 20)), draw(st.floats(0.0, 0.89))
    return segments, longest, overlap, windows_of(segments, longest, overlap)


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_windows_cover_every_segment_and_join_to_what_was_cut(cut):
    segments, longest, overlap, windows = cut
    values = RNG.normal(size=(windows.n_frames, 2))
    np.testing.assert_allclose(windows.join(windows.cut(values)), values, atol=1e-12)
    label = segments.labels()
    last = {}
    for a, b in windows.bounds:
        assert label[a] == label[b - 1]
        length = segments.lengths[label[a]]
        even = length / -(-length // longest)  # without overlap a segment is shared out evenly
        assert b - a == min(longest, length) if overlap else b - a in (np.floor(even), np.ceil(even))
        if label[a] in last:  # rounding places a window at most one frame beside where it would lie evenly
            assert last[label[a]] - a >= np.floor(overlap * (b - a)) - 1
        last[label[a]] = b
    assert windows.length % 4 == 0
    assert windows.length >= (windows.bounds[:, 1] - windows.bounds[:, 0]).max()
    np.testing.assert_array_equal(windows.valid.sum(axis=1), windows.bounds[:, 1] - windows.bounds[:, 0])


@given(cuts())
@settings(max_examples=30, deadline=None)
def test_shares_of_windows_sum_to_one_and_fade_at_borders(cut):
    *_, windows = cut
    shares = np.stack(
        [windows.join(np.eye(len(windows))[i][:, None] * np.ones(windows.length)) for i in range(len(windows))]
    )
    np.testing.assert_allclose(shares.sum(axis=0), 1.0, atol=1e-12)
    assert (shares >= 0).all()
    for share, (a, b) in zip(shares, windows.bounds, strict=True):
        assert (share[:a] == 0).all()
        assert (share[b:] == 0).all()


def test_a_window_fades_into_the_next_in_a_line():
    windows = windows_of(Segments(np.array([[0, 12]])), 8, 0.5)
    np.testing.assert_array_equal(windows.bounds, [[0, 8], [4, 12]])
    one = windows.join(np.stack([np.ones(8), np.zeros(8)]))
    np.testing.assert_allclose(one, [1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0, 0, 0])


def test_sessions_of_other_sizes_share_arrays():
    one = Session(
        np.ones((5, 2)), np.full((5, 2), 50.0), np.ones((5, 2), bool), windows_of(Segments(np.array([[0, 5]])), 9, 0)
    )
    two = Session(
        np.ones((9, 3)), np.ones((9, 3)), np.ones((9, 3), bool), windows_of(Segments(np.array([[0, 9]])), 9, 0)
    )
    data: Data = gather([one, two], 1, 3)
    assert data.y.shape == (2, 12, 3)
    np.testing.assert_array_equal(data.valid.sum(axis=1), [5, 9])
    np.testing.assert_array_equal(data.scored.sum(axis=(1, 2)), [4 * 2, 8 * 3])  # each needs a frame before it
    np.testing.assert_array_equal(data.session, [0, 1])
    assert float(data.inputs.max()) == 8.0  # an artefact does not reach the encoders
