"""A small NWB file with what the types refer to, as a lab would have it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ndx_calcium_lvm.testing import mock
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.testing.mock.ophys import mock_ImagingPlane, mock_PlaneSegmentation, mock_RoiResponseSeries

N_ROIS = 6
N_FRAMES = 40


def session() -> NWBFile:
    """A session of six ROIs, in memory, about which a checker of good practice has nothing to say."""
    nwbfile = NWBFile(
        session_description="A mouse looked at gratings.",
        identifier="session-1",
        session_start_time=datetime(2024, 5, 1, 9, 30, tzinfo=UTC),
        session_id="s1",
        experimenter=["Doe, Jane"],
        experiment_description="Gratings.",
        institution="Institute",
        keywords=["calcium imaging"],
        subject=Subject(subject_id="m1", species="Mus musculus", age="P90D", sex="F", description="A mouse."),
    )
    plane = mock_ImagingPlane(nwbfile=nwbfile, name="ImagingPlane", description="The plane.", location="VISp")
    table = mock_PlaneSegmentation(
        nwbfile=nwbfile, name="PlaneSegmentation", imaging_plane=plane, n_rois=N_ROIS, description="The ROIs."
    )
    rng = np.random.default_rng(0)
    mock_RoiResponseSeries(
        nwbfile=nwbfile,
        name="dff",
        description="dF/F.",
        unit="dF/F",
        data=rng.normal(size=(N_FRAMES, N_ROIS)),
        rate=30.0,
        plane_segmentation=table,
    )
    for start in (0.0, 0.7):
        nwbfile.add_trial(start_time=start, stop_time=start + 0.6)
    return nwbfile


def add_results(nwbfile: Any, **arguments: Any) -> Any:
    """Add a mock of results that links to the session."""
    ophys = nwbfile.processing["ophys"]
    links = {"table": ophys["PlaneSegmentation"], "source_series": ophys["dff"], "trials": nwbfile.trials}
    return mock.mock_CalciumLVMResults(module=ophys, **links | arguments)


def write(nwbfile: NWBFile, path: Path) -> Path:
    """Write a file."""
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    return path
