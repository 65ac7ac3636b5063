"""CalciumLFADS from outside: what it returns, in which form and unit, and that a killed training goes on as it was."""

import copy
import logging
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from pynwb import NWBHDF5IO
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from nwb_calcium_lvm import CalciumLFADS, Recording, load_model, read_results, write_nwb
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.lfads import fitting, training
from nwb_calcium_lvm.lfads.checkpoints import Checkpoints
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.simulate import lorenz_experiment

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("quick_compilation"),
]
RATE = 20.0
SIZES = {
    "n_factors": 3, "n_generator": 8, "n_encoder": 6, "n_controller": 6, "n_initial": 3, "n_controller_inputs": 2,
    "n_draws": 8, "max_epochs": 6, "ramp_epochs": 2, "batch_size": 4, "sampling_rate": RATE, "random_state": 0,
}  # fmt: skip


def small(**options):
    return CalciumLFADS(**SIZES | options)


@pytest.fixture(scope="module")
def truth():
    # All fits here are of 10 windows of 12 frames and 6 neurons: what compiles once serves all of them.
    return lorenz_experiment(n_trials=10, n_frames=12, n_rois=6, mean_rate=0.6, random_state=0)


@pytest.fixture(scope="module")
def traces(truth):
    return truth.traces


@pytest.fixture(scope="module")
def model(quick_compilation, traces):
    return small().fit(traces)


def same_weights(one, other):
    assert one.network_.keys() == other.network_.keys()
    for mine, theirs in ((one.network_, other.network_), (one.free_parameters_, other.free_parameters_)):
        for name, values in mine.items():
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    np.testing.assert_array_equal(one.history_, other.history_)


# -- Fit --------------------------------------------------------------------------------------------------------------


def test_training_raises_the_bound_and_says_where_it_stopped(model, traces):
    assert model.history_.shape == (6, 2)
    assert model.n_iter_ == 6
    assert model.history_[-1, 1] > model.history_[0, 1]
    assert not model.converged_
    assert model.n_samples_ == 10 * 11 * 6  # the first frame of a trial has no past
    assert model.window_frames_ == 12
    with pytest.warns(ConvergenceWarning, match=r"max_epochs=6.*Raise max_epochs"):
        small().fit(traces)


def test_validation_score_is_of_the_weights_that_were_kept(model, traces):
    log_sd = np.log(traces.reshape(-1, 6).std(axis=0)).mean()
    assert model.validation_score_ == pytest.approx(model.history_[1:, 1].max() - log_sd, abs=1e-5)


def test_score_is_of_the_best_candidate_not_of_the_highest_epoch(model, traces, monkeypatch):
    """Weights of the ramp are no candidates, however high their bound."""

    def high_in_the_ramp(state, split, hyper, number, key, model, recipe):
        score = 9.0 if number < recipe.ramp else -1.0
        best = state.best_score if number < recipe.ramp else jnp.array(-1.0)
        return state._replace(best_score=best), jnp.array([0.0, score])

    monkeypatch.setattr(training, "epoch", high_in_the_ramp)
    problem = fitting.prepare([Recording(traces.reshape(-1, 6))], model.settings(None), 0)
    trained = training.train(*problem[:5], jax.random.key(0))
    assert trained.history[:, 1].max() == 9.0
    assert trained.score == -1.0


def test_same_seed_same_result(model, traces):
    same_weights(small().fit(traces), model)
    assert not np.array_equal(small(random_state=1).fit(traces).loadings_, model.loadings_)


def test_a_second_fit_compiles_nothing(model, traces):
    import jax

    model.transform(traces)
    compiled = []
    handler = logging.Handler()
    handler.emit = lambda record: compiled.append(record.getMessage())
    logger = logging.getLogger("jax")
    logger.addHandler(handler)
    try:
        with jax.log_compiles(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small(learning_rate=0.02, random_state=3).fit(traces + 0.01).transform(traces)
    finally:
        logger.removeHandler(handler)
    assert [text for text in compiled if "Compiling" in text] == []


def test_density_of_the_traces_as_given(model, traces):
    """Traces in another unit have the same factors, and a log density lower by log(factor) per sample."""
    scaled = small().fit(64 * traces + 128)  # powers of 2, so that rounding is the same
    assert scaled.score(64 * traces + 128) == pytest.approx(model.score(traces) - np.log(64), abs=1e-3)
    assert scaled.validation_score_ == pytest.approx(model.validation_score_ - np.log(64), abs=1e-3)
    np.testing.assert_allclose(scaled.loadings_, model.loadings_, atol=1e-3)
    np.testing.assert_allclose(scaled.spike_amplitude_, 64 * model.spike_amplitude_, rtol=1e-3)
    np.testing.assert_allclose(scaled.noise_variance_, 64**2 * model.noise_variance_, rtol=1e-3)
    np.testing.assert_allclose(scaled.baseline_, 64 * model.baseline_ + 128, rtol=1e-3)


def test_neurons_know_their_own_calcium(model):
    assert model.ar_coefs_.shape == (6, 1)
    assert ((model.ar_coefs_ > 0) & (model.ar_coefs_ < 1)).all()
    np.testing.assert_allclose(model.decay_time_, -1 / np.log(model.ar_coefs_[:, 0]) / RATE, rtol=1e-5)
    assert model.loadings_.shape == (6, 3)
    for name in ("offset_", "spike_amplitude_", "noise_variance_", "baseline_"):
        assert getattr(model, name).shape == (6,)
    assert list(model.roi_ids_) == list(range(6))


# -- Factors, rates, inputs -------------------------------------------------------------------------------------------


def test_form_of_what_is_returned_is_that_of_x(model, traces):
    factors, std = model.predict_factors(traces, return_std=True)
    assert factors.shape == std.shape == (10, 12, 3)
    assert (std >= 0).all()
    np.testing.assert_array_equal(model.transform(traces), factors)
    assert model.predict_rates(traces).shape == (10, 12, 6)
    assert model.predict_inputs(traces).shape == (10, 12, 2)
    groups = np.repeat(np.arange(10), 12)
    np.testing.assert_array_equal(model.transform(traces.reshape(120, 6), groups=groups), factors.reshape(120, 3))
    as_list = model.transform(list(traces))
    np.testing.assert_array_equal(np.stack(as_list), factors)


def test_a_shorter_trial_leaves_the_others_alone(model, traces):
    ragged = [trial[:7] if i == 4 else trial for i, trial in enumerate(traces)]
    found, whole = model.transform(ragged), model.transform(traces)
    assert [len(trial) for trial in found] == [7 if i == 4 else 12 for i in range(10)]
    for i in (0, 3, 5, 9):
        np.testing.assert_array_equal(found[i], whole[i])
    assert not np.allclose(found[4], whole[4][:7])  # its own encoders have seen less
    assert np.isfinite(found[4]).all()


def test_rates_are_in_hz_and_those_of_the_factors(model, traces):
    """The mean over draws of an exponential lies above the exponential of the mean."""
    factors, std = model.predict_factors(traces, return_std=True)
    floor = RATE * np.exp(factors @ model.loadings_.T + model.offset_)
    rates = model.predict_rates(traces)
    assert (rates >= floor * (1 - 1e-4)).all()
    few = std.max(axis=-1) < np.quantile(std.max(axis=-1), 0.2)
    np.testing.assert_allclose(rates[few], floor[few], rtol=0.5)


def test_missing_samples_have_no_influence(traces):
    mask = np.random.default_rng(0).random((120, 6)) > 0.1
    mask[60:66] = False  # a block
    bounds = np.column_stack([np.arange(0, 120, 12), np.arange(12, 132, 12)])
    flat = traces.reshape(120, 6)
    segments = Segments(bounds, np.arange(10))
    missing, wrong = (
        Recording(np.where(mask, flat, fill), sampling_rate=RATE, segments=segments, mask=mask)
        for fill in (np.nan, 1e4)
    )
    one, other = small().fit(missing), small().fit(wrong)
    same_weights(one, other)
    np.testing.assert_array_equal(one.transform(missing), one.transform(wrong))
    assert one.score(missing) == one.score(wrong)
    assert np.isfinite(one.predict_rates(missing)).all()


def test_a_recording_without_trials_is_cut_into_windows(traces):
    flat = traces.reshape(120, 6)
    model = small(window=0.6, overlap=0.0).fit(flat)  # 12 frames
    assert model.window_frames_ == 12
    assert model.transform(flat).shape == (120, 3)


def test_nothing_of_the_windows_left_out_is_learned_from(traces):
    """Windows overlap; what lies in a window left out is scored in no other."""
    recording = Recording(np.arange(1.0, 121.0)[:, None] + np.tile(traces.reshape(120, 6), 1), sampling_rate=RATE)
    split = fitting.prepare([recording], small(window=0.6, overlap=0.5).settings(RATE), seed=0).split
    # A ramp tells which frame a sample is of.
    values = {
        part: {float(v) for v in np.asarray(data.y)[np.asarray(data.scored)]}
        for part, data in zip(("training", "validation"), split, strict=True)
    }
    assert values["training"]
    assert values["validation"]
    assert not values["training"] & values["validation"]


def test_a_neuron_that_only_makes_noise(traces):
    silent = traces.copy()
    silent[..., 2] = 0.01 * np.random.default_rng(0).normal(size=(10, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = small().fit(silent)
    assert np.isfinite(model.score(silent))
    assert np.isfinite(model.predict_rates(silent)).all()


# -- Dynamics ---------------------------------------------------------------------------------------------------------


def test_forecast_and_sample(model, traces):
    ahead = model.forecast(traces, 5)
    assert ahead.factors.shape == ahead.factors_std.shape == (10, 5, 3)
    assert ahead.rates.shape == ahead.rates_std.shape == (10, 5, 6)
    assert (ahead.rates > 0).all()
    # A forecast knows less the farther ahead it looks.
    assert ahead.factors_std[:, -1].mean() > ahead.factors_std[:, 0].mean()
    traces_drawn, factors, spikes = model.sample(4, random_state=0)
    assert traces_drawn.shape == spikes.shape == (4, 12, 6)
    assert factors.shape == (4, 12, 3)
    assert (spikes >= 0).all()
    np.testing.assert_array_equal(spikes, np.round(spikes))
    np.testing.assert_array_equal(model.sample(4, random_state=0)[0], traces_drawn)


# -- A killed training ------------------------------------------------------------------------------------------------


def interrupted(model, traces, monkeypatch, after):
    """Fit, and kill the training when so many epochs are kept."""
    keep = Checkpoints.keep

    def kept(self, state, history):
        keep(self, state, history)
        if len(history) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep", kept)
        with pytest.raises(KeyboardInterrupt):
            model.fit(traces)


def test_a_killed_training_goes_on_as_if_nothing_had_happened(model, traces, tmp_path, monkeypatch):
    resumed = small(checkpoint_dir=tmp_path / "kept", checkpoint_every=2)
    interrupted(resumed, traces, monkeypatch, after=3)  # of which the last is not kept
    epochs = []
    keep = Checkpoints.keep
    monkeypatch.setattr(
        Checkpoints, "keep", lambda self, state, history: epochs.append(len(history)) or keep(self, state, history)
    )
    resumed.fit(traces)
    assert epochs == [3, 4, 5, 6]
    same_weights(resumed, model)
    assert resumed.validation_score_ == model.validation_score_
    resumed.fit(traces)
    assert epochs == [3, 4, 5, 6]  # it was finished
    for other, told in (
        (small(learning_rate=0.02), r"learning_rate: 0.01 there, 0.02 now"),
        (small(random_state=1), "seed: "),
    ):
        with pytest.raises(DataError, match=f"checkpoints of another training .*{told}.*Pass another checkpoint_dir"):
            other.set_params(checkpoint_dir=tmp_path / "kept").fit(traces)
    with pytest.raises(DataError, match="data: "):
        resumed.fit(traces + np.linspace(0, 1, 12)[:, None])


# -- On disk ----------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_the_same(model, traces, tmp_path):
    again = load_model(model.save(tmp_path / "lfads"))
    same_weights(again, model)
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.transform(traces), model.transform(traces))
    assert again.score(traces) == model.score(traces)


@pytest.fixture(scope="module")
def result(model, traces):
    return model.infer(traces)


def test_a_result_holds_everything_with_axes_and_units(model, traces, result):
    axes = {"factors": "factor", "inputs": "input", "firing_rates": "roi"}
    assert set(result.arrays) == {name + ending for name in axes for ending in ("", "_std")}
    for name, axis in axes.items():
        assert result.arrays[name].dims == result.arrays[f"{name}_std"].dims == ("time", axis)
    np.testing.assert_allclose(result["factors"].reshape(10, 12, 3), model.transform(traces), rtol=1e-5)
    np.testing.assert_allclose(result["firing_rates"].reshape(10, 12, 6), model.predict_rates(traces), rtol=1e-5)
    assert result.arrays["firing_rates"].unit == "Hz"
    assert result["initial_condition"].shape == result["initial_condition_std"].shape == (10, 3)
    np.testing.assert_array_equal(result["window_bounds"], result.segments.bounds)
    np.testing.assert_array_equal(result["decay_time"], model.decay_time_)
    assert result.model["n_iter"] == 6


@pytest.mark.parametrize("ending", ["nwb", "nwb.zarr"])
def test_results_and_the_model_come_back_from_nwb(model, traces, result, tmp_path, ending):
    if ending.endswith("zarr"):
        pytest.importorskip("hdmf_zarr")
    path = write_nwb(result, tmp_path / f"out.{ending}")
    back = read_results(path, "CalciumLFADS")
    for name, array in result.arrays.items():
        assert back.arrays[name].dims[0] == "time"
        np.testing.assert_array_equal(back[name], array.values)
    for name, array in result.parameters.items():
        np.testing.assert_allclose(back[name], array.values, err_msg=name)
    np.testing.assert_allclose(back.model["objective_history"], model.history_[:, 1])
    assert {k: a.dims for k, a in back.arrays.items()} == {k: a.dims for k, a in result.arrays.items()}
    restored = CalciumLFADS.from_nwb(path)
    same_weights(restored, model)
    np.testing.assert_array_equal(restored.transform(traces), model.transform(traces))


def test_core_types_hold_what_runs_over_time(result, tmp_path):
    path = write_nwb(result, tmp_path / "core.nwb", schema="core")
    with NWBHDF5IO(path, "r") as io:
        module = io.read().processing["ophys"]
        for name, array in result.arrays.items():
            np.testing.assert_array_equal(module[f"CalciumLFADS_{name}"].data[:], array.values)


# -- As a scikit-learn estimator --------------------------------------------------------------------------------------


def test_scikit_learn_manners(model, traces):
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(traces)
    assert list(model.get_feature_names_out()) == [f"calciumlfads{i}" for i in range(3)]
    before = copy.get_params()
    frame = pd.DataFrame(traces.reshape(120, 6), columns=list("abcdef"), index=np.arange(120) / RATE)
    copy.set_params(window=0.6, overlap=0.0).set_output(transform="pandas").fit(frame)
    assert copy.get_params() == before | {"window": 0.6, "overlap": 0.0}
    found = copy.transform(frame)
    assert list(found.columns) == list(copy.get_feature_names_out())
    pd.testing.assert_index_equal(found.index, frame.index)
    with pytest.raises(ValueError, match="feature names"):
        copy.transform(frame[list("bacdef")])


# -- Neurons and rates that are not those of the fit ------------------------------------------------------------------


def test_other_neurons_or_another_rate(model, traces):
    with pytest.raises(DataError, match="X has 5 ROIs, but CalciumLFADS was fitted on 6"):
        model.transform(traces[..., :5])
    with pytest.raises(DataError, match=r"X is at 30 Hz but the model was fitted at 20 Hz.*Resample"):
        model.transform(Recording(traces[0], sampling_rate=30.0))
    with pytest.raises(DataError, match="No sample of X can be scored"):
        model.score([traces[0, :1]] * 10)
    with pytest.raises(ValueError, match="n_frames=0; expected a whole number of at least 1"):
        model.forecast(traces, 0)
    with pytest.raises(ValueError, match="session=1; expected one of 0 to 0"):
        model.sample(1, session=1)


# -- Several sessions -------------------------------------------------------------------------------------------------


def as_session(trials, roi_ids):
    bounds = np.column_stack([np.arange(0, 60, 12), np.arange(12, 72, 12)])
    flat = trials.reshape(60, -1)
    return Recording(flat, sampling_rate=RATE, roi_ids=roi_ids, segments=Segments(bounds, np.arange(5)))


@pytest.fixture(scope="module")
def sessions(traces):
    return [as_session(traces[:5], list("abcdef")), as_session(traces[5:, :, :4], list("wxyz"))]


@pytest.fixture(scope="module")
def stitched(quick_compilation, sessions):
    return small(observation="gaussian", n_controller_inputs=0).fit(sessions)


def test_sessions_share_dynamics_and_keep_their_neurons(stitched, sessions):
    assert [a.shape for a in stitched.loadings_] == [(6, 3), (4, 3)]
    assert [list(ids) for ids in stitched.session_roi_ids_] == [list("abcdef"), list("wxyz")]
    both = stitched.transform(sessions)
    assert [a.shape for a in both] == [(60, 3), (60, 3)]
    # A single recording is known by its neurons.
    np.testing.assert_array_equal(stitched.transform(sessions[1]), both[1])
    assert np.isfinite(stitched.score(sessions))
    traces, factors, _ = stitched.sample(2, session=1, random_state=0)
    assert traces.shape == (2, 12, 4)
    assert factors.shape == (2, 12, 3)
    assert stitched.predict_inputs(sessions[0]).shape == (60, 0)


def test_a_session_is_read_with_its_own_weights(stitched, sessions):
    before = stitched.transform(sessions)
    changed = copy.deepcopy(stitched)
    name = next(k for k in changed.network_ if "read_in" in k)
    changed.network_[name] = np.concatenate([0.0 * changed.network_[name][:1], changed.network_[name][1:]])
    np.testing.assert_array_equal(changed.transform(sessions[1]), before[1])
    assert np.abs(changed.transform(sessions[0]) - before[0]).max() > 1e-3


def test_each_session_goes_to_its_own_file_with_the_whole_model(stitched, sessions, tmp_path):
    results = stitched.infer(sessions)
    for i, (result, recording) in enumerate(zip(results, sessions, strict=True)):
        assert "inputs" not in result.arrays
        assert "firing_rates" not in result.arrays
        path = write_nwb(result, tmp_path / f"{i}.nwb")
        np.testing.assert_array_equal(read_results(path, "CalciumLFADS")["factors"], result["factors"])
        restored = CalciumLFADS.from_nwb(path)
        same_weights(restored, stitched)
        np.testing.assert_array_equal(restored.transform(recording), stitched.transform(recording))


def test_sessions_that_do_not_fit(stitched, sessions, traces):
    one, two = sessions
    with pytest.raises(DataError, match=r"X holds 3 Recordings, and the model was fitted on 2 sessions"):
        stitched.transform([one, two, two])
    with pytest.raises(DataError, match=r"Recording 0 has 4 ROIs, and session 0 was fitted on 6"):
        stitched.transform([two, one])
    with pytest.raises(DataError, match=r"roi_ids of X are those of 0 of the 2 sessions"):
        stitched.transform(as_session(traces[:5], list("badcfe")))
    with pytest.raises(DataError, match=r"fitted on 2 sessions, and X is a ndarray"):
        stitched.transform(traces)
    with pytest.raises(DataError, match="has no spikes, hence no predict_rates"):
        stitched.predict_rates(one)
    with pytest.raises(DataError, match="forecast takes one recording at a time"):
        stitched.forecast(sessions, 3)


# -- Several devices --------------------------------------------------------------------------------------------------

_ON_TWO = """
import jax, numpy as np, sys, json
jax.config.update("jax_disable_most_optimizations", True)
from nwb_calcium_lvm import CalciumLFADS
assert len(jax.devices()) == 2
sizes, path = json.loads(sys.argv[1]), sys.argv[2]
model = CalciumLFADS(**sizes).fit(np.load(path))
np.save(path, model.history_)
"""


@pytest.mark.thorough
def test_two_devices_train_as_one(model, traces, tmp_path):
    import json

    np.save(tmp_path / "x.npy", traces)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ON_TWO, json.dumps(SIZES), str(tmp_path / "x.npy")],
        check=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), model.history_, atol=1e-4)
