"""NWB files laid out as others lay them out: Suite2p, neuroconv, CaImAn, AllenSDK, DANDI 000167 and the rest."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.base import Images
from pynwb.file import Subject
from pynwb.image import GrayscaleImage
from pynwb.ophys import (
    DfOverF,
    Fluorescence,
    ImageSegmentation,
    OpticalChannel,
    RoiResponseSeries,
    TwoPhotonSeries,
)

SIDE = 8  # pixels of the field of view, each way


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
    plane_names: Sequence[str] | None = None,
    segmentation: str = "ImageSegmentation",
    ids: Sequence[int] | None = None,
    masks: str = "pixel",
    rate: float | None = None,
    indicator: str = "GCaMP6f",
    trials: Mapping[str, Sequence[Any]] | None = None,
    description: str = "ROIs of the field of view",
    module: str = "ophys",
    movie: str | None = None,
    more: Callable[[NWBFile], None] | None = None,
    manager: Any = None,
) -> Path:
    """Write an NWB file with the given tables of ROIs and series, a movie kept elsewhere, and what ``more`` adds.

    Series of the same rows share one region, as most writers have it: all but the first hold a link.
    """
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
    room = nwbfile.create_processing_module(name=module, description="Processed optical physiology.")
    images = ImageSegmentation(name=segmentation)
    room.add(images)
    tables = []
    device = nwbfile.create_device(name="Microscope", description="A two-photon microscope.")
    for i, n in enumerate(n_rows):
        plane = nwbfile.create_imaging_plane(
            name=plane_names[i] if plane_names else f"ImagingPlane{i}",
            optical_channel=OpticalChannel(name="Green", description="Green channel.", emission_lambda=510.0),
            description="A plane in layer 2/3.",
            device=device,
            excitation_lambda=920.0,
            indicator=indicator,
            location="VISp",
            imaging_rate=rate,
        )
        if movie is not None and i == 0:
            frames = TwoPhotonSeries(
                name="TwoPhotonSeries",
                description="The movie, in a file of its own.",
                external_file=[movie],
                starting_frame=[0],
                format="external",
                dimension=[SIDE, SIDE],
                imaging_plane=plane,
                rate=10.0 if rate is None else rate,
                starting_time=0.0,
                num_samples=400,
            )
            nwbfile.add_acquisition(frames)
        name = table_names[i] if table_names else ("PlaneSegmentation" if i == 0 else f"PlaneSegmentation{i}")
        table = images.create_plane_segmentation(
            name=name,
            description=description,
            imaging_plane=plane,
            reference_images=None if movie is None else nwbfile.acquisition["TwoPhotonSeries"],
        )
        for row in range(n):
            table.add_roi(id=row if ids is None else ids[row], **_mask(masks, row))
        for key, values in columns[min(i, len(columns) - 1)].items():
            table.add_column(name=key, description=f"About each ROI: {key}.", data=values)
        tables.append(table)
    containers: dict[tuple[str, ...], Any] = {(module,): room}
    regions: dict[tuple[int, ...], Any] = {}
    for item in series:
        *place, name = item.path.split("/")
        table = tables[item.table]
        rows = list(range(len(table))) if item.rows is None else list(item.rows)
        key = (item.table, *rows)
        if key not in regions:
            regions[key] = table.create_roi_table_region(description="The ROIs of the series.", region=rows)
        facts = {"unit": "lumens", **item.facts}
        if "rate" not in facts and "timestamps" not in facts:
            facts["rate"] = 10.0
        one = RoiResponseSeries(name=name, data=item.data, rois=regions[key], **facts)
        if place == ["acquisition"]:
            nwbfile.add_acquisition(one)
            continue
        where = tuple(place)
        if where not in containers:
            containers[where] = item.container(name=place[-1])
            room.add(containers[where])
        if len(where) == 1:
            room.add(one)
        else:
            containers[where].add_roi_response_series(one)
    if trials is not None:
        for key in trials:
            if key not in ("start_time", "stop_time"):
                nwbfile.add_trial_column(name=key, description=f"About each trial: {key}.")
        for i in range(len(trials["start_time"])):
            nwbfile.add_trial(**{key: values[i] for key, values in trials.items()})
    if more is not None:
        more(nwbfile)
    with NWBHDF5IO(str(path), "w", manager=manager) as io:
        io.write(nwbfile)
    if movie is not None:
        with h5py.File(path, "r+") as file:
            del file["acquisition/TwoPhotonSeries/num_samples"]  # today's pynwb asks for it; those writers' knew it not
    return path


def _mask(kind: str, row: int) -> dict[str, Any]:
    if kind == "image":
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[row % SIDE, row % SIDE :] = 0.5
        return {"image_mask": mask}
    pixels = [(row, row, 1.0), (row + 1, row, 0.5)]
    return {"pixel_mask": pixels} if kind == "pixel" else {"voxel_mask": [(x, y, row // 4, w) for x, y, w in pixels]}


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


def suite2p_file(
    path: Path, n_planes: int = 1, per_plane: int = 3, n_frames: int = 400, padded: int = 0, **facts: Any
) -> Path:
    """As suite2p's save_NWB: three containers with a series per plane, one table for all planes.

    The last ``padded`` frames of the last plane are zeros, as where it was recorded for fewer frames than the first.
    """
    n = n_planes * per_plane
    everything = raw_traces(n_frames, n)
    neuropil = raw_traces(n_frames, n, seed=1) * 0.5
    deconvolved = np.abs(everything - 200)
    for traces in (everything, neuropil, deconvolved):
        traces[n_frames - padded :, -per_plane:] = 0.0
    series = []
    for plane in range(n_planes):
        rows = list(range(plane * per_plane, (plane + 1) * per_plane))
        for container, data in (("Fluorescence", everything), ("Neuropil", neuropil), ("Deconvolved", deconvolved)):
            series.append(S(f"ophys/{container}/plane{plane}", data[:, rows], rows, facts=dict(facts)))
    accepted = np.ones(n)
    accepted[1] = 0

    def backgrounds(nwbfile: NWBFile) -> None:
        for plane in range(n_planes):
            nwbfile.processing["ophys"].add(_images(f"Backgrounds_{plane}", "meanImg", "Vcorr", "max_proj"))

    return build(
        path,
        series,
        n_rows=(n,),
        columns=[{"iscell": iscell(accepted)}],
        masks="voxel" if n_planes > 1 else "pixel",
        description="suite2p output",
        movie="",
        rate=facts.get("rate", 10.0),
        more=backgrounds,
    )


def _images(name: str, *names: str) -> Images:
    picture = np.arange(SIDE**2, dtype=np.float32).reshape(SIDE, SIDE)
    return Images(name=name, images=[GrayscaleImage(name=n, data=picture) for n in names], description="Averages.")


def neuroconv_file(path: Path, n_planes: int = 1, delay: float = 0.0, **other: Any) -> Path:
    """As neuroconv 0.10: one Fluorescence with everything in it, names with a suffix where there are several planes.

    Each plane has its own table, and starts ``delay`` s after the one before it.
    """
    series = []
    suffixes = [""] if n_planes == 1 else [f"Chan1Plane{plane}" for plane in range(n_planes)]
    for plane, suffix in enumerate(suffixes):
        facts = {"unit": "n.a.", "starting_time": plane * delay, "rate": 10.0}
        for name, data in (
            ("RoiResponseSeries", raw_traces(seed=plane)),
            ("Neuropil", raw_traces(seed=7) * 0.5),
            ("Deconvolved", np.abs(raw_traces() - 200)),
        ):
            series.append(S(f"ophys/Fluorescence/{name}{suffix}", data, table=plane, facts=facts))
    columns = [{"roi_name": [f"ROI{i}" for i in range(5)], "iscell": np.array([1.0, 1.0, 0.0, 1.0, 1.0])}]

    def pictures(nwbfile: NWBFile) -> None:
        names = [f"{kind}Image{suffix}" for suffix in suffixes for kind in ("Mean", "Correlation")]
        nwbfile.processing["ophys"].add(_images("SegmentationImages", *names))
        if "more" in other:
            other["more"](nwbfile)

    return build(
        path,
        series,
        n_rows=[5] * n_planes,
        columns=columns,
        table_names=[f"PlaneSegmentation{suffix}" for suffix in suffixes],
        plane_names=[f"ImagingPlane{suffix}" for suffix in suffixes],
        **{**other, "more": pictures},
    )


def caiman_file(path: Path, curated: bool = True) -> Path:
    """As CaImAn's save_NWB: RoiResponseSeries is the denoised C, background rows are in the table.

    Only components that someone went through by hand are ``accepted`` or ``rejected``; ``keep`` is what the evaluation
    of components chose. Background components have neither these nor numbers.
    """
    times = 1.5 + np.arange(400) / 30.0
    columns = {
        "r": [0.9, 0.8, 0.7, np.nan, np.nan],
        "snr": [5.0, 4.0, 3.0, np.nan, np.nan],
        "accepted": [curated, False, curated, False, False],
        "rejected": [False, curated, False, False, False],
        "cnn": [0.99, 0.2, 0.95, np.nan, np.nan],
        "keep": [True, False, True, False, False],
    }
    series = [
        S("ophys/Fluorescence/RoiResponseSeries", raw_traces(400, 3), [0, 1, 2], facts={"timestamps": times}),
        S(
            "ophys/Fluorescence/Background_Fluorescence_Response",
            raw_traces(400, 2),
            [3, 4],
            facts={"timestamps": times},
        ),
    ]

    def residuals(nwbfile: NWBFile) -> None:
        room = nwbfile.processing["ophys"]
        room.add(
            TimeSeries(name="residuals", description="residuals", data=raw_traces(400, 3), unit="NA", timestamps=times)
        )
        room.add(_images("summary_images", "local_correlations"))

    return build(
        path,
        series,
        n_rows=(5,),
        columns=[columns],
        masks="image",
        description="CNMF_ROIs",
        movie="movie.tif",
        rate=30.0,
        more=residuals,
    )


def allen_behavior_file(path: Path, jitter: float = 0.001, valid: Sequence[bool] = (True,) * 5, **other: Any) -> Path:
    """As AllenSDK's Visual Behavior: series of one number per ROI, with dummy timestamps, beside the traces."""
    n = 5
    times = np.arange(400) / 31.0 + jitter * np.random.default_rng(0).random(400)
    dummy = np.arange(n, dtype=float)
    clock = {"timestamps": times, "unit": "NA"}
    series = [
        S("ophys/dff/traces", raw_traces() / 200 - 1, container=DfOverF, facts=clock),
        S("ophys/corrected_fluorescence/traces", raw_traces(), facts=clock),
        S("ophys/corrected_fluorescence/r", np.random.default_rng(1).random(n), facts=clock | {"timestamps": dummy}),
        S("ophys/corrected_fluorescence/RMSE", np.random.default_rng(2).random(n), facts=clock | {"timestamps": dummy}),
        S("ophys/demixed_trace/traces", raw_traces(), facts=clock),
        S("ophys/neuropil_trace/traces", raw_traces(seed=3) * 0.5, facts=clock),
    ]
    columns = {
        "cell_specimen_id": [-1, 108, 107, 109, 106],
        "valid_roi": list(valid),
        "mask_image_plane": [0] * n,
        "max_correction_up": np.linspace(1.0, 9.0, n),
        "x": [11, 7, 30, 22, 16],
    }
    return build(
        path,
        series,
        n_rows=(n,),
        ids=[1080, 1071, 1092, 1063, 1054],
        columns=[columns],
        masks="image",
        segmentation="image_segmentation",
        table_names=["cell_specimen_table"],
        plane_names=["imaging_plane_1"],
        rate=31.0,
        description="Segmented rois",
        **other,
    )


def allen_coding_file(path: Path, **other: Any) -> Path:
    """As dandisets 000039 and 000049: dF/F inside a Fluorescence container, beside the stages it was made from."""
    module = "brain_observatory_pipeline"
    times = 3.25 + np.arange(400) / 30.0 + 1e-4 * np.random.default_rng(0).random(400)
    series = [
        S(f"{module}/Fluorescence/{name}", data, facts={"timestamps": times, "unit": "NA"})
        for name, data in (
            ("DfOverF", raw_traces() / 200 - 1),
            ("demixed_traces", raw_traces()),
            ("neuropil_traces", raw_traces(seed=3) * 0.5),
            ("raw_traces", raw_traces()),
        )
    ]
    return build(path, series, module=module, masks="image", ids=[517, 529, 540, 551, 562], rate=30.0, **other)


def odor_file(path: Path, n_trials: int = 3, **other: Any) -> Path:
    """As DANDI 000167: Plane_0..2 in three containers, one table, trials with start and stop only, 10 s apart."""
    per_plane, n, rate = 4, 12, 4.53
    n_frames = int(n_trials * 40 * rate) + 60
    series = []
    for plane in range(3):
        rows = list(range(plane * per_plane, (plane + 1) * per_plane))
        for container, scale in (("Fluorescence", 1.0), ("Neuropil", 0.5), ("Deconvolved", 0.1)):
            data = raw_traces(n_frames, per_plane, seed=plane) * scale
            series.append(S(f"ophys/{container}/Plane_{plane}", data, rows, facts={"rate": rate}))
    starts = 40.0 * np.arange(n_trials)
    return build(
        path,
        series,
        n_rows=(n,),
        columns=[{"iscell": iscell(np.array([1, 1, 0, 1] * 3))}],
        trials={"start_time": starts, "stop_time": starts + 30.0},
        indicator="GCaMP6s",
        masks="voxel",
        rate=rate,
        **other,
    )
