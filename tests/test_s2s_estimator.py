"""S2SSpikeEstimator: learns, gives rates on any clock, keeps its word about units, survives bad input and disks."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError

from nwb_calcium_lvm import Recording, S2SSpikeEstimator, load_model, write_nwb
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import DEFAULT, PUBLISHED

SMALL = DEFAULT.changed(
    channels=8, dilations=(1, 2), steps=150, check_every=50, n_members=2, batch_size=8, seconds=8.0, unit_lost=0.3
)


def traces_of(counts, rate, noise, rng, decay=0.5, amplitude=0.3):
    kernel = amplitude * np.exp(-np.arange(int(4 * rate)) / (decay * rate))
    clean = np.stack([np.convolve(c, kernel)[: len(c)] for c in counts.T], axis=1)
    return clean + noise * rng.normal(size=clean.shape)


def simulate(rate=30.0, duration=120.0, n_rois=4, noise=0.05, seed=0, mean=0.7):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean / rate, (int(duration * rate), n_rois))
    return traces_of(counts, rate, noise, rng), counts


@pytest.fixture(scope="module")
def fitted():
    recordings, counts = [], []
    for seed, rate in enumerate((30.0, 60.0, 10.0)):
        x, y = simulate(rate=rate, seed=seed)
        recordings.append(Recording(x, sampling_rate=rate))
        counts.append(y)
    return S2SSpikeEstimator(config=SMALL, random_state=0).fit(recordings, counts, groups=["a", "b", "b"])


@pytest.fixture(scope="module")
def fresh():
    return simulate(seed=99)


# -- What it learns ---------------------------------------------------------------------------------------------------


def test_it_finds_spikes_it_never_saw(fitted, fresh):
    x, y = fresh
    recording = Recording(x, sampling_rate=30.0)
    assert fitted.score(recording, y, metric="smooth_pearson") > 0.75
    assert fitted.score(recording, y, metric="auc") > 0.85
    found = fitted.predict(recording).sum(axis=0) / y.sum(axis=0)
    assert 0.6 < np.median(found) < 1.6


def test_counts_are_rates_times_frames(fitted, fresh):
    recording = Recording(fresh[0], sampling_rate=30.0)
    np.testing.assert_allclose(fitted.predict(recording) * 30.0, fitted.transform(recording), rtol=1e-5)
    assert (fitted.transform(recording) >= 0).all()


@pytest.mark.parametrize("rate", [3.0, 7.5, 30.0, 100.0, 500.0])
def test_any_frame_rate_gives_the_same_number_of_spikes(fitted, rate):
    rng = np.random.default_rng(3)
    fine = rng.poisson(0.7 / 500, (500 * 90, 2))
    trace = traces_of(fine, 500.0, 0.0, rng)
    step = int(500 // rate)
    slower = trace[: len(trace) // step * step].reshape(-1, step, 2).mean(axis=1)
    slower += 0.01 * np.sqrt(rate / 30) * rng.normal(size=slower.shape)
    actual = 500 / step
    times = (np.arange(len(slower)) + 0.5) / actual
    found = fitted.predict(Recording(slower, timestamps=times))
    assert found.shape == slower.shape
    assert 0.4 < found.sum() / fine.sum() < 2.5


def test_the_same_seed_gives_the_same_weights_and_another_others(fresh):
    x, y = fresh
    tiny = SMALL.changed(steps=4, check_every=2, n_members=1)
    rates = [
        S2SSpikeEstimator(config=tiny, sampling_rate=30.0, random_state=seed).fit(x, y).transform(x)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_allclose(rates[0], rates[1], atol=1e-6)
    assert not np.allclose(rates[0], rates[2], atol=1e-6)


def test_spike_times_and_counts_teach_alike(fresh):
    x, y = fresh
    tiny = SMALL.changed(steps=4, check_every=4, n_members=1)
    edges = (np.arange(len(y) + 1) - 0.5) / 30.0
    times = [np.repeat(edges[:-1] + 0.5 / 30, np.minimum(c, 1)) for c in y.T]
    by_counts = S2SSpikeEstimator(config=tiny, sampling_rate=30.0, random_state=0).fit(x, np.minimum(y, 1))
    by_times = S2SSpikeEstimator(config=tiny, sampling_rate=30.0, random_state=0).fit(x, times)
    np.testing.assert_allclose(by_counts.history_, by_times.history_, rtol=1e-3)


def test_training_goes_on_where_it_was_cut_off(fresh, tmp_path):
    x, y = fresh
    config = SMALL.changed(steps=8, check_every=2, n_members=1)
    options = {"sampling_rate": 30.0, "random_state": 0}
    whole = S2SSpikeEstimator(config=config, **options).fit(x, y)

    class CutOffError(Exception):
        pass

    interrupted = S2SSpikeEstimator(config=config, checkpoint_dir=tmp_path, verbose=1, **options)

    def stop(member):
        def say(steps, *_):
            if steps == 6:
                raise CutOffError

        return say

    interrupted._report = stop
    with pytest.raises(CutOffError):
        interrupted.fit(x, y)
    assert (tmp_path / "member_0.npz").exists()
    resumed = S2SSpikeEstimator(config=config, checkpoint_dir=tmp_path, **options).fit(x, y)
    np.testing.assert_array_equal(resumed.history_, whole.history_)
    np.testing.assert_array_equal(resumed.transform(x), whole.transform(x))
    other = S2SSpikeEstimator(config=config.changed(learning_rate=1e-4), checkpoint_dir=tmp_path, **options)
    with pytest.raises(DataError, match="another configuration or seed"):
        other.fit(x, y)


def test_early_stopping_by_neurons_left_out(fresh):
    x, y = fresh
    config = PUBLISHED.changed(steps=40, check_every=2, patience=2, batch_size=4)
    shuffled = np.random.default_rng(0).permutation(y)  # nothing is there to be learned
    s2s = S2SSpikeEstimator(config=config, sampling_rate=30.0, random_state=0).fit(x, shuffled)
    held_out = s2s.history_[:, 3]
    assert np.isfinite(held_out).all()
    assert len(held_out) < 20
    assert np.argmin(held_out) == len(held_out) - 3


def test_fine_tuning_helps_on_an_unusual_indicator(fitted):
    rng = np.random.default_rng(5)
    counts = rng.poisson(0.7 / 30, (3600, 6))
    x = traces_of(counts, 30.0, 0.01, rng, decay=2.0, amplitude=0.02)
    recordings = [Recording(part, sampling_rate=30.0) for part in (x[:, :4], x[:, 4:])]
    tuned = load_copy(fitted).fine_tune(recordings[0], counts[:, :4], steps=60, learning_rate=1e-3)
    before = fitted.score(recordings[1], counts[:, 4:], metric="smooth_pearson")
    after = tuned.score(recordings[1], counts[:, 4:], metric="smooth_pearson")
    assert after > before
    assert tuned.predict(recordings[1]).sum() / counts[:, 4:].sum() == pytest.approx(1.0, abs=0.4)


def load_copy(estimator):
    copy = S2SSpikeEstimator(random_state=0)
    copy._store(
        estimator.config_, estimator.networks_, estimator.calibration_, estimator.history_, dict(estimator.card_)
    )
    return copy


# -- Units and time ---------------------------------------------------------------------------------------------------


def test_dff_may_be_shifted_and_rates_rise_with_its_scale(fitted, fresh):
    x, _ = fresh
    rates = fitted.transform(Recording(x, sampling_rate=30.0))
    shifted = fitted.transform(Recording(x + 0.7, sampling_rate=30.0))
    np.testing.assert_allclose(shifted, rates, atol=1e-3 * rates.max())
    totals = [fitted.transform(Recording(k * x, sampling_rate=30.0)).sum() for k in (0.5, 1.0, 2.0)]
    assert totals[0] < totals[1] < totals[2]


def test_unknown_units_may_be_shifted_and_scaled(fitted, fresh):
    x, _ = fresh
    rates = [
        fitted.transform(Recording(k * x + b, sampling_rate=30.0, units="unknown"))
        for k, b in ((1.0, 0.0), (250.0, 1000.0))
    ]
    np.testing.assert_allclose(rates[1], rates[0], atol=2e-3 * rates[0].max())


def test_lag_moves_the_output_later(fitted, fresh):
    x, y = fresh
    recording = Recording(x, sampling_rate=30.0)
    prompt = fitted.transform(recording)
    late = load_copy(fitted).set_params(lag=4 / 30).transform(recording)
    np.testing.assert_allclose(late[10:-10], prompt[6:-14], atol=1e-4)
    assert load_copy(fitted).set_params(lag=0.3).score(recording, y) < fitted.score(recording, y)


def test_trials_gaps_and_missing_samples(fitted, fresh):
    x, _ = fresh
    whole = fitted.transform(Recording(x, sampling_rate=30.0))
    # Trials are apart: each is what it would be alone, but for the baseline that all share.
    trials = [x[:1800], x[1800:2100], x[2100:]]
    parts = S2SSpikeEstimator.transform(load_copy(fitted).set_params(sampling_rate=30.0), trials)
    assert [p.shape for p in parts] == [t.shape for t in trials]
    np.testing.assert_allclose(parts[0][:1700], whole[:1700], atol=1e-3 * whole.max())
    mask = np.ones(x.shape, bool)
    mask[500:503, 0] = False
    holed = np.where(mask, x, np.nan)
    found = fitted.transform(Recording(holed, sampling_rate=30.0, mask=mask))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[:300], whole[:300], atol=2e-2 * whole.max())
    stack = fitted.transform(Recording(x, sampling_rate=30.0, segments=Segments(np.array([[0, 1], [1, 3600]]))))
    assert np.isfinite(stack).all()


# -- What it says of itself -------------------------------------------------------------------------------------------


def test_intervals_hold_what_they_say(fitted, fresh):
    x, y = fresh
    recording = Recording(x, sampling_rate=30.0)
    for window in (None, 1.0):
        low, high = fitted.predict_interval(recording, 0.1, window=window)
        true = y if window is None else np.stack([np.convolve(c, np.ones(30), "same") for c in y.T], axis=1)
        covered = (true >= low) & (true <= high)
        assert covered[60:-60].mean() > 0.8
    with pytest.raises(DataError, match="alpha"):
        fitted.predict_interval(recording, 1.5)
    with pytest.raises(DataError, match="not a length of time"):
        fitted.predict_interval(recording, window=0.0)


def test_layers_and_frequencies(fitted, fresh):
    x, _ = fresh
    layers = fitted.layer_outputs(Recording(x[:, :1], sampling_rate=30.0))
    assert list(layers) == ["time", "input", "analysis", "block_1", "block_2", "output"]
    assert len({len(v) for v in layers.values()}) == 1
    response = fitted.frequency_response()
    assert response.frequency[-1] == pytest.approx(25.0)
    assert response.analysis.max() == response.synthesis.max() == 1.0
    with pytest.raises(DataError, match="member=2 is not one of the 2 networks"):
        fitted.frequency_response(member=2)
    with pytest.raises(DataError, match="one ROI without gaps"):
        fitted.layer_outputs(Recording(x, sampling_rate=30.0))


def test_a_sine_passes_a_filter_as_its_response_says():
    s2s = S2SSpikeEstimator(config=PUBLISHED.changed(steps=2, check_every=2), sampling_rate=30.0, random_state=0)
    x, y = simulate(duration=30.0)
    response = s2s.fit(x, y).frequency_response()
    filters = next(v for k, v in s2s._to_save()[1].items() if "analysis" in k)[0, :, 0]
    t = np.arange(100) / 100.0
    by_hand = [np.abs(np.exp(-2j * np.pi * f * t) @ filters).sum() for f in response.frequency[[0, 50, 300]]]
    np.testing.assert_allclose(response.analysis[[0, 50, 300]] / response.analysis[0], by_hand / by_hand[0], rtol=1e-4)


def test_saved_and_loaded(fitted, fresh, tmp_path):
    recording = Recording(fresh[0], sampling_rate=30.0)
    rates = fitted.transform(recording)
    np.testing.assert_array_equal(load_model(fitted.save(tmp_path / "model")).transform(recording), rates)
    again = S2SSpikeEstimator.from_pretrained(fitted.save_weights(tmp_path / "own.npz"), lag=0.0)
    np.testing.assert_array_equal(again.transform(recording), rates)
    assert again.predict_interval(recording)[1].shape == rates.shape
    with pytest.raises(DataError, match="no weights called"):
        S2SSpikeEstimator.from_pretrained("no such")


def test_a_result_goes_into_nwb(fitted, fresh, tmp_path):
    recording = Recording(fresh[0], sampling_rate=30.0)
    result = fitted.infer(recording)
    assert result["firing_rates"].shape == recording.shape
    assert result["in_training_range"].all()
    assert write_nwb(result, tmp_path / "rates.nwb").exists()


# -- What it is given -------------------------------------------------------------------------------------------------


def test_forms_of_input_keep_their_form(fitted, fresh):
    x, y = fresh
    s2s = load_copy(fitted).set_params(sampling_rate=30.0)
    assert s2s.transform(x).shape == x.shape
    assert s2s.transform(x.reshape(4, 900, 4)).shape == (4, 900, 4)
    several = s2s.transform([Recording(x, sampling_rate=30.0), Recording(x[:600, :1], sampling_rate=15.0)])
    assert [r.shape for r in several] == [x.shape, (600, 1)]
    table = pd.DataFrame(x, columns=list("abcd"))
    np.testing.assert_array_equal(s2s.transform(table), s2s.transform(x))
    assert s2s.score(x, y) == pytest.approx(s2s.score(Recording(x, sampling_rate=30.0), y))


def test_no_sampling_rate(fitted, fresh):
    with pytest.raises(DataError, match="no sampling rate"):
        fitted.transform(fresh[0])
    told = load_copy(fitted).set_params(sampling_rate=30.0)
    np.testing.assert_array_equal(told.transform(Recording(fresh[0])), told.transform(fresh[0]))


def test_constant_and_missing_rois_are_nan_and_said(fitted, fresh):
    x = fresh[0].copy()
    x[:, 1] = 0.3
    mask = np.ones(x.shape, bool)
    mask[:, 2] = False
    with pytest.warns(DataWarning, match=r"2 of 4 ROIs are constant or never observed.*1, 2"):
        rates = fitted.transform(Recording(x, sampling_rate=30.0, mask=mask))
    assert np.isnan(rates[:, 1:3]).all()
    assert np.isfinite(rates[:, [0, 3]]).all()


def test_ten_frames_are_enough_for_rates(fitted):
    rates = fitted.transform(Recording(np.random.default_rng(0).normal(size=(10, 2)) / 20, sampling_rate=30.0))
    assert rates.shape == (10, 2)
    assert np.isfinite(rates).all()


def test_raw_fluorescence_and_noise_and_odd_rates_are_warned_of(fitted, fresh):
    x, _ = fresh
    with pytest.warns(DataWarning, match="do not look like dF/F"):
        fitted.transform(Recording(400 * (x + 1), sampling_rate=30.0))
    noisy = x + 2.0 * np.random.default_rng(0).normal(size=x.shape)
    with pytest.warns(DataWarning, match="noisier"):
        fitted.transform(Recording(noisy, sampling_rate=30.0))
    with pytest.warns(DataWarning, match=r"1 frames per s"):
        fitted.transform(Recording(x[:200], sampling_rate=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.transform(Recording(x, sampling_rate=30.0))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y"),
        (np.ones((3, 3)), r"y has shape \(3, 3\)"),
        (np.full((300, 2), -1), "no counts"),
        (np.full((300, 2), 0.5), "no counts"),
        ([np.array([1.0])], "1 neurons for 2 ROIs"),
        ([np.array([1.0]), np.array([np.nan])], "NaN or infinite"),
    ],
)
def test_wrong_spikes(y, message):
    s2s = S2SSpikeEstimator(config=SMALL, sampling_rate=30.0)
    with pytest.raises(DataError, match=message):
        s2s.fit(np.random.default_rng(0).normal(size=(300, 2)), y)


def test_wrong_settings(fresh):
    x, y = fresh
    with pytest.raises(DataError, match="config='large'"):
        S2SSpikeEstimator(config="large", sampling_rate=30.0).fit(x, y)
    with pytest.raises(DataError, match="leaves nothing to learn from"):
        S2SSpikeEstimator(config=SMALL.changed(seconds=1.0), sampling_rate=30.0).fit(x, y)
    with pytest.raises(TypeError, match="no field 'chanels'"):
        SMALL.changed(chanels=3)
    recording = Recording(x, sampling_rate=30.0)
    with pytest.raises(DataError, match="groups has 1 entries for 2"):
        S2SSpikeEstimator(config=SMALL).fit([recording, recording], [y, y], groups=["a"])
    with pytest.raises(NotFittedError):
        S2SSpikeEstimator().transform(recording)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "huber"}, "loss='huber' is not known. Expected one of mixed, pearson"),
        ({"output": "relu"}, "output='relu' is not known"),
        ({"scaling": "raw"}, "scaling='raw' is not known"),
        ({"steps": 0}, "steps=0 is not a number of anything. Expected a whole number, 1 or more"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"n_members": 0}, "n_members=0"),
        ({"stride": 3}, "analysis_width=64 is no multiple of stride=3. Expected one, such as 63"),
        ({"synthesis_width": 2}, "synthesis_width=2 is no multiple of stride=4. Expected one, such as 4"),
        ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
        ({"left_out": 1.0}, "left_out=1.0 is not a share"),
    ],
)
def test_configurations_of_which_no_network_can_be_made(change, message):
    with pytest.raises(DataError, match=message):
        DEFAULT.changed(**change)


def test_configurations_are_changed_as_a_whole():
    changed = DEFAULT.changed(stride=5, analysis_width=60, synthesis_width=20, steps=7, dilations=[1], n_members=1)
    shape = changed.architecture
    assert (shape.stride, shape.analysis_width, shape.synthesis_width, shape.dilations) == (5, 60, 20, (1,))
    assert (changed.training.steps, changed.n_members) == (7, 1)
    assert changed.augmentation == DEFAULT.augmentation
    assert DEFAULT.changed(training=changed.training, seconds=9.0).training == changed.changed(seconds=9.0).training


def test_one_step_is_a_step(fresh):
    x, y = fresh
    config = SMALL.changed(steps=1, check_every=1, n_members=1, averaging=0.0)
    s2s = S2SSpikeEstimator(config=config, sampling_rate=30.0, random_state=0).fit(x[:900], y[:900])
    first = s2s.transform(x[:900])
    assert len(s2s.history_) == 1
    assert not np.array_equal(s2s.fine_tune(x[:900], y[:900], steps=1).transform(x[:900]), first)
    with pytest.raises(DataError, match="steps=0"):
        s2s.fine_tune(x, y, steps=0)


@pytest.mark.parametrize("y", [np.zeros((300, 2), int), [np.array([1e5, 2e5]), np.array([-3.0])]])
def test_no_spike_teaches_nothing(y):
    s2s = S2SSpikeEstimator(config=SMALL, sampling_rate=30.0)
    with pytest.raises(DataError, match=r"Of the [03] spikes of y none lies in a recording.*from 0 to 9.96667 s"):
        s2s.fit(np.random.default_rng(0).normal(size=(300, 2)), y)


@pytest.mark.parametrize("lag", [np.nan, np.inf, "0.1", None])
def test_a_lag_is_a_number(fitted, fresh, lag):
    with pytest.raises(DataError, match="is not a shift"):
        load_copy(fitted).set_params(lag=lag).transform(Recording(fresh[0], sampling_rate=30.0))


def test_nothing_to_score(fitted):
    x, y = simulate(duration=2.0)
    with pytest.raises(DataError, match="No ROI of X can be scored"):
        fitted.score(Recording(x, sampling_rate=30.0), y)
    with pytest.raises(DataError, match="metric='r2'"):
        fitted.score(Recording(x, sampling_rate=30.0), y, metric="r2")
