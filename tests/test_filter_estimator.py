"""FilterSpikeEstimator: finds the parameters that traces were drawn with, and what its users do with it.

The model's density and its smoother have tests of their own; here are the search for parameters, the pieces that long
traces are cut into, the estimator and its files.
"""

import h5py
import jax
import numpy as np
import pytest
from _suite2p_folders import FakePlane, write_suite2p_folder
from scipy.optimize import minimize, rosen, rosen_der
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from nwb_calcium_lvm import (
    FilterSpikeEstimator,
    Recording,
    load_model,
    read_results,
    read_suite2p,
    write_nwb,
    write_suite2p,
)
from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.observations import calcium_noisy
from nwb_calcium_lvm.observations._climb import descend
from nwb_calcium_lvm.observations.calcium_noisy import CalciumNoisyParams
from nwb_calcium_lvm.observations.cells import count_limits, infer_cells
from nwb_calcium_lvm.spikes.filtering import on_clock, own_counts

RATE = 30.0
PER_FRAME = 0.075
TRUE = {"spike_amplitude": 1.0, "noise_variance": 1e-3, "measurement_variance": 0.04, "baseline": 0.3}
AR = {1: (0.9,), 2: (1.3, -0.36)}  # poles 0.9; 0.9 and 0.4


def parameters(n_cells, order=1):
    each = np.ones(n_cells)
    return CalciumNoisyParams(np.tile(AR[order], (n_cells, 1)), *(value * each for value in TRUE.values()))


def draw(seed, n_frames, n_cells, order=1):
    """Traces and true spikes, each (time, roi)."""
    log_rate = np.full((n_frames, n_cells), np.log(PER_FRAME))
    with jax.enable_x64(True):
        drawn = calcium_noisy.sample(jax.random.key(seed), log_rate, parameters(n_cells, order))
    return np.asarray(drawn.y), np.asarray(drawn.counts)


def plain(order=1, **options):
    """The model that `draw` draws from, output neither moved nor smoothed."""
    given = {"ar_order": order, "vary_amplitude": False, "lag": 0.0, "smoothing": 0.0, "sampling_rate": RATE}
    return FilterSpikeEstimator(**given | options)


@pytest.fixture(scope="module")
def drawn():
    return draw(1, 900, 3)


@pytest.fixture(scope="module")
def fitted(drawn):
    return plain(standard_errors=True).fit(drawn[0])


# -- The search -------------------------------------------------------------------------------------------------------


def bowl(hessians, minima):
    def function(at):
        off = at - minima
        pulled = np.einsum("nij,nj->ni", hessians, off)
        return 0.5 * np.einsum("ni,ni->n", off, pulled), pulled

    return function


def valleys(at):
    return np.array([rosen(x) for x in at]), np.array([rosen_der(x) for x in at])


@pytest.fixture
def bowls():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(6, 4, 4))
    return root @ root.swapaxes(1, 2) + 0.1 * np.eye(4), rng.normal(size=(6, 4))


def test_descent_finds_the_bottom_of_bowls(bowls):
    found = descend(bowl(*bowls), np.zeros((6, 4)), np.full(6, 1e-12), 200)
    assert found.settled.all()
    assert found.n_calls < 60
    np.testing.assert_allclose(found.unknowns, bowls[1], atol=1e-4)


def test_descent_finds_what_scipy_finds():
    starts = np.array([[-1.2, 1.0], [0.0, 0.0], [2.0, 2.0], [-0.5, 3.0]])
    found = descend(valleys, starts, np.full(4, 1e-10), 80)
    assert found.settled.all()
    for start, at, value in zip(starts, found.unknowns, found.values, strict=True):
        theirs = minimize(rosen, start, jac=rosen_der, method="BFGS")
        np.testing.assert_allclose(at, theirs.x, atol=1e-3)
        assert value == pytest.approx(rosen(at))


@pytest.mark.parametrize("where", ["always", "at once", "on the way"])
def test_a_problem_that_fails_disturbs_no_other(bowls, where):
    whole, start = bowl(*bowls), np.zeros((6, 4))
    calls = []

    def failing(at):
        value, gradient = (a.copy() for a in whole(at))
        calls.append(at)
        if where == "always" or (where == "at once") == (len(calls) == 1):
            value[2], gradient[2] = np.nan, np.nan
        return value, gradient

    found, alone = (descend(f, start, np.full(6, 1e-12), 100) for f in (failing, whole))
    others = np.delete(np.arange(6), 2)
    np.testing.assert_allclose(found.unknowns[others], alone.unknowns[others], atol=1e-6)
    assert found.settled[others].all()
    assert np.isfinite(found.unknowns).all()
    if where == "always":
        assert not found.settled[2]


# -- Recovery ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_true_parameters_are_found(order):
    traces, counts = draw(0, 6000, 12, order)
    found = plain(order, standard_errors=True).fit(traces)
    assert found.converged_.all()
    assert np.abs(found.ar_coefs_.sum(axis=1) - sum(AR[order])).max() < 0.03
    np.testing.assert_allclose(found.decay_time_, -1.0 / np.log(0.9) / RATE, rtol=0.1)
    np.testing.assert_allclose(found.spike_amplitude_, 1.0, rtol=0.05)
    np.testing.assert_allclose(found.measurement_variance_, 0.04, rtol=0.25)
    np.testing.assert_allclose(found.firing_rates_, RATE * counts.mean(axis=0), rtol=0.1)
    assert found.noise_variance_.mean() == pytest.approx(1e-3, rel=0.25)
    np.testing.assert_allclose(found.baseline_, 0.3, atol=0.05)
    # Standard errors are of the size of the spread. (They know nothing of the filter's bias, a few per cent.)
    for name in TRUE:
        assert 0.5 < getattr(found, f"{name}_").std() / found.errors_[name].mean() < 1.7, name
    spread = found.ar_coefs_.std(axis=0) / found.errors_["ar_coefs"].mean(axis=0)
    assert (spread > 0.5).all()
    assert (spread < 1.7).all()


# -- Pieces -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pieces_join_without_a_seam():
    n_frames = 9000  # three pieces of 4096
    traces, _ = draw(3, n_frames, 1)
    first, mask = np.array([0, 5000]), np.ones(traces.shape, bool)
    mask[4090:4100] = False
    params, log_rate = parameters(1), np.full(1, np.log(PER_FRAME))
    found = infer_cells(traces, mask, first, params, log_rate)
    starts = np.isin(np.arange(n_frames), first)
    with jax.enable_x64(True):
        whole = calcium_noisy.posterior(traces, log_rate, params, mask, starts=starts)
    for name in ("count_mean", "count_variance", "input_mean", "calcium_mean", "calcium_variance"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-5, atol=1e-6, err_msg=name)


def test_limits_of_counts_hold_their_share(fitted, drawn):
    traces, counts = drawn
    for alpha in (0.1, 0.5):
        low, high = fitted.predict_interval(traces, alpha)
        assert low.shape == high.shape == counts.shape
        assert np.mean((low <= counts) & (counts <= high)) >= 1 - alpha
    assert (low <= high).all()
    assert np.mean(high - low) < 0.5  # and they say something


def test_limits_of_counts_are_those_of_the_posterior(fitted, drawn):
    """Against cumulative sums of the posterior over many counts, computed another way."""
    traces = drawn[0]
    log_rate = np.log(fitted.firing_rates_ / RATE)
    params = fitted._params(np.arange(3))
    found = infer_cells(traces, np.ones(traces.shape, bool), np.array([0]), params, log_rate)
    low, high = count_limits(found, params, log_rate, 0.2)
    for t, n in [(10, 0), (200, 1), (450, 2), *np.argwhere(found.count_mean > 1.5)[:3]]:
        counts = np.arange(60)
        log_factorial = np.cumsum(np.log(np.maximum(counts, 1)))
        variance = float(found.cavity_variance[t, n]) + fitted.noise_variance_[n]
        misfit = found.cavity_mean[t, n] - fitted.spike_amplitude_[n] * counts
        weight = np.exp(counts * log_rate[n] - log_factorial - 0.5 * misfit**2 / variance)
        below = np.cumsum(weight / weight.sum())
        assert low[t, n] == np.argmax(below >= 0.1)
        assert high[t, n] == np.argmax(below >= 0.9)


# -- The estimator ----------------------------------------------------------------------------------------------------


def test_spikes_are_found_and_counted(fitted, drawn):
    traces, counts = drawn
    assert fitted.score(traces, counts) > 0.8
    np.testing.assert_allclose(fitted.predict(traces).sum(axis=0), counts.sum(axis=0), rtol=0.15)
    np.testing.assert_allclose(fitted.transform(traces), RATE * fitted.predict(traces), rtol=1e-5)
    by_count = load_like(fitted, read_out="counts")
    assert np.corrcoef(by_count.predict(traces).ravel(), counts.ravel())[0, 1] > 0.9
    assert fitted.transform(traces).dtype == np.float32


def test_lag_and_smoothing(fitted, drawn):
    traces = drawn[0]
    rates = fitted.transform(traces)
    moved = load_like(fitted, lag=-2 / RATE).transform(traces)
    np.testing.assert_allclose(moved[:-2], rates[2:], atol=1e-3)
    smooth = load_like(fitted, smoothing=0.1).transform(traces)
    assert smooth.std() < rates.std()
    np.testing.assert_allclose(smooth.sum(axis=0), rates.sum(axis=0), rtol=0.02)


def load_like(fitted, **options):
    """The fitted estimator with other settings of its output."""
    made = type(fitted)(**fitted.get_params() | options)
    vars(made).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    return made


def test_what_is_inferred(fitted, drawn):
    traces, counts = drawn
    result = fitted.infer(traces)
    assert list(result.arrays) == ["firing_rates", "expected_spikes", "expected_spikes_std", "calcium", "calcium_std"]
    assert all(np.isfinite(a.values).all() for a in result.arrays.values())
    assert np.sum((result["expected_spikes"] - counts) ** 2) < 0.06 * counts.sum()
    apart = [np.convolve(result["expected_spikes"][:, n] - counts[:, n], np.ones(5), "same") for n in range(3)]
    assert np.abs(apart).max() < 1.2  # within two frames, no spike is lost and none is made up
    noise = traces - result["calcium"]
    assert noise.var() == pytest.approx(0.04, rel=0.25)  # what is left over is the measurement noise
    assert result.parameters["spike_amplitude_error"].values.shape == (3,)
    assert result.converged


def test_a_second_fit_compiles_nothing(drawn, fitted):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        fitted.transform(drawn[0])
        compiled.clear()
        again = plain(standard_errors=True).fit(drawn[0])
        again.transform(drawn[0])
        assert compiled == []
        # Nor does another frame rate or indicator, whose prior is another one.
        slower = Recording(drawn[0], sampling_rate=20.0, indicator="gcamp6f")
        plain(standard_errors=True, sampling_rate=None).fit(slower)
        assert compiled == []
        jax.jit(lambda x: x + 42.0)(1.0).block_until_ready()
        assert compiled  # the listener does hear compilations
    finally:
        jax.monitoring.clear_event_listeners()
    np.testing.assert_array_equal(again.spike_amplitude_, fitted.spike_amplitude_)


def test_each_roi_is_fitted_as_if_alone(drawn, fitted):
    order = [2, 1, 1]
    among_others = plain().fit(drawn[0][:, order])
    np.testing.assert_allclose(among_others.spike_amplitude_, fitted.spike_amplitude_[order], rtol=1e-4)
    np.testing.assert_allclose(among_others.ar_coefs_, fitted.ar_coefs_[order], rtol=1e-4)


def test_unit_and_offset_do_not_matter(drawn, fitted):
    scaled = Recording(40 * drawn[0] + 500, sampling_rate=RATE, units="unknown")
    other = plain().fit(scaled)
    np.testing.assert_allclose(other.spike_amplitude_, 40 * fitted.spike_amplitude_, rtol=1e-3)
    np.testing.assert_allclose(other.baseline_, 500 + 40 * fitted.baseline_, rtol=1e-3)
    np.testing.assert_allclose(other.transform(scaled), fitted.transform(drawn[0]), rtol=1e-2, atol=0.05)
    assert other.infer(scaled).arrays["calcium"].unit == "a.u."


def test_trials_and_groups(drawn):
    traces = drawn[0]
    trials = traces.reshape(3, 300, 3)
    found = plain().fit(trials)
    rates = found.transform(trials)
    assert rates.shape == trials.shape
    grouped = plain().fit(traces, groups=np.repeat([0, 1, 2], 300))
    np.testing.assert_allclose(grouped.spike_amplitude_, found.spike_amplitude_, rtol=1e-6)
    low, high = found.predict_interval(trials)
    assert low.shape == high.shape == trials.shape


@pytest.mark.slow
def test_fast_recordings_are_averaged_to_the_clock():
    traces, counts = draw(4, 1200, 2)
    times = 4  # frames of 1/120 s for each frame of 1/30 s
    fast = np.repeat(traces, times, axis=0)
    recording = Recording(fast, sampling_rate=120.0)
    clock = on_clock(recording, np.array([0, 1]), 30.0)
    assert clock.rate == 30.0
    np.testing.assert_allclose(clock.y.mean(axis=0), fast.mean(axis=0), rtol=0.02)
    per_frame = np.zeros(clock.y.shape)
    per_frame[5:-5] = counts[: len(per_frame)][5:-5]
    own = own_counts(recording, clock, per_frame)
    assert own.shape == fast.shape
    np.testing.assert_allclose(own.sum(axis=0), per_frame.sum(axis=0), rtol=1e-9)  # counts keep their sum
    found = plain().fit(recording)
    assert found.clock_rate_ == 30.0
    np.testing.assert_allclose(found.spike_amplitude_, 1.0, rtol=0.15)  # no step is cut in two
    result = found.infer(recording)
    assert result["firing_rates"].shape == fast.shape
    np.testing.assert_allclose(result["expected_spikes"].sum(axis=0), counts.sum(axis=0), rtol=0.15)
    np.testing.assert_allclose(found.predict(recording).sum(axis=0), counts.sum(axis=0), rtol=0.15)
    np.testing.assert_allclose(result["calcium"].mean(axis=0), fast.mean(axis=0), rtol=0.02)
    with pytest.raises(DataError, match="Set clock to at least that"):
        found.predict_interval(recording)


# -- Files ------------------------------------------------------------------------------------------------------------


def same(again, fitted, traces):
    np.testing.assert_array_equal(again.transform(traces), fitted.transform(traces))
    assert again.get_params() == fitted.get_params()
    assert again.errors_.keys() == fitted.errors_.keys()
    for name, values in fitted.errors_.items():
        np.testing.assert_array_equal(again.errors_[name], values)
    assert again.converged_.dtype == bool
    np.testing.assert_array_equal(again.converged_, fitted.converged_)
    assert again.clock_rate_ == fitted.clock_rate_


@pytest.mark.parametrize("with_errors", [True, False])
def test_saved_and_loaded(fitted, drawn, tmp_path, with_errors):
    if not with_errors:
        fitted = load_like(fitted, standard_errors=False)
        fitted.errors_ = {}
    same(load_model(fitted.save(tmp_path / "model")), fitted, drawn[0])


def test_in_core_nwb_types(fitted, drawn, tmp_path):
    result = fitted.infer(Recording(drawn[0], sampling_rate=RATE))
    with h5py.File(write_nwb(result, tmp_path / "core.nwb", schema="core")) as file:
        there = file["processing/ophys"]
        for name, array in result.arrays.items():
            stored = there[f"FilterSpikeEstimator_{name}/data"]
            np.testing.assert_array_equal(stored[:], array.values, err_msg=name)
            assert stored.attrs["unit"] == array.unit
        amplitudes = there["FilterSpikeEstimator_roi_parameters/spike_amplitude"][:]
    np.testing.assert_array_equal(amplitudes, fitted.spike_amplitude_)


def test_nwb_round_trip(fitted, drawn, tmp_path):
    recording = Recording(drawn[0], sampling_rate=RATE)
    result = fitted.infer(recording)
    path = write_nwb(result, tmp_path / "spikes.nwb")
    stored = read_results(path, "FilterSpikeEstimator")
    for name, array in result.arrays.items():
        np.testing.assert_array_equal(np.asarray(stored[name]), array.values, err_msg=name)
        assert stored.arrays[name].unit == array.unit
    for name, array in result.parameters.items():
        np.testing.assert_allclose(np.asarray(stored.parameters[name].values, float), array.values, err_msg=name)
        assert stored.parameters[name].unit == array.unit
    same(FilterSpikeEstimator.from_nwb(path), fitted, recording)


@pytest.mark.slow
def test_rates_beside_a_suite2p_folder(tmp_path):
    write_suite2p_folder(tmp_path, [FakePlane(seed=0)])
    recording = read_suite2p(tmp_path / "suite2p")
    found = FilterSpikeEstimator().fit(recording)
    write_suite2p(found.infer(recording), tmp_path / "suite2p", name="filtered")
    written = next(tmp_path.rglob("filtered.npy"))
    assert np.isfinite(np.load(written)).any()


# -- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ar_order": 3}, "ar_order=3 is not supported. Expected 1 or 2"),
        ({"read_out": "x"}, "read_out='x' is not known. Expected one of influx, counts"),
        ({"clock": 0.0}, "clock=0.0 is not a frame rate"),
        ({"clock": np.nan}, "clock=nan is not a frame rate"),
        ({"smoothing": -1.0}, "smoothing=-1.0 is not a width"),
        ({"lag": np.nan}, "lag=nan is not a shift"),
    ],
)
def test_wrong_settings(drawn, options, message):
    with pytest.raises(DataError, match=message):
        plain(**options).fit(drawn[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda y: y[:9], "n_samples=9"),
        (lambda y: np.ones((1, 3)), "n_samples=1"),
        (lambda y: [Recording(y, sampling_rate=RATE)] * 2, "Fit one FilterSpikeEstimator to each"),
        (lambda y: np.where(np.arange(len(y))[:, None] == 5, np.nan, y), "NaN or infinity outside the mask"),
        (lambda y: "no_such_file.nwb", "does not exist"),
        (lambda y: None, "X is a NoneType"),
    ],
)
def test_what_cannot_be_fitted(drawn, make, message):
    model = plain()
    with pytest.raises(DataError, match=message):
        model.fit(make(drawn[0]))
    with pytest.raises(NotFittedError):
        model.transform(drawn[0])


def test_no_roi_that_can_be_fitted(drawn):
    with (
        pytest.warns(DataWarning, match="3 of 3 ROIs are constant"),
        pytest.raises(DataError, match="None of 3 ROIs can be fitted"),
    ):
        plain().fit(np.ones_like(drawn[0]))


def test_no_frame_rate(drawn):
    with pytest.raises(DataError, match="says no sampling rate"):
        plain(sampling_rate=None).fit(drawn[0])


def test_before_a_fit(drawn):
    for method in ("transform", "predict", "infer", "predict_interval"):
        with pytest.raises(NotFittedError):
            getattr(plain(), method)(drawn[0])


def test_another_recording(drawn, fitted):
    traces = drawn[0]
    with pytest.raises(DataError, match="X has 2 ROIs"):
        fitted.transform(Recording(traces[:, :2], sampling_rate=RATE))
    with pytest.raises(DataError, match="20 frames per s, but parameters were found at 30"):
        load_like(fitted, sampling_rate=None).transform(Recording(traces, sampling_rate=20.0))
    with pytest.raises(DataError, match=r"alpha=1\.5 is not a share"):
        fitted.predict_interval(traces, 1.5)


@pytest.fixture(scope="module")
def holed(drawn):
    """Five ROIs: one with gaps, one constant, one never observed, two as they are."""
    traces = drawn[0][:, [0, 0, 0, 1, 2]].copy()
    mask = np.ones(traces.shape, bool)
    traces[:, 1] = 2.0
    mask[:, 2] = False
    mask[100:160, 0] = mask[::50, 0] = False
    traces[~mask] = np.nan
    return Recording(traces, sampling_rate=RATE, mask=mask)


def test_gaps_and_rois_that_say_nothing(holed, drawn, tmp_path):
    with pytest.warns(DataWarning, match="2 of 5 ROIs are constant or never observed"):
        found = plain(standard_errors=True).fit(holed)
    assert np.isnan(found.spike_amplitude_[[1, 2]]).all()
    assert found.converged_.tolist() == [True, False, False, True, True]
    with pytest.warns(DataWarning, match="and their rates are NaN"):
        result = found.infer(holed)
    for name, array in result.arrays.items():
        assert np.isnan(array.values[:, [1, 2]]).all(), name
        assert np.isfinite(array.values[:, [0, 3, 4]]).all(), name
    counts = drawn[1][:, 0]
    seen = holed.mask[:, 0]
    assert np.corrcoef(result["expected_spikes"][seen, 0], counts[seen])[0, 1] > 0.8
    # Within a gap the counts are what the rate says, but near its end, where calcium tells of them.
    inside = result["expected_spikes"][100:125, 0]
    np.testing.assert_allclose(inside, found.firing_rates_[0] / RATE, rtol=0.2)
    assert result["calcium_std"][130, 0] > 3 * result["calcium_std"][90, 0]
    path = write_nwb(result, tmp_path / "holed.nwb")
    with pytest.warns(DataWarning):
        np.testing.assert_array_equal(
            FilterSpikeEstimator.from_nwb(path).transform(holed), np.asarray(result["firing_rates"])
        )
    with pytest.warns(DataWarning):
        low, _ = found.predict_interval(holed)
    assert np.isnan(low[:, [1, 2]]).all()


def test_rois_that_say_nothing_later(fitted, drawn):
    with pytest.warns(DataWarning, match="3 of 3 ROIs are constant"):
        rates = fitted.transform(np.ones_like(drawn[0]))
    assert np.isnan(rates).all()
    with pytest.warns(DataWarning, match="3 of 3 ROIs are constant"):
        low, _ = fitted.predict_interval(np.ones_like(drawn[0]))
    assert np.isnan(low).all()


def test_a_silent_cell():
    noise = 0.05 * np.random.default_rng(0).normal(size=(900, 3))
    found = FilterSpikeEstimator(ar_order=1, vary_amplitude=False, sampling_rate=RATE).fit(noise)
    rates = found.transform(noise)
    assert np.isfinite(rates).all()
    assert np.isfinite(found.spike_amplitude_).all()


def test_raw_fluorescence_and_transposed_traces(drawn):
    with pytest.warns(DataWarning, match="do not look like dF/F"):
        plain().fit(1000 + 100 * drawn[0])
    with pytest.warns(DataWarning, match="fewer frames than ROIs"), pytest.raises(DataError, match="n_samples=9"):
        plain().fit(np.random.default_rng(0).normal(size=(9, 32)))


_NEIGHBOURS = "a frame is judged by its neighbours in time too, so that order and context matter"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [FilterSpikeEstimator(ar_order=1, vary_amplitude=False, sampling_rate=3.0)],
    expected_failed_checks=lambda _: {
        "check_methods_sample_order_invariance": _NEIGHBOURS,
        "check_methods_subset_invariance": _NEIGHBOURS,
    },
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
