"""Results written with the extension: which types, what refers to what, and models that come back from the file."""

from __future__ import annotations

import dataclasses
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _nwb_files as files
import h5py
import numpy as np
import pytest
from _nwb_files import S, build, raw_traces
from _results import assert_same
from ndx_calcium_lvm.testing import mock
from numcodecs.registry import codec_registry
from pynwb import NWBHDF5IO, NWBFile, TimeSeries, validate
from pynwb.testing.mock.file import mock_NWBFile
from test_nwb_write import complaints, result_of, tree

from nwb_calcium_lvm import CalciumHMM, Recording, read_nwb, read_results, write_nwb
from nwb_calcium_lvm.exceptions import (
    AmbiguousDataError,
    DataError,
    DataWarning,
    NameClashError,
    UnsafeFileError,
    WriteError,
)
from nwb_calcium_lvm.io import plan_write
from nwb_calcium_lvm.io._open import opened
from nwb_calcium_lvm.io.stored_array import StoredArray
from nwb_calcium_lvm.result import InferenceResult, NamedArray

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ENDINGS = ["nwb", "nwb.zarr"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return files.suite2p_file(tmp_path / "session.nwb")


@pytest.fixture
def result(path: Path) -> InferenceResult:
    return result_of(read_nwb(path))


def with_latents(rec: Recording) -> InferenceResult:
    """A result as a Gaussian process model gives it."""
    rng = np.random.default_rng(0)
    n_frames, n_rois = rec.shape
    latents, rates = rng.normal(size=(n_frames, 2)), rng.random((n_frames, n_rois)).astype(np.float32)
    return result_of(
        rec,
        arrays={
            "firing_rates": NamedArray(rates, ("time", "roi"), "Hz", "Posterior mean."),
            "firing_rates_std": NamedArray(rates / 9, ("time", "roi"), "Hz", "Posterior standard deviation."),
            "latents": NamedArray(latents, ("time", "latent"), "a.u.", "Posterior mean."),
            "latents_std": NamedArray(latents**2, ("time", "latent"), "a.u.", "Posterior standard deviation."),
            "initial_condition": NamedArray(np.eye(2), ("trial", "factor"), "a.u.", "At the start of each trial."),
        },
        parameters={
            "loadings": NamedArray(rng.normal(size=(n_rois, 2)), ("roi", "latent"), "1", "Of each ROI on each latent."),
            "timescales": NamedArray(np.array([0.5, 2.0]), ("latent",), "s", "Of each latent."),
        },
    )


def small(**options: Any) -> CalciumHMM:
    return CalciumHMM(**{"n_states": 2, "n_init": 1, "max_iter": 4, "random_state": 0, **options})


# -- Types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_types_and_what_refers_to_what(path: Path, ending: str):
    rec = read_nwb(path)
    out = write_nwb(with_latents(rec), path.with_name(f"out.{ending}"), name="gpfa")
    write_nwb(hmm_result(rec), out, name="hmm", overwrite=True)
    with opened(out) as (nwbfile, _, _):
        ophys = nwbfile.processing["ophys"]
        source = ophys["Fluorescence"]["plane0"]
        gpfa, hmm = ophys["gpfa"], ophys["hmm"]
        kinds = {
            k: type(v).__name__ for r in (gpfa, hmm) for k, v in {**r.inferred_series, **r.inferred_roi_series}.items()
        }
        assert kinds == {
            "firing_rates": "SpikeRateSeries",
            "firing_rates_std": "SpikeRateSeries",
            "latents": "LatentSeries",
            "latents_std": "LatentSeries",
            "states": "DiscreteStateSeries",
            "state_probabilities": "StateProbabilitySeries",
            "expected_spikes": "SpikeCountSeries",
        }
        assert gpfa.inferred_series["latents"].posterior_std is gpfa.inferred_series["latents_std"]
        rates = gpfa.inferred_roi_series["firing_rates"]
        assert rates.posterior_std is gpfa.inferred_roi_series["firing_rates_std"]
        assert rates.source_series is source
        assert rates.model is gpfa.model
        assert gpfa.model.source_series is source
        assert rates.rois.table is source.rois.table
        np.testing.assert_array_equal(rates.rois.data[:], [0, 2])  # the second is no cell
        assert list(gpfa.labeled_arrays) == ["initial_condition"]
        states = hmm.inferred_series["states"]
        assert states.probabilities is hmm.inferred_series["state_probabilities"]
        assert hmm.discrete_state_intervals["bouts"].source_series is states
        column = gpfa.roi_parameters["loadings"]
        assert (column.unit, list(column.dims)) == ("1", ["roi", "latent"])
        assert gpfa.model.labeled_arrays["timescales"].unit == "s"
        assert gpfa.trace_sources["source"].series is source
        assert nwbfile.was_generated_by[:].tolist()[-1][0] in ("nwb_calcium_lvm", b"nwb_calcium_lvm")


def hmm_result(rec: Recording) -> InferenceResult:
    result = result_of(rec)
    spikes = np.zeros(rec.shape)
    arrays = {
        "states": result.arrays["states"]._replace(unit="state"),
        "state_probabilities": result.arrays["state_probabilities"]._replace(unit="probability"),
        "expected_spikes": NamedArray(spikes, ("time", "roi"), "spikes", "Of each frame."),
    }
    return dataclasses.replace(result, arrays=arrays)


def test_series_are_chunked_for_frames_and_rois(tmp_path: Path):
    rec = Recording(np.zeros((4000, 300), np.float32), sampling_rate=30.0)
    rates = NamedArray(np.ones((4000, 300), np.float32), ("time", "roi"), "Hz", "Rates.")
    out = write_nwb(result_of(rec, arrays={"firing_rates": rates}), tmp_path / "a.nwb")
    with h5py.File(out, "r") as file:
        data: Any = file["processing/ophys/CalciumHMM/firing_rates/data"]
        assert data.chunks is not None
        assert data.chunks[0] < 4000
        assert data.chunks[1] < 300
        assert data.compression == "gzip"


def test_traces_of_a_new_file_are_linked(tmp_path: Path):
    rec = Recording(raw_traces() / 200 - 1, sampling_rate=30.0)
    out = write_nwb(result_of(rec), tmp_path / "a.nwb", source=rec)
    with NWBHDF5IO(str(out), "r") as io:
        ophys = io.read().processing["ophys"]
        assert ophys["CalciumHMM"].inferred_roi_series["firing_rates"].source_series is ophys["DfOverF"]
    assert validate(path=str(out)) == []


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("n_rois", [1, 5])
def test_validators_have_nothing_to_say(tmp_path: Path, ending: str, n_rois: int):
    source = build(tmp_path / "a.nwb", [S("ophys/dff", raw_traces(400, n_rois))], n_rows=(n_rois,))
    rec = read_nwb(source)
    out = write_nwb(with_latents(rec), tmp_path / f"out.{ending}", name="gpfa")
    write_nwb(small().fit(rec).infer(rec), out, overwrite=True)
    assert complaints(out) <= complaints(source)
    with opened(out) as (nwbfile, _, _):
        assert validate(io=nwbfile.read_io) == []


def test_pynapple_finds_it(path: Path):
    nap = pytest.importorskip("pynapple")
    rec = read_nwb(path)
    result = hmm_result(rec)
    out = write_nwb(dataclasses.replace(result, arrays=result.arrays | with_latents(rec).arrays))
    found = nap.load_file(str(out))
    rates = found["firing_rates"]
    np.testing.assert_allclose(rates.t, rec.timestamps, atol=1e-9)
    np.testing.assert_array_equal(rates.values, with_latents(rec)["firing_rates"])
    np.testing.assert_array_equal(found["states"].values, result["states"])
    assert found["latents"].shape == (rec.n_frames, 2)
    bouts = found["bouts"]
    assert bouts.start[0] == 0.0
    assert bouts.end[-1] == pytest.approx(rec.n_frames / rec.sampling_rate)


# -- Clocks -----------------------------------------------------------------------------------------------------------


def test_trials_in_another_order_come_back_in_theirs_on_the_clock_of_the_session(tmp_path: Path):
    rec = read_nwb(files.odor_file(tmp_path / "a.nwb")).select_trials([2, 0])
    result = result_of(rec)
    out = write_nwb(result)
    with NWBHDF5IO(str(out), "r") as io:
        nwbfile: Any = io.read()
        found = nwbfile.processing["ophys"]["CalciumHMM"]
        times = found.inferred_roi_series["firing_rates"].timestamps[:]
        np.testing.assert_array_equal(times, np.sort(rec.timestamps))
        assert found.trials.table is nwbfile.trials
        assert list(found.trials.data[:]) == [2, 0]
        assert found.segments["trial"].data[:].tolist() == [0, 2]
        starts = nwbfile.trials["start_time"].data[:][[0, 2]]
        np.testing.assert_allclose(found.segments["start_time"].data[:], starts, atol=1 / 4.53)
    back = read_results(out, "CalciumHMM")
    np.testing.assert_array_equal(back.time, rec.timestamps)
    np.testing.assert_array_equal(back.trial_id, rec.trial_id)
    np.testing.assert_array_equal(back["firing_rates"], result["firing_rates"])
    lazy = read_results(out, "CalciumHMM", lazy=True)
    np.testing.assert_array_equal(lazy["firing_rates"], result["firing_rates"])
    assert validate(path=str(out)) == []


def test_timestamps_are_shared_with_the_source(tmp_path: Path):
    out = write_nwb(result_of(read_nwb(files.allen_behavior_file(tmp_path / "a.nwb"))))
    with h5py.File(out, "r") as file:
        link = file.get("processing/ophys/CalciumHMM/firing_rates/timestamps", getlink=True)
        assert isinstance(link, h5py.SoftLink)
        assert link.path == "/processing/ophys/dff/traces/timestamps"


@pytest.mark.parametrize("what", ["overlapping windows", "no clock"])
def test_what_has_no_time_in_nwb_is_kept_as_arrays(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture):
    if what == "no clock":
        rec = Recording(raw_traces() / 200 - 1)
    else:
        rec = read_nwb(files.odor_file(tmp_path / "a.nwb")).align(np.array([20.0, 22.0]), window=(0.0, 4.0))
    result = result_of(rec)
    out = write_nwb(result, tmp_path / "out.nwb")
    assert "Stored as plain arrays" in caplog.text
    with NWBHDF5IO(str(out), "r") as io:
        found: Any = io.read().processing["ophys"]["CalciumHMM"]  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
        assert not found.inferred_series
        assert not found.inferred_roi_series
        assert {"time", "states", "firing_rates"} <= set(found.labeled_arrays)
    assert_same(result, read_results(out, "CalciumHMM"))
    assert validate(path=str(out)) == []


def test_rois_of_several_planes_in_any_order(tmp_path: Path):
    rec = read_nwb(files.odor_file(tmp_path / "a.nwb")).isel(roi=[8, 0, 4, 2, 7])
    assert rec.source.series is not None
    assert rec.source.series.count(" + ") == 2
    result = result_of(rec)
    assert_same(result, read_results(write_nwb(result), "CalciumHMM"))


def test_planes_with_clocks_of_their_own_and_several_recordings(tmp_path: Path):
    series = [
        S("ophys/DfOverF/plane0", raw_traces(400, 3), table=0, facts={"rate": 10.0, "starting_time": 0.0}),
        S("ophys/DfOverF/plane1", raw_traces(380, 2), table=1, facts={"rate": 10.0, "starting_time": 0.05}),
        S("acquisition/second_recording", raw_traces(300, 2), table=1, facts={"rate": 15.0, "starting_time": 600.0}),
    ]
    source = build(tmp_path / "a.nwb", series, n_rows=(3, 2))
    results = {}
    for name in ("plane0", "plane1", "second_recording"):
        results[name] = result_of(read_nwb(source, series=name))
        write_nwb(results[name], source, name=name)
    back = read_results(source)
    assert set(back) == set(results)
    for name, result in results.items():
        assert_same(result, back[name])
    assert [r.time[0] for r in back.values()] == [0.0, 0.05, 600.0]
    assert [r.sampling_rate for r in back.values()] == [10.0, 10.0, 15.0]
    assert [len(r.roi_ids) for r in back.values()] == [3, 2, 2]
    assert back["plane1"].source.plane_segmentation == "processing/ophys/ImageSegmentation/PlaneSegmentation1"
    assert validate(path=str(source)) == []


# -- Several results in one file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_overwrite_replaces_exactly_that_result(path: Path, ending: str):
    rec = read_nwb(path)
    out = path.with_name(f"out.{ending}")
    first, second, third = (result_of(rec, seed=seed) for seed in range(3))
    write_nwb(first, out, name="first")
    write_nwb(second, out, name="second", overwrite=True)
    assert not np.array_equal(first["firing_rates"], third["firing_rates"])
    with pytest.raises(NameClashError, match="overwrite=True"):
        write_nwb(third, out, name="first")
    write_nwb(third, out, name="first", overwrite=True)
    back = read_results(out)
    assert list(back) == ["first", "second"]
    assert_same(third, back["first"])
    assert_same(second, back["second"])
    np.testing.assert_array_equal(read_nwb(out).dff, rec.dff)


def test_the_rest_of_the_file_is_untouched(path: Path, result: InferenceResult):
    write_nwb(result, path, name="first")
    before = tree(path)
    write_nwb(result_of(read_nwb(path), seed=1), path, name="second")
    after = tree(path)
    assert {k for k in before if after.get(k) != before[k]} == set()
    assert all(k.startswith("processing/ophys/second") for k in set(after) - set(before))


@pytest.mark.parametrize(("old", "new"), [("core", "extension"), ("extension", "core")])
def test_a_result_is_the_same_in_either_schema(path: Path, result: InferenceResult, old: Any, new: Any):
    write_nwb(result, path, schema=old)
    before = path.read_bytes()
    with pytest.raises(NameClashError, match="result called 'CalciumHMM'"):
        write_nwb(result, path, schema=new)
    assert path.read_bytes() == before
    write_nwb(result, path, schema=new, overwrite=True)
    with h5py.File(path, "r") as file:
        names = {name for name in file["processing/ophys"] if name.startswith("CalciumHMM")}  # pyright: ignore[reportGeneralTypeIssues]
    assert (names == {"CalciumHMM"}) if new == "extension" else ("CalciumHMM_states" in names)


def test_strangers_of_that_name_are_left_alone(tmp_path: Path):
    source = build(tmp_path / "a.nwb", [S("ophys/CalciumHMM/raw", raw_traces())])
    before = source.read_bytes()
    with pytest.raises(NameClashError, match="did not write"):
        write_nwb(result_of(read_nwb(source)), source, overwrite=True)
    assert source.read_bytes() == before


def test_the_same_name_in_two_modules(path: Path, result: InferenceResult):
    write_nwb(result, path)
    write_nwb(result, path, module="behavior")
    assert list(read_results(path)) == ["behavior/CalciumHMM", "ophys/CalciumHMM"]
    assert_same(result, read_results(path, "behavior/CalciumHMM"))


def test_a_copy_has_an_identifier_of_its_own_and_is_known_as_the_session(path: Path, result: InferenceResult):
    one, two = write_nwb(result), write_nwb(result, path.with_name("two.nwb"))

    def identifier(of: Path) -> str:
        with h5py.File(of, "r") as file:
            return file["identifier"].asstr()[()]  # pyright: ignore[reportAttributeAccessIssue]

    names = [identifier(p) for p in (path, one, two)]
    assert len(set(names)) == 3
    assert all(name.startswith("session-1") for name in names)
    write_nwb(result, one, name="again", overwrite=True)
    assert identifier(one) == names[1]
    copy = write_nwb(result_of(read_nwb(two)), path.with_name("three.nwb"), name="b")
    assert identifier(copy).startswith("session-1_calcium_lvm_")
    assert identifier(copy).count("calcium_lvm") == 1


# -- Models that come back --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("observation", ["calcium", "gaussian"])
def test_a_fitted_model_predicts_the_same(path: Path, ending: str, observation: str):
    rec = read_nwb(path)
    hmm = small(observation=observation).fit(rec)
    out = write_nwb(hmm.infer(rec), path.with_name(f"out.{ending}"), name="mine")
    for copy in (CalciumHMM.from_nwb(out), CalciumHMM.from_nwb(str(out), "mine")):
        assert copy.get_params() == hmm.get_params()
        learned = {k: v for k, v in vars(hmm).items() if k.endswith("_")}
        assert {k for k in vars(copy) if k.endswith("_")} == set(learned)
        for key, value in learned.items():
            np.testing.assert_array_equal(getattr(copy, key), value)
            assert type(getattr(copy, key)) is type(value), key
        for method in ("predict_proba", "predict", "score"):
            np.testing.assert_array_equal(getattr(copy, method)(rec), getattr(hmm, method)(rec))


def test_which_model_to_restore(path: Path, result: InferenceResult):
    rec = read_nwb(path)
    fitted = small().fit(rec).infer(rec)
    write_nwb(result, path, name="without")
    with pytest.raises(DataError, match=r"no CalciumHMM to restore. It has: without \(no fitted model\)"):
        CalciumHMM.from_nwb(path)
    write_nwb(fitted, path, name="one")
    assert CalciumHMM.from_nwb(path).n_states == 2
    write_nwb(fitted, path, name="two")
    with pytest.raises(AmbiguousDataError, match=r"one, two\. Pass name="):
        CalciumHMM.from_nwb(path)
    with pytest.raises(DataError, match=r"no result called 'three'\. It has: one, two, without"):
        CalciumHMM.from_nwb(path, "three")


def test_a_model_of_a_later_format_is_refused(path: Path):
    rec = read_nwb(path)
    write_nwb(small().fit(rec).infer(rec), path)
    with h5py.File(path, "r+") as file:
        header: Any = file["processing/ophys/CalciumHMM/model/estimator_state/header_json"]
        header[()] = json.dumps({**json.loads(header.asstr()[()]), "version": 99})
    with pytest.raises(DataError, match="version 99"):
        CalciumHMM.from_nwb(path)


def test_a_model_that_json_cannot_hold_is_left_out_and_said(path: Path, caplog: pytest.LogCaptureFixture):
    rec = read_nwb(path)
    result = small().fit(rec).infer(rec)
    assert result.fitted is not None
    result.fitted.header["parameters"]["tol"] = object()
    write_nwb(result, path)
    assert "The estimator is not stored" in caplog.text
    assert read_results(path, "CalciumHMM").fitted is None


# -- Reading back -----------------------------------------------------------------------------------------------------


def test_files_without_results(path: Path, result: InferenceResult):
    assert read_results(path) == {}
    with pytest.raises(DataError, match=r"no result called 'CalciumHMM'\. It has: none"):
        read_results(path, "CalciumHMM")
    write_nwb(result, path, schema="core")
    with pytest.raises(DataError, match="written with schema='core'"):
        read_results(path, "CalciumHMM")


def test_results_that_others_made(tmp_path: Path):
    nwbfile: NWBFile = mock_NWBFile()
    module = nwbfile.create_processing_module("ophys", "Processed.")
    mock.mock_CalciumLVMResults(module=module)
    path = tmp_path / "a.nwb"
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    result = read_results(path, "CalciumHMM")
    assert set(result.arrays) == {
        "initial_condition",
        "inputs",
        "latents",
        "latents_std",
        "states",
        "state_probabilities",
    }
    assert result.parameters["decay_time"].unit == "s"
    with h5py.File(path, "r+") as file:
        del file["processing/ophys/CalciumHMM/model/details_json"]
        del file["processing/ophys/CalciumHMM/roi_ids"]
    with pytest.raises(DataError, match="does not hold what this package writes"):
        read_results(path, "CalciumHMM")


@pytest.mark.parametrize("ending", ENDINGS)
def test_lazy_arrays(tmp_path: Path, ending: str):
    rec = read_nwb(files.odor_file(tmp_path / "a.nwb")).select_trials([2, 0])
    result = result_of(rec)
    out = write_nwb(result, tmp_path / f"out.{ending}")
    lazy = read_results(out, "CalciumHMM", lazy=True)
    stored, whole = lazy["firing_rates"], result["firing_rates"]
    assert isinstance(stored, StoredArray)
    assert (stored.shape, stored.dtype, stored.ndim, len(stored)) == (whole.shape, whole.dtype, 2, len(whole))
    n = len(whole)
    for key in (
        slice(None), 3, -1, slice(5, 20), slice(None, None, -3), slice(n // 2 - 5, n // 2 + 5), slice(0, 0),
        [4, 2, n - 1], whole[:, 0] > 0.5, (slice(None), 1), (slice(2, 9), slice(0, 2)), (3, 1), (slice(None), [2, 0]),
        (slice(None), slice(None, None, -1)), Ellipsis, (slice(None), None),
    ):  # fmt: skip
        np.testing.assert_array_equal(stored[key], whole[key], err_msg=str(key))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stored))[:], whole)
    with pytest.raises(IndexError):
        stored[n]
    assert "firing_rates" in repr(stored)
    assert_same(result, lazy)
    # From one file into another, without anything being loaded whole.
    again = write_nwb(lazy, tmp_path / f"again.{ending}")
    assert_same(result, read_results(again, "CalciumHMM"))
    assert lazy.to_pandas().shape[0] == n


def test_one_result_that_cannot_be_read_does_not_hide_the_others(path: Path, result: InferenceResult):
    rec = read_nwb(path)
    write_nwb(small().fit(rec).infer(rec), path, name="later")
    write_nwb(result, path, name="damaged")
    write_nwb(result, path, name="whole")
    with h5py.File(path, "r+") as file:
        ophys: Any = file["processing/ophys"]
        header = ophys["later/model/estimator_state/header_json"]
        header[()] = json.dumps({**json.loads(header.asstr()[()]), "version": 99})
        ophys["damaged/model/details_json"][()] = "no json"
    with pytest.warns(DataWarning, match="'damaged'.*It is left out"):
        back = read_results(path)
    assert set(back) == {"later", "whole"}
    assert_same(result, back["whole"])


def test_a_file_that_was_moved_is_its_own_source(path: Path, result: InferenceResult):
    write_nwb(result, path, name="first")
    moved = path.rename(path.with_name("renamed.nwb"))
    assert read_results(moved, "first").source.path == moved.resolve()
    back = read_results(write_nwb(result, moved, source=moved, name="second"), "second")
    assert back.source.path == moved.resolve()


def test_metadata_with_odd_keys_and_models_without_a_name(path: Path, result: InferenceResult):
    odd = dataclasses.replace(
        result, metadata={**result.metadata, "sites": {np.int64(1): "V1", 2: ("a", "b")}}, model={}
    )
    back = read_results(write_nwb(odd, name="odd"), "odd")
    assert back.metadata["sites"] == {"1": "V1", "2": ["a", "b"]}
    assert back.model == {}


def test_names_that_would_clash_inside(path: Path, result: InferenceResult):
    rates = result.arrays["firing_rates"]
    odd = dataclasses.replace(result, arrays=dict.fromkeys(("x", "x_std", "x_std_std", "source_0", "bouts"), rates))
    assert_same(odd, read_results(write_nwb(odd), "CalciumHMM"))


# -- Refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (NamedArray(np.zeros(5), ("time",), "1", "x"), r"shape \(5,\) and axes \('time',\). Expected .*400 frames"),
        (NamedArray(np.zeros((400, 9)), ("time", "roi"), "1", "x"), "2 ROIs along roi"),
        (NamedArray(np.zeros(400), ("time", "roi"), "1", "x"), "a name for each axis"),
        (NamedArray(np.zeros(400, complex), ("time",), "1", "x"), "dtype complex128. Expected whole numbers"),
        (NamedArray(np.full(400, None), ("time",), "1", "x"), "dtype object"),
        (NamedArray(np.zeros(400, np.float16), ("time",), "1", "x"), "floats of 32 or 64 bits"),
    ],
)
def test_arrays_that_contradict_the_result(path: Path, result: InferenceResult, array: NamedArray, message: str):
    before = path.read_bytes()
    with pytest.raises(DataError, match=message):
        write_nwb(dataclasses.replace(result, arrays={"a": array}), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "parameter", [NamedArray(np.zeros(7), ("roi",), "1", "x"), NamedArray(np.zeros((2, 2)), ("roi",), "1", "x")]
)
def test_parameters_that_contradict_the_result(path: Path, result: InferenceResult, parameter: NamedArray):
    with pytest.raises(DataError, match="The parameter 'p' has"):
        write_nwb(dataclasses.replace(result, parameters={"p": parameter}), path)


def test_a_recording_of_another_time_is_not_added(tmp_path: Path):
    one = Recording(raw_traces() / 200 - 1, sampling_rate=30.0)
    out = write_nwb(result_of(one), tmp_path / "a.nwb", source=one)
    write_nwb(result_of(one.isel(time=slice(10, 90))), out, name="part", overwrite=True)
    for other in (
        Recording(raw_traces() / 200 - 1, sampling_rate=10.0),
        Recording(raw_traces(900) / 200 - 1, sampling_rate=30.0),
    ):
        with pytest.raises(WriteError, match="is of another recording"):
            write_nwb(result_of(other), out, name="other", overwrite=True)


@pytest.mark.parametrize("name", ["DfOverF", "ImageSegmentation"])
def test_names_that_a_new_file_needs(tmp_path: Path, name: str):
    rec = Recording(raw_traces() / 200 - 1, sampling_rate=30.0)
    with pytest.raises(NameClashError, match=f"has {name} beside"):
        write_nwb(result_of(rec), tmp_path / "a.nwb", source=rec, name=name)


def test_core_types_under_names_that_clash(path: Path, result: InferenceResult):
    states = result.arrays["states"]
    with pytest.raises(DataError, match="CalciumHMM_bouts would be written twice"):
        write_nwb(dataclasses.replace(result, arrays={"states": states, "bouts": states}), path, schema="core")
    odd = dataclasses.replace(result, arrays={"a; b": states})
    write_nwb(odd, path, schema="core")
    write_nwb(odd, path, schema="core", overwrite=True)


def test_pickled_numbers_in_a_store_are_not_read(path: Path, result: InferenceResult):
    out = write_nwb(result, path.with_name("a.zarr"))
    lazy = read_results(out, "CalciumHMM", lazy=True)
    facts = out / "processing/ophys/CalciumHMM/firing_rates/data/.zarray"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "filters": [{"id": "pickle", "protocol": 5}]}))
    with pytest.raises(UnsafeFileError, match="pickled numbers"):
        lazy["firing_rates"][:3]


def test_a_preview_writes_nothing(path: Path, result: InferenceResult):
    write_nwb(result, path)
    before = path.read_bytes()
    preview = plan_write(result, path, overwrite=True)
    assert preview.base == preview.path == path.resolve()
    assert preview.replaced == ["processing/ophys/CalciumHMM"]
    assert len(before) < preview.needed_bytes < preview.free_bytes
    lines = str(preview).splitlines()
    assert "(add to; hdf5; needs up to " in lines[0]
    assert "processing/ophys/CalciumHMM/firing_rates: SpikeRateSeries, 400 x 2, Hz" in lines
    assert path.read_bytes() == before
    assert plan_write(result, path.with_name("b.zarr"), name="b").format == "zarr"


def test_a_progress_bar_is_fed_as_slices_are_written(path: Path, result: InferenceResult, capsys: Any):
    from nwb_calcium_lvm.io._plan import make_plan

    told: list[int] = []
    plan = make_plan(result, path.with_name("b.nwb"), None, None, "ophys", "extension", False, "auto")
    plan.edit(path.with_name("copied.nwb").write_bytes(path.read_bytes()) and path.with_name("copied.nwb"), told.append)
    assert sum(told) == sum(a.values.nbytes for a in result.arrays.values())
    write_nwb(result, path, verbose=1)
    assert capsys.readouterr().out == ""


# -- Odd files and odd results ----------------------------------------------------------------------------------------


def test_windows_that_are_no_trials_do_not_link_to_the_trials_of_their_numbers(tmp_path: Path):
    rec = read_nwb(files.odor_file(tmp_path / "a.nwb"))
    assert rec.trials is not None
    starts = rec.trials["start_time"][1:]
    out = write_nwb(result_of(rec.align(starts, window=(0.0, 2.0))), name="events")  # numbered from 0 as they come
    write_nwb(result_of(rec.align(window=(0.0, 2.0))), out, name="trials", overwrite=True)
    with opened(out) as (nwbfile, _, _):
        assert nwbfile.processing["ophys"]["events"].trials is None
        assert nwbfile.processing["ophys"]["trials"].trials.data[:].tolist() == list(range(len(starts) + 1))


@pytest.mark.parametrize("ending", ENDINGS)
def test_trials_that_refer_to_a_result_keep_it(path: Path, result: InferenceResult, ending: str):
    write_nwb(result, path, name="a")
    with NWBHDF5IO(str(path), "r+") as io:
        nwbfile: Any = io.read()
        for start in (1.0, 3.0):
            series = nwbfile.processing["ophys"]["a"].inferred_roi_series["firing_rates"]
            nwbfile.add_trial(start, start + 1, timeseries=[series])
        io.write(nwbfile)
    out = write_nwb(result, path.with_name(f"out.{ending}"), name="b")
    with pytest.raises(NameClashError, match=r"links into the result .* intervals/trials/timeseries"):
        write_nwb(result, out, name="a", overwrite=True)


def test_a_short_identifier_of_fixed_length_is_not_cut_off(path: Path, result: InferenceResult):
    with h5py.File(path, "r+") as file:
        del file["identifier"]
        file["identifier"] = np.bytes_("session-1")
    with h5py.File(write_nwb(result), "r") as file:
        assert file["identifier"].asstr()[()].startswith("session-1_calcium_lvm_")  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "options", [{"n_states": np.int64(2)}, {"random_state": np.random.RandomState(0)}], ids=["of NumPy", "generator"]
)
def test_a_model_with_arguments_that_save_takes_is_stored(path: Path, options: dict[str, Any]):
    rec = read_nwb(path)
    hmm = small(**options).fit(rec)
    write_nwb(hmm.infer(rec), path)
    np.testing.assert_array_equal(CalciumHMM.from_nwb(path).predict(rec), hmm.predict(rec))


@pytest.mark.parametrize("dims", [("time",), ("roi",), ("axis",)])
def test_names_of_fields_are_names_like_others(path: Path, result: InferenceResult, dims: tuple[str, ...]):
    names = ["description", "neurodata_type", "log_likelihood", "converged", "time_unit", "object_id", "model_class"]
    sizes = {"time": len(result.time), "roi": len(result.roi_ids), "axis": 3}
    arrays = {k: NamedArray(np.arange(sizes[dims[0]]) + 3.0, dims, "", "Values.") for k in names}
    kept = {**result.model, "log_likelihood": -12.5}
    odd = dataclasses.replace(result, arrays=arrays, model=kept, parameters={} if dims == ("time",) else arrays)
    assert_same(odd, read_results(write_nwb(odd), "CalciumHMM"))


def test_a_stranger_named_like_a_table_of_ours(path: Path, result: InferenceResult):
    with NWBHDF5IO(str(path), "r+") as io:
        nwbfile: Any = io.read()
        nwbfile.processing["ophys"].add(TimeSeries(name="CalciumHMM_provenance", data=[1.0, 2.0], unit="s", rate=1.0))
        io.write(nwbfile)
    write_nwb(result, path)
    assert_same(result, read_results(path, "CalciumHMM"))


def test_traces_of_trials_in_another_order_are_written_in_order_of_time(tmp_path: Path):
    whole = Recording(
        raw_traces() / 200 - 1, sampling_rate=10.0, trials={"start_time": [5.0, 20.0], "stop_time": [10.0, 24.0]}
    )
    rec = whole.select_trials([1, 0])
    out = write_nwb(result_of(rec), tmp_path / "a.nwb", source=rec)
    again = read_nwb(out)
    assert again.timestamps[0] == 5.0
    np.testing.assert_allclose(again.dff, whole.select_trials([0, 1]).dff)


@pytest.mark.parametrize("what", ["overlapping windows", "no clock"])
def test_traces_without_times_that_increase_are_refused(tmp_path: Path, what: str):
    rec = Recording(raw_traces() / 200 - 1, sampling_rate=None if what == "no clock" else 10.0)
    if what == "overlapping windows":
        rec = rec.align([20.0, 22.0], window=(0.0, 4.0))
    with pytest.raises(DataError, match="increasing times"):
        write_nwb(result_of(rec), tmp_path / "a.nwb", source=rec)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_lazy_result_is_copied_within_its_file(path: Path, result: InferenceResult, ending: str):
    out = write_nwb(result, path.with_name(f"out.{ending}"), name="a")
    lazy = read_results(out, "a", lazy=True)
    write_nwb(lazy, out, name="b", overwrite=True)
    write_nwb(lazy, out, name="a", overwrite=True)
    back = read_results(out)
    assert_same(result, back["a"])
    assert_same(result, back["b"])


def test_a_lazy_array_knows_that_its_result_was_replaced(path: Path, result: InferenceResult):
    write_nwb(result, path)
    lazy = read_results(path, "CalciumHMM", lazy=True)
    write_nwb(result_of(read_nwb(path).isel(time=slice(100))), path, overwrite=True)
    with pytest.raises(DataError, match="replaced since"):
        lazy["firing_rates"][:5]


def test_lazy_arrays_pair_lists_as_numpy_does(path: Path, result: InferenceResult):
    stored, whole = read_results(write_nwb(result), "CalciumHMM", lazy=True)["firing_rates"], result["firing_rates"]
    for key in (([0, 1], [0, 1]), np.array([[1, 2], [3, 4]]), whole > 0.5, ([0, 1], 1)):
        np.testing.assert_array_equal(stored[key], whole[key])


def test_stores_are_read_in_several_threads(path: Path, result: InferenceResult):
    out = write_nwb(result, path.with_name("out.nwb.zarr"))
    before = dict(codec_registry)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read_results(out, "CalciumHMM")["states"], range(8)))
    assert all(np.array_equal(states, result["states"]) for states in found)
    assert dict(codec_registry) == before


def test_damaged_results_are_said_to_be_so(path: Path, result: InferenceResult):
    write_nwb(result, path)
    with h5py.File(path, "r+") as file:
        file["processing/ophys/CalciumHMM/segment_bounds"][:] = [[5, 4000]]  # pyright: ignore[reportIndexIssue]
    with pytest.raises(DataError, match="does not hold what this package writes"):
        read_results(path, "CalciumHMM")


def test_a_folder_is_no_place_for_a_file(path: Path, result: InferenceResult):
    with pytest.raises(WriteError, match="is a folder"):
        write_nwb(result, path.parent, overwrite=True)


def test_the_preview_names_the_windows_as_the_file_does(tmp_path: Path):
    result = result_of(read_nwb(files.odor_file(tmp_path / "a.nwb")).select_trials())
    assert "processing/ophys/CalciumHMM/segments: SegmentIntervals, 3 rows" in plan_write(result).objects
