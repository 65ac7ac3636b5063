"""NWB files laid out as others lay them out: Suite2p, neuroconv, CaImAn, AllenSDK, DANDI 000167 and the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel, RoiResponseSeries


@dataclass
class S:
    """A series: where it goes ("ophys/Container/name", "ophys/name" or "acquisition/name"), and what it holds."""

    path: str
    data: Any
    rows: Sequence[int] | None = None
    table: int = 0
    container: type = Fluorescence
    facts: dict[str, Any] = field(default_factory=dict)


def raw_traces(n_frames: int = 400, n_rois: int = 5, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Fluorescence around 200 with noise and transients, (time, roi)."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((n_frames, n_rois)) < 0.02
    calcium = np.zeros((n_frames, n_rois))
    for t in range(1, n_frames):
        calcium[t] = 0.9 * calcium[t - 1] + spikes[t]
    return (200 + 60 * calcium + rng.normal(0, 4, calcium.shape) + 10 * np.arange(n_rois)).astype(dtype)


def build(
    path: Path,
    series: Sequence[S],
    *,
    n_rows: Sequence[int] = (5,),
    columns: Sequence[Mapping[str, Any]] = ({},),
    table_names: Sequence[str] | None = None,
    ids: Sequence[int] | None = None,
    rate: float | None = None,
    indicator: str = "GCaMP6f",
    trials: Mapping[str, Sequence[Any]] | None = None,
    description: str = "ROIs of the field of view",
) -> Path:
    """Write an NWB file with the given tables of ROIs and series."""
    nwbfile = NWBFile(
        session_description="A mouse looked at gratings.",
        identifier="session-1",
        session_start_time=datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
        session_id="s1",
        experimenter=["Doe, Jane"],
        experiment_description="Gratings.",
        institution="A university",
        keywords=["calcium"],
        subject=Subject(subject_id="m1", species="Mus musculus", sex="F", age="P90D", description="A mouse."),
    )
    module = nwbfile.create_processing_module(name="ophys", description="Processed optical physiology.")
    images = ImageSegmentation()
    module.add(images)
    tables = []
    device = nwbfile.create_device(name="Microscope", description="A two-photon microscope.")
    for i, n in enumerate(n_rows):
        plane = nwbfile.create_imaging_plane(
            name=f"ImagingPlane{i}",
            optical_channel=OpticalChannel(name="Green", description="Green channel.", emission_lambda=510.0),
            description="A plane in layer 2/3.",
            device=device,
            excitation_lambda=920.0,
            indicator=indicator,
            location="VISp",
            imaging_rate=rate,
        )
        name = table_names[i] if table_names else ("PlaneSegmentation" if i == 0 else f"PlaneSegmentation{i}")
        table = images.create_plane_segmentation(name=name, description=description, imaging_plane=plane)
        for row in range(n):
            table.add_roi(pixel_mask=[(row, row, 1.0)], id=row if ids is None else ids[row])
        for key, values in columns[min(i, len(columns) - 1)].items():
            table.add_column(name=key, description=f"About each ROI: {key}.", data=values)
        tables.append(table)
    containers: dict[tuple[str, ...], Any] = {("ophys",): module}
    for item in series:
        *place, name = item.path.split("/")
        table = tables[item.table]
        rows = list(range(len(table))) if item.rows is None else list(item.rows)
        region = table.create_roi_table_region(description="The ROIs of the series.", region=rows)
        facts = {"unit": "lumens", **item.facts}
        if "rate" not in facts and "timestamps" not in facts:
            facts["rate"] = 10.0
        one = RoiResponseSeries(name=name, data=item.data, rois=region, **facts)
        if place == ["acquisition"]:
            nwbfile.add_acquisition(one)
            continue
        key = tuple(place)
        if key not in containers:
            containers[key] = item.container(name=place[-1])
            module.add(containers[key])
        if len(key) == 1:
            module.add(one)
        else:
            containers[key].add_roi_response_series(one)
    if trials is not None:
        for key in trials:
            if key not in ("start_time", "stop_time"):
                nwbfile.add_trial_column(name=key, description=f"About each trial: {key}.")
        for i in range(len(trials["start_time"])):
            nwbfile.add_trial(**{key: values[i] for key, values in trials.items()})
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return path


@contextmanager
def held_open(path: Path, mode: str) -> Iterator[None]:
    """Hold a file open with h5py in another process."""
    script = "import h5py, sys; f = h5py.File(sys.argv[1], sys.argv[2]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == b"open"
        yield
        other.communicate()


def iscell(accepted: Sequence[int]) -> np.ndarray:
    """The column as Suite2p has it, (n, 2)."""
    return np.column_stack([np.asarray(accepted, float), np.linspace(0.2, 0.9, len(accepted))])


def suite2p_file(path: Path, n_planes: int = 1, per_plane: int = 3, n_frames: int = 400, **facts: Any) -> Path:
    """As suite2p's save_NWB: three containers with a series per plane, one table for all planes."""
    n = n_planes * per_plane
    everything = raw_traces(n_frames, n)
    neuropil = raw_traces(n_frames, n, seed=1) * 0.5
    series = []
    for plane in range(n_planes):
        rows = list(range(plane * per_plane, (plane + 1) * per_plane))
        for container, data in (
            ("Fluorescence", everything[:, rows]),
            ("Neuropil", neuropil[:, rows]),
            ("Deconvolved", np.abs(everything[:, rows] - 200)),
        ):
            series.append(S(f"ophys/{container}/plane{plane}", data, rows, facts=dict(facts)))
    accepted = np.ones(n)
    accepted[1] = 0
    return build(path, series, n_rows=(n,), columns=[{"iscell": iscell(accepted)}])


def neuroconv_file(path: Path, n_planes: int = 1) -> Path:
    """As neuroconv 0.10: one Fluorescence with everything in it, names with a suffix where there are several planes."""
    series = []
    for plane in range(n_planes):
        suffix = "" if n_planes == 1 else f"Chan1Plane{plane}"
        for name, data in (
            ("RoiResponseSeries", raw_traces(seed=plane)),
            ("Neuropil", raw_traces(seed=7) * 0.5),
            ("Deconvolved", np.abs(raw_traces() - 200)),
        ):
            series.append(S(f"ophys/Fluorescence/{name}{suffix}", data, table=plane, facts={"unit": "n.a."}))
    names = ["PlaneSegmentation"] if n_planes == 1 else [f"PlaneSegmentationChan1Plane{p}" for p in range(n_planes)]
    columns = [{"iscell": np.array([1.0, 1.0, 0.0, 1.0, 1.0])}]
    return build(path, series, n_rows=[5] * n_planes, columns=columns, table_names=names)


def caiman_file(path: Path) -> Path:
    """As CaImAn's save_NWB: RoiResponseSeries is the denoised C, background rows are in the table."""
    times = np.arange(400) / 30.0
    columns = {
        "r": [0.9, 0.8, 0.7, np.nan],
        "snr": [5.0, 4.0, 3.0, np.nan],
        "accepted": [True, False, True, False],
        "rejected": [False, True, False, False],
        "keep": [True, False, True, False],
    }
    series = [
        S("ophys/Fluorescence/RoiResponseSeries", raw_traces(400, 3), [0, 1, 2], facts={"timestamps": times}),
        S(
            "ophys/Fluorescence/Background_Fluorescence_Response",
            raw_traces(400, 1),
            [3],
            facts={"timestamps": times},
        ),
    ]
    return build(path, series, n_rows=(4,), columns=[columns], description="CNMF_ROIs")


def allen_behavior_file(path: Path) -> Path:
    """As AllenSDK's Visual Behavior: series of one number per ROI, with dummy timestamps, beside the traces."""
    n = 5
    times = np.arange(400) / 31.0 + 0.001 * np.random.default_rng(0).random(400)
    dummy = np.arange(n, dtype=float)
    dff = raw_traces() / 200 - 1
    series = [
        S("ophys/dff/traces", dff, container=DfOverF, facts={"timestamps": times, "unit": "NA"}),
        S("ophys/corrected_fluorescence/traces", raw_traces(), facts={"timestamps": times, "unit": "NA"}),
        S("ophys/corrected_fluorescence/r", np.random.default_rng(1).random(n), facts={"timestamps": dummy}),
        S("ophys/corrected_fluorescence/RMSE", np.random.default_rng(2).random(n), facts={"timestamps": dummy}),
    ]
    return build(path, series, n_rows=(n,), ids=[1080, 1071, 1092, 1063, 1054])


def allen_coding_file(path: Path) -> Path:
    """As dandisets 000039 and 000049: dF/F inside a Fluorescence container, beside four stages of it."""
    series = [
        S(f"ophys/Fluorescence/{name}", data)
        for name, data in (
            ("DfOverF", raw_traces() / 200 - 1),
            ("demixed_traces", raw_traces()),
            ("neuropil_traces", raw_traces(seed=3) * 0.5),
            ("raw_traces", raw_traces()),
        )
    ]
    return build(path, series)


def odor_file(path: Path) -> Path:
    """As DANDI 000167: Plane_0..2 in three containers, one table, trials with start and stop only."""
    per_plane, n = 4, 12
    series = []
    for plane in range(3):
        rows = list(range(plane * per_plane, (plane + 1) * per_plane))
        for container, scale in (("Fluorescence", 1.0), ("Neuropil", 0.5), ("Deconvolved", 0.1)):
            data = raw_traces(600, per_plane, seed=plane) * scale
            series.append(S(f"ophys/{container}/Plane_{plane}", data, rows, facts={"rate": 4.53}))
    trials = {"start_time": [0.0, 40.0, 80.0], "stop_time": [30.0, 70.0, 110.0]}
    accepted = np.array([1, 1, 0, 1] * 3)
    return build(path, series, n_rows=(n,), columns=[{"iscell": iscell(accepted)}], trials=trials, indicator="GCaMP6s")
