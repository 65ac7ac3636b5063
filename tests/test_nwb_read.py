"""Reading NWB files as others write them, and refusing what cannot be read."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import _nwb_files as files
import h5py
import numpy as np
import pytest
from _nwb_files import S, build, raw_traces
from pynwb import NWBHDF5IO

from nwb_calcium_lvm.exceptions import AmbiguousDataError, DataError, DataWarning
from nwb_calcium_lvm.io import describe_nwb, read_nwb
from nwb_calcium_lvm.preprocessing import dff_from_raw

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning:pynwb", "ignore:.*:UserWarning:hdmf")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session.nwb"


# -- Files of others --------------------------------------------------------------------------------------------------


def test_suite2p_one_plane(path: Path):
    rec = read_nwb(files.suite2p_file(path))
    expected, _ = dff_from_raw(raw_traces(400, 3), raw_traces(400, 3, seed=1) * 0.5, sampling_rate=10.0)
    np.testing.assert_allclose(rec.dff, expected[:, [0, 2]], rtol=1e-5)
    assert rec.dff.dtype == np.float32
    assert rec.roi_ids.tolist() == [0, 2]
    assert rec.sampling_rate == 10.0
    assert rec.units == "dff"
    assert rec.roi_metadata["iscell"].shape == (2, 2)
    assert rec.indicator is not None
    assert rec.indicator.name == "GCaMP6f"
    assert rec.source.kind == "nwb"
    assert rec.source.path == path.resolve()
    assert rec.source.series == "processing/ophys/Fluorescence/plane0"
    assert rec.source.neuropil == "processing/ophys/Neuropil/plane0"
    assert rec.source.plane_segmentation == "processing/ophys/ImageSegmentation/PlaneSegmentation"
    assert rec.source.table_rows is not None
    assert rec.source.table_rows.tolist() == [0, 2]
    assert rec.metadata["subject_id"] == "m1"
    assert rec.metadata["session_start_time"] == "2024-05-01T09:30:00+00:00"
    assert np.all(rec.roi_metadata["noise_level"] > 0)


def test_suite2p_planes_are_put_side_by_side_or_chosen(path: Path):
    files.suite2p_file(path, n_planes=2)
    both, second = read_nwb(path), read_nwb(path, plane=1)
    assert both.roi_ids.tolist() == [0, 2, 3, 4, 5]
    assert both.source.planes is not None
    assert both.source.planes.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(both.dff[:, 2:], second.dff)
    with pytest.raises(DataError, match=r"no plane 7.*\[0, 1\]"):
        read_nwb(path, plane=7)


def test_all_rois_on_request(path: Path):
    files.suite2p_file(path)
    assert read_nwb(path, accepted=False).n_rois == 3


def test_neuroconv(path: Path):
    rec = read_nwb(files.neuroconv_file(path))
    assert rec.source.series == "processing/ophys/Fluorescence/RoiResponseSeries"
    assert rec.source.neuropil == "processing/ophys/Fluorescence/Neuropil"
    assert rec.roi_ids.tolist() == [0, 1, 3, 4]


def test_neuroconv_planes_have_tables_of_their_own(path: Path):
    files.neuroconv_file(path, n_planes=2)
    with pytest.raises(AmbiguousDataError, match=r"plane=N.*\[0, 1\](.|\n)*RoiResponseSeriesChan1Plane1"):
        read_nwb(path)
    rec = read_nwb(path, plane=1)
    assert rec.source.plane_segmentation == "processing/ophys/ImageSegmentation/PlaneSegmentationChan1Plane1"
    assert rec.source.neuropil == "processing/ophys/Fluorescence/NeuropilChan1Plane1"


def test_caiman_denoised_traces_only_on_request(path: Path):
    files.caiman_file(path)
    with pytest.raises(DataError, match="not read unless asked for"):
        read_nwb(path)
    with pytest.warns(DataWarning, match="looks denoised"):
        rec = read_nwb(path, series="Fluorescence/RoiResponseSeries")
    assert rec.units == "unknown"
    assert rec.roi_ids.tolist() == [0, 2]
    assert rec.sampling_rate == pytest.approx(30.0)


def test_caiman_cells_without_anyone_having_sorted_them(path: Path):
    """What CaImAn writes unless someone went through the components: nothing accepted, nothing rejected."""
    files.caiman_file(path, curated=False)
    with pytest.warns(DataWarning, match="looks denoised"):
        assert read_nwb(path, series="Fluorescence/RoiResponseSeries").roi_ids.tolist() == [0, 2]
    bare = {"accepted": [False] * 5, "rejected": [False] * 5}
    build(path, [S("ophys/dff", raw_traces())], columns=[bare])
    assert read_nwb(path).n_rois == 5
    build(path, [S("ophys/dff", raw_traces())], columns=[bare | {"rejected": [True] * 5}])
    with pytest.raises(DataError, match="None of the 5 ROIs is accepted"):
        read_nwb(path)


def test_allen_behavior_leaves_invalid_rois_out(path: Path):
    rec = read_nwb(files.allen_behavior_file(path, valid=[True, True, False, True, True]))
    assert rec.roi_ids.tolist() == [1080, 1071, 1063, 1054]


def test_frames_that_suite2p_filled_with_zeros_are_left_out(path: Path):
    files.suite2p_file(path, n_planes=2, n_frames=700, padded=300)
    with pytest.warns(DataWarning, match=r"last 300 frames of processing/ophys/Fluorescence/plane1 are zeros"):
        second = read_nwb(path, plane=1)
    light, neuropil = raw_traces(700, 6)[:400, 3:], raw_traces(700, 6, seed=1)[:400, 3:] * 0.5
    np.testing.assert_allclose(second.dff, dff_from_raw(light, neuropil, sampling_rate=10.0)[0], rtol=1e-5)
    assert read_nwb(path, plane=0).n_frames == 700
    with pytest.warns(DataWarning, match="400 to 700 frames; all are cut to 400"):
        assert read_nwb(path).shape == (400, 5)
    times = np.arange(700) / 10.0 + 0.001 * np.random.default_rng(0).random(700)
    facts = {"timestamps": times, "rate": None}
    both = read_nwb(files.suite2p_file(path, n_planes=2, n_frames=700, padded=300, **facts))
    np.testing.assert_array_equal(both.timestamps, times[:400])


def test_allen_behavior_skips_one_number_per_roi(path: Path):
    rec = read_nwb(files.allen_behavior_file(path))
    assert rec.source.series == "processing/ophys/dff/traces"
    assert rec.roi_ids.tolist() == [1080, 1071, 1092, 1063, 1054]
    assert not rec.is_regular
    with pytest.raises(DataError, match="one number per ROI"):
        read_nwb(path, series="corrected_fluorescence/RMSE")
    corrected = read_nwb(path, series="corrected_fluorescence/traces")
    expected, _ = dff_from_raw(raw_traces(), sampling_rate=corrected.sampling_rate or 0.0)
    np.testing.assert_allclose(corrected.dff, expected, rtol=1e-4)


def test_allen_coding_prefers_raw_with_neuropil(path: Path):
    rec = read_nwb(files.allen_coding_file(path))
    assert rec.source.series == "processing/brain_observatory_pipeline/Fluorescence/raw_traces"
    assert rec.source.neuropil == "processing/brain_observatory_pipeline/Fluorescence/neuropil_traces"
    dff = read_nwb(path, series="DfOverF")
    np.testing.assert_array_equal(dff.dff, raw_traces() / 200 - 1)


def test_odor_planes_and_trials(path: Path):
    rec = read_nwb(files.odor_file(path))
    assert rec.n_rois == 9
    assert rec.trials is not None
    assert rec.trials["stop_time"].tolist() == [30.0, 70.0, 110.0]
    assert len(rec.select_trials().segments) == 3


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("ophys/DfOverF/imaging_plane_1", "dff"),
        ("ophys/dff", "dff"),
        ("acquisition/raw_fluorescence", "raw"),
        ("ophys/Fluorescence/plane_1", "raw"),
        ("ophys/Fluorescence/deconvolved_activity_plane_1", "deconvolved"),
        ("ophys/EventAmplitude", "deconvolved"),
        ("ophys/Fluorescence/Denoised", "denoised"),
        ("ophys/Neuropil/x", "neuropil"),
        ("ophys/activity", "other"),
    ],
)
def test_classified_by_path_and_name(path: Path, place: str, kind: str):
    (found,) = describe_nwb(build(path, [S(place, raw_traces())]))
    assert found["kind"] == kind
    assert found["read_as"] == ("traces" if kind in ("dff", "raw", "other") else "")


def test_container_type_does_not_decide(path: Path):
    build(path, [S("ophys/DfOverF/Deconvolved", raw_traces(), container=files.DfOverF)])
    with pytest.raises(DataError, match="deconvolved"):
        read_nwb(path)
    with pytest.warns(DataWarning, match="looks deconvolved"):
        read_nwb(path, series="Deconvolved")


def test_unit_and_description_tell_where_names_do_not(path: Path):
    (one,) = describe_nwb(build(path, [S("ophys/activity", raw_traces() / 200 - 1, facts={"unit": "dF/F"})]))
    assert one["kind"] == "dff"


def test_unnamed_traces_have_unknown_unit(path: Path):
    build(path, [S("ophys/activity", raw_traces())])
    with pytest.warns(DataWarning, match="unknown"):
        rec = read_nwb(path)
    assert rec.units == "unknown"
    np.testing.assert_array_equal(rec.dff, raw_traces())


# -- Which one --------------------------------------------------------------------------------------------------------


def test_several_candidates_are_listed(path: Path):
    build(path, [S("ophys/Fluorescence/left", raw_traces()), S("ophys/Fluorescence/right", raw_traces())])
    with pytest.raises(AmbiguousDataError, match=r"series='PATH'(.|\n)*Fluorescence/left(.|\n)*Fluorescence/right"):
        read_nwb(path)
    assert read_nwb(path, series="right").source.series == "processing/ophys/Fluorescence/right"
    with pytest.raises(DataError, match=r"not in the file(.|\n)*Fluorescence/left"):
        read_nwb(path, series="middle")


def test_second_channel_is_not_the_first(path: Path):
    build(path, [S("ophys/Fluorescence/plane0", raw_traces()), S("ophys/Fluorescence_chan2/plane0", raw_traces())])
    assert read_nwb(path).source.series == "processing/ophys/Fluorescence/plane0"


def test_neuropil_can_be_refused_or_named(path: Path):
    files.suite2p_file(path)
    alone = read_nwb(path, neuropil=False)
    expected, _ = dff_from_raw(raw_traces(400, 3), sampling_rate=10.0)
    np.testing.assert_allclose(alone.dff, expected[:, [0, 2]], rtol=1e-5)
    assert alone.source.neuropil is None
    named = read_nwb(path, neuropil="Deconvolved/plane0")
    assert named.source.neuropil == "processing/ophys/Deconvolved/plane0"
    files.suite2p_file(path, n_planes=2)
    with pytest.raises(DataError, match="does not fit"):
        read_nwb(path, plane=0, neuropil="Neuropil/plane1")


def test_planes_of_other_clocks_are_not_mixed(path: Path):
    rows = [[0, 1], [2, 3]]
    series = [S(f"ophys/Fluorescence/plane{p}", raw_traces(400, 2), rows[p], facts={"rate": 5.0 + p}) for p in (0, 1)]
    build(path, series, n_rows=(4,))
    with pytest.raises(AmbiguousDataError, match="one clock"):
        read_nwb(path)


def test_planes_of_unequal_length_are_cut(path: Path):
    rows = [[0, 1], [2, 3]]
    series = [S(f"ophys/Fluorescence/plane{p}", raw_traces(400 - p, 2), rows[p]) for p in (0, 1)]
    build(path, series, n_rows=(4,))
    with pytest.warns(DataWarning, match="399 to 400 frames"):
        rec = read_nwb(path)
    assert rec.shape == (399, 4)


# -- Values -----------------------------------------------------------------------------------------------------------


def test_conversion_and_offset(path: Path):
    counts = (raw_traces() * 10).astype(np.int16)
    build(path, [S("ophys/dff", counts, facts={"conversion": 0.001, "offset": -2.0})])
    rec = read_nwb(path)
    np.testing.assert_allclose(rec.dff, counts * np.float32(0.001) - 2, rtol=1e-6)
    assert rec.dff.dtype == np.float32


def test_region_in_any_order_indexes_the_table(path: Path):
    labels = ["a", "b", "c", "d", "e", "f"]
    columns = {"label": labels, "iscell": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]}
    build(path, [S("ophys/dff", raw_traces(400, 4), [5, 1, 3, 0])], n_rows=(6,), columns=[columns])
    rec = read_nwb(path)
    assert rec.roi_ids.tolist() == [5, 3, 0]
    assert rec.roi_metadata["label"].tolist() == ["f", "d", "a"]
    np.testing.assert_array_equal(rec.dff, raw_traces(400, 4)[:, [0, 2, 3]])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_transposed_data_are_turned(path: Path):
    build(path, [S("ophys/dff", raw_traces().T)])
    with pytest.warns(DataWarning, match="turned round"):
        rec = read_nwb(path)
    np.testing.assert_array_equal(rec.dff, raw_traces())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_both_axes_fit_is_refused(path: Path):
    build(path, [S("ophys/dff", raw_traces(5, 5))])
    with pytest.raises(AmbiguousDataError, match="both axes fit"):
        read_nwb(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_axis_fits(path: Path):
    build(path, [S("ophys/dff", raw_traces(400, 4))])
    with pytest.raises(DataError, match="neither axis has the 5 entries"):
        read_nwb(path)


def test_missing_samples_are_masked(path: Path):
    data, other = raw_traces(400, 3), raw_traces(400, 3, seed=1) * 0.5
    data[10:20, 1] = np.nan
    other[30, 2] = np.nan
    build(path, [S("ophys/Fluorescence/RoiResponseSeries", data), S("ophys/Fluorescence/Neuropil", other)], n_rows=(3,))
    rec = read_nwb(path)
    assert np.flatnonzero(~rec.mask[:, 1]).tolist() == list(range(10, 20))
    assert np.flatnonzero(~rec.mask[:, 2]).tolist() == [30]
    assert np.isfinite(rec.dff[rec.mask]).all()


@pytest.mark.parametrize("name", ["dff", "raw"])
def test_dead_rois_are_left_out(path: Path, name: str):
    data = raw_traces()
    data[:, 1], data[:, 3] = np.nan, 7.0
    build(path, [S(f"ophys/{name}", data)])
    with pytest.warns(DataWarning, match=r"2 of 5 ROIs carry no signal.*1, 3"):
        rec = read_nwb(path)
    assert rec.roi_ids.tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="strict=False"):
        read_nwb(path, strict=True)


def test_nothing_but_dead_rois(path: Path):
    build(path, [S("ophys/dff", np.full((400, 5), 3.0))])
    with pytest.raises(DataError, match="Nothing would be left"):
        read_nwb(path)


# -- Clock ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_rate_is_asked_for(path: Path):
    build(path, [S("ophys/dff", raw_traces(), facts={"rate": 0.0})])
    with pytest.raises(DataError, match="sampling_rate=HZ"):
        read_nwb(path)
    assert read_nwb(path, sampling_rate=12.0).sampling_rate == 12.0


def test_starting_time(path: Path):
    build(path, [S("ophys/dff", raw_traces(), facts={"rate": 20.0, "starting_time": 3.5})])
    np.testing.assert_allclose(read_nwb(path).timestamps[:2], [3.5, 3.55])


def test_rate_against_imaging_plane(path: Path):
    build(path, [S("ophys/dff", raw_traces())], rate=30.0)
    with pytest.warns(DataWarning, match=r"10 Hz, but its imaging plane 30 Hz.*nobody set its fs"):
        assert read_nwb(path).sampling_rate == 10.0
    with pytest.warns(DataWarning, match="30 Hz is used, though the file says 10"):
        assert read_nwb(path, sampling_rate=30.0).sampling_rate == 30.0
    build(path, [S("ophys/dff", raw_traces())], rate=10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_nwb(path)


def test_timestamps_that_go_back(path: Path):
    times = np.arange(400) / 10.0
    times[200] = 5.0
    build(path, [S("ophys/dff", raw_traces(), facts={"timestamps": times})])
    with pytest.raises(DataError, match="go back"):
        read_nwb(path)


def test_gaps_in_timestamps_are_segments(path: Path):
    times = np.arange(400) / 10.0
    times[200:] += 60.0
    build(path, [S("ophys/dff", raw_traces(), facts={"timestamps": times})])
    assert len(read_nwb(path).segments) == 2


# -- Cells, trials, indicator -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["is_accepted", "accepted", "Accepted", "keep", "iscell"])
@pytest.mark.parametrize("dtype", [bool, float, int])
def test_accepted_columns(path: Path, name: str, dtype: type):
    build(path, [S("ophys/dff", raw_traces())], columns=[{name: np.array([1, 0, 0, 1, 1], dtype)}])
    assert read_nwb(path).roi_ids.tolist() == [0, 3, 4]


def test_accepted_by_a_named_column(path: Path):
    build(path, [S("ophys/dff", raw_traces())], columns=[{"iscell": np.ones(5), "mine": [True, False] * 2 + [True]}])
    assert read_nwb(path, accepted="mine").roi_ids.tolist() == [0, 2, 4]
    with pytest.raises(DataError, match="no column"):
        read_nwb(path, accepted="yours")


def test_no_accepted_cell(path: Path):
    build(path, [S("ophys/dff", raw_traces())], columns=[{"iscell": np.zeros(5)}])
    with pytest.raises(DataError, match=r"None of the 5 ROIs is accepted.*accepted=False"):
        read_nwb(path)


def test_trials_by_name(path: Path):
    trials = {"start_time": [0.0, 5.0], "stop_time": [4.0, 9.0], "odor": ["pinene", "limonene"], "hit": [True, False]}
    build(path, [S("ophys/dff", raw_traces())], trials=trials)
    rec = read_nwb(path)
    assert rec.trials is not None
    assert rec.trials["odor"].tolist() == ["pinene", "limonene"]
    assert read_nwb(path, trials=None).trials is None
    with pytest.raises(DataError, match=r"'blocks' is not an intervals table.*trials"):
        read_nwb(path, trials="blocks")
    assert read_nwb(build(path, [S("ophys/dff", raw_traces())])).trials is None


def test_unknown_indicator_and_override(path: Path):
    build(path, [S("ophys/dff", raw_traces())], indicator="a new dye")
    assert read_nwb(path).indicator is None
    chosen = read_nwb(path, indicator="jGCaMP8s").indicator
    assert chosen is not None
    assert chosen.name == "jGCaMP8s"


# -- What is given ----------------------------------------------------------------------------------------------------


def test_every_kind_of_source(path: Path):
    files.suite2p_file(path)
    expected = read_nwb(path).dff
    with path.open("rb") as handle:
        np.testing.assert_array_equal(read_nwb(handle).dff, expected)
    in_memory = read_nwb(io.BytesIO(path.read_bytes()))
    assert in_memory.source.path is None
    np.testing.assert_array_equal(in_memory.dff, expected)
    with h5py.File(path, "r") as handle:
        np.testing.assert_array_equal(read_nwb(handle).dff, expected)
        assert handle.id.valid
    with NWBHDF5IO(str(path), "r") as reader:
        nwbfile = reader.read()
        from_file = read_nwb(nwbfile)
        one = nwbfile.processing["ophys"]["Fluorescence"]["plane0"]
        np.testing.assert_array_equal(read_nwb(one).dff, expected)
    assert from_file.source.path == path.resolve()


def test_file_is_closed_afterwards(path: Path):
    files.suite2p_file(path)
    rec = read_nwb(path)
    with h5py.File(path, "r+"):
        assert rec.dff.sum() != 0


def test_linked_data_are_followed(tmp_path: Path, path: Path):
    files.suite2p_file(path)
    expected = read_nwb(path).dff
    with h5py.File(path, "r+") as handle, h5py.File(tmp_path / "traces.h5", "w") as other:
        series = handle["processing/ophys/Fluorescence/plane0"]
        other["F"] = series["data"][:]  # pyright: ignore[reportIndexIssue]
        for key, value in series["data"].attrs.items():  # pyright: ignore[reportIndexIssue]
            other["F"].attrs[key] = value
        del series["data"]  # pyright: ignore[reportIndexIssue]
        series["data"] = h5py.ExternalLink("traces.h5", "F")  # pyright: ignore[reportIndexIssue]
    np.testing.assert_array_equal(read_nwb(path).dff, expected)


def test_bad_sources(tmp_path: Path, path: Path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_nwb(tmp_path / "nothing.nwb")
    with pytest.raises(DataError, match="read_suite2p"):
        read_nwb(tmp_path)
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(DataError, match="which is HDF5"):
        read_nwb(path)
    with h5py.File(path, "w") as handle:
        handle["x"] = 1
    with pytest.raises(DataError, match="not NWB"):
        read_nwb(path)
    with pytest.raises(DataError, match="Expected a path"):
        read_nwb(3)
    with pytest.raises(DataError, match="no RoiResponseSeries"):
        read_nwb(build(path, []))
    data = files.suite2p_file(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="incomplete"):
        read_nwb(path)


def test_open_for_writing_elsewhere(path: Path):
    files.suite2p_file(path)
    with files.held_open(path, "r+"), pytest.raises(DataError, match="open for writing; close it there"):
        read_nwb(path)


# -- describe_nwb -----------------------------------------------------------------------------------------------------


def test_describe(path: Path):
    found = {d["path"]: d for d in describe_nwb(files.suite2p_file(path))}
    assert {p: d["read_as"] for p, d in found.items()} == {
        "processing/ophys/Deconvolved/plane0": "",
        "processing/ophys/Fluorescence/plane0": "traces",
        "processing/ophys/Neuropil/plane0": "neuropil",
    }
    trace = found["processing/ophys/Fluorescence/plane0"]
    assert (trace["kind"], trace["shape"], trace["n_rois"], trace["n_accepted"]) == ("raw", (400, 3), 3, 2)
    assert trace["rate"] == 10.0
    allen = {d["path"]: d for d in describe_nwb(files.allen_behavior_file(path))}
    assert "one number" in allen["processing/ophys/corrected_fluorescence/r"]["problem"]
    assert allen["processing/ophys/dff/traces"]["rate"] == pytest.approx(31.0, rel=0.02)
