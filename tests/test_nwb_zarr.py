"""NWB in Zarr stores: read like HDF5, and exported whole in every direction."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import _nwb_files as files
import numpy as np
import pynwb
import pytest
from pynwb import NWBFile, validate
from pynwb.behavior import BehavioralTimeSeries
from pynwb.image import ImageSeries
from pynwb.testing import TestCase
from sklearn.base import BaseEstimator

pytest.importorskip("hdmf_zarr")

import ndx_calcium_lvm.testing.mock as mock

from nwb_calcium_lvm import read_nwb
from nwb_calcium_lvm._core.coerce import coerce
from nwb_calcium_lvm.cli._reading import Reading
from nwb_calcium_lvm.exceptions import DataError, UnsafeFileError, WriteError
from nwb_calcium_lvm.io import _zarr_pickle, describe_nwb, zarr_store
from nwb_calcium_lvm.io._classes import GenericDataChunkIterator
from nwb_calcium_lvm.io._open import opened
from nwb_calcium_lvm.io.zarr_store import export, format_of, is_store, remove, set_identifier, sign, wrap, write_new

TimeSeries: Any = pynwb.TimeSeries
NWBHDF5IO: Any = pynwb.NWBHDF5IO
H5DataIO: Any = pynwb.H5DataIO


def blank() -> Any:
    return NWBFile(session_description="s", identifier="i", session_start_time=datetime(2024, 1, 1, tzinfo=UTC))  # pyright: ignore[reportCallIssue]


def nothing(nwbfile: NWBFile) -> None:
    """Change nothing."""


def riches(nwbfile: Any) -> None:
    """Add what is hard to carry over: shared times, references in tables, flags, movies elsewhere, an extension."""
    rng = np.random.default_rng(4)
    speed = TimeSeries(
        name="speed", description="Wheel.", data=rng.random(300), unit="cm/s", timestamps=np.sort(rng.random(300))
    )
    licks = TimeSeries(name="licks", description="Spout.", data=rng.random(300) > 0.5, unit="n.a.", timestamps=speed)
    behavior = nwbfile.create_processing_module(name="behavior", description="What the animal did.")
    behavior.add(BehavioralTimeSeries(name="BehavioralTimeSeries", time_series=[speed, licks]))
    movie = ImageSeries(
        name="Face",
        description="Camera at the face.",
        unit="n.a.",
        format="external",
        external_file=["videos/face.mp4", "/raid/face.mp4"],
        starting_frame=[0, 450],
        rate=30.0,
        num_samples=900,
    )
    nwbfile.add_acquisition(movie)
    for start in (0.0, 20.0):
        nwbfile.add_epoch(start_time=start, stop_time=start + 20, tags=["odors", "tâsk"], timeseries=[speed, licks])
    nwbfile.add_scratch(np.arange(3.0), name="notes", description="Numbers to remember.")
    nwbfile.processing["ophys"].add(mock.mock_CalciumLVMResults(name="result"))


@pytest.fixture(scope="module")
def hdf5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.odor_file(tmp_path_factory.mktemp("hdf5") / "a.nwb", n_trials=2, more=riches, movie="movie.tif")


@pytest.fixture(scope="module")
def store(hdf5: Path) -> Path:
    path = hdf5.with_name("a.nwb.zarr")
    export(hdf5, path, nothing, to="zarr")
    return path


def assert_same(a: Path, b: Path) -> None:
    with opened(a) as (one, _, _), opened(b) as (other, _, _):
        TestCase().assertContainerEqual(one, other, ignore_hdmf_attrs=True)


def problems(path: Path) -> list[Any]:
    with zarr_store._source(path) as reader:
        return validate(io=reader)  # pyright: ignore[reportReturnType]


def open_files() -> list[str]:
    """Return what this process has open."""
    return [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]


# -- Reading ----------------------------------------------------------------------------------------------------------


def test_a_store_is_told_from_other_folders(hdf5: Path, store: Path, tmp_path: Path):
    assert is_store(store)
    assert is_store(str(store))
    assert not is_store(hdf5)
    assert not is_store(tmp_path)
    assert not is_store(tmp_path / "missing.zarr")
    assert [format_of(p) for p in (store, hdf5, "new.nwb", "new.nwb.zarr")] == ["zarr", "hdf5", "hdf5", "zarr"]
    other = shutil.copytree(store, tmp_path / "any name")
    assert is_store(other)
    assert format_of(other) == "zarr"


def test_a_store_reads_as_the_file_it_was_made_from(hdf5: Path, store: Path):
    a, b = read_nwb(hdf5), read_nwb(store)
    np.testing.assert_array_equal(a.dff, b.dff)
    np.testing.assert_array_equal(a.timestamps, b.timestamps)
    np.testing.assert_array_equal(a.roi_ids, b.roi_ids)
    assert a.metadata == b.metadata
    assert a.trials is not None
    assert b.trials is not None
    for key, values in a.trials.items():
        np.testing.assert_array_equal(values, b.trials[key])
    assert b.source.path == store
    assert describe_nwb(hdf5) == describe_nwb(store)


@pytest.mark.parametrize("layout", ["suite2p_file", "allen_behavior_file"])
def test_files_of_other_writers_as_stores(tmp_path: Path, layout: str):
    a = getattr(files, layout)(tmp_path / "a.nwb")
    b, c = tmp_path / "a.zarr", tmp_path / "b.nwb"
    export(a, b, nothing, to="zarr")
    export(b, c, nothing, to="hdf5")
    assert describe_nwb(a) == describe_nwb(b) == describe_nwb(c)
    expected = read_nwb(a)
    for path in (b, c):
        found = read_nwb(path)
        np.testing.assert_array_equal(found.dff, expected.dff)
        np.testing.assert_array_equal(found.roi_ids, expected.roi_ids)


def test_an_estimator_and_the_command_line_take_a_store(hdf5: Path, store: Path):
    expected = read_nwb(hdf5).dff
    trials = coerce(BaseEstimator(), str(store), reset=True)
    np.testing.assert_array_equal(trials.recording.dff, expected)
    reading = Reading(store)
    assert not reading.is_suite2p
    np.testing.assert_array_equal(reading.read().dff, expected)


def test_an_nwbfile_that_the_user_opened(store: Path):
    with zarr_store.store_opened(store) as reader:
        recording = read_nwb(reader.read())
    assert recording.source.path == store


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_nothing_is_left_open(store: Path):
    read_nwb(store)
    assert [name for name in open_files() if str(store.parent) in name] == []


def test_stores_that_cannot_be_read(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import zarr

    zarr.open(str(tmp_path / "numbers.zarr"), mode="w")
    with pytest.raises(DataError, match="not NWB"):
        read_nwb(tmp_path / "numbers.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match="not NWB"):
        read_nwb(tmp_path / "empty.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="not a Zarr store"):
        read_nwb(tmp_path / "folder")
    broken = shutil.copytree(store, tmp_path / "broken.zarr")
    (broken / ".zattrs").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_nwb(broken)
    shutil.copy(store / ".zattrs", broken)
    (broken / ".zmetadata").write_text('{"zarr_consolidated_format": 1, "metadata": {}}')
    with pytest.raises(DataError, match="Is it whole"):
        read_nwb(broken)
    monkeypatch.setattr(zarr_store, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(DataError, match=r'pip install "nwb-calcium-lvm\[zarr\]"'):
        read_nwb(store)


class _Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_a_store_runs_no_code(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import numcodecs

    monkeypatch.chdir(tmp_path)
    bad = shutil.copytree(store, tmp_path / "bad.zarr")
    place = bad / "intervals" / "epochs" / "timeseries" / "0"
    assert place.is_file()
    array = np.empty(1, object)
    array[0] = _Harm()
    place.write_bytes(bytes(numcodecs.Blosc().encode(pickle.dumps(array))))
    with pytest.raises(UnsafeFileError, match="mkdir"), opened(bad) as (nwbfile, _, _):
        nwbfile.epochs["timeseries"][0]
    assert not (tmp_path / "harm").exists()
    with opened(store) as (nwbfile, _, _):
        assert nwbfile.epochs["timeseries"][0][0].timeseries.name == "speed"


@pytest.mark.parametrize(
    "values",
    [
        np.array([(1, "a", {"path": "/x"})], dtype=[("i", "<i4"), ("s", "O"), ("r", "O")]),
        np.array([(1, 2.5)], dtype=[("i", ">i2"), ("f", "<f8")]),
        np.array([{"a": 1}, None], dtype=object),
        0,
    ],
)
def test_tables_are_unpickled_as_they_were(values: Any):
    for protocol in range(3, 6):
        found = _zarr_pickle.harmless_codec()().decode(pickle.dumps(values, protocol))
        np.testing.assert_array_equal(np.asarray(found), np.asarray(values))
        assert np.asarray(found).dtype == np.asarray(values).dtype


def test_a_forged_dtype_is_refused():
    class Forged:
        def __reduce__(self) -> Any:
            # Two objects in the same bytes: NumPy would count references to one of them only.
            object_ = np.dtype("O")
            state = (3, "|", None, ("a", "b"), {"a": (object_, 0), "b": (object_, 4)}, 12, 1, 63)
            return np.dtype, ("V12", False, True), state

    with pytest.raises(DataError, match="cannot be unpickled"):
        _zarr_pickle.harmless_codec()().decode(pickle.dumps(Forged()))


# -- Exports ----------------------------------------------------------------------------------------------------------


def test_all_content_survives_in_every_direction(hdf5: Path, store: Path, tmp_path: Path):
    again, back = hdf5.with_name("again.zarr"), hdf5.with_name("back.nwb")
    export(store, again, nothing, to="zarr")
    export(again, back, nothing, to="hdf5")
    for path in (store, again, back):
        assert_same(hdf5, path)
        assert problems(path) == []
        with opened(path) as (nwbfile, _, _):
            series = nwbfile.processing["behavior"]["BehavioralTimeSeries"].time_series
            speed, licks = series["speed"], series["licks"]
            assert licks.timestamps is speed.timestamps or licks.timestamp_link
            assert nwbfile.acquisition["Face"].external_file[:].tolist() == ["videos/face.mp4", "/raid/face.mp4"]
            assert nwbfile.epochs["timeseries"][1][1].timeseries is licks
            assert list(nwbfile.epochs["tags"][1]) == ["odors", "tâsk"]
            assert nwbfile.subject.subject_id == "m1"
            assert nwbfile.processing["ophys"]["result"].model.software == "nwb_calcium_lvm"


def test_a_store_can_be_moved(store: Path, tmp_path: Path):
    moved = tmp_path / "elsewhere" / "b.zarr"
    moved.parent.mkdir()
    shutil.copytree(store, moved)
    assert_same(store, moved)
    for file in moved.rglob(".zattrs"):
        assert str(store.parent) not in file.read_text()


@pytest.mark.parametrize(
    ("start", "to"),
    [("zarr", "zarr"), ("hdf5", "zarr"), *(pytest.param(s, "hdf5", marks=pytest.mark.slow) for s in ("zarr", "hdf5"))],
)
def test_changes_are_exported(hdf5: Path, store: Path, tmp_path: Path, start: str, to: Any):
    def change(nwbfile: Any) -> None:
        room = nwbfile.processing["ophys"]
        remove(room, "Neuropil")
        remove(room, "result")
        set_identifier(nwbfile, "another")
        for line in (("ours", "2"), ("ours", "2"), ("theirs", "1")):
            sign(nwbfile, line)
        values = wrap(np.arange(10.0), (4,)) if to == "zarr" else np.arange(10.0)
        room.add(TimeSeries(name="new", data=values, unit="V", timestamps=np.arange(10.0), description="New."))
        room.add(mock.mock_CalciumLVMResults(name="result"))

    first, second = tmp_path / "first", tmp_path / "second"
    export(store if start == "zarr" else hdf5, first, change, to=to)
    with opened(first) as (nwbfile, _, _):
        room = nwbfile.processing["ophys"]
        assert set(room.data_interfaces) == {"Deconvolved", "Fluorescence", "ImageSegmentation", "new", "result"}
        assert nwbfile.identifier == "another"
        assert [list(row) for row in nwbfile.was_generated_by[:]] == [["ours", "2"], ["theirs", "1"]]
        np.testing.assert_array_equal(room["new"].data[:], np.arange(10.0))
    assert problems(first) == []
    if start != "zarr":
        return
    export(first, second, lambda n: (sign(n, ("ours", "2")), remove(n.processing["ophys"], "new"))[0], to="hdf5")
    with opened(second) as (nwbfile, _, _):
        assert "new" not in nwbfile.processing["ophys"].data_interfaces
        assert len(nwbfile.was_generated_by) == 2


def test_what_others_refer_to_cannot_be_removed(store: Path, tmp_path: Path):
    with pytest.raises(Exception, match=r"Linked|parent|Plane|link"):
        export(store, tmp_path / "a.zarr", lambda n: remove(n.processing["ophys"], "ImageSegmentation"), to="zarr")


def test_movies_elsewhere_are_found_from_another_folder(store: Path, tmp_path: Path):
    def short(nwbfile: Any) -> None:
        for name in ("Fluorescence", "Neuropil", "Deconvolved", "result"):
            remove(nwbfile.processing["ophys"], name)

    export(store, tmp_path / "a.nwb", short, to="hdf5")
    (tmp_path / "deeper").mkdir()
    export(tmp_path / "a.nwb", tmp_path / "deeper" / "a.zarr", nothing, to="zarr")
    for path in (tmp_path / "a.nwb", tmp_path / "deeper" / "a.zarr"):
        with opened(path) as (nwbfile, _, _):
            near, far = nwbfile.acquisition["Face"].external_file[:]
        assert far == "/raid/face.mp4"
        assert Path(os.path.normpath(path.parent / near)) == store.parent / "videos/face.mp4"


@pytest.mark.parametrize("start", ["hdf5", "zarr", "zarr version 3"])
def test_links_to_other_files_are_refused(hdf5: Path, store: Path, tmp_path: Path, start: str):
    import h5py

    if start == "hdf5":
        path = Path(shutil.copy(hdf5, tmp_path / "a.nwb"))
        with h5py.File(path, "a") as file:
            file["scratch/other"] = h5py.ExternalLink("other.nwb", "/acquisition")
    else:
        path = shutil.copytree(store, tmp_path / "a.zarr")
        facts = path / "scratch" / ".zattrs"
        link = {"name": "other", "source": "../other.zarr", "path": "/acquisition"}
        facts.write_text(json.dumps({"zarr_link": [link] if start == "zarr" else [link | {"source": "."}]}))
        if start == "zarr version 3":
            facts.with_name("zarr.json").write_text(json.dumps({"attributes": {"_LINKS": [link]}}))
    with pytest.raises(WriteError, match=r"links to other files.*other"):
        export(path, tmp_path / "b.zarr", nothing, to="zarr")
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.parametrize(("to", "chunked"), [("zarr", True), ("zarr", False), ("hdf5", True)])
def test_large_data_is_copied_in_blocks(tmp_path: Path, to: Any, chunked: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(zarr_store, "_BLOCK_BYTES", 2**14)
    values = np.random.default_rng(0).random((3000, 7)).astype(np.float32)
    nwbfile = blank()
    data = H5DataIO(values, chunks=(100, 4), compression="gzip") if chunked else values
    nwbfile.add_acquisition(TimeSeries(name="large", data=data, unit="V", rate=1.0))
    source = tmp_path / "a.nwb"
    with NWBHDF5IO(str(source), "w") as writer:
        writer.write(nwbfile)
    if to == "hdf5":
        export(source, tmp_path / "a.zarr", nothing, to="zarr")
        source = tmp_path / "a.zarr"
    sizes: list[int] = []
    get = zarr_store._Blocks._get_data

    def watched(self: Any, selection: Any) -> Any:
        block = get(self, selection)
        sizes.append(block.nbytes)
        return block

    monkeypatch.setattr(zarr_store._Blocks, "_get_data", watched)
    export(source, tmp_path / "b", nothing, to=to)
    assert max(sizes) <= 2**14 * 2
    assert sum(sizes) == values.nbytes
    with opened(tmp_path / "b") as (found, _, _):
        stored = found.acquisition["large"].data
        np.testing.assert_array_equal(stored[:], values)
        assert stored.dtype == values.dtype
        if chunked:
            assert tuple(stored.chunks) == (100, 4)


def test_a_store_made_from_nothing(tmp_path: Path):
    iterator: Any = GenericDataChunkIterator

    class Slices(iterator):
        def _get_data(self, selection: tuple[slice, ...]) -> np.ndarray:
            return np.arange(600.0).reshape(100, 6)[selection]

        def _get_maxshape(self) -> tuple[int, ...]:
            return 100, 6

        def _get_dtype(self) -> np.dtype:
            return np.dtype(float)

    nwbfile = blank()
    slices = Slices(chunk_shape=(10, 3), buffer_shape=(40, 6))
    nwbfile.add_acquisition(TimeSeries(name="new", data=wrap(slices, (10, 3)), unit="V", rate=1.0))
    path = tmp_path / "new.zarr"
    path.touch()
    write_new(nwbfile, path)
    assert path.stat().st_mode & 0o777 == 0o700  # until it is complete
    assert problems(path) == []
    with opened(path) as (found, _, _):
        data = found.acquisition["new"].data
        np.testing.assert_array_equal(data[:], np.arange(600.0).reshape(100, 6))
        assert tuple(data.chunks) == (10, 3)
        assert size_on_disk(path / "acquisition" / "new" / "data") < data.nbytes


def size_on_disk(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*"))


VALUES = {
    "scalar": np.float64(1.5),
    "flag": True,
    "text": "té",
    "texts": ["a", "té"],
    "table of text": [["a", "b"], ["c", "d"]],
    "empty": np.zeros((0, 3)),
    "no text": np.zeros(0, "U1"),
    "flags": np.array([True, False]),
    "not finite": np.array([np.nan, np.inf]),
    "small": np.arange(3, dtype=np.uint8),
    "zeros": np.zeros((4, 2)),  # the fill value: no chunk need be there
}


def test_values_of_every_kind(tmp_path: Path):
    nwbfile = blank()
    arrays = [
        mock.mock_LabeledArray(name=name, data=values, dims=["n"] * np.ndim(values)) for name, values in VALUES.items()
    ]
    model = mock.mock_FittedModel(estimator_state=mock.mock_EstimatorState(labeled_arrays=arrays))
    room = nwbfile.create_processing_module("ophys", "Results.")
    room.add(mock.mock_CalciumLVMResults(name="result", model=model))
    write_new(nwbfile, tmp_path / "a.zarr")
    export(tmp_path / "a.zarr", tmp_path / "b.nwb", nothing, to="hdf5")
    export(tmp_path / "b.nwb", tmp_path / "c.zarr", nothing, to="zarr")
    for path in ("a.zarr", "b.nwb", "c.zarr"):
        with opened(tmp_path / path) as (found, _, _):
            stored = found.processing["ophys"]["result"].model.estimator_state.labeled_arrays
            for name, values in VALUES.items():
                data = stored[name].data
                read = np.asarray(data[()] if hasattr(data, "dtype") else data)
                assert read.shape == np.shape(values), (path, name)
                np.testing.assert_array_equal(read.astype(np.asarray(values).dtype), values, err_msg=f"{path} {name}")
