"""Simulations: reproducible, of the stated statistics, and written as a clean NWB file."""

import numpy as np
import pytest

from nwb_calcium_lvm import metrics, simulate
from nwb_calcium_lvm.io.demo_file import write_session_nwb

SIMULATIONS = {
    "hmm_experiment": lambda seed: simulate.hmm_experiment(n_frames=200, random_state=seed),
    "session": lambda seed: simulate.session(n_rois=8, duration=30.0, random_state=seed),
    "odor_surrogate": lambda seed: simulate.odor_surrogate(n_trials=4, n_rois=12, random_state=seed),
}


@pytest.mark.parametrize("name", SIMULATIONS)
def test_same_seed_same_data_and_no_global_state(name):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (SIMULATIONS[name](seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.traces, two.traces)
    assert not np.array_equal(one.traces, other.traces)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("kind", [np.random.default_rng, np.random.RandomState])
def test_generators_are_taken_and_advanced(kind):
    source = kind(0)
    first = simulate.hmm_experiment(n_frames=50, random_state=source)
    second = simulate.hmm_experiment(n_frames=50, random_state=source)
    assert not np.array_equal(first.traces, second.traces)
    again = simulate.hmm_experiment(n_frames=50, random_state=kind(0))
    np.testing.assert_array_equal(first.traces, again.traces)


@pytest.mark.parametrize("name", SIMULATIONS)
def test_shapes_agree(name):
    truth = SIMULATIONS[name](0)
    assert truth.traces.shape == truth.spikes.shape == truth.rates.shape
    assert truth.states.shape == truth.traces.shape[:-1]
    assert truth.state_rates.shape == (truth.n_states, truth.n_rois)
    assert truth.ar_coefs.shape[0] == len(truth.spike_amplitude) == len(truth.measurement_sd) == truth.n_rois
    np.testing.assert_allclose(truth.transition_matrix.sum(axis=1), 1.0)
    assert np.isfinite(truth.traces).all()
    assert truth.spikes.min() == 0


def test_hmm_experiment_has_the_statistics_of_its_model():
    truth = simulate.hmm_experiment(n_frames=40_000, random_state=0)
    states = truth.states
    np.testing.assert_allclose(np.mean(states[1:] == states[:-1]), 0.95, atol=0.005)
    moved = states[1:] != states[:-1]
    np.testing.assert_array_equal(states[1:][moved], (states[:-1][moved] + 1) % 5)
    for state in range(5):
        rates = truth.spikes[states == state].mean(axis=0)
        own = np.arange(25) // 5 == state
        np.testing.assert_allclose(rates[own], 0.2, atol=0.02)
        np.testing.assert_allclose(rates[~own], 0.05, atol=0.01)
    assert truth.ar_coefs.min() >= 0.6
    assert truth.ar_coefs.max() <= 0.95


def test_hmm_experiment_without_measurement_noise_is_the_autoregression():
    truth = simulate.hmm_experiment(n_frames=20_000, measurement_sd=0.0, noise_variance=0.04, random_state=1)
    y = truth.traces
    noise = y[1:] - truth.ar_coefs[:, 0] * y[:-1] - truth.spikes[1:]
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.006)
    np.testing.assert_allclose(noise.var(axis=0), 0.04, rtol=0.05)
    loud = simulate.hmm_experiment(n_frames=20_000, measurement_sd=0.5, noise_variance=0.04, random_state=1)
    np.testing.assert_allclose((loud.traces - y).std(axis=0), 0.5, rtol=0.03)


def test_second_order_autoregression():
    coefs = (1.5, -0.56)
    truth = simulate.hmm_experiment(
        n_frames=300, ar_coefs=coefs, measurement_sd=0.0, noise_variance=0.0, random_state=2, sampling_rate=10.0
    )
    y = truth.traces
    np.testing.assert_allclose(y[2:], 1.5 * y[1:-1] - 0.56 * y[:-2] + truth.spikes[2:], atol=1e-9)
    np.testing.assert_allclose(truth.decay_time, -0.1 / np.log(0.8))


def test_markov_chain_keeps_to_its_matrix():
    matrix = np.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8], [1.0, 0.0, 0.0]])
    path = simulate.markov_chain(matrix, 30_000, initial_probs=[0, 0, 1], random_state=0)
    assert path[0] == 2
    counts = metrics.confusion_matrix(path[:-1], path[1:], 3, 3)
    np.testing.assert_allclose(counts / counts.sum(axis=1, keepdims=True), matrix, atol=0.02)
    assert counts[matrix == 0].sum() == 0


def test_session_has_the_noise_level_asked_for():
    truth = simulate.session(n_rois=30, duration=60.0, nu=3.0, sampling_rate=30.0, random_state=0)
    nu = 100 * np.median(np.abs(np.diff(truth.traces, axis=0)), axis=0) / np.sqrt(30.0)
    assert np.median(nu) == pytest.approx(3.0, rel=0.1)


def test_session_saturates_bleaches_and_is_contaminated():
    quiet = simulate.session(n_rois=6, duration=60.0, nu=0.01, random_state=0)
    assert quiet.fluorescence is not None
    assert quiet.neuropil is not None
    half = len(quiet.traces) // 2
    assert np.median(quiet.fluorescence[half:]) < np.median(quiet.fluorescence[:half])
    pure = quiet.fluorescence - quiet.neuropil_coefficient * quiet.neuropil
    baseline = pure / (1.0 + quiet.traces)
    steps = np.abs(np.diff(np.log(baseline), axis=0))
    assert steps.max() < 1e-2, "the baseline must be slow"
    assert quiet.traces.max() > 2 * quiet.indicator.amplitude


def test_bleaching_takes_the_fraction_asked_for():
    physics = simulate.Biophysics(bleaching=0.3, drift_sd=0.0, neuropil_coefficient=0.0)
    truth = simulate.session(n_rois=4, duration=60.0, nu=0.01, biophysics=physics, random_state=0)
    baseline = truth.fluorescence / (1.0 + truth.traces)
    np.testing.assert_allclose(baseline[-1] / baseline[0], 0.7, rtol=1e-3)


def test_indicator_response_peaks_at_the_amplitude_and_saturates():
    physics = simulate.Biophysics()
    spikes = np.zeros((400, 3), int)
    spikes[10] = [1, 5, 50]
    response = simulate.indicator_response(spikes, 100.0, 0.05, np.full(3, 0.4), np.full(3, 0.2), physics)
    one, five, fifty = response.max(axis=0)
    assert one == pytest.approx(0.2, rel=1e-2)
    assert five > 5 * 0.2 * 0.7
    assert fifty < 50 * 0.2 * 0.4
    assert (response[:10] == 0).all()
    assert 10 + 5 < response[:, 0].argmax() < 10 + 20


def test_session_events_trigger_the_last_state():
    truth = simulate.session(n_rois=6, duration=240.0, random_state=1)
    event, last = truth.trials["event_time"], truth.n_states - 1
    frames = np.searchsorted(truth.time, event + 0.5)
    assert np.mean(truth.states[frames] == last) > 0.8
    before = np.searchsorted(truth.time, event - 0.5)
    assert np.mean(truth.states[before] == last) < 0.2
    assert (truth.trials["stop_time"] > event).all()


def test_session_rates_are_what_the_spikes_follow():
    truth = simulate.session(n_rois=10, duration=300.0, random_state=2)
    for state in range(truth.n_states):
        there = truth.states == state
        measured = truth.spikes[there].mean(axis=0)
        error = np.sqrt(truth.state_rates[state] / there.sum())
        assert np.mean(np.abs(measured - truth.state_rates[state]) < 3 * error) >= 0.8
    np.testing.assert_allclose(truth.firing_rates, truth.rates * 20.0)


def test_odor_surrogate_has_the_published_shape_and_answers_the_odor():
    truth = simulate.odor_surrogate(random_state=0)
    assert truth.traces.shape == (79, 136, 284)
    onset = metrics.fraction_in_states(truth.states, truth.n_states)[:, 0]
    assert onset[truth.time < 10.0].max() == 0.0
    peak = metrics.peak_and_width(onset, truth.time)
    assert 10.2 < peak.time < 12.0
    assert 0.75 < peak.height <= 1.0
    assert 1.5 < peak.width < 3.5
    answered = (truth.states == 0).any(axis=1)
    assert 0.8 < answered.mean() < 1.0
    starts = truth.time[np.argmax(truth.states[answered] == 0, axis=1)]
    assert np.ptp(starts) > 0.3, "latency is jittered"


def test_recordings_of_sessions_and_of_trials():
    recording = SIMULATIONS["session"](0).recording()
    assert recording.sampling_rate == 20.0
    assert recording.indicator.name == "GCaMP6f"
    assert "event_time" in recording.trials
    truth = SIMULATIONS["odor_surrogate"](0)
    trials = truth.recording()
    assert len(trials.segments) == 4
    np.testing.assert_array_equal(trials.trial_list()[2], truth.traces[2])
    assert trials.trial_id[136] == 1
    assert trials.sampling_rate == pytest.approx(4.53)
    np.testing.assert_allclose(trials.timestamps[136], truth.trials["start_time"][1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: simulate.hmm_experiment(n_states=0), "n_states=0"),
        (lambda: simulate.hmm_experiment(n_states=30), "n_states <= n_rois"),
        (lambda: simulate.hmm_experiment(stay=1.2), "not a probability"),
        (lambda: simulate.hmm_experiment(ar_coefs=np.ones((3, 1))), r"expected \(25, order\)"),
        (lambda: simulate.markov_chain([[0.5, 0.2], [0.5, 0.5]], 10), "rows that sum to 1"),
        (lambda: simulate.session(n_states=1), "at least 2 states"),
        (lambda: simulate.session(duration=-1.0), "above 0"),
        (lambda: simulate.session(indicator="nothing"), "no indicator preset"),
        (lambda: simulate.odor_surrogate(odor=(11.0, 10.0)), "0 <= on < off"),
        (lambda: simulate.odor_surrogate(n_spontaneous=0), "at least 1 state"),
        (lambda: SIMULATIONS["hmm_experiment"](0).firing_rates, "no clock"),
    ],
)
def test_bad_input_is_answered_with_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_demo_file_holds_the_session_and_pleases_the_inspector(tmp_path):
    from nwbinspector import inspect_nwbfile
    from pynwb import NWBHDF5IO, validate

    truth = SIMULATIONS["session"](0)
    path = write_session_nwb(truth, tmp_path / "demo.nwb")
    with NWBHDF5IO(path, "r") as io:
        nwbfile = io.read()
        series = nwbfile.processing["ophys"]["Fluorescence"]
        np.testing.assert_allclose(series["RoiResponseSeries"].data[:], truth.fluorescence, rtol=1e-6)
        np.testing.assert_allclose(series["Neuropil"].data[:], truth.neuropil, rtol=1e-6)
        assert series["Neuropil"].rate == 20.0
        assert len(series["Neuropil"].rois.table) == 8
        np.testing.assert_allclose(nwbfile.trials["event_time"][:], truth.trials["event_time"])
        assert nwbfile.imaging_planes["ImagingPlane"].indicator == "GCaMP6f"
    found = validate(path=str(path))
    assert found == []
    assert [message.message for message in inspect_nwbfile(nwbfile_path=path)] == []


def test_the_demo_file_needs_raw_traces(tmp_path):
    with pytest.raises(ValueError, match=r"simulate\.session"):
        write_session_nwb(SIMULATIONS["hmm_experiment"](0), tmp_path / "demo.nwb")
    assert list(tmp_path.iterdir()) == []
