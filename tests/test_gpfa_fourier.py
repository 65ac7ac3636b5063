"""The Fourier engine against the dense form of its own periodic prior, and the black-box estimator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nwb_calcium_lvm import CalciumGPFA
from nwb_calcium_lvm.gpfa import fourier, frames, kalman
from nwb_calcium_lvm.gpfa.readouts import Block, Latents, Prior, SpikeReadout, Weights
from nwb_calcium_lvm.observations.poisson import PoissonParams
from nwb_calcium_lvm.simulate import gpfa_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

T, D = 20, 2
SCALES = np.array([2.0, 5.0])
STEPS = np.array([1.0, np.inf, 3.0])
KIND = np.zeros(T, int)
KIND[[0, 12]], KIND[5] = 1, 2


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def _layout():
    clock = kalman.Clock(jnp.asarray(STEPS), jnp.asarray(KIND))
    return fourier.grid_for(clock, T, 5.0)


def _dense_basis(sizes, place, scale):
    """Columns: a_0, then cosines and sines of each frequency, of one latent; rows: frames. Written out from sums."""
    omega = 2 * np.pi * np.arange(sizes.n_frequencies) / sizes.length
    raw = np.exp(-0.5 * (omega * scale) ** 2)
    count = np.where(np.arange(len(omega)) == 0, 1.0, 2.0)
    power = raw / (count * raw).sum()
    row, at = place // sizes.length, place % sizes.length
    blocks = []
    for r in range(sizes.n_rows):
        mine = (row == r)[:, None]
        cosine = np.where(mine, np.cos(np.outer(at, omega)) * np.sqrt(count * power), 0.0)
        sine = np.where(mine, np.sin(np.outer(at, omega)) * np.sqrt(count * power), 0.0)
        blocks += [cosine, sine[:, 1:]]
    return np.concatenate(blocks, axis=1), power


def _sites(rng):
    root = rng.normal(size=(T, D, D))
    root[7] = 0.0
    return frames.Sites(jnp.asarray(root @ root.transpose(0, 2, 1)), jnp.asarray(rng.normal(size=(T, D))))


def test_gaps_and_trials_lie_where_they_should():
    grid, sizes = _layout()
    place = np.asarray(grid.place)
    np.testing.assert_array_equal(place[:12] % sizes.length, [0, 1, 2, 3, 4, 7, 8, 9, 10, 11, 12, 13])
    np.testing.assert_array_equal(place // sizes.length, [0] * 12 + [1] * 8)
    assert sizes.length % 2 == 1
    assert sizes.length >= 14 + 14  # as long a margin as the trial: four time scales are more than it
    assert sizes.n_rows == 3


def test_prior_of_the_basis_is_the_periodic_kernel():
    grid, sizes = _layout()
    basis, _ = _dense_basis(sizes, np.asarray(grid.place), SCALES[0])
    at = np.asarray(grid.place)[:12]
    lag = at[:, None] - at
    wrapped = sum(np.exp(-0.5 * ((lag + k * sizes.length) / SCALES[0]) ** 2) for k in range(-3, 4))
    np.testing.assert_allclose((basis @ basis.T)[:12, :12], wrapped, atol=1e-9)


def test_engine_equals_dense_algebra():
    grid, sizes = _layout()
    sites = _sites(np.random.default_rng(0))
    found, coefficients, divergence = fourier.smooth(jnp.log(SCALES), grid, sites, sizes=sizes)
    bases = [_dense_basis(sizes, np.asarray(grid.place), scale)[0] for scale in SCALES]
    width = bases[0].shape[1]
    wide = np.zeros((T, D, D * width))
    for j, basis in enumerate(bases):
        wide[:, j, j * width : (j + 1) * width] = basis
    precision = np.eye(D * width) + np.einsum("tia,tij,tjb->ab", wide, np.asarray(sites.precision), wide)
    mean = np.linalg.solve(precision, np.einsum("tia,ti->a", wide, np.asarray(sites.linear)))
    np.testing.assert_allclose(found.mean, np.einsum("tia,a->ti", wide, mean), atol=1e-7)
    # Precisions: the diagonal of the dense ones, averaged over cosine and sine of a frequency.
    k = sizes.n_frequencies
    for j in range(D):
        diagonal = np.diag(precision)[j * width : (j + 1) * width]
        for r in range(sizes.n_rows):
            own = diagonal[r * (2 * k - 1) : (r + 1) * (2 * k - 1)]
            average = np.concatenate([own[:1], 0.5 * (own[1:k] + own[k:])])
            np.testing.assert_allclose(1.0 / coefficients.variance[r, :, j], average, rtol=1e-9)
    variance = np.asarray(coefficients.variance)
    count = np.where(np.arange(k) == 0, 1.0, 2.0)[:, None]
    by_hand = 0.5 * (mean @ mean) + 0.5 * (count * (variance - 1 - np.log(variance))).sum()
    np.testing.assert_allclose(divergence, by_hand, rtol=1e-9)


def test_slope_of_the_bound_by_the_time_scales():
    rng = np.random.default_rng(1)
    grid, sizes = _layout()
    sites = _sites(rng)
    weights = jax.tree.map(jnp.asarray, Weights(rng.normal(size=(4, D)), rng.normal(size=4), PoissonParams()))
    everything = jnp.ones((T, 4), bool)
    y = jnp.asarray(rng.poisson(1.0, (T, 4)).astype(float))
    block = Block(y, everything, everything, jnp.arange(T) == 0)
    rows = (np.zeros(4), np.ones(4), np.zeros(4))
    prior = Prior(*map(jnp.asarray, (np.ones(D), np.float64(0.0), *rows, np.zeros((4, 0)), np.zeros((4, 0)))))
    readout = SpikeReadout("poisson")
    posterior, coefficients, _ = fourier.smooth(jnp.log(SCALES), grid, sites, sizes=sizes)

    def bound(log_timescale):
        mean, spread = fourier.moments(log_timescale, coefficients, grid, sizes)
        latents = Latents(mean, spread[:, :, None] * jnp.eye(D))
        return readout.look(weights, block, latents, prior, learn=False)

    look = bound(jnp.log(SCALES))
    target = frames.Sites(look.precision, look.linear)
    slope = fourier.slope(jnp.log(SCALES), coefficients, posterior, target, grid, sizes=sizes)
    for j in range(D):
        step = 1e-5 * np.eye(D)[j]
        up, down = (float(bound(jnp.log(SCALES) + sign * step).bound.sum()) for sign in (1, -1))
        np.testing.assert_allclose(slope[j], (up - down) / 2e-5, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def counts():
    return gpfa_experiment(8, 240, timescales=[15, 30], mean_rate=0.5, random_state=1).spikes.astype(float)


def test_fit_never_falls_and_agrees_with_the_state_space_engine(counts):
    options = {"observation": "poisson", "n_init": 1, "max_iter": 40}
    rbf = CalciumGPFA(2, kernel="rbf", **options).fit(counts)
    assert (np.diff(rbf.elbo_history_) >= 0).all()
    markov = CalciumGPFA(2, kernel="matern52", **options).fit(counts)
    ours, theirs = rbf.transform(counts), markov.transform(counts)
    design = np.column_stack([theirs, np.ones(len(theirs))])
    residual = ours - design @ np.linalg.lstsq(design, ours, rcond=None)[0]
    assert (residual.var(axis=0) < 0.1 * ours.var(axis=0)).all()
    trials = rbf.transform(counts.reshape(4, 60, 8))
    assert trials.shape == (4, 60, 2)
    assert rbf.score(counts) * rbf.n_samples_ >= rbf.elbo_ - 1e-3


@pytest.mark.parametrize("observation", ["poisson", "gaussian"])
def test_black_box_climbs_towards_the_closed_bound(counts, observation):
    options = {"observation": observation, "kernel": "rbf", "n_init": 1, "random_state": 0}
    slow = CalciumGPFA(2, inference="blackbox", max_iter=75, **options).fit(counts)
    history = slow.elbo_history_
    assert len(history) == 75
    assert history[-25:].mean() > history[:25].mean()
    assert history[-25:].mean() < CalciumGPFA(2, max_iter=40, **options).fit(counts).elbo_
    assert np.isfinite(slow.transform(counts)).all()


@pytest.mark.parametrize(
    ("kernel", "inference", "message"),
    [("rbf", "kalman", "has no state-space form.*or inference='fourier'"),
     ("matern32", "fourier", "works with the RBF kernel only.*expected kernel='rbf'")],
)  # fmt: skip
def test_engines_and_kernels_that_do_not_go_together(counts, kernel, inference, message):
    with pytest.raises(ValueError, match=message):
        CalciumGPFA(2, kernel=kernel, inference=inference).fit(counts)
