"""A small NWB file with what the types refer to, as a lab would have it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ndx_calcium_lvm.testing import mock
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.ophys import OpticalChannel, PlaneSegmentation, RoiResponseSeries

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
    plane = nwbfile.create_imaging_plane(
        name="ImagingPlane",
        description="The plane.",
        optical_channel=OpticalChannel(name="green", description="Green light.", emission_lambda=510.0),
        device=nwbfile.create_device(name="Microscope", description="Two-photon microscope."),
        excitation_lambda=920.0,
        indicator="GCaMP6f",
        location="VISp",
    )
    table = PlaneSegmentation(name="PlaneSegmentation", description="The ROIs.", imaging_plane=plane)
    for i in range(N_ROIS):
        table.add_roi(pixel_mask=[(i, i, 1.0)])
    module = nwbfile.create_processing_module(name="ophys", description="Processed imaging.")
    module.add(table)
    module.add(
        RoiResponseSeries(
            name="dff",
            description="dF/F.",
            unit="dF/F",
            data=np.random.default_rng(0).normal(size=(N_FRAMES, N_ROIS)),
            rate=30.0,
            starting_time=0.0,
            rois=table.create_roi_table_region(description="All ROIs.", region=list(range(N_ROIS))),
        )
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
