"""Expectation-maximisation: the objective rises at every step, agrees with peers, recovers the truth, compiles once."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from nwb_calcium_lvm import CalciumHMM, Recording
from nwb_calcium_lvm._core.regression import has_real_poles_inside, step_to_stable
from nwb_calcium_lvm.hmm import em, gradient
from nwb_calcium_lvm.hmm.data import pack
from nwb_calcium_lvm.hmm.emissions import CalciumEmission, GaussianEmission, Prior, calcium, gaussian
from nwb_calcium_lvm.hmm.inference import Chain
from nwb_calcium_lvm.metrics import state_accuracy
from nwb_calcium_lvm.observations.starting import scored
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import hmm_experiment

MODELS = [("calcium", 1), ("calcium", 2), ("gaussian", 1), ("ar_gaussian", 1), ("ar_gaussian", 2), ("poisson", 1)]


def _no_prior(k, n, order):
    zeros = np.zeros(n)
    none = np.zeros((order, n))
    return Prior(np.zeros(()), zeros, zeros, np.full(n, 1e-12), none, none, np.zeros((k, k)), np.zeros(k))


@pytest.fixture(scope="module")
def session():
    return hmm_experiment(n_states=3, n_rois=9, n_frames=600, random_state=1)


@pytest.mark.parametrize(("observation", "order"), MODELS)
@pytest.mark.parametrize("case", ["plain", "priors", "masked and ragged"])
def test_log_posterior_rises_at_every_step(session, observation, order, case):
    traces = np.asarray(session.spikes if observation == "poisson" else session.traces, float)
    mask, segments, indicator = np.ones(traces.shape, bool), None, None
    options = {"transition_prior": 0.0, "prior_frames": 0.0}
    if case == "priors":
        options, indicator = {"transition_prior": 0.7, "prior_frames": 5.0, "stickiness": 20.0}, "gcamp6f"
    if case == "masked and ragged":
        mask = np.random.default_rng(0).random(traces.shape) > 0.1
        mask[100:130] = False
        edges = np.array([0, 7, 180, 185, 430, 600])
        segments = Segments(np.column_stack([edges[:-1], edges[1:]]), np.arange(5))
    recording = Recording(traces, mask=mask, segments=segments, sampling_rate=10.0, indicator=indicator)
    model = CalciumHMM(
        3, observation=observation, ar_order=order, n_init=1, max_iter=40, tol=0.0, random_state=0, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(recording)
    history = model.log_posterior_history_
    assert np.isfinite(history).all()
    assert history[-1] > history[0]
    np.testing.assert_array_less(-1e-8 * np.abs(history).max(), np.diff(history))


def test_rises_while_constraints_bind():
    """Noise without calcium pulls the AR coefficient below 0 and the amplitude to its floor; the climb goes on."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=(400, 4))
    traces = white[1:] - 0.6 * white[:-1]  # negative autocorrelation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CalciumHMM(2, n_init=1, max_iter=30, tol=0.0, random_state=0).fit(traces)
    history = model.log_posterior_history_
    np.testing.assert_array_less(-1e-8 * np.abs(history).max(), np.diff(history))
    assert (model.ar_coefs_ >= 0).all()
    assert (model.spike_amplitude_ > 0).all()


def test_poles_stay_real_and_inside():
    rng = np.random.default_rng(0)
    for order in (1, 2, 3):
        coefs = rng.uniform(-2, 2, (400, order))
        roots = np.array([np.roots(np.concatenate([[1.0], -a])) for a in coefs])
        if order < 3:
            expected = (np.abs(roots.imag) < 1e-9).all(1) & (roots.real >= 0).all(1) & (roots.real <= 0.9995).all(1)
        else:
            expected = (np.abs(roots) < 0.999).all(1)
        with jax.enable_x64(True):
            allowed = np.asarray(has_real_poles_inside(coefs))
            old = np.zeros((400, order))
            new = np.asarray(step_to_stable(old, coefs))
            assert np.asarray(has_real_poles_inside(new)).all()
        # At the border itself rounding decides.
        inner = np.abs(np.abs(roots).max(axis=1) - 0.9995) > 1e-3
        np.testing.assert_array_equal(allowed[inner], expected[inner])
        np.testing.assert_array_equal(new[allowed], coefs[allowed])


def test_gradient_agrees_with_finite_differences(session):
    traces = np.asarray(session.traces, float)[:60, :2]
    rng = np.random.default_rng(0)
    params = calcium.Params(rng.gamma(2.0, 0.2, (2, 2)), np.full((2, 1), 0.7), np.ones(2), np.full(2, 0.1), np.zeros(2))
    chain = Chain(np.array([0.4, 0.6]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    emission = CalciumEmission(max_spikes=8)
    prior = _no_prior(2, 2, 1)._replace(frames=np.array(2.0), mean=np.full(2, 0.1), variance=np.full(2, 0.1))
    with jax.enable_x64(True):
        data = pack(traces, np.ones(traces.shape, bool), np.array([0, 30]), 1, 8)
        free = gradient.unconstrain(emission, em.Model(chain, params))

        def loss(free):
            return gradient.objective(emission, free, data, prior, 8)[0]

        slope = jax.grad(loss)(free)
        leaves, tree = jax.tree.flatten(free)
        for i, leaf in enumerate(leaves):
            direction = rng.normal(size=leaf.shape)
            step = 1e-5 * direction
            moved = [tree.unflatten([*leaves[:i], leaf + s * step, *leaves[i + 1 :]]) for s in (1, -1)]
            numeric = (loss(moved[0]) - loss(moved[1])) / 2e-5
            np.testing.assert_allclose((jax.tree.leaves(slope)[i] * direction).sum(), numeric, rtol=1e-5, atol=1e-9)


def test_gradient_solver_climbs_to_where_em_ends(session):
    traces = np.asarray(session.traces)[:300]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        by_em = CalciumHMM(3, n_init=1, max_iter=100, tol=1e-7, random_state=0).fit(traces)
        by_gradient = CalciumHMM(3, n_init=1, max_iter=600, tol=0, solver="gradient", random_state=0).fit(traces)
    assert by_gradient.log_posterior_history_[-1] > by_gradient.log_posterior_history_[0]
    gap = (by_em.log_posterior_history_[-1] - by_gradient.log_posterior_history_[-1]) / by_em.n_samples_
    assert abs(gap) < 2e-3


def _gaussian_start(traces, k):
    rng = np.random.default_rng(5)
    means = traces[rng.choice(len(traces), k, replace=False)]
    variances = np.tile(traces.var(axis=0), (k, 1))
    transition = np.full((k, k), 0.1 / (k - 1)) + (0.9 - 0.1 / (k - 1)) * np.eye(k)
    return np.full(k, 1.0 / k), transition, means, variances


def _our_gaussian_em(traces, start, n_steps):
    initial, transition, means, variances = start
    k, n = means.shape
    emission = GaussianEmission(order=0)
    with jax.enable_x64(True):
        data = pack(traces, np.ones(traces.shape, bool), np.array([0]), 0, 32)
        model = em.Model(Chain(initial, transition), gaussian.Params(means, variances, np.zeros((n, 0))))
        model = jax.tree.map(jax.numpy.asarray, model)
        likelihoods = []
        for _ in range(n_steps // em.BLOCK):
            model, part, _ = em.em_block(emission, model, data, _no_prior(k, n, 0), em.BLOCK, chunk=32)
            likelihoods += np.asarray(part).tolist()
        return jax.tree.map(np.asarray, model), np.array(likelihoods)


def test_gaussian_hmm_equals_hmmlearn(session):
    hmmlearn = pytest.importorskip("hmmlearn.hmm")
    traces = np.asarray(session.traces, float)
    start = _gaussian_start(traces, 3)
    ours, likelihoods = _our_gaussian_em(traces, start, 20)
    peer = hmmlearn.GaussianHMM(
        3,
        covariance_type="diag",
        n_iter=20,
        tol=-np.inf,
        init_params="",
        min_covar=0.0,
        covars_prior=0.0,
        covars_weight=0.0,
        means_weight=0.0,
    )
    peer.startprob_, peer.transmat_, peer.means_, peer.covars_ = start
    # hmmlearn's update of a variance divides by (weight - 1 + occupancy): a weight of 1 gives maximum likelihood.
    peer.covars_weight = 1.0
    peer.fit(traces)
    np.testing.assert_allclose(likelihoods / len(traces), np.array(peer.monitor_.history) / len(traces), atol=1e-6)
    np.testing.assert_allclose(ours.chain.transition_matrix, peer.transmat_, atol=1e-6)
    np.testing.assert_allclose(ours.params.means, peer.means_, atol=1e-6)
    np.testing.assert_allclose(ours.params.variances, np.array([np.diag(c) for c in peer.covars_]), atol=1e-6)


@pytest.mark.peers
def test_gaussian_hmm_equals_dynamax(session):
    dynamax = pytest.importorskip("dynamax.hidden_markov_model")
    traces = np.asarray(session.traces, float)
    start = _gaussian_start(traces, 3)
    ours, likelihoods = _our_gaussian_em(traces, start, 10)
    with jax.enable_x64(True):
        as_jax = [jax.numpy.asarray(x) for x in start]
        peer = dynamax.DiagonalGaussianHMM(
            3,
            traces.shape[1],
            initial_probs_concentration=1.0,
            transition_matrix_concentration=1.0,
            emission_prior_mean_concentration=1e-12,
            emission_prior_concentration=-1.5,  # the mode then divides by the occupancy alone
            emission_prior_scale=1e-12,
        )
        params, props = peer.initialize(
            jax.random.PRNGKey(0),
            initial_probs=as_jax[0],
            transition_matrix=as_jax[1],
            emission_means=as_jax[2],
            emission_scale_diags=jax.numpy.sqrt(as_jax[3]),
        )
        emissions = jax.numpy.asarray(traces)
        reference = [float(peer.marginal_log_prob(params, emissions))]
        for _ in range(10):
            posterior, _ = peer.e_step(params, emissions)
            params, _ = peer.m_step(
                params, props, jax.tree.map(lambda x: x[None], posterior), peer.initialize_m_step_state(params, props)
            )
            reference.append(float(peer.marginal_log_prob(params, emissions)))
    np.testing.assert_allclose(likelihoods / len(traces), np.array(reference[:10]) / len(traces), atol=1e-6)
    np.testing.assert_allclose(ours.params.means, params.emissions.means, atol=1e-6)
    np.testing.assert_allclose(ours.params.variances, np.asarray(params.emissions.scale_diags) ** 2, atol=1e-6)
    np.testing.assert_allclose(ours.chain.transition_matrix, params.transitions.transition_matrix, atol=1e-6)


def test_recovers_the_truth_without_measurement_noise():
    session = hmm_experiment(n_frames=2000, measurement_sd=0.0, rate_off=0.01, random_state=3)
    model = CalciumHMM(5, n_init=3, random_state=0).fit(np.asarray(session.traces))
    found = model.predict(np.asarray(session.traces))
    assert state_accuracy(session.states, found) > 0.95
    truth = np.asarray(session.ar_coefs).reshape(25, -1)[:, 0]
    assert np.abs(model.ar_coefs_[:, 0] - truth).max() < 0.02
    np.testing.assert_allclose(model.spike_amplitude_, 1.0, atol=0.05)
    np.testing.assert_allclose(model.noise_variance_, 1e-2, rtol=0.2)


def test_second_identical_fit_compiles_nothing(session):
    traces = np.asarray(session.traces)
    settings = {"n_init": 2, "max_iter": 12, "tol": 0.0, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        CalciumHMM(3, **settings).fit(traces).infer(traces)
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
        )
        CalciumHMM(3, **settings).fit(traces).infer(traces)
        assert compiled == []
        CalciumHMM(4, **settings).fit(traces)
        assert compiled  # the listener does hear compilations


def test_same_seed_same_fit(session):
    fits = [CalciumHMM(3, n_init=2, random_state=7).fit(np.asarray(session.traces)) for _ in range(2)]
    np.testing.assert_array_equal(fits[0].spikes_per_frame_, fits[1].spikes_per_frame_)
    assert fits[0].log_likelihood_ == fits[1].log_likelihood_


def test_scale_and_shift_of_traces_only_move_the_density(session):
    """In other units the states are the same and the log density differs by the log of the scale."""
    traces = np.asarray(session.traces, float)
    scale, shift = np.linspace(0.1, 50, traces.shape[1]), np.linspace(-3, 900, traces.shape[1])
    one = CalciumHMM(3, n_init=1, random_state=0).fit(traces)
    two = CalciumHMM(3, n_init=1, random_state=0).fit(traces * scale + shift)
    n = scored(np.ones(traces.shape, bool), np.array([0]), 1).sum(axis=0)
    np.testing.assert_allclose(two.log_likelihood_, one.log_likelihood_ - (n * np.log(scale)).sum(), rtol=1e-6)
    np.testing.assert_allclose(two.spike_amplitude_, one.spike_amplitude_ * scale, rtol=1e-4)
    np.testing.assert_array_equal(one.predict(traces), two.predict(traces * scale + shift))


def test_masked_values_are_never_looked_at(session):
    traces = np.array(session.traces, float)
    mask = np.random.default_rng(0).random(traces.shape) > 0.05
    spoilt = np.where(mask, traces, np.nan)
    one = CalciumHMM(3, n_init=1, random_state=0).fit(Recording(traces, mask=mask))
    two = CalciumHMM(3, n_init=1, random_state=0).fit(Recording(spoilt, mask=mask))
    assert one.log_likelihood_ == two.log_likelihood_
    result = two.infer(Recording(spoilt, mask=mask, sampling_rate=10.0))
    assert all(np.isfinite(a.values).all() for a in result.arrays.values())


def test_stickiness_lengthens_visits(session):
    traces = np.asarray(session.traces)[:300]
    loose = CalciumHMM(3, n_init=1, random_state=0).fit(traces)
    sticky = CalciumHMM(3, n_init=1, random_state=0, stickiness=500.0).fit(traces)
    assert np.diag(sticky.transition_matrix_).mean() > np.diag(loose.transition_matrix_).mean()
