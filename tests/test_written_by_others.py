"""Files that neuroconv and suite2p themselves write from Suite2p folders: read, fitted, written and read back.

The tests of neuroconv need neuroconv and roiextractors. The test of suite2p's own NWB needs suite2p, and a pynwb before
4 in the folder that NWB_CALCIUM_LVM_OLD_PYNWB names, since suite2p 1.1 cannot write with a later one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _others import PlainReader, array, check_the_rest, places
from _suite2p_folders import FakePlane, write_suite2p_folder

from nwb_calcium_lvm import CalciumHMM, read_nwb, write_nwb
from nwb_calcium_lvm.preprocessing import dff_from_raw

OLD_PYNWB = os.environ.get("NWB_CALCIUM_LVM_OLD_PYNWB")
DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")
FOLDERS = sorted((Path(DATA) / "suite2p").glob("*")) if DATA else []
FOLDERS = [f / "suite2p" for f in FOLDERS if not f.name.startswith("no_rois")]

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.slow]
needs_neuroconv = pytest.mark.skipif(importlib.util.find_spec("neuroconv") is None, reason="neuroconv is not installed")
needs_suite2p = pytest.mark.skipif(
    importlib.util.find_spec("suite2p") is None or OLD_PYNWB is None,
    reason="needs suite2p, and NWB_CALCIUM_LVM_OLD_PYNWB",
)


@pytest.fixture(scope="module")
def plain() -> Iterator[PlainReader]:
    reader = PlainReader()
    yield reader
    reader.close()


def made_folder(tmp_path: Path, layout: str, n_planes: int) -> Path:
    planes = [FakePlane(n_rois=5 + i, seed=i) for i in range(n_planes)]
    for plane in planes:
        for roi in plane.stat:
            roi["npix"] = np.int64(len(roi["ypix"]))
    return write_suite2p_folder(tmp_path, planes, layout)


def through_neuroconv(folder: Path, path: Path) -> Path:
    """Convert all planes of a folder into one file, as neuroconv's documentation has it."""
    from neuroconv import ConverterPipe
    from neuroconv.datainterfaces import Suite2pSegmentationInterface

    names = Suite2pSegmentationInterface.get_available_planes(folder_path=folder)
    interfaces = [Suite2pSegmentationInterface(folder_path=folder, plane_name=n) for n in names]
    converter: Any = ConverterPipe(data_interfaces=interfaces)
    metadata = converter.get_metadata()
    metadata["NWBFile"]["session_start_time"] = datetime(2024, 5, 1, 9, 30, tzinfo=UTC)
    converter.run_conversion(nwbfile_path=path, metadata=metadata, overwrite=True)
    return path


def through_suite2p(folder: Path) -> Path:
    """Have suite2p write its NWB, with a pynwb it can work with."""
    code = f"from suite2p.io.nwb import save_nwb; save_nwb({str(folder)!r})"
    environment = os.environ | {"PYTHONPATH": str(OLD_PYNWB)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    return folder / "ophys.nwb"


def dff_of(folder: Path, planes: list[int]) -> np.ndarray:
    """dF/F of a folder's cells, (time, roi); nothing in NWB says which frames Suite2p took for bad."""
    parts = []
    for plane in planes:
        place = folder / f"plane{plane}"
        cells = np.load(place / "iscell.npy")[:, 0] > 0
        light, neuropil = (np.load(place / name)[cells].T for name in ("F.npy", "Fneu.npy"))
        parts.append(dff_from_raw(light, neuropil, sampling_rate=15.0)[0])
    return np.concatenate(parts, axis=1)


def check(source: Path, folder: Path, plain: PlainReader, *, by_plane: bool) -> None:
    """Compare with what the folder itself gives, then fit, write, and compare with what pynwb alone reads."""
    out = source.with_name("results.nwb")
    planes = sorted(int(p.name[5:]) for p in folder.glob("plane*"))
    ours: set[str] = set()
    for plane in planes if by_plane and len(planes) > 1 else [None]:
        rec = read_nwb(source, plane=plane)
        expected = dff_of(folder, planes if plane is None else [plane])
        np.testing.assert_allclose(rec.dff, expected, rtol=1e-5, atol=1e-6)
        assert rec.sampling_rate == 15.0
        assert rec.n_rois > 0
        result = CalciumHMM(n_states=2, n_init=1, max_iter=2, random_state=0).fit(rec).infer(rec)
        name = f"plane{plane}"
        write_nwb(result, out, name=name, overwrite=out.exists())
        assert rec.source.series is not None
        series = rec.source.series.split(" + ")[0]
        found = plain.read(out, name, series=[series])
        rates = array(found, name, "firing_rates")
        np.testing.assert_array_equal(rates["data"], result["firing_rates"])
        np.testing.assert_allclose(rates["times"], found[series]["times"], rtol=0, atol=1e-9)
        assert rec.source.table_rows is not None
        assert rates["rows"].tolist() == rec.source.table_rows.tolist()
        assert str(rates["table"]) == rec.source.plane_segmentation
        ours |= places(found, name)
    check_the_rest(source, out, ours, plain)


@needs_neuroconv
@pytest.mark.others
@pytest.mark.parametrize("n_planes", [1, 2])
@pytest.mark.parametrize("layout", ["0.14", "1.1 with ops.npy"])
def test_neuroconv(tmp_path: Path, plain: PlainReader, layout: str, n_planes: int):
    folder = made_folder(tmp_path, layout, n_planes)
    check(through_neuroconv(folder, tmp_path / "session.nwb"), folder, plain, by_plane=True)


@needs_neuroconv
@pytest.mark.others
@pytest.mark.data
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.parent.name)
def test_neuroconv_on_real_folders(tmp_path: Path, plain: PlainReader, folder: Path):
    check(through_neuroconv(folder, tmp_path / "session.nwb"), folder, plain, by_plane=True)


@needs_suite2p
@pytest.mark.suite2p
@pytest.mark.parametrize("n_planes", [1, 2])
def test_suite2p(tmp_path: Path, plain: PlainReader, n_planes: int):
    folder = made_folder(tmp_path, "1.1", n_planes)
    check(through_suite2p(folder), folder, plain, by_plane=False)


@needs_suite2p
@pytest.mark.suite2p
@pytest.mark.data
@pytest.mark.parametrize("folder", [f for f in FOLDERS if "v1.1" in f.parent.name], ids=lambda p: p.parent.name)
def test_suite2p_on_real_folders(tmp_path: Path, plain: PlainReader, folder: Path):
    copied = Path(shutil.copytree(folder, tmp_path / "suite2p", copy_function=shutil.copyfile))
    for place in (copied, *copied.iterdir()):
        if place.is_dir():
            place.chmod(0o755)
    check(through_suite2p(copied), copied, plain, by_plane=False)
