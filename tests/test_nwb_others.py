"""Files as others write them: read, fitted, written, and read back with pynwb alone; nothing else in them changes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import _nwb_files as files
import numpy as np
import pytest
from _nwb_files import S, build, raw_traces
from _nwb_surroundings import event_detection, surroundings
from _others import Found, PlainReader, array, changed, check_the_rest, places

from nwb_calcium_lvm import CalciumHMM, Recording, read_nwb, write_nwb
from nwb_calcium_lvm.result import InferenceResult

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SCHEMAS = ["core", "extension"]


@dataclass
class Layout:
    """How a file is made, what has to be said to read it, and what is read."""

    make: Callable[[Path], Path]
    rows: list[int]
    series: str
    table: str = "processing/ophys/ImageSegmentation/PlaneSegmentation"
    options: dict[str, Any] = field(default_factory=dict)


def lone_file(path: Path, place: str, data: np.ndarray, **facts: Any) -> Path:
    """One series in some place of a session, its ROIs in an order of their own."""
    series = [S(place, data, [4, 0, 2, 1], facts={"rate": 12.5, "starting_time": 2.0} | facts)]
    return build(path, series, more=surroundings, ids=[7, 9, 11, 13, 17])


LAYOUTS = {
    "suite2p": Layout(files.suite2p_file, [0, 2], "processing/ophys/Fluorescence/plane0"),
    "suite2p planes": Layout(
        partial(files.suite2p_file, n_planes=2, rate=15.23), [0, 2, 3, 4, 5], "processing/ophys/Fluorescence/plane0"
    ),
    "neuroconv": Layout(
        partial(files.neuroconv_file, delay=0.1), [0, 1, 3, 4], "processing/ophys/Fluorescence/RoiResponseSeries"
    ),
    "CaImAn": Layout(
        files.caiman_file,
        [0, 2],
        "processing/ophys/Fluorescence/RoiResponseSeries",
        options={"series": "Fluorescence/RoiResponseSeries"},
    ),
    "CaImAn, not curated": Layout(
        partial(files.caiman_file, curated=False),
        [0, 2],
        "processing/ophys/Fluorescence/RoiResponseSeries",
        options={"series": "Fluorescence/RoiResponseSeries"},
    ),
    "AllenSDK behavior": Layout(
        partial(files.allen_behavior_file, valid=[True, False, True, True, True], more=surroundings),
        [0, 2, 3, 4],
        "processing/ophys/dff/traces",
        "processing/ophys/image_segmentation/cell_specimen_table",
    ),
    "AllenSDK behavior, almost regular clock": Layout(
        partial(files.allen_behavior_file, jitter=2e-6),
        [0, 1, 2, 3, 4],
        "processing/ophys/corrected_fluorescence/traces",
        "processing/ophys/image_segmentation/cell_specimen_table",
        options={"series": "corrected_fluorescence/traces"},
    ),
    "AllenSDK coding": Layout(
        partial(files.allen_coding_file, more=surroundings),
        [0, 1, 2, 3, 4],
        "processing/brain_observatory_pipeline/Fluorescence/DfOverF",
        "processing/brain_observatory_pipeline/ImageSegmentation/PlaneSegmentation",
        options={"series": "Fluorescence/DfOverF"},
    ),
    "DANDI 000167": Layout(
        partial(files.odor_file, n_trials=4, more=surroundings),
        [0, 1, 3, 4, 5, 7, 8, 9, 11],
        "processing/ophys/Fluorescence/Plane_0",
    ),
    "acquisition": Layout(
        partial(
            lone_file,
            place="acquisition/raw_fluorescence",
            data=(raw_traces(400, 4) * 10).astype(np.int16),
            conversion=0.1,
            offset=20.0,
        ),
        [4, 0, 2, 1],
        "acquisition/raw_fluorescence",
    ),
    "in the module, transposed": Layout(
        partial(lone_file, place="ophys/dff", data=raw_traces(400, 4).T / 200 - 1), [4, 0, 2, 1], "processing/ophys/dff"
    ),
}


@pytest.fixture(scope="module")
def plain() -> Iterator[PlainReader]:
    reader = PlainReader()
    yield reader
    reader.close()


def fitted(rec: Recording) -> InferenceResult:
    """A tiny model of the traces, far from converged."""
    model = CalciumHMM(n_states=2, n_init=1, max_iter=2, random_state=0)
    return model.fit(rec).infer(rec)


def check_values(found: Found, result: InferenceResult, name: str, rows: list[int], table: str) -> None:
    order = np.argsort(result.time)
    for key, values in result.arrays.items():
        read = array(found, name, key)
        np.testing.assert_array_equal(read["data"], np.asarray(values.values)[order], err_msg=key)
        np.testing.assert_allclose(read["times"], result.time[order], rtol=0, atol=1e-9)
        if values.dims == ("time", "roi"):
            assert read["rows"].tolist() == rows
            assert str(read["table"]) == table
    states = result["states"][order]
    if len(np.unique(states)) > 1:
        bouts = array(found, name, "bouts")
        frames = np.searchsorted(result.time[order], bouts["column:start_time"] - 1e-9)
        np.testing.assert_array_equal(bouts["column:state"], states[frames])
    parameters = array(found, name, "roi_parameters")
    assert parameters["column:roi"].tolist() == rows
    assert str(parameters["table:roi"]) == table


@pytest.fixture(scope="module")
def fit_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, InferenceResult]]:
    """Files made and fitted once for both schemas."""

    @functools.cache
    def made(name: str) -> tuple[Path, InferenceResult]:
        source = LAYOUTS[name].make(tmp_path_factory.mktemp("layout") / "session.nwb")
        return source, fitted(read_nwb(source, **LAYOUTS[name].options))

    return made


QUICK = ("suite2p planes", "neuroconv", "AllenSDK behavior")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("name", NAMES)
def test_read_fitted_written_and_read_back(
    plain: PlainReader,
    fit_of: Callable[[str], tuple[Path, InferenceResult]],
    name: str,
    schema: str,
):
    layout = LAYOUTS[name]
    source, result = fit_of(name)
    assert result.source.table_rows is not None
    assert result.source.table_rows.tolist() == layout.rows
    out = write_nwb(result, source.with_name(f"{schema}.nwb"), name="model", schema=schema)
    found = plain.read(out, "model", series=[layout.series])
    check_values(found, result, "model", layout.rows, layout.table)
    clock = found[layout.series]["times"]
    np.testing.assert_allclose(array(found, "model", "firing_rates")["times"], clock, rtol=0, atol=1e-9)
    ours = places(found, "model")
    if "processing/ophys/" not in layout.table:
        ours.add("processing/ophys")
    check_the_rest(source, out, ours, plain)


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_two_planes_with_tables_and_clocks_of_their_own(tmp_path: Path, plain: PlainReader, schema: str):
    source = files.neuroconv_file(tmp_path / "session.nwb", n_planes=2, delay=0.05, more=surroundings)
    out = tmp_path / "results.nwb"
    results = {}
    for plane in (0, 1):
        name = f"plane{plane}"
        results[name] = fitted(read_nwb(source, plane=plane))
        write_nwb(results[name], out, name=name, schema=schema, overwrite=plane > 0)
    ours = set()
    for plane, (name, result) in enumerate(results.items()):
        series = f"processing/ophys/Fluorescence/RoiResponseSeriesChan1Plane{plane}"
        found = plain.read(out, name, series=[series])
        table = f"processing/ophys/ImageSegmentation/PlaneSegmentationChan1Plane{plane}"
        check_values(found, result, name, [0, 1, 3, 4], table)
        assert found[series]["times"][0] == plane * 0.05
        times = array(found, name, "firing_rates")["times"]
        np.testing.assert_allclose(times, found[series]["times"], rtol=0, atol=1e-9)
        ours |= places(found, name)
    check_the_rest(source, out, ours, plain)


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_eighty_trials_come_back_on_the_clock_of_the_session(tmp_path: Path, plain: PlainReader, schema: str):
    source = files.odor_file(tmp_path / "session.nwb", n_trials=80, more=surroundings)
    trials = read_nwb(source).align("start_time", window=(0.0, 30.0))
    result = fitted(trials)
    out = write_nwb(result, name="odors", schema=schema)
    series = "processing/ophys/Fluorescence/Plane_0"
    found = plain.read(out, "odors", series=[series])
    rows = [0, 1, 3, 4, 5, 7, 8, 9, 11]
    check_values(found, result, "odors", rows, "processing/ophys/ImageSegmentation/PlaneSegmentation")
    clock, times = found[series]["times"], array(found, "odors", "firing_rates")["times"]
    nearest = np.round((times - clock[0]) * 4.53).astype(int)
    np.testing.assert_allclose(times, clock[nearest], rtol=0, atol=1e-9)
    windows = array(found, "odors", "trials" if schema == "core" else "segments")
    assert len(windows["column:start_time"]) == 80
    starts = 40.0 * np.arange(80)
    assert np.all(np.abs(windows["column:start_time"] - starts) <= 0.5 / 4.53)
    assert windows["column:trial"].tolist() == list(range(80))
    inside = ((times[:, None] >= starts - 1 / 4.53) & (times[:, None] < starts + 30 + 1 / 4.53)).any(axis=1)
    assert inside.all()
    check_the_rest(source, out, places(found, "odors"), plain)


@pytest.mark.slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_of_an_extension_that_nobody_has_here(tmp_path: Path, plain: PlainReader, schema: str):
    """AllenSDK's events are a type of their own; what it is made of is in the file."""
    manager, events = event_detection(tmp_path)
    source = files.allen_behavior_file(tmp_path / "session.nwb", more=events, manager=manager)
    result = fitted(read_nwb(source))
    assert result.source.series == "processing/ophys/dff/traces"
    out = write_nwb(result, name="model", schema=schema)
    found = plain.read(out, "model")
    table = "processing/ophys/image_segmentation/cell_specimen_table"
    check_values(found, result, "model", [0, 1, 2, 3, 4], table)
    check_the_rest(source, out, places(found, "model"), plain)


def test_a_copy_in_another_folder_differs_in_relative_names_only(tmp_path: Path, plain: PlainReader):
    source = files.neuroconv_file(tmp_path / "session.nwb", more=surroundings, movie="")
    (tmp_path / "far").mkdir()
    out = write_nwb(fitted(read_nwb(source)), tmp_path / "far" / "out.nwb", name="model")
    (moved,) = changed(source, out, places(plain.read(out, "model"), "model"))
    assert moved.startswith("acquisition/Face/external_file")
    assert "../videos/face.mp4" in moved
