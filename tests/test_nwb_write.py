"""Writing results into NWB with core types: what is there afterwards, and that nothing is ever lost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import _nwb_files as files
import h5py
import numpy as np
import pytest
from _nwb_files import S, build, raw_traces
from pynwb import NWBHDF5IO, TimeSeries, validate
from pynwb.epoch import TimeIntervals
from pynwb.ophys import RoiResponseSeries

from nwb_calcium_lvm import Recording
from nwb_calcium_lvm import io as nwb_io
from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io import _atomic, describe_nwb, read_nwb
from nwb_calcium_lvm.provenance import Segments, Source
from nwb_calcium_lvm.result import InferenceResult, NamedArray

write_nwb = partial(nwb_io.write_nwb, schema="core")
plan_write = partial(nwb_io.plan_write, schema="core")
DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")


def result_of(rec: Recording, n_states: int = 3, seed: int = 0, **changes: Any) -> InferenceResult:
    """A result as an HMM gives it, with made-up numbers."""
    rng = np.random.default_rng(seed)
    n_frames, n_rois = rec.shape
    states = np.repeat(rng.integers(0, n_states, n_frames // 10 + 1), 10)[:n_frames]
    posterior = np.full((n_frames, n_states), 0.2 / max(1, n_states - 1))
    posterior[np.arange(n_frames), states] = 0.8
    facts: dict[str, Any] = {
        "arrays": {
            "states": NamedArray(states, ("time",), "", "Most likely path."),
            "state_probabilities": NamedArray(posterior, ("time", "state"), "1", "Smoothed probability of each state."),
            "firing_rates": NamedArray(rng.random((n_frames, n_rois)), ("time", "roi"), "Hz", "Expected rate"),
        },
        "parameters": {
            "ar_coefs": NamedArray(rng.random((n_rois, 2)), ("roi", "order"), "", "AR coefficients"),
            "noise_variance": NamedArray(rng.random(n_rois), ("roi",), "(dF/F)^2", "Variance of the noise"),
            "transition_matrix": NamedArray(np.eye(n_states), ("state", "state"), "1", "Rows sum to one"),
            "initial_probs": NamedArray(np.eye(n_states)[0], ("state",), "1", "Initial probabilities"),
            "state_rates": NamedArray(rng.random((n_states, n_rois)), ("state", "roi"), "Hz", "Rate in each state"),
            "decay_time": NamedArray(np.full(n_rois, np.nan), ("roi",), "s", "Decay"),
            "log_likelihood": NamedArray(np.float64(-12.5), (), "nats", "Of the traces"),
        },
        "time": rec.timestamps,
        "roi_ids": rec.roi_ids,
        "segments": rec.segments,
        "model": {
            "name": "CalciumHMM",
            "description": "Hidden states",
            "hyperparameters": {"n_states": n_states, "prior": {"alpha": 1.0}, "max_iter": None},
            "random_state": 0,
            "n_iter": 3,
            "objective": -1.5,
            "objective_history": [-3.0, -2.0, -1.5],
        },
        "converged": True,
        "time_unit": "s" if rec.has_clock else "frames",
        "sampling_rate": rec.sampling_rate,
        "source": rec.source,
        "metadata": rec.metadata,
        "roi_metadata": rec.roi_metadata,
        "is_regular": rec.is_regular,
    }
    return InferenceResult(**{**facts, **changes})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(path: Path) -> dict[str, str]:
    """Every object of a file and what it holds, the cached specifications left out."""
    found: dict[str, str] = {}

    def visit(name: str, obj: Any) -> None:
        if name.startswith("specifications"):
            return
        content = obj[()] if isinstance(obj, h5py.Dataset) and not h5py.check_ref_dtype(obj.dtype) else b""
        if isinstance(content, np.ndarray) and content.dtype.kind != "O" and content.dtype.names is None:
            content = content.tobytes()
        found[name] = f"{content!r} {sorted((k, str(v)) for k, v in obj.attrs.items() if k != 'table')}"

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found


def complaints(path: Path) -> set[tuple[str, ...]]:
    from nwbinspector import inspect_nwbfile

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            (m.check_function_name, m.object_name, m.message)
            for m in inspect_nwbfile(nwbfile_path=str(path), skip_validate=True)
        }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return files.suite2p_file(tmp_path / "session.nwb")


@pytest.fixture
def result(path: Path) -> InferenceResult:
    return result_of(read_nwb(path))


# -- What is there afterwards -----------------------------------------------------------------------------------------


def test_a_copy_beside_the_source(path: Path, result: InferenceResult):
    before, listing = digest(path), tree(path)
    out = write_nwb(result)
    assert out == path.with_name("session_calcium_lvm.nwb").resolve()
    assert digest(path) == before
    after = tree(out)
    changed = {name for name in listing if after.get(name) != listing[name]}
    assert changed == {"identifier"}  # a copy is another file
    assert sorted(p.name for p in path.parent.iterdir()) == ["session.nwb", "session_calcium_lvm.nwb"]


def test_plain_pynwb_reads_it(path: Path, result: InferenceResult):
    out = write_nwb(result)
    with NWBHDF5IO(str(out), "r") as io:
        nwbfile = io.read()
        room = nwbfile.processing["ophys"]
        rates = room["CalciumHMM_firing_rates"]
        assert isinstance(rates, RoiResponseSeries)
        np.testing.assert_array_equal(rates.data[:], result["firing_rates"])
        assert (rates.unit, rates.rate, rates.starting_time) == ("Hz", 10.0, 0.0)
        assert rates.rois.table is room["ImageSegmentation"]["PlaneSegmentation"]
        assert rates.rois.data[:].tolist() == [0, 2]
        states = room["CalciumHMM_states"]
        assert type(states) is TimeSeries
        np.testing.assert_array_equal(states.data[:], result["states"])
        assert states.unit == "n.a."
        np.testing.assert_array_equal(room["CalciumHMM_state_probabilities"].data[:], result["state_probabilities"])
        parameters = room["CalciumHMM_roi_parameters"]
        assert parameters.colnames == ("roi", "roi_id", "ar_coefs", "noise_variance")
        assert parameters["roi"].data[:].tolist() == [0, 2]
        assert parameters["roi_id"].data[:].tolist() == [0, 2]
        np.testing.assert_array_equal(parameters["ar_coefs"].data[:], result["ar_coefs"])
        assert "Unit: (dF/F)^2." in parameters["noise_variance"].description
        by_state = room["CalciumHMM_state_parameters"]
        np.testing.assert_array_equal(by_state["transition_matrix"].data[:], np.eye(3))
        np.testing.assert_array_equal(by_state["state_rates"].data[:], result["state_rates"])
        assert room["CalciumHMM_objective_history"]["objective"].data[:].tolist() == [-3.0, -2.0, -1.5]
        table = room["CalciumHMM_provenance"]
        facts = dict(zip(table["key"].data[:], table["value"].data[:], strict=True))
        assert facts["converged"] == "true"
        assert facts["hyperparameters.prior.alpha"] == "1.0"
        assert facts["source.series"] == "processing/ophys/Fluorescence/plane0"
        assert facts["parameters.log_likelihood"] == "-12.5"
        assert "decay_time" in facts["not_written"]
        assert set(json.loads(facts["contents"])) == {n for n in room.data_interfaces if n.startswith("CalciumHMM_")}
        assert nwbfile.was_generated_by[-1][0] == "nwb_calcium_lvm"


def test_arrays_are_chunked_and_compressed(path: Path, result: InferenceResult):
    with h5py.File(write_nwb(result), "r") as file:
        data: Any = file["processing/ophys/CalciumHMM_firing_rates/data"]
        assert data.compression == "gzip"
        assert data.chunks == (400, 2)


def test_bouts(path: Path):
    rec = read_nwb(path).isel(time=slice(0, 8))
    states = np.array([0, 0, 1, 1, 1, 0, 2, 2])
    posterior = np.linspace(0, 1, 24).reshape(8, 3)
    segments = Segments(np.array([[0, 4], [4, 8]]), np.array(["a", "b"]))
    arrays = {
        "states": NamedArray(states, ("time",), "", "Path"),
        "state_probabilities": NamedArray(posterior, ("time", "state"), "", "Probabilities"),
    }
    times = np.array([0.0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2, 1.3])
    out = write_nwb(result_of(rec, arrays=arrays, segments=segments, time=times))
    with NWBHDF5IO(str(out), "r") as io:
        room = io.read().processing["ophys"]
        bouts, trials = room["CalciumHMM_bouts"], room["CalciumHMM_trials"]
        assert isinstance(bouts, TimeIntervals)
        assert bouts["state"].data[:].tolist() == [0, 1, 1, 0, 2]
        assert bouts["trial"].data[:].tolist() == ["a", "a", "b", "b", "b"]
        np.testing.assert_allclose(bouts["start_time"].data[:], [0.0, 0.2, 1.0, 1.1, 1.2])
        np.testing.assert_allclose(bouts["stop_time"].data[:], [0.2, 0.4, 1.1, 1.2, 1.4])
        expected = [posterior[:2, 0].mean(), posterior[2:4, 1].mean(), posterior[4, 1], posterior[5, 0]]
        np.testing.assert_allclose(bouts["mean_probability"].data[:4], expected)
        np.testing.assert_allclose(trials["stop_time"].data[:], [0.4, 1.4])
        np.testing.assert_array_equal(room["CalciumHMM_states"].timestamps[:], times)


def test_timestamps_are_shared_with_the_source(tmp_path: Path):
    out = write_nwb(result_of(read_nwb(files.allen_behavior_file(tmp_path / "a.nwb"))))
    with h5py.File(out, "r") as file:
        link = file.get("processing/ophys/CalciumHMM_firing_rates/timestamps", getlink=True)
        assert isinstance(link, h5py.SoftLink)
        assert link.path == "/processing/ophys/dff/traces/timestamps"
    assert validate(path=str(out)) == []


def test_trials_in_another_order_are_sorted_by_time(tmp_path: Path):
    rec = read_nwb(files.odor_file(tmp_path / "a.nwb")).select_trials([2, 0])
    result = result_of(rec)
    out = write_nwb(result)
    order = np.argsort(rec.timestamps)
    with NWBHDF5IO(str(out), "r") as io:
        room = io.read().processing["ophys"]
        np.testing.assert_array_equal(room["CalciumHMM_firing_rates"].timestamps[:], rec.timestamps[order])
        np.testing.assert_array_equal(room["CalciumHMM_firing_rates"].data[:], result["firing_rates"][order])
        assert room["CalciumHMM_trials"]["trial"].data[:].tolist() == [0, 2]
    assert validate(path=str(out)) == []


def test_overlapping_trials_are_refused(tmp_path: Path):
    rec = read_nwb(files.odor_file(tmp_path / "a.nwb")).align(np.array([20.0, 22.0]), window=(0.0, 4.0))
    with pytest.raises(DataError, match=r"overlap.*do not overlap"):
        write_nwb(result_of(rec))


def test_lazy_arrays_are_read_in_slices(tmp_path: Path, path: Path):
    rec = read_nwb(path)
    with h5py.File(tmp_path / "rates.h5", "w") as store:
        store["rates"] = np.random.default_rng(0).random(rec.shape)
        lazy = NamedArray(store["rates"], ("time", "roi"), "Hz", "Rates kept on disk.")
        out = write_nwb(result_of(rec, arrays={"firing_rates": lazy}))
        with h5py.File(out, "r") as file:
            written: Any = file["processing/ophys/CalciumHMM_firing_rates/data"]
            np.testing.assert_array_equal(written[:], store["rates"][:])  # pyright: ignore[reportIndexIssue]


def test_our_own_results_are_not_read_as_traces(result: InferenceResult):
    out = write_nwb(result)
    kinds = {d["path"]: d["kind"] for d in describe_nwb(out)}
    assert kinds["processing/ophys/CalciumHMM_firing_rates"] == "result"
    assert read_nwb(out).source.series == "processing/ophys/Fluorescence/plane0"


# -- Validators -------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "suite2p": files.suite2p_file,
    "neuroconv": files.neuroconv_file,
    "allen_behavior": files.allen_behavior_file,
    "allen_coding": files.allen_coding_file,
    "odor": files.odor_file,
}


@pytest.mark.parametrize(
    ("layout", "n_states"),
    [("suite2p", 2), ("allen_behavior", 1)]
    + [pytest.param(layout, 3, marks=pytest.mark.slow) for layout in ("neuroconv", "allen_coding", "odor")],
)
def test_validators_have_nothing_to_say(tmp_path: Path, layout: str, n_states: int):
    source = LAYOUTS[layout](tmp_path / "a.nwb")
    out = write_nwb(result_of(read_nwb(source), n_states))
    assert validate(path=str(out)) == []
    assert complaints(out) <= complaints(source)


def test_validators_on_one_roi(tmp_path: Path):
    source = build(tmp_path / "a.nwb", [S("ophys/dff", raw_traces(400, 1))], n_rows=(1,))
    out = write_nwb(result_of(read_nwb(source)))
    assert validate(path=str(out)) == []
    assert complaints(out) <= complaints(source)


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="NWB_CALCIUM_LVM_DATA is not set")
def test_real_recording(tmp_path: Path):
    from scipy.io import loadmat

    traces = loadmat(Path(DATA or "") / "populations/allen_visual_coding_30hz_552195520.mat")["dF_traces"].T
    n_rois = traces.shape[1]
    source = build(tmp_path / "a.nwb", [S("ophys/DfOverF/traces", traces, facts={"rate": 30.0})], n_rows=(n_rois,))
    rec = read_nwb(source)
    np.testing.assert_array_equal(rec.dff, traces)
    out = write_nwb(result_of(rec, n_states=5), source, name="hmm5")
    assert validate(path=str(out)) == []
    assert not any(name.startswith("hmm5") for _, name, _ in complaints(out))
    np.testing.assert_array_equal(read_nwb(out).dff, traces)


# -- New files --------------------------------------------------------------------------------------------------------


def test_arrays_get_a_new_file(tmp_path: Path):
    rec = Recording(raw_traces() / 200 - 1, sampling_rate=30.0, roi_ids=["a", "b", "c", "d", "e"])
    with pytest.raises(WriteError, match=r"Pass path='NAME\.nwb'"):
        write_nwb(result_of(rec))
    out = write_nwb(result_of(rec), tmp_path / "new.nwb", source=rec)
    assert validate(path=str(out)) == []
    assert {name for _, name, _ in complaints(out)} <= {"root"}  # what nobody told us of the session
    back = read_nwb(out)
    np.testing.assert_array_equal(back.dff, rec.dff)
    assert back.roi_metadata["roi_name"].tolist() == rec.roi_ids.tolist()
    write_nwb(result_of(rec), out, name="second", overwrite=True)
    with pytest.raises(NameClashError, match="there already"):
        write_nwb(result_of(rec), out)


def test_new_file_has_no_traces_unless_given(tmp_path: Path):
    rec = Recording(raw_traces(), sampling_rate=30.0)
    out = write_nwb(result_of(rec), tmp_path / "new.nwb")
    assert [d["kind"] for d in describe_nwb(out)] == ["result"]
    with pytest.raises(DataError, match="Expected the recording the result was inferred from"):
        write_nwb(result_of(rec), tmp_path / "other.nwb", source=rec.isel(roi=[0, 1]))
    assert not (tmp_path / "other.nwb").exists()


def test_suite2p_folder_gets_a_new_file_with_its_masks(tmp_path: Path):
    plane = tmp_path / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    rois = [{"ypix": np.arange(3) + i, "xpix": np.arange(3), "lam": np.ones(3)} for i in range(4)]
    np.save(plane / "stat.npy", np.array(rois, dtype=object))
    np.save(plane / "F.npy", raw_traces(400, 4).T)
    np.save(plane / "ops.npy", np.array({"fs": 10.0}, dtype=object))
    source = Source("suite2p", plane.parent, table_rows=np.array([1, 3]), planes=np.array([0, 0]))
    rec = Recording(raw_traces(400, 2), sampling_rate=10.0, roi_ids=[1, 3], source=source)
    out = write_nwb(result_of(rec), source=rec)
    assert out == (tmp_path / "suite2p_calcium_lvm.nwb").resolve()
    assert validate(path=str(out)) == []
    with NWBHDF5IO(str(out), "r") as io:
        table = io.read().processing["ophys"]["ImageSegmentation"]["PlaneSegmentation"]
        assert table.id[:].tolist() == [1, 3]
        assert [(int(x), int(y)) for x, y, _ in table["pixel_mask"][1]] == [(0, 3), (1, 4), (2, 5)]


# -- Names ------------------------------------------------------------------------------------------------------------


def test_a_name_is_taken_once(path: Path, result: InferenceResult):
    write_nwb(result, path)
    before = digest(path)
    with pytest.raises(NameClashError, match=r"'CalciumHMM'.*already.*overwrite=True"):
        write_nwb(result, path)
    assert digest(path) == before
    write_nwb(result, path, name="other")
    assert validate(path=str(path)) == []


def test_overwrite_replaces_that_result_and_nothing_else(path: Path, result: InferenceResult):
    write_nwb(result, path)
    write_nwb(result, path, name="CalciumHMM_2")
    before = tree(path)
    smaller = {k: v for k, v in result.arrays.items() if k != "firing_rates"}
    smaller["states"] = result.arrays["states"]._replace(values=np.zeros_like(result["states"]))
    write_nwb(dataclasses.replace(result, arrays=smaller), path, overwrite=True)
    after = tree(path)
    own = [n for n in before if "/CalciumHMM_" in n and "/CalciumHMM_2" not in n]
    assert not any("/CalciumHMM_firing_rates" in n for n in after)
    others = {n: v for n, v in before.items() if n not in own}
    assert {n: after.get(n) for n in others} == others
    with h5py.File(path, "r") as file:
        assert not np.any(file["processing/ophys/CalciumHMM_states/data"][:])  # pyright: ignore[reportIndexIssue]
    assert validate(path=str(path)) == []


def test_overwriting_does_not_grow_the_file(path: Path, result: InferenceResult):
    write_nwb(result, path)
    size = path.stat().st_size
    for _ in range(3):
        write_nwb(result, path, overwrite=True)
    assert path.stat().st_size < 1.2 * size


def test_strangers_of_that_name_are_left_alone(tmp_path: Path):
    source = build(tmp_path / "a.nwb", [S("ophys/dff", raw_traces()), S("ophys/CalciumHMM_states", raw_traces())])
    before = digest(source)
    with pytest.raises(NameClashError, match="did not write"):
        write_nwb(result_of(read_nwb(source)), source, overwrite=True)
    assert digest(source) == before


def test_links_into_a_result_keep_it(path: Path, result: InferenceResult):
    write_nwb(result, path)
    with h5py.File(path, "r+") as file:
        file["scratch/mine"] = h5py.SoftLink("/processing/ophys/CalciumHMM_states")
    before = digest(path)
    with pytest.raises(NameClashError, match="scratch/mine"):
        write_nwb(result, path, overwrite=True)
    assert digest(path) == before


@pytest.mark.parametrize("name", ["a/b", "", " a", "a:b"])
def test_bad_names(result: InferenceResult, name: str):
    with pytest.raises(DataError, match="cannot be a name"):
        write_nwb(result, name=name)


def test_other_module(path: Path, result: InferenceResult):
    write_nwb(result, path, module="analysis")
    with NWBHDF5IO(str(path), "r") as io:
        assert "CalciumHMM_states" in io.read().processing["analysis"].data_interfaces


def test_plan_writes_nothing(path: Path, result: InferenceResult):
    before = digest(path)
    lines = str(plan_write(result)).splitlines()
    target = path.resolve().with_name("session_calcium_lvm.nwb")
    assert lines[0].startswith(f"{target} (create as a copy of {path.resolve()}; hdf5; needs up to 0.")
    assert lines[0].endswith(" MB free)")
    assert "processing/ophys/CalciumHMM_firing_rates: RoiResponseSeries, 400 x 2, Hz" in lines
    assert digest(path) == before
    assert list(path.parent.iterdir()) == [path]


# -- Refusals ---------------------------------------------------------------------------------------------------------


def test_unknown_options(result: InferenceResult):
    with pytest.raises(ValueError, match="Expected 'extension', or 'core'"):
        write_nwb(result, schema="own")
    with pytest.raises(ValueError, match="Expected one of"):
        write_nwb(result, backend="netcdf")


def test_no_clock(tmp_path: Path):
    with pytest.raises(DataError, match="Pass sampling_rate"):
        write_nwb(result_of(Recording(raw_traces())), tmp_path / "a.nwb")


def test_arrays_that_do_not_run_over_time(path: Path, result: InferenceResult):
    bad = {"x": NamedArray(np.zeros((3, 400)), ("state", "time"), "", "x")}
    with pytest.raises(DataError, match="Expected time first"):
        write_nwb(dataclasses.replace(result, arrays=bad))


def test_a_file_of_another_session(tmp_path: Path, result: InferenceResult):
    with h5py.File(files.suite2p_file(tmp_path / "b.nwb"), "r+") as file:
        del file["identifier"]
        file["identifier"] = "session-2"
    with pytest.raises(WriteError, match="another session"):
        write_nwb(result, source=tmp_path / "b.nwb")


def test_arrays_do_not_go_into_a_file_that_may_not_be_theirs(path: Path):
    rec = Recording(raw_traces(400, 2), sampling_rate=10.0)
    with pytest.raises(WriteError, match="does not say which ROIs"):
        write_nwb(result_of(rec), path, source=path)


@pytest.mark.parametrize("mode", ["r", "r+"])
def test_open_elsewhere(path: Path, result: InferenceResult, mode: str):
    before = digest(path)
    with files.held_open(path, mode), pytest.raises(WriteError, match="elsewhere"):
        write_nwb(result, path)
    assert digest(path) == before
    assert list(path.parent.iterdir()) == [path]


def test_read_only_folder(path: Path, result: InferenceResult):
    path.parent.chmod(0o555)
    try:
        with pytest.raises(WriteError, match="read-only"):
            write_nwb(result)
    finally:
        path.parent.chmod(0o755)
    assert list(path.parent.iterdir()) == [path]


def test_read_only_file(path: Path, result: InferenceResult):
    path.chmod(0o444)
    with pytest.raises(WriteError, match="read-only"):
        write_nwb(result, path)
    assert os.access(write_nwb(result), os.W_OK)


def test_folder_that_is_not_there(tmp_path: Path, result: InferenceResult):
    with pytest.raises(WriteError, match="no folder"):
        write_nwb(result, tmp_path / "no" / "a.nwb")


def test_full_disk(path: Path, result: InferenceResult, monkeypatch: pytest.MonkeyPatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(_atomic.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(WriteError, match="MB are needed"):
        write_nwb(result, path)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["NWBHDF5IO", "_sign", "opened"])
def test_a_failure_half_way_changes_nothing(
    path: Path, result: InferenceResult, monkeypatch: pytest.MonkeyPatch, step: str
):
    from nwb_calcium_lvm.io import _plan

    before = digest(path)
    plan = _plan.make_plan(result, path, None, None, "ophys", "core", False, "auto")

    def edit(temporary: Path) -> None:
        plan.edit(temporary, lambda n_bytes: None)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_plan, step, fail)
    with pytest.raises(WriteError, match="is as it was"):
        _atomic.write_safely(plan.target, base=plan.base, edit=edit, check=plan.check, extra_bytes=0)
    assert digest(path) == before
    assert list(path.parent.iterdir()) == [path]


# -- The file system --------------------------------------------------------------------------------------------------


def test_symbolic_links_and_permissions_stay(tmp_path: Path, path: Path, result: InferenceResult):
    path.chmod(0o640)
    link = tmp_path / "link.nwb"
    link.symlink_to(path)
    assert write_nwb(result, link) == path.resolve()
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert "CalciumHMM_states" in h5py.File(path, "r")["processing/ophys"]  # pyright: ignore[reportOperatorIssue]


def test_a_copy_in_another_folder_keeps_external_links(tmp_path: Path, path: Path):
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "traces.h5", "w") as other:
        series: Any = file["processing/ophys/Fluorescence/plane0"]
        file.copy(series["data"], other, "F")
        del series["data"]
        series["data"] = h5py.ExternalLink("traces.h5", "F")
    rec = read_nwb(path)
    (tmp_path / "far").mkdir()
    out = write_nwb(result_of(rec), tmp_path / "far" / "out.nwb")
    np.testing.assert_array_equal(read_nwb(out).dff, rec.dff)


def test_leftovers_of_a_dead_writer_are_removed(path: Path, result: InferenceResult):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = _atomic._owner().rpartition("-")[0]
    leftover = path.parent / f".session.nwb.{host}-{dead.pid}.abcd1234.tmp"
    alive = path.parent / f".session.nwb.{host}-{os.getpid()}.abcd1234.tmp"
    leftover.touch()
    alive.touch()
    write_nwb(result, path)
    assert not leftover.exists()
    assert alive.exists()


def test_the_file_is_replaced_in_one_step(path: Path, result: InferenceResult, monkeypatch: pytest.MonkeyPatch):
    before, seen = digest(path), []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        seen.append((digest(path) == before, validate(path=str(source))))
        replace(source, target)

    monkeypatch.setattr(_atomic.os, "replace", watched)
    node = path.stat().st_ino
    write_nwb(result, path)
    assert seen == [(True, [])]  # until the last step the file was as it was, and what replaced it was complete
    assert path.stat().st_ino != node


_WRITER = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from test_nwb_write import _atomic, read_nwb, result_of, write_nwb
result = result_of(read_nwb(sys.argv[1]), seed=1)
if len(sys.argv) > 3:
    setattr(_atomic, sys.argv[3], lambda *args: os.kill(os.getpid(), signal.SIGKILL))
print("ready", flush=True)
sys.stdin.readline()
write_nwb(result, sys.argv[1])
print("done", flush=True)
"""


def _killed(path: Path, delay: float | None = None, step: str | None = None) -> float:
    """Write in another process, kill it after a delay in s or at a step (or not at all), and say how long it took."""
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", _WRITER, str(path), here] + ([] if step is None else [step])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"ready"
        start = time.perf_counter()
        process.stdin.write(b"go\n")
        process.stdin.flush()
        if delay is None:
            process.stdout.readline()
        else:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        process.wait()
        return time.perf_counter() - start


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_writer_leaves_the_file_as_it_was_or_complete(tmp_path: Path):
    original = files.suite2p_file(tmp_path / "original.nwb", per_plane=60, n_frames=4000)
    path = tmp_path / "session.nwb"
    before = digest(original)
    path.write_bytes(original.read_bytes())
    whole = _killed(path)
    assert digest(path) != before
    for step in ("_take_permissions", "_flush", "_publish"):
        path.write_bytes(original.read_bytes())
        _killed(path, step=step)
        assert digest(path) == before
    for share in np.random.default_rng(0).uniform(0.02, 1.1, 5):
        path.write_bytes(original.read_bytes())
        _killed(path, share * whole)
        if digest(path) != before:
            assert validate(path=str(path)) == []
            with h5py.File(path, "r") as file:
                assert "CalciumHMM_provenance" in file["processing/ophys"]  # pyright: ignore[reportOperatorIssue]
    path.write_bytes(original.read_bytes())
    write_nwb(result_of(read_nwb(path)), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["original.nwb", "session.nwb"]
