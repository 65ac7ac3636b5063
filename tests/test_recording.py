"""Recording and InferenceResult: clocks, gaps, trials, masks, export, and every bad input answered."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nwb_calcium_lvm.exceptions import DataError, DataWarning
from nwb_calcium_lvm.indicators import PRESETS, Indicator, find
from nwb_calcium_lvm.provenance import Segments, Source
from nwb_calcium_lvm.recording import Recording
from nwb_calcium_lvm.result import InferenceResult, NamedArray

RATE = 10.0


def traces(n_frames=100, n_rois=3):
    return np.arange(n_frames * n_rois, dtype=float).reshape(n_frames, n_rois)


def trials_table(n=3, first=1.0, every=3.0, length=2.0):
    start = first + every * np.arange(n)
    return {"start_time": start, "stop_time": start + length, "cue_time": start + 0.5, "id": 10 * np.arange(n)}


@pytest.fixture
def recording():
    return Recording(
        traces(),
        sampling_rate=RATE,
        roi_ids=[7, 8, 9],
        trials=trials_table(),
        roi_metadata={"red": [True, False, True], "position": np.arange(6).reshape(3, 2)},
        source=Source("nwb", table_rows=np.array([4, 5, 6]), planes=np.zeros(3, int)),
        indicator="gcamp6s",
    )


# -- Clock ------------------------------------------------------------------------------------------------------------


def test_rate_gives_times_and_duration(recording):
    np.testing.assert_allclose(recording.timestamps, np.arange(100) / RATE)
    assert recording.duration == 10.0
    assert recording.is_regular
    assert recording.has_clock
    assert len(recording) == recording.n_frames == 100


def test_no_clock_counts_frames():
    bare = Recording(traces())
    assert not bare.has_clock
    np.testing.assert_array_equal(bare.timestamps, np.arange(100))
    assert "no sampling rate" in repr(bare)
    assert bare.isel(time=slice(20, 30)).timestamps[0] == 20


def test_timestamps_give_the_rate_and_gaps_split():
    times = np.concatenate([np.arange(40), np.arange(60, 120)]) / RATE + 5.0
    recording = Recording(traces(), timestamps=times)
    assert recording.sampling_rate == pytest.approx(RATE)
    assert recording.starting_time == 5.0
    assert recording.segments.bounds.tolist() == [[0, 40], [40, 100]]
    assert not recording.is_regular
    assert "2 segments" in repr(recording)


def test_jitter_is_no_gap():
    times = np.arange(100) / RATE + np.random.default_rng(0).uniform(-0.01, 0.01, 100)
    recording = Recording(traces(), timestamps=times)
    assert len(recording.segments) == 1
    assert not recording.is_regular


def test_contradicting_rate_warns_and_the_timestamps_win():
    with pytest.warns(DataWarning, match=r"sampling_rate=30 Hz, but the timestamps' median step says 10 Hz"):
        recording = Recording(traces(), timestamps=np.arange(100) / RATE, sampling_rate=30.0)
    assert recording.sampling_rate == pytest.approx(RATE)


def test_one_frame_is_a_recording():
    recording = Recording(np.ones((1, 2)), sampling_rate=RATE)
    assert recording.shape == (1, 2)
    assert Recording(np.ones((1, 2)), timestamps=[3.0]).timestamps.tolist() == [3.0]


@pytest.mark.parametrize("kind", [int, bool, np.float32, np.float64])
def test_types_of_traces(kind):
    recording = Recording(np.ones((4, 2), kind))
    assert np.issubdtype(recording.dff.dtype, np.floating)
    assert recording.dff.dtype == (np.float32 if kind is np.float32 else np.float64)


# -- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dff": np.ones(5)}, r"shape \(5,\)\. Expected \(time, roi\).*dff\[:, None\]"),
        ({"dff": np.ones((2, 3, 4))}, "trials of shape"),
        ({"dff": np.ones((0, 4))}, "nothing in it"),
        ({"dff": np.ones((4, 0))}, "nothing in it"),
        ({"dff": np.array([["a", "b"]])}, "Expected real numbers"),
        ({"dff": np.ones((3, 2), complex)}, "Expected real numbers"),
        ({"dff": np.ones((5, 3)), "roi_ids": range(5)}, r"pass F\.T, or use read_suite2p"),
        ({"dff": np.ones((5, 3)), "roi_ids": range(4)}, "roi_ids has 4 entries"),
        ({"dff": np.ones((5, 3)), "roi_ids": [1, 1, 2]}, "roi_ids repeat: 1"),
        ({"dff": np.ones((5, 3)), "roi_ids": np.arange(6).reshape(3, 2)}, "one name per ROI"),
        ({"dff": np.where(np.eye(3), np.nan, 1.0)}, "frame 0 of ROI 0.*mask=np.isfinite"),
        ({"dff": np.array([[1.0, 2.0], [np.inf, 1.0]]), "roi_ids": ["a", "b"]}, "frame 1 of ROI a"),
        ({"dff": np.ones((5, 3)), "mask": np.ones((3, 5), bool)}, r"expected booleans of shape \(5, 3\)"),
        ({"dff": np.ones((5, 3)), "mask": np.ones((5, 3))}, "dtype float64"),
        ({"dff": np.ones((5, 3)), "units": "percent"}, "units='percent'"),
        ({"dff": np.ones((5, 3)), "sampling_rate": 0.0}, "not a rate"),
        ({"dff": np.ones((5, 3)), "sampling_rate": -3.0}, "not a rate"),
        ({"dff": np.ones((5, 3)), "sampling_rate": np.nan}, "not a rate"),
        ({"dff": np.ones((5, 3)), "timestamps": np.arange(4)}, "one per frame"),
        ({"dff": np.ones((5, 3)), "timestamps": [0, 1, 2, np.nan, 4]}, "NaN or infinite"),
        ({"dff": np.ones((5, 3)), "timestamps": [0, 1, 2, 1.5, 3]}, r"first at frame 3 \(2 s, then 1\.5 s\).*sort"),
        ({"dff": np.ones((5, 3)), "timestamps": [0, 1, 1, 2, 3]}, "stand still"),
        ({"dff": np.ones((5, 3)), "trials": {"start_time": [0.0]}}, "lacks stop_time"),
        ({"dff": np.ones((5, 3)), "trials": {}}, "it has no columns"),
        ({"dff": np.ones((5, 3)), "trials": {"start_time": [0.0], "stop_time": [1.0, 2.0]}}, "differ in length"),
        ({"dff": np.ones((5, 3)), "roi_metadata": {"red": [True]}}, r"'red'\] has 1 entries; expected one per ROI, 3"),
        ({"dff": np.ones((5, 3)), "segments": Segments(np.array([[0, 4]]))}, "do not hold the 5 frames"),
        ({"dff": np.ones((5, 3)), "segments": Segments(np.array([[0, 3], [2, 5]]))}, "one after the other"),
        ({"dff": np.ones((5, 3)), "segments": Segments(np.array([[3, 5], [0, 3]]))}, "one after the other"),
        ({"dff": np.ones((5, 3)), "segments": Segments(np.array([[0, 5]]), np.arange(2))}, "2 trial ids"),
    ],
)
def test_bad_input_says_received_expected_and_remedy(arguments, message):
    with pytest.raises(DataError, match=message):
        Recording(**arguments)


def test_unknown_indicator_lists_the_known():
    with pytest.raises(ValueError, match=r"no indicator preset called 'gcamp99'.*GCaMP6s"):
        Recording(traces(), indicator="gcamp99")


def test_the_mask_is_copied_and_its_holes_may_hold_anything():
    mask = np.ones((100, 3), bool)
    mask[4, 1] = False
    values = traces()
    values[4, 1] = np.nan
    recording = Recording(values, mask=mask)
    mask[:] = False
    assert recording.mask.sum() == 299
    assert "0.33 % missing" in repr(recording)


def test_usable_finds_constant_and_unobserved_rois():
    values = np.column_stack([np.ones(20), np.arange(20), np.full(20, np.nan), np.r_[np.zeros(10), np.full(10, 5.0)]])
    mask = np.isfinite(values)
    mask[10:, 3] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Recording(values, mask=mask).usable.tolist() == [False, True, False, False]


# -- Parts ------------------------------------------------------------------------------------------------------------


def test_slicing_keeps_everything_that_belongs_to_the_rois(recording):
    part = recording.isel(time=slice(20, 50), roi=[2, 0])
    np.testing.assert_array_equal(part.dff, recording.dff[20:50][:, [2, 0]])
    assert part.roi_ids.tolist() == [9, 7]
    assert part.roi_metadata["red"].tolist() == [True, True]
    assert part.roi_metadata["position"].tolist() == [[4, 5], [0, 1]]
    assert part.source.table_rows.tolist() == [6, 4]
    assert part.starting_time == 2.0
    assert part.sampling_rate == RATE
    assert part.is_regular
    assert part.indicator.name == "GCaMP6s"


def test_frames_that_are_no_neighbours_are_segments_of_their_own(recording):
    part = recording.isel(time=np.r_[0:10, 20:30])
    assert part.segments.bounds.tolist() == [[0, 10], [10, 20]]
    np.testing.assert_allclose(part.timestamps[[0, 9, 10]], [0.0, 0.9, 2.0])
    again = part.isel(time=slice(5, 15))
    assert again.segments.bounds.tolist() == [[0, 5], [5, 10]]
    assert len(recording.isel(time=[3, 2, 1]).segments) == 3
    assert recording.isel(time=slice(None, None, 2)).sampling_rate == RATE


def test_masks_as_indices_and_single_ones(recording):
    assert recording.isel(time=recording.timestamps < 1.0, roi=recording.roi_metadata["red"]).shape == (10, 2)
    assert recording.isel(time=5, roi=1).shape == (1, 1)


def test_sel_is_half_open_in_seconds(recording):
    part = recording.sel(1.0, 2.0)
    assert part.n_frames == 10
    assert part.timestamps[0] == 1.0
    assert recording.sel(stop=1.0).n_frames == 10
    with pytest.raises(DataError, match=r"0 of 100 frames and 3 of 3 ROIs"):
        recording.sel(50.0)
    with pytest.raises(DataError, match="Nothing is left"):
        recording.isel(roi=[])


def test_excluded_frames_are_masked_by_flag_or_interval(recording):
    flags = np.zeros(100, bool)
    flags[30:40] = True
    by_flag, by_interval = recording.exclude(flags), recording.exclude([[3.0, 4.0]])
    np.testing.assert_array_equal(by_flag.mask, by_interval.mask)
    assert not by_flag.mask[30:40].any()
    assert by_flag.mask.sum() == 270
    assert by_flag.is_regular
    assert recording.mask.all(), "the original is as it was"
    assert recording.exclude(np.empty((0, 2))).mask.all()


@pytest.mark.parametrize("frames", [np.zeros(99, bool), np.arange(5), np.ones((100, 2), bool)])
def test_bad_exclusions(recording, frames):
    with pytest.raises(DataError, match=r"Expected booleans of shape \(100,\)"):
        recording.exclude(frames)


def test_excluding_everything_is_an_error(recording):
    with pytest.raises(DataError, match="nothing would be left"):
        recording.exclude(np.ones(100, bool))


# -- Trials -----------------------------------------------------------------------------------------------------------


def test_select_trials_in_the_wanted_order(recording):
    cut = recording.select_trials([20, 0])
    assert cut.segments.trial_ids.tolist() == [20, 0]
    assert cut.segments.lengths.tolist() == [20, 20]
    np.testing.assert_array_equal(cut.trial_list()[0], recording.dff[70:90])
    assert cut.trial_id.tolist() == [20] * 20 + [0] * 20
    np.testing.assert_array_equal(cut.select_trials(0).dff, recording.dff[10:30])
    assert len(recording.select_trials().segments) == 3
    assert "2 trials" in repr(cut)


def test_unknown_trials_are_named(recording):
    with pytest.raises(DataError, match=r"no trials 5\. Known: 0, 10, 20"):
        recording.select_trials([5])


def test_trials_without_a_frame_are_left_out_with_a_warning():
    table = {"start_time": [1.0, 50.0], "stop_time": [2.0, 51.0]}
    recording = Recording(traces(), sampling_rate=RATE, trials=table)
    with pytest.warns(DataWarning, match="1 trials hold no frame and are left out: 1"):
        assert len(recording.select_trials().segments) == 1
    with pytest.warns(DataWarning), pytest.raises(DataError, match="on the recording's clock"):
        recording.select_trials([1])


def test_a_gap_within_a_trial_breaks_it_but_it_stays_one_trial():
    times = np.concatenate([np.arange(40), np.arange(60, 120)]) / RATE
    recording = Recording(traces(), timestamps=times, trials={"start_time": [3.0, 8.0], "stop_time": [7.0, 9.0]})
    cut = recording.select_trials()
    assert cut.segments.bounds.tolist() == [[0, 10], [10, 20], [20, 30]]
    assert cut.segments.trial_ids.tolist() == [0, 0, 1]
    assert cut.select_trials([0]).segments.trial_ids.tolist() == [0, 0]


def test_align_cuts_equal_windows_around_the_event(recording):
    cut = recording.align("cue_time", window=(-0.5, 1.0))
    assert cut.segments.lengths.tolist() == [15, 15, 15]
    np.testing.assert_array_equal(cut.trial_list()[1], recording.dff[40:55])
    assert cut.trial_id[15] == 10
    np.testing.assert_allclose(cut.timestamps[15], 4.0)
    given_times = recording.align([1.5, 4.5, 7.5], window=(-0.5, 1.0))
    np.testing.assert_array_equal(given_times.dff, cut.dff)


def test_align_leaves_out_what_has_no_window(recording):
    with pytest.warns(DataWarning, match="2 of 3 trials .* left out: 1, 2"):
        cut = recording.align([2.0, np.nan, 9.9], window=(0.0, 1.0))
    assert cut.segments.trial_ids.tolist() == [0]
    with pytest.warns(DataWarning), pytest.raises(DataError, match="No trial has its whole window"):
        recording.align([100.0])


def test_align_does_not_cross_a_gap():
    times = np.concatenate([np.arange(40), np.arange(60, 120)]) / RATE
    recording = Recording(traces(), timestamps=times)
    with pytest.warns(DataWarning, match="runs over a gap"):
        cut = recording.align([3.5, 8.0], window=(0.0, 1.0))
    assert cut.segments.trial_ids.tolist() == [1]


def test_overlapping_windows_are_allowed_but_not_cut_again(recording):
    cut = recording.align([2.0, 2.5], window=(0.0, 1.0))
    assert cut.n_frames == 20
    assert cut.sampling_rate == RATE
    with pytest.raises(DataError, match="not in the order of time"):
        cut.align([2.2], window=(0.0, 0.2))


def test_nearest_frame_is_taken():
    recording = Recording(traces(), sampling_rate=RATE)
    assert recording.align([2.04], window=(0.0, 0.5)).timestamps[0] == pytest.approx(2.0)
    assert recording.align([2.06], window=(0.0, 0.5)).timestamps[0] == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.align("reward"), r"no column 'reward'\. It has: start_time, stop_time, cue_time, id"),
        (lambda r: r.align(window=(1.0, 1.0)), "is empty"),
        (lambda r: Recording(traces()).align([1.0]), "no clock.*Pass sampling_rate"),
        (lambda r: Recording(traces(), sampling_rate=1.0).align(), "no trials table"),
        (lambda r: Recording(traces(), sampling_rate=1.0).select_trials(), "trials='NAME'"),
    ],
)
def test_bad_trials(recording, call, message):
    with pytest.raises(DataError, match=message):
        call(recording)


def test_trials_from_pandas_keep_the_ids_of_the_index():
    table = pd.DataFrame({"start_time": [1.0, 2.0], "stop_time": [2.0, 3.0]}, index=pd.Index([5, 6], name="id"))
    recording = Recording(traces(), sampling_rate=RATE, trials=table)
    assert recording.trials["id"].tolist() == [5, 6]
    assert Recording(traces(), trials=table.reset_index(drop=True)).trials["id"].tolist() == [0, 1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=40, unique=True), st.data())
def test_taking_frames_twice_is_taking_them_once(frames, data):
    recording = Recording(traces(), sampling_rate=RATE)
    part = recording.isel(time=frames)
    assert part.segments.lengths.sum() == len(frames)
    np.testing.assert_allclose(part.timestamps, np.array(frames) / RATE)
    for a, b in part.segments.bounds:
        assert (np.diff(frames[a:b]) == 1).all()
    again = data.draw(st.lists(st.integers(0, len(frames) - 1), min_size=1, unique=True))
    np.testing.assert_array_equal(part.isel(time=again).dff, recording.dff[np.array(frames)[again]])


# -- Elsewhere --------------------------------------------------------------------------------------------------------


def test_repr_names_what_matters(recording):
    text = repr(recording)
    assert text == "Recording(3 ROIs x 100 frames, 10 Hz, 10 s, dF/F, 3 trials in its table, GCaMP6s)"
    assert "<li>10 Hz</li>" in recording._repr_html_()
    sourced = Recording(traces(), source=Source("nwb", path=Path("a<b.nwb"), series="x"))
    assert "from a<b.nwb:x" in repr(sourced)
    assert "a&lt;b.nwb" in sourced._repr_html_()


def test_to_pynapple(recording):
    pytest.importorskip("pynapple")
    frame = recording.select_trials([0, 10]).to_pynapple()
    assert frame.shape == (40, 3)
    assert list(frame.columns) == [7, 8, 9]
    assert len(frame.time_support) == 2
    assert frame.metadata["red"].tolist() == [True, False, True]
    np.testing.assert_allclose(frame.values[:20], recording.dff[10:30])


def test_to_xarray(recording):
    pytest.importorskip("xarray")
    mask = np.ones((100, 3), bool)
    mask[5, 1] = False
    array = Recording(traces(), sampling_rate=RATE, mask=mask).to_xarray()
    assert array.dims == ("time", "roi")
    assert np.isnan(array.values[5, 1])
    assert array.attrs == {"units": "dff", "sampling_rate": RATE}
    cut = recording.select_trials([10]).to_xarray()
    assert cut.coords["trial_id"].values[0] == 10
    assert cut.coords["red"].dims == ("roi",)


# -- Indicators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["GCaMP-6s", "gcamp6s", "GCAMP 6S", "AAV1-syn-GCaMP6s (virus)"])
def test_indicators_are_found_in_free_text(text):
    assert find(text) == PRESETS["gcamp6s"]


def test_longer_names_win_and_unknown_ones_are_none():
    assert find("AAV-syn-jGCaMP8f").name == "jGCaMP8f"
    assert find("GCaMP8m").name == "jGCaMP8m"
    assert find("unknown") is None
    assert find("") is None
    own = Indicator("mine", 0.01, 0.5, 0.3)
    assert Recording(traces(), indicator=own).indicator is own


# -- Results ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def result():
    bounds = Segments(np.array([[0, 2], [2, 4]]), np.array([5, 6]))
    return InferenceResult(
        arrays={
            "states": NamedArray(np.array([0, 0, 1, 1]), ("time",), "1", "Path."),
            "firing_rates": NamedArray(np.arange(8.0).reshape(4, 2), ("time", "roi"), "Hz", "Rates."),
            "state_probabilities": NamedArray(np.eye(2)[[0, 0, 1, 1]], ("time", "state"), "1", "Posterior."),
        },
        parameters={"decay_time": NamedArray(np.array([0.5, 0.6]), ("roi",), "s", "Decay.")},
        time=np.array([0.0, 0.1, 3.0, 3.1]),
        roi_ids=np.array([7, 9]),
        segments=bounds,
        model={"name": "CalciumHMM"},
        converged=False,
        sampling_rate=RATE,
    )


def test_result_is_looked_up_by_name_and_says_what_it_has(result):
    assert result["decay_time"].tolist() == [0.5, 0.6]
    assert result["states"].tolist() == [0, 0, 1, 1]
    with pytest.raises(KeyError, match=r"'rates' is not in this result\. It has: states, firing_rates"):
        result["rates"]
    assert result.trial_id.tolist() == [5, 5, 6, 6]
    assert repr(result).startswith("InferenceResult(CalciumHMM, not converged: states (4,)")
    assert {"numpy", "jax", "nwb-calcium-lvm"} <= set(result.versions)


def test_result_to_pandas(result):
    table = result.to_pandas()
    assert list(table.columns) == [
        "trial_id",
        "states",
        "firing_rates_7",
        "firing_rates_9",
        "state_probabilities_0",
        "state_probabilities_1",
    ]
    assert table.index.name == "time_s"
    assert table["firing_rates_9"].tolist() == [1.0, 3.0, 5.0, 7.0]


def test_result_to_xarray(result):
    pytest.importorskip("xarray")
    data = result.to_xarray()
    assert data["firing_rates"].dims == ("time", "roi")
    assert data["firing_rates"].attrs["units"] == "Hz"
    assert data["decay_time"].sel(roi=9).item() == 0.6
    assert data.coords["trial_id"].values.tolist() == [5, 5, 6, 6]
