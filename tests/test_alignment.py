"""States and latents of two fits of one population, told apart by how they show in the neurons."""

from types import SimpleNamespace

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumHMM
from nwb_calcium_lvm.alignment import align_latents, align_states
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.simulate import hmm_experiment

RNG = np.random.default_rng(0)


def test_states_of_two_halves_of_a_session_are_matched():
    truth = hmm_experiment(n_states=3, n_rois=9, n_frames=1200, rate_on=0.6, measurement_sd=0.0, random_state=0)
    one, two = (
        CalciumHMM(3, n_init=2, max_iter=15, random_state=seed).fit(half)
        for seed, half in enumerate((truth.traces[:600], truth.traces[600:]))
    )
    found = align_states(one, two)
    assert sorted(found.match) == [0, 1, 2]
    assert (found.similarity > 0.8).all()
    # Both fits call the same frames by one name.
    same = one.predict(truth.traces) == found.match[two.predict(truth.traces)]
    assert same.mean() > 0.9


def test_states_without_a_partner_get_numbers_of_their_own():
    rates = np.eye(3) + 0.1
    found = align_states(rates[[2, 0]], rates)
    np.testing.assert_array_equal(found.match, [1, 2, 0])
    assert np.isnan(found.similarity[1])
    np.testing.assert_array_equal(align_states(rates, rates[[2, 0]]).match, [2, 0])


def test_neurons_are_found_by_their_names():
    rates = RNG.uniform(0.1, 1.0, (4, 20))
    one = SimpleNamespace(spikes_per_frame_=rates[:, :15], roi_ids_=np.arange(15))
    order = RNG.permutation(np.arange(5, 20))
    two = SimpleNamespace(spikes_per_frame_=rates[::-1][:, order], roi_ids_=order)
    np.testing.assert_array_equal(align_states(one, two).match, [3, 2, 1, 0])
    by_hand = align_states(rates[:, :15], rates[::-1][:, order], rois=(order[order < 15], np.flatnonzero(order < 15)))
    np.testing.assert_array_equal(by_hand.match, [3, 2, 1, 0])


def test_a_rotation_of_latents_is_undone():
    loadings, latents = np.linalg.qr(RNG.normal(size=(30, 3)))[0], RNG.normal(size=(50, 3))
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    found = align_latents(loadings, loadings @ rotation)
    np.testing.assert_allclose(latents @ rotation @ found.matrix, latents, atol=1e-12)
    assert found.explained == pytest.approx(1.0)


@pytest.mark.parametrize("n", [3, 4])
def test_any_linear_map_of_latents_is_undone(n):
    loadings, latents = RNG.normal(size=(30, 3)), RNG.normal(size=(50, 3))
    mixing = RNG.normal(size=(3, n))  # log rates = loadings @ latents = (loadings @ mixing) @ (other latents)
    other = latents @ np.linalg.pinv(mixing).T
    found = align_latents(loadings, loadings @ mixing, method="linear")
    np.testing.assert_allclose(other @ found.matrix, latents, atol=1e-9)
    assert found.explained == pytest.approx(1.0)


def test_other_loadings_explain_little():
    assert align_latents(RNG.normal(size=(200, 2)), RNG.normal(size=(200, 2)), method="linear").explained < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: align_states(np.ones((2, 5)), np.ones((2, 4))), "5 and 4 neurons. Say with rois"),
        (lambda: align_states(np.ones((2, 5)), np.ones((2, 5)), rois=([0], [1])), "of two or more"),
        (lambda: align_states(np.ones(5), np.ones(5)), "array of two axes"),
        (lambda: align_latents(np.ones((5, 2)), np.ones((5, 3))), 'Pass method="linear"'),
        (lambda: align_latents(np.ones((5, 2)), np.ones((5, 2)), method="affine"), '"orthogonal" or "linear"'),
        (lambda: align_latents(np.ones((5, 6)), np.ones((5, 6))), "At least as many neurons"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(DataError, match=message):
        call()
