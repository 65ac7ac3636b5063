"""VAESpikeEstimator: spikes of simulated cells, with the networks that come with the package and with new ones."""

import copy
import pickle
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwb_calcium_lvm import Recording, VAESpikeEstimator, load_model, read_results, write_nwb
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.provenance import Segments
from nwb_calcium_lvm.spikes import chunks
from nwb_calcium_lvm.spikes.vae import GenerativeModel, LogNormal, RecognitionConfig, World, decaying
from nwb_calcium_lvm.spikes.vae import inference as inference_module
from nwb_calcium_lvm.spikes.vae import weights as weights_module
from nwb_calcium_lvm.spikes.vae.generative import MODELS, fluorescence

RATE = 30.0
TINY = RecognitionConfig(max_count=2, channels=8, analysis_width=16, synthesis_width=8, dilations=(1, 2), units=6)
SMALL_WORLD = World(n_units=8, n_frames=128, silence=8, substeps=1)


def draw(seed, n_frames=1800, n_cells=4, rate=RATE, noise=0.05, per_second=0.9, generative="ml_phys"):
    """Traces and true spikes of cells of one of the generative models, each (time, roi)."""
    rng = np.random.default_rng(seed)
    model = MODELS[generative]
    counts = rng.poisson(per_second / rate, size=(n_cells, n_frames, 1)).astype(float)
    values = np.tile(np.asarray(model.medians()), (n_cells, 1))
    clean = fluorescence(model, jnp.asarray(counts), jnp.asarray(values), 1 / rate)
    traces = np.asarray(clean)[..., 0].T + noise * rng.standard_normal((n_frames, n_cells))
    return traces, counts[..., 0].T.astype(int)


@pytest.fixture(scope="module")
def drawn():
    return draw(0)


@pytest.fixture(scope="module")
def ready():
    return VAESpikeEstimator.from_pretrained(smoothing=0.0, sampling_rate=RATE, random_state=0)


def tiny(**options):
    given = {"config": TINY, "world": SMALL_WORLD, "n_updates": 4, "sampling_rate": RATE, "random_state": 0}
    return VAESpikeEstimator(**given | options)


# -- Rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generative", list(MODELS))
def test_spikes_of_cells_of_each_model_are_found(generative):
    traces, counts = draw(3, generative=generative)
    found = VAESpikeEstimator.from_pretrained(generative, smoothing=0.0, sampling_rate=RATE)
    rates = found.transform(traces)
    assert rates.shape == traces.shape
    r = [np.corrcoef(rates[:, i], counts[:, i])[0, 1] for i in range(4)]
    assert min(r) > 0.5, r
    np.testing.assert_allclose(rates.mean(axis=0) / (RATE * counts.mean(axis=0)), 1.0, atol=0.5)
    np.testing.assert_allclose(found.predict(traces), rates / RATE, rtol=1e-5)


def test_a_silent_cell_hardly_fires_and_a_saturated_one_is_finite(ready, drawn):
    rng = np.random.default_rng(1)
    silent = 0.05 * rng.standard_normal((1800, 1))
    clipped = np.minimum(drawn[0][:, :1], 0.15)
    rates = ready.transform(np.concatenate([silent, clipped], axis=1))
    assert rates[:, 0].mean() < 0.15
    assert np.isfinite(rates).all()


@pytest.mark.parametrize("rate", [7.5, 15.0, 60.0, 120.0, 500.0])
def test_other_frame_rates_are_read_as_they_are_or_averaged(rate):
    traces, counts = draw(2, n_frames=int(60 * rate), rate=rate, noise=0.05 * np.sqrt(rate / 30.0))
    found = VAESpikeEstimator.from_pretrained(smoothing=0.0, sampling_rate=rate)
    rates = found.transform(traces)
    assert rates.shape == traces.shape
    assert found.score(traces, counts) > 0.3
    np.testing.assert_allclose(rates.sum(axis=0) / rate, counts.sum(axis=0), rtol=0.6)


def test_a_slow_recording_is_warned_of():
    with pytest.warns(DataWarning, match="trained for 5"):
        VAESpikeEstimator.from_pretrained(sampling_rate=2.0).transform(draw(0, 200, rate=2.0)[0])


def test_traces_cleaner_than_any_dream_are_warned_of():
    with pytest.warns(DataWarning, match="cleaner"):
        VAESpikeEstimator.from_pretrained(sampling_rate=RATE).transform(draw(0, 300, noise=0.005)[0])


def test_rates_do_not_depend_on_the_baseline_nor_on_the_unit_where_it_is_unknown(ready, drawn):
    traces = drawn[0]
    np.testing.assert_allclose(ready.transform(traces + 3.0), ready.transform(traces), rtol=1e-3, atol=0.02)
    one, other = (
        ready.transform(Recording(scale * traces + 7.0, sampling_rate=RATE, units="unknown")) for scale in (1.0, 250.0)
    )
    np.testing.assert_allclose(one, other, rtol=1e-3, atol=0.02)


def test_gaps_and_segments_and_dead_traces(ready, drawn):
    traces = drawn[0].copy()
    traces[400:405, 0] = np.nan
    traces[:, 3] = 0.0
    segments = Segments(np.array([[0, 700], [700, 1800]]))
    recording = Recording(traces, sampling_rate=RATE, segments=segments, mask=np.isfinite(traces))
    with pytest.warns(DataWarning, match="constant or never observed"):
        rates = ready.transform(recording)
    assert np.isnan(rates[:, 3]).all()
    assert np.isfinite(rates[:, :3]).all()
    assert np.corrcoef(rates[:, 0], drawn[1][:, 0])[0, 1] > 0.6


def test_each_cell_is_taken_alone_and_chunks_leave_no_seam(ready, drawn, monkeypatch):
    whole = ready.transform(drawn[0])
    np.testing.assert_allclose(ready.transform(drawn[0][:, [2]]), whole[:, [2]], rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(chunks, "LONGEST", 256)
    np.testing.assert_allclose(ready.transform(drawn[0]), whole, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(inference_module, "reach", lambda config: 8)  # and one that sees too little has seams
    assert np.abs(ready.transform(drawn[0]) - whole).max() > 0.05


def test_lag_and_smoothing_move_and_blur(ready, drawn):
    early = clone(ready).set_params(lag=-2 / RATE)
    early._store(ready.trained_)
    plain = ready.transform(drawn[0])
    np.testing.assert_allclose(early.transform(drawn[0])[:-2], plain[2:], atol=0.05 * plain.max())
    blurred = clone(ready).set_params(smoothing=0.1)
    blurred._store(ready.trained_)
    assert blurred.transform(drawn[0]).max() < 0.8 * plain.max()


# -- The posterior ----------------------------------------------------------------------------------------------------


def test_samples_are_whole_counts_that_agree_with_the_rates(ready, drawn):
    samples = ready.sample_spikes(drawn[0], 60)
    assert len(samples) == 60
    assert samples[0].shape == drawn[0].shape
    assert np.issubdtype(samples[0].dtype, np.integer)
    mean = np.mean(samples, axis=0)
    expected = ready.predict(drawn[0])
    assert np.corrcoef(mean[:, 0], expected[:, 0])[0, 1] > 0.9
    np.testing.assert_allclose(mean.sum(axis=0), expected.sum(axis=0), rtol=0.25)
    again = ready.sample_spikes(drawn[0], 60)
    np.testing.assert_array_equal(again[5], samples[5])


def test_samples_of_a_fast_recording_lie_on_its_own_frames():
    traces, counts = draw(2, n_frames=6000, rate=120.0, noise=0.1, n_cells=1)
    ready = VAESpikeEstimator.from_pretrained(smoothing=0.0, sampling_rate=120.0, random_state=0)
    samples = ready.sample_spikes(traces, 10)
    assert samples[0].shape == traces.shape
    assert 0.4 < np.mean(samples, axis=0).sum() / counts.sum() < 1.8


def test_intervals_hold_the_truth(ready, drawn):
    window = 1.0
    low, high = ready.predict_interval(drawn[0], alpha=0.2, window=window)
    truth = np.stack([np.convolve(c, np.ones(30), "same") for c in drawn[1].T], axis=1)
    inside = np.mean((truth >= low) & (truth <= high))
    assert inside > 0.7
    assert np.mean(high - low) < 3.0
    narrow = ready.predict_interval(drawn[0], alpha=0.8, window=window)
    assert np.mean(narrow[1] - narrow[0]) < np.mean(high - low)


def test_a_factorised_posterior_has_the_same_rates_and_wider_sums(ready, drawn):
    factorised = VAESpikeEstimator.from_pretrained(
        posterior="factorised", smoothing=0.0, sampling_rate=RATE, random_state=0
    )
    np.testing.assert_allclose(factorised.transform(drawn[0]), ready.transform(drawn[0]), rtol=1e-4, atol=1e-4)
    spread = [
        np.std([s.reshape(60, 30, 4).sum(axis=1) for s in e.sample_spikes(drawn[0], 40)], axis=0).mean()
        for e in (ready, factorised)
    ]
    # One spike in either of two frames is one spike: a posterior that knows is surer of sums.
    assert spread[0] < 0.95 * spread[1]


def test_traces_are_reconstructed(ready, drawn):
    found = ready.reconstruct(drawn[0])
    assert found.shape == drawn[0].shape
    left = drawn[0] - found
    assert left.std() < 1.25 * 0.05
    assert abs(np.median(left)) < 0.02


def test_parameters_of_cells_are_found():
    rng = np.random.default_rng(5)
    model = MODELS["linear"]
    counts = rng.poisson(0.03, size=(12, 5400, 1)).astype(float)
    values = np.asarray(model.medians()) + 0.5 * np.asarray(model.spreads()) * rng.standard_normal((12, 3))
    clean = np.asarray(fluorescence(model, jnp.asarray(counts), jnp.asarray(values), 1 / RATE))[..., 0].T
    traces = clean + 0.04 * rng.standard_normal(clean.shape)
    found = VAESpikeEstimator(generative="linear", sampling_rate=RATE).fit(traces)
    for i, (name, atol) in enumerate((("amplitude", 0.35), ("decay", 0.35))):
        error = np.log(found.parameters_[name]) - values[:, i]
        assert np.median(np.abs(error)) < atol, name
        assert np.corrcoef(np.log(found.parameters_[name]), values[:, i])[0, 1] > 0.6
    table = found.cell_parameters(traces)
    assert list(table.index) == list(range(12))
    assert (table[[f"log_sd_{k}" for k in model.names]] > 0).all().all()


def test_the_bound_prefers_the_true_scale_of_noise(ready, drawn):
    rng = np.random.default_rng(0)
    shuffled = drawn[0].copy()
    rng.shuffle(shuffled)
    assert ready.score(drawn[0]) > ready.score(shuffled)


def test_the_bound_is_a_density_of_the_traces_as_given(ready, drawn):
    plain, scaled = (ready.score(Recording(s * drawn[0], sampling_rate=RATE, units="unknown")) for s in (1.0, 100.0))
    assert plain - scaled == pytest.approx(np.log(100.0), abs=0.05)


# -- Learning ---------------------------------------------------------------------------------------------------------


def test_dreaming_teaches_a_new_network(drawn):
    options = {"world": World(n_units=16, n_frames=128, substeps=1, noise_levels=(0.5, 1.5)), "generative": "linear"}
    traces, counts = draw(0, generative="linear", noise=0.03)
    before, after = (
        tiny(n_updates=n, start="random", smoothing=0.0, **options).fit(traces).score(traces, counts) for n in (1, 250)
    )
    assert after > before + 0.15
    assert after > 0.3


def test_known_spikes_teach_what_dreams_do_not():
    """Of an indicator whose spikes make the trace fall, only known spikes can tell."""
    traces, counts = draw(0, n_cells=6, noise=0.03)
    known = [np.flatnonzero(c) / RATE for c in counts.T[:4]]
    base = tiny(n_updates=200, smoothing=0.0, world=World(n_units=8, n_frames=128, substeps=1))
    alone = clone(base).fit(-traces)
    told = clone(base).fit(-traces, [*known, None, None])
    held_out = [e.score(-traces[:, 4:], counts[:, 4:]) for e in (alone, told)]
    assert held_out[1] > held_out[0] + 0.15


def test_vimco_fits_cells_and_network(drawn):
    traces, _ = draw(0, n_frames=900, n_cells=2, generative="linear")
    fitted = tiny(method="vimco", generative="linear", n_updates=60, n_draws=6).fit(traces)
    assert fitted.history_[-1, 1] > fitted.history_[0, 1]
    assert set(fitted.parameters_) == {"amplitude", "decay", "rise"}
    assert np.isfinite(fitted.transform(traces)).all()


def test_the_published_networks_learn(drawn):
    config = RecognitionConfig(max_count=1, published=True, units=8)
    fitted = tiny(config=config, n_updates=3).fit(drawn[0][:300])
    assert np.isfinite(fitted.transform(drawn[0][:300])).all()


def test_same_seed_same_network_and_fits_are_independent(drawn):
    one, other = (tiny().fit(drawn[0]).transform(drawn[0]) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    again = tiny()
    again.fit(drawn[0][:, :2])
    np.testing.assert_array_equal(again.fit(drawn[0]).transform(drawn[0]), one)


def test_an_own_model_of_two_signals(drawn):
    def pair(counts, p, step):
        calcium = decaying(counts, p["decay"], step)
        return jnp.stack([0.3 * calcium[:, 0], 0.2 * calcium[:, 0] + 0.3 * calcium[:, 1]], axis=1)

    model = GenerativeModel("pair", pair, {"decay": LogNormal(0.3, 0.2)}, n_channels=2)
    fitted = tiny(generative=model).fit(drawn[0])
    assert not fitted.takes_any_rois
    assert fitted.transform(drawn[0]).shape == drawn[0].shape
    assert len(fitted.cell_parameters(drawn[0])) == 2
    assert fitted.reconstruct(drawn[0]).shape == drawn[0].shape
    assert fitted.sample_spikes(drawn[0], 2)[0].shape == drawn[0].shape
    with pytest.raises(DataError, match="in groups of 2"):
        fitted.transform(drawn[0][:, :3])
    with pytest.raises(DataError, match="function of your own"):
        fitted.save("nowhere.npz")


def test_a_list_of_recordings_is_fitted_and_read(drawn):
    recordings = [Recording(drawn[0][:600], sampling_rate=RATE), Recording(drawn[0][600:1000, :2], sampling_rate=20.0)]
    fitted = tiny().fit(recordings)
    assert [r.shape for r in fitted.transform(recordings)] == [(600, 4), (400, 2)]
    assert len(fitted.parameters_["amplitude"]) == 6
    with pytest.raises(DataError, match="one by one"):
        tiny(method="vimco").fit(recordings)


@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
def test_parameters_stay_with_their_cells_where_others_are_dead(drawn):
    traces = np.concatenate([np.zeros((1800, 1)), drawn[0][:, :2]], axis=1)
    fitted = VAESpikeEstimator(sampling_rate=RATE).fit(traces)
    amplitude = fitted.parameters_["amplitude"]
    assert np.isnan(amplitude).tolist() == [True, False, False]
    np.testing.assert_allclose(amplitude[1:], fitted.cell_parameters(traces)["amplitude"].to_numpy()[1:], rtol=1e-5)
    with_dead = [Recording(np.zeros((300, 1)), sampling_rate=RATE), Recording(drawn[0][:600], sampling_rate=RATE)]
    known = [None, [np.flatnonzero(c) / RATE for c in drawn[1][:600].T]]
    assert len(tiny().fit(with_dead, known).parameters_["decay"]) == 5


# -- Files ------------------------------------------------------------------------------------------------------------


def test_the_networks_that_come_along_are_small_and_hold_only_numbers():
    folder = Path(weights_module.__file__).parent / "pretrained"
    found = sorted(folder.glob("*.npz"))
    assert {f.stem for f in found} == set(MODELS)
    assert sum(f.stat().st_size for f in found) < 5e6
    for file in found:
        with np.load(file, allow_pickle=False) as stored:
            assert all(stored[key].dtype.kind in "fiu" for key in stored.files)
        assert f"`{file.stem}`" in (folder / "card.md").read_text("utf-8")


def test_saved_and_loaded(drawn, tmp_path):
    fitted = tiny().fit(drawn[0])
    loaded = load_model(fitted.save(tmp_path / "model.npz"))
    np.testing.assert_array_equal(loaded.transform(drawn[0]), fitted.transform(drawn[0]))
    assert loaded.config == TINY
    assert loaded.world == SMALL_WORLD
    np.testing.assert_array_equal(loaded.parameters_["decay"], fitted.parameters_["decay"])
    weights = VAESpikeEstimator.from_pretrained(fitted.save_weights(tmp_path / "w.npz"), sampling_rate=RATE)
    np.testing.assert_allclose(weights.transform(drawn[0]), fitted.transform(drawn[0]), rtol=0.05, atol=0.05)


def test_pickled_and_copied(ready, drawn):
    for again in (pickle.loads(pickle.dumps(ready)), copy.deepcopy(ready)):
        np.testing.assert_array_equal(again.transform(drawn[0]), ready.transform(drawn[0]))


def test_written_to_nwb_and_restored(ready, drawn, tmp_path):
    recording = Recording(drawn[0], sampling_rate=RATE)
    result = ready.infer(recording, reconstruct=True)
    path = write_nwb(result, tmp_path / "out.nwb")
    back = read_results(path, "VAESpikeEstimator")
    np.testing.assert_allclose(np.asarray(back["firing_rates"]), ready.transform(recording), rtol=1e-6)
    assert np.asarray(back["cell_decay"]).shape == (4,)
    assert back.arrays["calcium"].unit == "dF/F"
    restored = VAESpikeEstimator.from_nwb(path)
    np.testing.assert_array_equal(restored.transform(recording), ready.transform(recording))


def test_inference_in_parts_gives_the_same_rates(ready, drawn, tmp_path):
    recording = Recording(drawn[0], sampling_rate=RATE)
    result = ready.infer(recording, stream=True, scratch=tmp_path)
    np.testing.assert_allclose(np.asarray(result["firing_rates"]), ready.transform(recording), rtol=1e-3, atol=1e-3)


# -- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generative": "gcamp"}, "Expected one of linear, scdf, ml_phys"),
        ({"posterior": "exact"}, "Expected one of correlated, factorised"),
        ({"method": "mcmc"}, "Expected one of sleep, vimco"),
        ({"start": "warm"}, "Expected one of pretrained, random"),
        ({"n_updates": -1}, "not a number of steps"),
        ({"n_draws": 1}, "Expected 2 or more"),
        ({"smoothing": -1.0}, "not a width"),
        ({"lag": "early"}, "not a shift"),
    ],
)
def test_wrong_settings_are_refused(options, message, drawn):
    with pytest.raises(DataError, match=message):
        tiny(**options).fit(drawn[0])


@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
def test_wrong_data_are_refused(ready, drawn):
    with pytest.raises(NotFittedError):
        tiny().transform(drawn[0])
    with pytest.raises(DataError, match="sampling rate"):
        VAESpikeEstimator().fit(drawn[0])
    with pytest.raises(DataError, match="None of 2 ROIs can be fitted"):
        tiny().fit(np.zeros((100, 2)))
    with pytest.raises(DataError, match="not a share"):
        ready.predict_interval(drawn[0], alpha=1.0)
    with pytest.raises(DataError, match="number of spike trains"):
        ready.sample_spikes(drawn[0], 0)
    with pytest.raises(DataError, match="With the package come"):
        VAESpikeEstimator.from_pretrained("gcamp")
    with pytest.raises(DataError, match="learns from the traces alone"):
        tiny(method="vimco").fit(drawn[0], drawn[1])


_NEIGHBOURS = "a frame is judged by its neighbours in time too, so that order and context matter"
_ANY_ROIS = "each trace is taken alone, so that a fitted estimator takes any number of ROIs"


@pytest.mark.thorough  # minutes, all of it compilation: every check has a shape of its own
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
@parametrize_with_checks(
    [tiny(n_updates=1, sampling_rate=3.0)],  # 20 frames then are long enough to be scored
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": _NEIGHBOURS,
        "check_methods_subset_invariance": _NEIGHBOURS,
        "check_n_features_in": _ANY_ROIS,
        "check_n_features_in_after_fitting": _ANY_ROIS,
        "check_transformer_general": _ANY_ROIS,
    },
)
def test_scikit_learn(estimator, check):
    check(estimator)
