"""GPFA with measurement noise on top of calcium: its limit without noise, pieces without seams, a small recovery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nwb_calcium_lvm import CalciumGPFA, load_model
from nwb_calcium_lvm.gpfa.readouts import Block, Latents, NoisyReadout, Prior, SpikeReadout, Weights
from nwb_calcium_lvm.observations import calcium_noisy
from nwb_calcium_lvm.observations.calcium import CalciumParams
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.simulate import ar_calcium, gpfa_experiment

ALPHA, C, SIGMA2, BASELINE = 0.8, 1.0, 0.02, 0.3


def world(n_frames, measurement_sd=0.0):
    rng = np.random.default_rng(0)
    spikes = rng.poisson(0.3, (n_frames, 2))
    y = BASELINE + ar_calcium(spikes, np.full((2, 1), ALPHA), C, SIGMA2, random_state=rng)
    y = y + measurement_sd * rng.standard_normal(y.shape)
    observed = np.ones(y.shape, bool)
    observed[20] = False
    scored = observed & np.roll(observed, 1, axis=0)
    starts = np.arange(n_frames) == 0
    scored[0] = False
    latents = Latents(rng.normal(size=(n_frames, 1)), np.full((n_frames, 1, 1), 0.1))
    return Block(y, observed, scored, starts), latents


def noisy(tau2):
    one = np.ones(2)
    return CalciumNoisyParams(np.full((2, 1), ALPHA), C * one, SIGMA2 * one, tau2 * one, BASELINE * one)


def test_without_measurement_noise_it_is_the_published_readout():
    block, latents = world(80)
    one, none = np.ones(2), np.zeros((2, 1))
    prior = Prior(np.ones(1), 1.0, np.log(0.3) * one, SIGMA2 * one, 1e-6 * one, none, none)
    loadings, offset = np.array([[0.4], [-0.3]]), np.log([0.2, 0.4])
    published = CalciumParams(np.full((2, 1), ALPHA), C * one, SIGMA2 * one, BASELINE * (1 - ALPHA) * one)
    with jax.enable_x64(True):
        block, latents, prior = jax.tree.map(jnp.asarray, (block, latents, prior))
        looks = [
            readout.look(
                jax.tree.map(jnp.asarray, Weights(loadings, offset, params)), block, latents, prior, learn=False
            )
            for readout, params in ((SpikeReadout("calcium", 1), published), (NoisyReadout(order=1), noisy(1e-9)))
        ]
    # Only the filter carries calcium over the missing frame, but no sample there is scored.
    np.testing.assert_allclose(looks[1].bound, looks[0].bound, rtol=1e-4)
    np.testing.assert_allclose(looks[1].precision, looks[0].precision, rtol=1e-9)
    np.testing.assert_allclose(looks[1].linear, looks[0].linear, rtol=1e-3, atol=1e-3)


def test_pieces_have_no_seams():
    block, _ = world(600, 0.2)
    eta = np.full(block.y.shape, np.log(0.3))
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, noisy(0.04))
        block = jax.tree.map(jnp.asarray, block)
        cut = NoisyReadout(order=1).log_likelihood(jnp.asarray(eta), params, block)
        whole = calcium_noisy.log_likelihood(block.y, eta, params, block.observed, starts=block.starts)
    np.testing.assert_allclose(cut, whole, atol=1e-4)


@pytest.mark.slow
def test_noise_is_told_from_calcium(tmp_path):
    truth = gpfa_experiment(10, 800, timescales=[60.0], mean_rate=0.2, ar_coefs=[0.9], noise_variance=1e-3,
                            measurement_sd=0.2, random_state=0)  # fmt: skip
    model = CalciumGPFA(1, observation="calcium_noisy", n_init=1, max_iter=25, tol=1e-5, sampling_rate=20.0)
    latents = model.fit(truth.traces).transform(truth.traces)
    assert abs(np.corrcoef(latents[:, 0], truth.latents[:, 0])[0, 1]) > 0.9
    assert model.ar_coefs_.mean() == pytest.approx(0.9, abs=0.02)
    assert model.measurement_variance_.mean() == pytest.approx(0.04, rel=0.25)
    assert model.spike_amplitude_.mean() == pytest.approx(1.0, rel=0.1)
    rates = model.predict_rates(truth.traces)
    assert np.corrcoef(rates.ravel(), truth.rates.ravel())[0, 1] > 0.8
    back = load_model(model.save(tmp_path / "noisy.npz"))
    np.testing.assert_array_equal(back.predict_rates(truth.traces), rates)
