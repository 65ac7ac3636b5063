"""An NWB file of a simulated session, laid out as common converters lay out a Suite2p run."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nwb_calcium_lvm.indicators import Indicator

_START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
_SIDE = 9  # pixels: the square around an ROI's centre


class RawSession(Protocol):
    """What is needed of a simulated session; :class:`nwb_calcium_lvm.simulate.SimulatedSession` has it."""

    @property
    def fluorescence(self) -> NDArray[np.floating] | None: ...  # noqa: D102
    @property
    def neuropil(self) -> NDArray[np.floating] | None: ...  # noqa: D102
    @property
    def sampling_rate(self) -> float | None: ...  # noqa: D102
    @property
    def trials(self) -> dict[str, NDArray[Any]] | None: ...  # noqa: D102
    @property
    def indicator(self) -> Indicator | None: ...  # noqa: D102


def write_session_nwb(session: RawSession, path: str | Path) -> Path:
    """Write raw fluorescence, neuropil, ROIs and trials of a simulated session as an NWB file.

    Parameters
    ----------
    session : RawSession
        From :func:`nwb_calcium_lvm.simulate.session`.
    path : str or Path
        The file; one that is there is replaced.

    Returns
    -------
    Path
        The file written.
    """
    if session.fluorescence is None or session.neuropil is None or session.sampling_rate is None:
        raise ValueError(
            "The session has no raw fluorescence and neuropil on a clock. Expected one from simulate.session()."
        )
    pynwb = _pynwb()
    nwbfile = pynwb.NWBFile(
        session_description="Simulated two-photon session: hidden states, saturating indicator, bleaching, neuropil.",
        identifier="nwb-calcium-lvm-demo",
        session_start_time=_START,
        session_id="demo",
        experimenter=["Simulation, A"],
        experiment_description="A population that moves between hidden states; an event in each trial triggers one.",
        institution="None (simulated)",
        keywords=["simulation", "calcium imaging"],
    )
    nwbfile.subject = pynwb.file.Subject(
        subject_id="simulated", species="Mus musculus", sex="U", age="P90D", description="A simulated mouse."
    )
    fluorescence, neuropil = session.fluorescence, session.neuropil
    n_rois = fluorescence.shape[1]
    segmentation = _segmentation(nwbfile, n_rois, session.sampling_rate, session.indicator)
    region = segmentation.create_roi_table_region(description="All ROIs.", region=list(range(n_rois)))
    ophys = nwbfile.processing["ophys"]
    container = pynwb.ophys.Fluorescence(name="Fluorescence")
    ophys.add(container)
    for name, values, what in (
        ("RoiResponseSeries", fluorescence, "Raw fluorescence of each ROI, neuropil included."),
        ("Neuropil", neuropil, "Raw fluorescence of the neuropil around each ROI."),
    ):
        container.add_roi_response_series(
            pynwb.ophys.RoiResponseSeries(
                name=name,
                description=what,
                data=values.astype(np.float32),
                rois=region,
                unit="n.a.",
                rate=float(session.sampling_rate),
                starting_time=0.0,
            )
        )
    _add_trials(nwbfile, session.trials)
    path = Path(path)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwbfile)
    return path


def _pynwb() -> Any:
    # pynwb makes its classes at run time from the schema, so there is nothing for a type checker to know.
    return import_module("pynwb")


def _segmentation(nwbfile: Any, n_rois: int, rate: float, indicator: Indicator | None) -> Any:
    ophys = _pynwb().ophys
    device = nwbfile.create_device(name="Microscope", description="A simulated two-photon microscope.")
    channel = ophys.OpticalChannel(name="Green", description="Green channel.", emission_lambda=510.0)
    plane = nwbfile.create_imaging_plane(
        name="ImagingPlane",
        description="The simulated field of view.",
        optical_channel=channel,
        device=device,
        excitation_lambda=920.0,
        imaging_rate=float(rate),
        indicator=indicator.name if indicator is not None else "unknown",
        location="VISp",
    )
    module = nwbfile.create_processing_module(name="ophys", description="Processed optical physiology data.")
    images = ophys.ImageSegmentation()
    module.add(images)
    segmentation = images.create_plane_segmentation(
        name="PlaneSegmentation", description="Simulated ROIs on a grid.", imaging_plane=plane
    )
    for i in range(n_rois):
        segmentation.add_roi(pixel_mask=_square(i, n_rois))
    accepted = np.column_stack([np.ones(n_rois), np.full(n_rois, 0.95)])
    segmentation.add_column(
        name="iscell", description="Accepted (1) or not (0), and the probability of a cell.", data=accepted
    )
    return segmentation


def _square(i: int, n_rois: int) -> list[tuple[int, int, float]]:
    per_row = int(np.ceil(np.sqrt(n_rois)))
    x0, y0 = (i % per_row) * 2 * _SIDE, (i // per_row) * 2 * _SIDE
    return [(x0 + dx, y0 + dy, 1.0) for dx in range(_SIDE) for dy in range(_SIDE)]


def _add_trials(nwbfile: Any, trials: dict[str, NDArray[Any]] | None) -> None:
    if trials is None:
        return
    extra = [k for k in trials if k not in ("id", "start_time", "stop_time")]
    for name in extra:
        nwbfile.add_trial_column(name=name, description=f"When in the trial: {name.replace('_', ' ')}, in s.")
    for i in range(len(trials["start_time"])):
        nwbfile.add_trial(
            start_time=float(trials["start_time"][i]),
            stop_time=float(trials["stop_time"][i]),
            **{k: float(trials[k][i]) for k in extra},
        )
