"""What a session has beside the traces of its ROIs."""

from __future__ import annotations

import numpy as np
from pynwb import NWBFile, TimeSeries
from pynwb.behavior import BehavioralTimeSeries
from pynwb.image import ImageSeries


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
    nwbfile.add_epoch(start_time=0.0, stop_time=20.0, tags=["baseline"])
    nwbfile.add_epoch(start_time=20.0, stop_time=40.0, tags=["odors", "task"], timeseries=[valve])
    nwbfile.add_scratch(np.arange(3.0), name="notes", description="Numbers to remember.")
