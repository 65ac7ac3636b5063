"""Search for hyper-parameters: members go on, give up, or take over from better ones; what comes out is fitted."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nwb_calcium_lvm import CalciumLFADS
from nwb_calcium_lvm.lfads import search
from nwb_calcium_lvm.lfads.objective import Hyper, Weights
from nwb_calcium_lvm.lfads.search import Members, _exploit
from nwb_calcium_lvm.lfads.training import State
from nwb_calcium_lvm.simulate import lorenz_experiment

SPACE = {"learning_rate": (1e-3, 2e-2), "dropout": (0.0, 0.3)}


@pytest.fixture(scope="module")
def traces():
    return lorenz_experiment(n_trials=12, n_frames=16, n_rois=5, random_state=0).traces


def found(traces, method, epochs):
    estimator = CalciumLFADS(
        2, n_generator=6, n_encoder=6, n_controller=6, n_initial=3, n_controller_inputs=1, max_epochs=epochs,
        ramp_epochs=1, batch_size=5, coordinated_dropout=0.2, n_draws=4, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return search(estimator, traces, SPACE, method=method, n_members=4, interval=2, random_state=1)


@pytest.mark.thorough
def test_a_quarter_goes_on(traces):
    result = found(traces, "halving", 5)
    table = result.table
    assert sorted(table["epochs"]) == [3, 3, 3, 5]
    assert sorted(table["member"]) == [0, 1, 2, 3]
    assert table["held_out_bound"].is_monotonic_decreasing
    own = table[table["member"] == 0].iloc[0]  # keeps what the estimator was given
    assert own["learning_rate"] == pytest.approx(0.01)
    assert (own["dropout"], own["coordinated_dropout"]) == (0.0, pytest.approx(0.2))
    others = table[table["member"] > 0]
    assert others["learning_rate"].between(*SPACE["learning_rate"]).all()
    best = result.best
    assert best.learning_rate == pytest.approx(table["learning_rate"][0])
    assert best.history_[:, 1].max() >= table["held_out_bound"][0] - 1e-6
    assert best.transform(traces).shape == (12, 16, 2)

    predicted = best.cosmooth(traces, [1, 3])
    assert predicted.rates.shape == (12 * 16, 2)
    changed = traces.copy()
    changed[..., [1, 3]] += 5.0 * np.random.default_rng(0).random(changed[..., [1, 3]].shape)
    np.testing.assert_allclose(best.cosmooth(changed, [1, 3]).rates, predicted.rates, rtol=1e-5)  # not seen
    assert np.isfinite(predicted.bits_per_sample).all()


@pytest.mark.thorough
def test_a_population_trains_to_the_end(traces):
    table = found(traces, "population", 7).table
    assert (table["epochs"] == 7).all()
    assert table["learning_rate"].between(*SPACE["learning_rate"]).all()


def test_the_worst_takes_over_from_the_best():
    weights = Weights(jnp.arange(4.0)[:, None], {})
    state = State(weights, weights, (), jnp.array([-1.0, -4.0, -2.0, -3.0]))  # the first is best, the second worst
    hyper = Hyper(*(jnp.linspace(0.1, 0.4, 4) for _ in Hyper._fields))
    histories = [[(0.0, score)] for score in (-1.0, -4.0, -2.0, -3.0)]
    members = Members(state, hyper, jax.random.split(jax.random.key(0), 4), np.arange(4), histories)
    after = _exploit(members, {"dropout": (0.0, 1.0)}, np.random.RandomState(0))
    np.testing.assert_array_equal(after.state.weights.network[:, 0], [0.0, 0.0, 2.0, 3.0])
    assert float(after.hyper.dropout[1]) == pytest.approx(0.08) or float(after.hyper.dropout[1]) == pytest.approx(0.125)
    np.testing.assert_allclose(after.hyper.dropout[jnp.array([0, 2, 3])], [0.1, 0.3, 0.4], rtol=1e-6)
    np.testing.assert_allclose(after.hyper.l2, [0.1, 0.1, 0.3, 0.4], rtol=1e-6)  # taken over, and not searched for
    assert after.histories[1] == [(0.0, -1.0)]
    assert (after.keys == members.keys).all()  # or two of them would go on in the same way
