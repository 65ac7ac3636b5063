"""The main job on real input: each Suite2p folder and a real population, from the command line into valid NWB."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from nwbinspector import inspect_nwbfile
from pynwb import NWBHDF5IO, NWBFile, validate
from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries
from scipy.io import loadmat
from typer.testing import CliRunner

from nwb_calcium_lvm import CalciumHMM, read_results
from nwb_calcium_lvm.cli import app

DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")
pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA"),
]
ROOT = Path(DATA or ".")
FOLDERS = sorted(p for p in (ROOT / "suite2p").glob("*") if not p.name.startswith("no_rois")) if DATA else []


def fit(path, out):
    options = ["-k", "2", "--set", "n_init=1", "--set", "max_iter=10", "--seed", "0"]
    return CliRunner().invoke(app, ["fit", "hmm", str(path), "-o", str(out), *options])


def messages_about_results(path):
    found = inspect_nwbfile(nwbfile_path=str(path), skip_validate=True)
    return [m for m in found if "CalciumHMM" in f"{m.location} {m.object_name}"]


def check(out, n_rois):
    errors = validate(path=str(out))
    assert not (errors[0] if isinstance(errors, tuple) else errors)
    assert messages_about_results(out) == []
    with NWBHDF5IO(str(out), "r") as io:
        found = io.read().processing["ophys"]["CalciumHMM"]
        rates, states = found.inferred_roi_series["firing_rates"], found.inferred_series["states"]
        assert rates.data.shape == (states.data.shape[0], n_rois)
        assert np.isfinite(rates.data[:]).all()
        assert len(rates.rois) == n_rois
    result = read_results(out, "CalciumHMM")
    assert result["firing_rates"].shape[1] == n_rois
    assert CalciumHMM.from_nwb(out).n_states == 2
    assert out.with_name(f"{out.stem}_CalciumHMM.png").stat().st_size > 10_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_suite2p_folders(folder, tmp_path):
    copied = Path(shutil.copytree(folder, tmp_path / folder.name, copy_function=shutil.copyfile))
    planes = [p for p in sorted((copied / "suite2p").glob("plane*")) if (p / "iscell.npy").exists()]
    n_rois = sum(int((np.load(p / "iscell.npy")[:, 0] > 0).sum()) for p in planes)
    out = tmp_path / "out.nwb"
    result = fit(copied / "suite2p", out)
    assert result.exit_code == 0, result.output
    check(out, n_rois)


def test_a_folder_without_rois_says_so(tmp_path):
    source = next((ROOT / "suite2p").glob("no_rois*"))
    copied = Path(shutil.copytree(source, tmp_path / source.name, copy_function=shutil.copyfile))
    result = fit(copied / "suite2p", tmp_path / "out.nwb")
    assert result.exit_code == 1
    assert "ROI" in result.output
    assert not (tmp_path / "out.nwb").exists()


def test_a_real_population(tmp_path):
    traces = loadmat(ROOT / "populations" / "allen_visual_coding_30hz_552195520.mat")["dF_traces"].T[:2000]
    nwbfile = NWBFile("Drifting gratings.", "allen-552195520", datetime(2016, 10, 1, tzinfo=UTC))
    device = nwbfile.create_device("Microscope", description="Two-photon microscope.")
    channel = OpticalChannel(name="green", description="GCaMP6f emission.", emission_lambda=520.0)
    plane = nwbfile.create_imaging_plane(
        name="ImagingPlane",
        optical_channel=channel,
        description="Layer 4.",
        device=device,
        excitation_lambda=910.0,
        indicator="GCaMP6f",
        location="VISp",
        imaging_rate=30.0,
    )
    module = nwbfile.create_processing_module("ophys", "Processed imaging.")
    segmentation = ImageSegmentation()
    module.add(segmentation)
    table = segmentation.create_plane_segmentation("ROIs.", plane, name="PlaneSegmentation")
    for i in range(traces.shape[1]):
        table.add_roi(pixel_mask=[(i, i, 1.0)])
    rois = table.create_roi_table_region("All ROIs.", region=list(range(traces.shape[1])))
    container = DfOverF(name="DfOverF")
    module.add(container)
    container.add_roi_response_series(
        RoiResponseSeries(name="dff", data=traces, rois=rois, unit="n.a.", rate=30.0, description="dF/F.")
    )
    path = tmp_path / "allen.nwb"
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwbfile)
    before = path.read_bytes()
    result = fit(path, tmp_path / "out.nwb")
    assert result.exit_code == 0, result.output
    assert path.read_bytes() == before
    check(tmp_path / "out.nwb", traces.shape[1])
