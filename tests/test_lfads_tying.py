"""Sessions of other neurons start in one space, told what they have in common."""

import importlib

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumLFADS, Recording
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads import fitting, parameters, search, tying
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import lorenz_experiment

search_module = importlib.import_module("nwb_calcium_lvm.lfads.search")  # the function has its name in the package
N_FRAMES, N_CONDITIONS, REPEATS = 40, 6, 8
TOLD = np.tile(np.arange(N_CONDITIONS), REPEATS)


def as_recording(trials, rois):
    bounds = np.arange(len(trials) + 1) * N_FRAMES
    segments = Segments(np.column_stack([bounds[:-1], bounds[1:]]), np.arange(len(trials)))
    flat = trials.reshape(-1, trials.shape[-1]).astype(float)
    return Recording(flat, segments=segments, roi_ids=rois, mask=np.isfinite(flat))


@pytest.fixture(scope="module")
def truth():
    """Twelve neurons in one session, ten in the other, which begins with trials of a condition of its own."""
    conditions = np.r_[TOLD, np.full(4, 99), TOLD[::-1]]
    return lorenz_experiment(len(conditions), N_FRAMES, 22, mean_rate=1.5, conditions=conditions, random_state=0)


@pytest.fixture(scope="module")
def labels():
    return [TOLD, np.r_[np.full(4, 99), TOLD[::-1]]]


def sessions(values):
    n = len(TOLD)
    return [as_recording(values[:n, :, :12], np.arange(12)), as_recording(values[n:, :, 12:], np.arange(12, 22))]


def tied(recordings, labels, observation, n_components=3):
    starts = [parameters.start(observation, r, 1) for r in recordings]
    return starts, tying.ties(recordings, starts, labels, n_components)


@pytest.mark.parametrize("observation", ["calcium", "ar_gaussian", "gaussian", "poisson"])
def test_sessions_see_the_same_of_one_condition(truth, labels, observation):
    recordings = sessions(truth.spikes if observation == "poisson" else truth.traces)
    starts, ties = tied(recordings, labels, observation)
    seen = []
    for start, tie, mine in zip(starts, ties, labels, strict=True):
        trials = (start.innovations @ tie.read_in).reshape(-1, N_FRAMES, 3)
        seen.append(np.concatenate([trials[mine == c].mean(axis=0) for c in range(N_CONDITIONS)]))
    alike = [np.corrcoef(seen[0][:, k], seen[1][:, k])[0, 1] for k in range(3)]
    assert min(alike[:2]) > 0.8
    assert alike[2] > 0.5


def test_ways_out_are_slopes_of_log_rates(truth, labels):
    """Against the loadings of the true log rates, which do not change where a neuron fires less."""
    seldom = np.where(np.arange(22) % 2, 1.0, 0.3)
    recordings = sessions(np.random.default_rng(0).binomial(truth.spikes, seldom))
    _, ties = tied(recordings, labels, "poisson")
    states = truth.latents[: len(TOLD)]
    path = np.concatenate([states[c == TOLD][0] for c in range(N_CONDITIONS)])
    log_rates = np.log(truth.rates[: len(TOLD)])
    log_rates = np.concatenate([log_rates[c == TOLD][0] for c in range(N_CONDITIONS)])
    # Loadings on components and on the true states span one space, seen through the same mixing of both sessions.
    true = np.linalg.lstsq(np.column_stack([path, np.ones(len(path))]), log_rates, rcond=None)[0][:3]
    found = np.concatenate([tie.read_out for tie in ties], axis=1)
    mixing = np.linalg.lstsq(found.T, true.T, rcond=None)[0]
    explained = 1 - ((true.T - found.T @ mixing) ** 2).sum() / (true**2).sum()
    assert explained > 0.8
    sizes = np.linalg.svd(mixing, compute_uv=False)
    assert sizes.min() > 0.3
    assert sizes.max() < 4.0


def test_a_fit_starts_there(truth, labels):
    recordings = sessions(truth.traces)
    estimator = CalciumLFADS(3, n_generator=8, n_encoder=6, n_controller=6, n_controller_inputs=0)
    problem = fitting.prepare(recordings, estimator.settings(None), 0, labels)
    _, ties = tied(recordings, labels, "calcium")
    read_in = np.asarray(problem.weights.network["read_in"][...])
    np.testing.assert_allclose(read_in[1, :10, :3], ties[1].read_in, rtol=1e-5)
    assert (read_in[1, 10:] == 0).all()
    assert (read_in[:, :, 3:] == 0).all()
    np.testing.assert_allclose(problem.weights.network["read_out"][...][0, :, :12], ties[0].read_out, rtol=1e-5)
    free = fitting.prepare(recordings, estimator.settings(None), 0)
    assert fitting.fingerprint(free) != fitting.fingerprint(problem)  # a checkpoint of one is not taken up by the other


def test_members_of_a_search_start_there_too(truth, labels, monkeypatch):
    """What is handed to the training, which is not run."""
    handed = {}

    def stop(members, *_):
        handed["network"] = members.state.weights.network
        raise StopIteration

    monkeypatch.setattr(search_module, "_halving", stop)
    recordings = sessions(truth.traces)
    estimator = CalciumLFADS(3, n_generator=8, n_encoder=6, n_controller=6, n_controller_inputs=0)
    with pytest.raises(StopIteration):
        search(estimator, recordings, n_members=3, conditions=labels, random_state=0)
    network = handed["network"]
    _, ties = tied(recordings, labels, "calcium")
    for member in range(3):
        np.testing.assert_allclose(network["read_in"][...][member, 1, :10, :3], ties[1].read_in, rtol=1e-5)
        np.testing.assert_allclose(network["read_out"][...][member, 1, :, :10], ties[1].read_out, rtol=1e-5)
    generators = network["to_factors"][...]
    assert np.abs(generators[0] - generators[1]).max() > 0.1  # members differ in the rest


def test_sessions_of_few_neurons_have_fewer_components(truth, labels):
    recordings = sessions(truth.traces)
    few = [recordings[0].isel(roi=[0, 1]), recordings[1]]
    _, ties = tied(few, labels, "calcium")
    assert {tie.read_in.shape[1] for tie in ties} == {2}


def test_missing_samples_do_no_harm(truth, labels):
    values = truth.traces.copy()
    values[::2, :, 3] = np.nan
    values[1::2, :, 4] = np.nan  # no frame in which all neurons of the first session are seen
    values[2, 5:9] = np.nan
    _, ties = tied(sessions(values), labels, "calcium")
    for tie in ties:
        assert np.isfinite(tie.read_in).all()
        assert np.isfinite(tie.read_out).all()


def test_bad_conditions(truth, labels):
    one, two = sessions(truth.traces)
    small = CalciumLFADS(2, n_generator=4, n_encoder=4, n_controller=4, n_controller_inputs=0, max_epochs=1)
    with pytest.raises(DataError, match="conditions tie several sessions"):
        small.fit(one, conditions=[TOLD])
    with pytest.raises(DataError, match=r"conditions is a list of 1\. Expected a list with an array for each of the 2"):
        small.fit([one, two], conditions=[TOLD])
    with pytest.raises(DataError, match=r"conditions is a ndarray of 48"):
        small.fit([one, two], conditions=TOLD)
    with pytest.raises(DataError, match=r"Recording 1 have shape \(48,\); it has 52 trials"):
        small.fit([one, two], conditions=[TOLD, TOLD])
    with pytest.raises(DataError, match="No condition occurs in all sessions"):
        small.fit([one, two], conditions=[TOLD, np.full(52, 7)])
    untrialled = Recording(one.dff, roi_ids=one.roi_ids)
    with pytest.raises(DataError, match="Recording 0 has no trials"):
        small.fit([untrialled, two], conditions=labels)
    with pytest.raises(ValueError, match=r"conditions have shape \(2,\); expected one label for each of 3 trials"):
        lorenz_experiment(3, 10, 2, conditions=[0, 1])
