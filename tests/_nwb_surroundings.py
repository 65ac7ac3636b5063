"""What a session has beside the traces of its ROIs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from hdmf.build import BuildManager
from pynwb import NWBFile, TimeSeries, get_type_map
from pynwb.behavior import BehavioralTimeSeries
from pynwb.image import ImageSeries
from pynwb.spec import NWBDatasetSpec, NWBGroupSpec, NWBNamespaceBuilder


def surroundings(nwbfile: NWBFile) -> None:
    """Add what a session has beside its traces: stimulus, behaviour, epochs, pictures, notes."""
    rng = np.random.default_rng(4)
    valve = TimeSeries(name="odor_valve", description="Opening of the valve.", data=rng.random(50), unit="V", rate=1.0)
    nwbfile.add_stimulus(valve)
    speed = TimeSeries(
        name="speed",
        description="Of the wheel.",
        data=rng.random(300),
        unit="cm/s",
        timestamps=np.sort(rng.random(300)),
    )
    sniffs = TimeSeries(name="sniffs", description="Of the nose.", data=rng.random(300), unit="n.a.", timestamps=speed)
    behavior = nwbfile.create_processing_module(name="behavior", description="What the animal did.")
    behavior.add(BehavioralTimeSeries(name="BehavioralTimeSeries", time_series=[speed, sniffs]))
    nwbfile.add_acquisition(
        ImageSeries(
            name="Face",
            description="Camera at the face.",
            unit="n.a.",
            format="external",
            external_file=["videos/face.mp4"],
            starting_frame=[0],
            rate=30.0,
            starting_time=0.0,
            num_samples=900,
        )
    )
    nwbfile.add_epoch(start_time=0.0, stop_time=20.0, tags=["baseline"], timeseries=[valve])
    nwbfile.add_epoch(start_time=20.0, stop_time=40.0, tags=["odors", "task"], timeseries=[valve])
    nwbfile.add_scratch(np.arange(3.0), name="notes", description="Numbers to remember.")


def event_detection(folder: Path) -> tuple[BuildManager, Callable[[NWBFile], None]]:
    """Events as AllenSDK writes them, of a type that no package here knows: what to write with, and what adds them."""
    name = "ndx-aibs-ophys-event-detection"
    per_roi = [
        NWBDatasetSpec(doc=f"{what} of each ROI.", name=what, dtype="float", shape=(None,), dims=("num_rois",))
        for what in ("lambdas", "noise_stds")
    ]
    spec = NWBGroupSpec(
        doc="Events found in traces.",
        neurodata_type_def="OphysEventDetection",
        neurodata_type_inc="RoiResponseSeries",
        default_name="event_detection",
        datasets=per_roi,
    )
    builder = NWBNamespaceBuilder(doc="Events.", name=name, version="0.1.0", author="A", contact="a@b.c")
    builder.include_type("RoiResponseSeries", namespace="core")
    builder.add_spec(f"{name}.extensions.yaml", spec)
    builder.export(f"{name}.namespace.yaml", outdir=str(folder))
    types = get_type_map()  # a copy: what is loaded here stays here
    types.load_namespaces(str(folder / f"{name}.namespace.yaml"))
    OphysEventDetection = types.get_dt_container_cls("OphysEventDetection", name)

    def add(nwbfile: NWBFile) -> None:
        traces = nwbfile.processing["ophys"]["dff"]["traces"]
        table = traces.rois.table
        rows = [4, 1, 2]
        nwbfile.processing["ophys"].add(
            OphysEventDetection(
                name="event_detection",
                data=np.zeros((len(traces.data), 3)),
                lambdas=np.array([0.1, 0.2, 0.3]),
                noise_stds=np.array([0.01, 0.02, 0.03]),
                unit="N/A",
                rois=table.create_roi_table_region(description="Cells with detected events", region=rows),
                timestamps=traces,
            )
        )

    return BuildManager(types), add
