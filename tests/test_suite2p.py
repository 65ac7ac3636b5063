"""Suite2p folders: what is read from which layout, what is refused, and rates written back beside their planes."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _suite2p_folders import LAYOUTS, FakePlane, write_suite2p_folder

from nwb_calcium_lvm import preprocessing as pp
from nwb_calcium_lvm.exceptions import DataError, DataWarning, NameClashError, UnsafeFileError, WriteError
from nwb_calcium_lvm.io import read_suite2p, suite2p, suite2p_write, write_suite2p
from nwb_calcium_lvm.provenance import Segments, Source
from nwb_calcium_lvm.result import InferenceResult, NamedArray

DATA = os.environ.get("NWB_CALCIUM_LVM_DATA")


def expected_dff(plane, rows, k=0.7, **options):
    F, Fneu = plane.F[rows].T.astype(float), plane.Fneu[rows].T.astype(float)
    good = ~plane.badframes
    F, Fneu = (
        np.array([np.interp(np.arange(len(x)), np.flatnonzero(good), t[good]) for t in x.T]).T for x in (F, Fneu)
    )
    Fc = F - k * (Fneu - np.median(Fneu[good], axis=0))
    F0 = pp.baseline(Fc, sampling_rate=plane.fs, **options)
    return (Fc - F0) / F0


# -- Reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_plane_in_every_layout(tmp_path, layout):
    plane = FakePlane(bad_frames=[50, 51, 200], red=True)
    root = write_suite2p_folder(tmp_path, [plane], layout)
    rec = read_suite2p(root, indicator="gcamp6s")
    accepted = np.flatnonzero(plane.iscell[:, 0])
    assert 0 < len(accepted) < plane.n_rois
    np.testing.assert_array_equal(rec.roi_ids, accepted)
    np.testing.assert_allclose(rec.dff, expected_dff(plane, accepted), atol=2e-5)
    assert rec.dff.dtype == np.float32
    assert rec.sampling_rate == 15.0
    np.testing.assert_array_equal(rec.mask, np.broadcast_to(~plane.badframes[:, None], rec.shape))
    assert rec.units == "dff"
    assert rec.indicator.name == "GCaMP6s"
    assert rec.source.kind == "suite2p"
    assert rec.source.path == root.resolve()
    np.testing.assert_array_equal(rec.source.table_rows, accepted)
    np.testing.assert_array_equal(rec.source.planes, 0)
    meta = rec.roi_metadata
    np.testing.assert_array_equal(meta["plane"], 0)
    np.testing.assert_array_equal(meta["is_cell"], True)
    np.testing.assert_array_equal(meta["cell_probability"], plane.iscell[accepted, 1])
    np.testing.assert_array_equal(meta["is_red"], plane.iscell[::-1][accepted, 0] > 0)
    np.testing.assert_array_equal(meta["position"], [[10 + i, 20 + i] for i in accepted])
    np.testing.assert_array_equal(meta["npix"], 100 + accepted)
    np.testing.assert_allclose(meta["noise_level"], pp.noise_level(rec.dff, 15.0, rec.mask))
    assert rec.metadata["tau"] == 1.0
    assert rec.metadata["neuropil_coefficient"] == 0.7
    assert rec.metadata["baseline"]["method"] == "maximin"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_folders_settings_are_followed_and_overruled(tmp_path, layout):
    settings = {"neucoeff": 0.4, "baseline": "constant_prctile", "prctile_baseline": 20.0, "win_baseline": 5.0}
    settings["sig_baseline"] = 3.0
    plane = FakePlane(settings=settings)
    root = write_suite2p_folder(tmp_path, [plane], layout)
    rec = read_suite2p(root, accepted=False)
    assert rec.n_rois == plane.n_rois
    expected = expected_dff(plane, slice(None), 0.4, method="constant_percentile", percentile=20.0)
    np.testing.assert_allclose(rec.dff, expected, atol=2e-5)
    rec = read_suite2p(root, accepted=False, neuropil_coefficient=0, baseline="maximin", sampling_rate=30.0)
    assert rec.sampling_rate == 30.0
    expected = expected_dff(replace_rate(plane, 30.0), slice(None), 0.0, window=5.0, sigma=3.0)
    np.testing.assert_allclose(rec.dff, expected, atol=2e-5)


def replace_rate(plane, fs):
    plane.fs = fs
    return plane


def test_every_name_for_one_folder(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    whole = read_suite2p(tmp_path)
    for folder in (root, str(root), root / "plane0", os.path.relpath(root)):
        np.testing.assert_array_equal(read_suite2p(folder).dff, whole.dff)
    np.testing.assert_array_equal(read_suite2p(root, plane=0).dff, whole.dff)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_planes_together_count_on_as_combined_does(tmp_path, layout):
    planes = [FakePlane(4, seed=1, bad_frames=[9]), FakePlane(6, seed=2, bad_frames=[30, 31])]
    root = write_suite2p_folder(tmp_path, planes, layout, combined=True)
    rec = read_suite2p(root, accepted=False)
    assert rec.roi_ids.tolist() == list(range(10))
    assert rec.source.planes.tolist() == [0] * 4 + [1] * 6
    assert rec.source.table_rows.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    np.testing.assert_allclose(rec.dff[:, 4:], expected_dff(planes[1], slice(None)), atol=2e-5)
    assert np.flatnonzero(~rec.mask[:, 0]).tolist() == [9]
    assert np.flatnonzero(~rec.mask[:, 5]).tolist() == [30, 31]
    joint = read_suite2p(root / "combined", accepted=False)
    np.testing.assert_array_equal(joint.dff, rec.dff)
    np.testing.assert_array_equal(joint.mask, rec.mask)
    np.testing.assert_array_equal(joint.roi_ids, rec.roi_ids)
    np.testing.assert_array_equal(joint.source.planes, rec.source.planes)
    np.testing.assert_array_equal(joint.source.table_rows, rec.source.table_rows)
    second = read_suite2p(root, plane=1, accepted=False)
    assert second.roi_ids.tolist() == list(range(6))
    np.testing.assert_array_equal(second.dff, rec.dff[:, 4:])
    np.testing.assert_array_equal(read_suite2p(root / "combined", plane=1, accepted=False).dff, second.dff)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("alone", [False, True])
def test_unequal_planes_are_cut_never_padded(tmp_path, layout, alone):
    planes = [FakePlane(3, 401, seed=1), FakePlane(3, 400, seed=2), FakePlane(3, 398, seed=3)]
    root = write_suite2p_folder(tmp_path, planes, layout, combined=True)
    if not alone:
        with pytest.warns(DataWarning, match="plane 0: 401, plane 1: 400, plane 2: 398.*shortest, 398"):
            rec = read_suite2p(root)
        assert rec.n_frames == 398
    else:
        for number in range(3):
            shutil.rmtree(root / f"plane{number}")
    with pytest.warns(DataWarning, match="shortest, 398"):
        joint = read_suite2p(root if alone else root / "combined")
    assert joint.n_frames == 398
    np.testing.assert_allclose(joint.dff[:, -2:], expected_dff_cut(planes, 398)[:, -2:], atol=2e-5)
    if not alone:  # without its planes, combined/ has the bad frames of one of them only
        assert read_suite2p(root / "combined", plane=0).n_frames == 401


def expected_dff_cut(planes, n_frames):
    parts = []
    for plane in planes:
        rows = np.flatnonzero(plane.iscell[:, 0])
        Fneu = plane.Fneu[rows, :n_frames].T.astype(float)
        Fc = plane.F[rows, :n_frames].T - 0.7 * (Fneu - np.median(Fneu, axis=0))
        F0 = pp.baseline(Fc, sampling_rate=15.0)
        parts.append((Fc - F0) / F0)
    return np.hstack(parts)


def test_planes_of_different_clocks_are_refused(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane(fs=15.0), FakePlane(fs=7.5)])
    with pytest.raises(DataError, match=r"plane 0: 15 Hz, plane 1: 7.5 Hz.*Pass plane=N"):
        read_suite2p(root)
    assert read_suite2p(root, plane=1).sampling_rate == 7.5


def test_a_plane_without_rois_is_left_out_and_said(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane(seed=1), FakePlane(0), FakePlane(seed=2)], combined=True)
    with pytest.warns(DataWarning, match="no ROIs in plane 1"):
        rec = read_suite2p(root, accepted=False)
    assert sorted(set(rec.source.planes.tolist())) == [0, 2]
    assert rec.roi_ids.tolist() == list(range(10))
    assert sorted(set(read_suite2p(root / "combined").source.planes.tolist())) == [0, 2]
    with pytest.raises(DataError, match="no ROIs in plane 1"):
        read_suite2p(root, plane=1)


def test_flyback_planes_are_no_surprise(tmp_path, recwarn):
    root = write_suite2p_folder(tmp_path, [FakePlane(0), FakePlane(seed=1), FakePlane(seed=2)], combined=True)
    for folder in (root, root / "plane0", root / "plane1", root / "plane2", root / "combined"):
        content = np.load(folder / "db.npy", allow_pickle=True).item()
        np.save(folder / "db.npy", content | {"ignore_flyback": [0]}, allow_pickle=True)
    stat = np.load(root / "combined" / "stat.npy", allow_pickle=True)
    for roi in stat:
        roi["iplane"] -= 1  # since 1.0 combined/ counts without flyback planes
    np.save(root / "combined" / "stat.npy", stat, allow_pickle=True)
    rec = read_suite2p(root)
    assert sorted(set(rec.source.planes.tolist())) == [1, 2]
    np.testing.assert_array_equal(read_suite2p(root / "combined").source.planes, rec.source.planes)
    assert not recwarn.list


def test_missing_samples_are_masked_and_do_not_spread(tmp_path):
    plane = FakePlane()
    clean = read_suite2p(write_suite2p_folder(tmp_path / "clean", [plane]))
    plane.F[0, 100:103] = np.nan
    rec = read_suite2p(write_suite2p_folder(tmp_path / "holed", [plane]))
    assert np.argwhere(~rec.mask).tolist() == [[100, 0], [101, 0], [102, 0]]
    assert np.isfinite(rec.dff).all()
    np.testing.assert_allclose(rec.dff[200:], clean.dff[200:], atol=0.02)


def test_bad_frames_do_not_touch_the_baseline(tmp_path):
    plane = FakePlane(bad_frames=range(100, 105))
    clean = read_suite2p(write_suite2p_folder(tmp_path / "clean", [plane]))
    plane.F[:, 100:105] = -5000.0
    plane.Fneu[:, 100:105] = 9000.0
    rec = read_suite2p(write_suite2p_folder(tmp_path / "bad", [plane]))
    np.testing.assert_array_equal(rec.dff, clean.dff)


def test_dead_and_dim_rois_are_left_out_by_name(tmp_path):
    plane = FakePlane(6)
    plane.iscell[:, 0] = 1
    plane.F[1] = np.nan
    plane.F[3] = 77.0
    plane.F[4] -= 600.0  # dark offset overdone: the baseline is below zero
    root = write_suite2p_folder(tmp_path, [plane])
    with pytest.warns(DataWarning, match=r"3 of 6 ROIs.*ROI 1, 3: .*ROI 4: .*left out"):
        rec = read_suite2p(root)
    assert rec.roi_ids.tolist() == [0, 2, 5]
    assert rec.source.table_rows.tolist() == [0, 2, 5]
    with pytest.raises(DataError, match=r"ROI 1, 3: .*strict=False"):
        read_suite2p(root, strict=True)
    plane.F[:] = 1.0
    with pytest.raises(DataError, match="Nothing is left"):
        read_suite2p(write_suite2p_folder(tmp_path / "all", [plane]))


def test_many_rois_come_in_blocks(tmp_path, monkeypatch):
    root = write_suite2p_folder(tmp_path, [FakePlane(11, 100), FakePlane(7, 100, seed=1)])
    whole = read_suite2p(root, accepted=False)
    monkeypatch.setattr(suite2p, "_BLOCK", 3)
    parts = read_suite2p(root, accepted=False)
    np.testing.assert_array_equal(parts.dff, whole.dff)


def test_cells_sorted_by_hand_in_the_combined_view_are_not_lost_silently(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane(), FakePlane(seed=1)], combined=True)
    iscell = np.load(root / "combined" / "iscell.npy")
    iscell[0, 0] = 0
    np.save(root / "combined" / "iscell.npy", iscell)
    with pytest.warns(DataWarning, match="5 against 6.*read combined/ instead"):
        assert 0 in read_suite2p(root).roi_ids
    assert 0 not in read_suite2p(root / "combined").roi_ids


def test_left_overs_of_older_versions_are_overruled(tmp_path):
    plane = FakePlane()
    root = write_suite2p_folder(tmp_path, [plane], "1.1")
    np.save(root / "plane0" / "ops.npy", {"fs": 99.0, "neucoeff": 0.1, "baseline": "constant"}, allow_pickle=True)
    rec = read_suite2p(root)
    assert rec.sampling_rate == 15.0
    assert rec.metadata["neuropil_coefficient"] == 0.7


def test_plane_without_settings_takes_those_above_it(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane()], "1.1")
    (root / "plane0" / "settings.npy").unlink()
    assert read_suite2p(root).sampling_rate == 15.0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_accepted_cell(tmp_path, layout):
    plane = FakePlane()
    plane.iscell[:, 0] = 0
    root = write_suite2p_folder(tmp_path, [plane], layout)
    with pytest.raises(DataError, match=r"rejects all 5 ROIs\. Pass accepted=False"):
        read_suite2p(root)
    assert read_suite2p(root, accepted=False).n_rois == 5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fs", [None, 0.0])
def test_missing_rate(tmp_path, layout, fs):
    root = write_suite2p_folder(tmp_path, [FakePlane(fs=fs)], layout)
    with pytest.raises(DataError, match="Pass sampling_rate="):
        read_suite2p(root)
    assert read_suite2p(root, sampling_rate=20.0).sampling_rate == 20.0
    with pytest.raises(DataError, match="sampling_rate=-1"):
        read_suite2p(root, sampling_rate=-1)


def test_the_default_rate_is_doubted(tmp_path, recwarn):
    root = write_suite2p_folder(tmp_path, [FakePlane(fs=10.0)])
    with pytest.warns(DataWarning, match="exactly 10 Hz"):
        read_suite2p(root)
    recwarn.clear()
    assert read_suite2p(root, sampling_rate=10.0).sampling_rate == 10.0
    assert not recwarn.list


def test_what_is_no_suite2p_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds nothing; it is empty. Expected planeN/"):
        read_suite2p(tmp_path / "empty")
    with pytest.raises(DataError, match="There is no folder"):
        read_suite2p(tmp_path / "none")
    (tmp_path / "other.txt").write_text("x")
    with pytest.raises(DataError, match=r"holds empty, other.txt"):
        read_suite2p(tmp_path)
    with pytest.raises(DataError, match="is a file"):
        read_suite2p(tmp_path / "other.txt")
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    with pytest.raises(DataError, match=r"no plane 3 .* It has: 0"):
        read_suite2p(root, plane=3)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_planes_without_rois(tmp_path, layout):
    root = write_suite2p_folder(tmp_path, [FakePlane(0)], layout)
    with pytest.raises(DataError, match="Suite2p found no ROIs"):
        read_suite2p(root)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("iscell.npy", np.ones((4, 2)), "iscell.npy has shape .4, 2.*F.npy beside it has 5 ROIs"),
        ("iscell.npy", np.ones((5, 0)), "iscell.npy has shape"),
        ("redcell.npy", np.ones((6, 2)), "redcell.npy has shape"),
        ("Fneu.npy", np.ones((5, 399)), r"Fneu.npy \(5, 399\)"),
        ("F.npy", np.ones(5), r"Expected numbers, \(roi, time\)"),
        ("F.npy", np.array([["a"]]), r"Expected numbers, \(roi, time\)"),
        ("F.npy", np.ones((5, 0)), "no frame"),
        ("stat.npy", np.array([{}] * 4), "4 entries, but F.npy beside it has 5 ROIs"),
        ("settings.npy", np.array([1, 2]), "expected a dictionary of settings"),
        ("settings.npy", {"fs": "fast"}, "fs is 'fast'. Expected a number"),
    ],
)
def test_files_that_disagree(tmp_path, file, content, says):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    np.save(root / "plane0" / file, content, allow_pickle=True)
    with pytest.raises(DataError, match=says):
        read_suite2p(root)


@pytest.mark.parametrize(
    "file", ["ops.npy", "settings.npy", "db.npy", "reg_outputs.npy", "stat.npy", "F.npy", "iscell.npy"]
)
def test_a_malicious_file_is_refused(tmp_path, file):
    class Malice:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'made')!r}, 'w')",)

    root = write_suite2p_folder(tmp_path, [FakePlane()])
    np.save(root / "plane0" / file, Malice(), allow_pickle=True)
    with pytest.raises(UnsafeFileError):
        read_suite2p(root)
    assert not (tmp_path / "made").exists()


def test_missing_files(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    plane = root / "plane0"
    (plane / "iscell.npy").unlink()
    with pytest.warns(DataWarning, match="no iscell.npy: all 5 ROIs"):
        assert read_suite2p(root).n_rois == 5
    (plane / "Fneu.npy").unlink()
    with pytest.warns(DataWarning, match=r"no Fneu\.npy"), pytest.warns(DataWarning, match=r"no iscell\.npy"):
        rec = read_suite2p(root)
    assert rec.metadata["neuropil_coefficient"] == 0
    (plane / "stat.npy").unlink()
    with pytest.warns(DataWarning):
        assert "npix" not in read_suite2p(root).roi_metadata


def test_traces_not_extracted(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    (root / "plane0" / "F.npy").unlink()
    with pytest.raises(DataError, match=r"has stat\.npy but no F\.npy"):
        read_suite2p(root)


def test_bad_frames_of_another_run_are_not_used(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane(bad_frames=[3])])
    np.save(root / "plane0" / "reg_outputs.npy", {"badframes": np.ones(7, bool)}, allow_pickle=True)
    with pytest.warns(DataWarning, match="list of 7 frames"):
        assert read_suite2p(root).mask.all()


def test_a_folder_without_a_usable_baseline(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane(settings={"baseline": "none"})])
    with pytest.warns(DataWarning, match="'none'.*maximin is used"):
        assert read_suite2p(root).metadata["baseline"]["method"] == "maximin"
    with pytest.raises(DataError, match="Expected one of maximin"):
        read_suite2p(root, baseline="median")


# -- Writing ---------------------------------------------------------------------------------------------------------


def result_of(rec, rates=None, **changes):
    """What an estimator would have inferred from a recording."""
    values = np.arange(rec.dff.size, dtype=float).reshape(rec.shape) if rates is None else rates
    whole = InferenceResult(
        arrays={"firing_rates": NamedArray(values, ("time", "roi"), "Hz", "Rates.")},
        parameters={},
        time=rec.timestamps,
        roi_ids=rec.roi_ids,
        segments=rec.segments,
        model={"name": "CalciumHMM"},
        converged=True,
        sampling_rate=rec.sampling_rate,
        source=rec.source,
    )
    return replace(whole, **changes)


def listing(root):
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rates_go_beside_their_plane(tmp_path, layout):
    root = write_suite2p_folder(tmp_path, [FakePlane()], layout)
    rec = read_suite2p(root)
    result = result_of(rec)
    path = write_suite2p(result, tmp_path, name="hmm_rates")
    assert path == root.resolve() / "plane0" / "hmm_rates.npy"
    written = np.load(path)
    assert written.dtype == np.float32
    assert written.shape == (5, 400)
    np.testing.assert_array_equal(written[rec.roi_ids].T, result["firing_rates"].astype(np.float32))
    rejected = np.setdiff1d(np.arange(5), rec.roi_ids)
    assert np.isnan(written[rejected]).all()
    assert len([p for p in path.parent.iterdir() if "hmm" in p.name]) == 1


@pytest.mark.parametrize("read_from", ["", "combined"])
def test_several_planes_get_a_file_each(tmp_path, read_from):
    planes = [FakePlane(3, 400), FakePlane(4, 402, seed=1), FakePlane(3, 400, seed=2)]
    root = write_suite2p_folder(tmp_path, planes, combined=True)
    with pytest.warns(DataWarning, match="shortest"):
        rec = read_suite2p(root / read_from, accepted=False)
    rec = rec.isel(roi=np.arange(1, 7))  # nothing of plane 2, not all of plane 0
    result = result_of(rec)
    assert write_suite2p(result, root, name="rates.npy") == root.resolve()
    first, second = (np.load(root / f"plane{i}" / "rates.npy") for i in range(2))
    assert first.shape == (3, 400)
    assert second.shape == (4, 402)
    assert np.isnan(first[0]).all()
    np.testing.assert_array_equal(first[1:].T, result["firing_rates"][:, :2])
    np.testing.assert_array_equal(second[:, :400].T, result["firing_rates"][:, 2:])
    assert np.isnan(second[:, 400:]).all()
    assert not (root / "plane2" / "rates.npy").exists()


def test_part_of_a_recording_goes_to_its_frames(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    rec = read_suite2p(root)
    part = rec.isel(time=np.r_[100:150, 300:320])
    written = np.load(write_suite2p(result_of(part), root / "plane0", name="part"))
    columns = np.flatnonzero(np.isfinite(written[0]))
    np.testing.assert_array_equal(columns, np.r_[100:150, 300:320])


def test_nothing_is_overwritten(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane(), FakePlane(seed=1)])
    result = result_of(read_suite2p(root))
    for name in ("spks", "F.npy", "Ops", "stat"):
        with pytest.raises(NameClashError, match="Suite2p's own"):
            write_suite2p(result, root, name=name)
    (root / "plane1" / "mine.npy").write_bytes(b"precious")
    before = listing(root)
    with pytest.raises(NameClashError, match=r"mine.npy exists already"):
        write_suite2p(result, root, name="mine")
    assert listing(root) == before
    assert (root / "plane1" / "mine.npy").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a\0b", "C:\\x", "a b"])
def test_names_that_are_no_file_names(tmp_path, name):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    with pytest.raises(DataError, match="is no file name"):
        write_suite2p(result_of(read_suite2p(root)), root, name=name)


def test_a_name_taken_meanwhile_is_respected(tmp_path, monkeypatch):
    root = write_suite2p_folder(tmp_path, [FakePlane(), FakePlane(seed=1)])
    result = result_of(read_suite2p(root))
    link = os.link

    def slow_link(source, target):
        if Path(target).parent.name == "plane1":
            Path(target).write_bytes(b"precious")
        link(source, target)

    monkeypatch.setattr(suite2p_write.os, "link", slow_link)
    with pytest.raises(NameClashError, match="meanwhile"):
        write_suite2p(result, root, name="mine")
    assert (root / "plane1" / "mine.npy").read_bytes() == b"precious"
    assert [p.name for p in root.rglob("*mine*")] == ["mine.npy"]


def test_file_systems_without_links(tmp_path, monkeypatch):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    result = result_of(read_suite2p(root))

    def no_link(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(suite2p_write.os, "link", no_link)
    assert np.load(write_suite2p(result, root, name="mine")).shape == (5, 400)
    assert [p.name for p in root.rglob("*mine*")] == ["mine.npy"]


@pytest.mark.parametrize("fails", ["open", "fsync", "link"])
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch, fails):
    root = write_suite2p_folder(tmp_path, [FakePlane(), FakePlane(seed=1)])
    result = result_of(read_suite2p(root))
    before = listing(root)
    calls = []

    def broken(*args, **kwargs):
        calls.append(args)
        if fails != "link" and len(calls) == 1:
            raise PermissionError(13, "Permission denied", "plane0")
        raise OSError(28, "No space left on device")

    if fails == "open":
        monkeypatch.setattr(suite2p_write, "open", broken, raising=False)
    else:
        monkeypatch.setattr(suite2p_write.os, fails, broken)
        monkeypatch.setattr(suite2p_write.os, "replace", broken)
    with pytest.raises(WriteError, match=r"cannot be written.*Nothing was changed"):
        write_suite2p(result, root, name="mine")
    assert calls
    assert listing(root) == before


def test_a_read_only_folder(tmp_path):
    root = write_suite2p_folder(tmp_path, [FakePlane()])
    result = result_of(read_suite2p(root))
    plane = root / "plane0"
    plane.chmod(0o555)
    try:
        if os.access(plane, os.W_OK):
            pytest.skip("this user may write to read-only folders")
        with pytest.raises(WriteError, match="may you write"):
            write_suite2p(result, root, name="mine")
    finally:
        plane.chmod(0o755)


def test_results_from_elsewhere_are_refused(tmp_path):
    root = write_suite2p_folder(tmp_path / "a", [FakePlane()])
    other = write_suite2p_folder(tmp_path / "b", [FakePlane()])
    rec = read_suite2p(root)
    result = result_of(rec)
    with pytest.raises(DataError, match=r"comes from .*a/suite2p, not from .*b/suite2p"):
        write_suite2p(result, other, name="mine")
    with pytest.raises(DataError, match="comes from 'array' data"):
        write_suite2p(result_of(rec, source=Source()), root, name="mine")
    states = NamedArray(np.zeros(400, int), ("time",), "1", "States.")
    with pytest.raises(DataError, match="has no firing_rates; it has states"):
        write_suite2p(result_of(rec, arrays={"states": states}), root, name="mine")
    with pytest.raises(DataError, match="firing_rates has shape"):
        write_suite2p(result_of(rec, rates=np.zeros((400, 1))), root, name="mine")
    with pytest.raises(DataError, match="plane 7, which"):
        write_suite2p(result_of(rec, source=replace(rec.source, planes=np.full(rec.n_rois, 7))), root, name="mine")
    rows = np.arange(9 - rec.n_rois + 1, 10)
    with pytest.raises(DataError, match="row 9, but"):
        write_suite2p(result_of(rec, source=replace(rec.source, table_rows=rows)), root, name="mine")
    with pytest.raises(DataError, match="are not frames of the plane's 400"):
        write_suite2p(result_of(rec, time=rec.timestamps + 1.0), root, name="mine")
    twice = np.r_[rec.timestamps[:200], rec.timestamps[:200]]
    segments = Segments(np.array([[0, 200], [200, 400]]))
    with pytest.raises(DataError, match="frames twice"):
        write_suite2p(result_of(rec, time=twice, segments=segments), root, name="mine")
    assert not list(root.rglob("*mine*"))


# -- Folders that Suite2p wrote --------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA")
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
@pytest.mark.parametrize("version", ["v0.14.4", "v1.1.0"])
class TestRealFolders:
    def folder(self, name, version):
        return Path(str(DATA)) / "suite2p" / f"{name}_{version}" / "suite2p"

    @pytest.mark.parametrize("name", ["one_plane", "two_planes"])
    def test_traces_follow_from_the_files(self, name, version):
        folder = self.folder(name, version)
        for number, path in enumerate(sorted(folder.glob("plane*"))):
            rec = read_suite2p(folder, plane=number, accepted=False)
            F, Fneu = np.load(path / "F.npy").T, np.load(path / "Fneu.npy").T
            assert rec.shape == F.shape
            assert rec.sampling_rate == 15.0
            Fc = pp.fill_missing(F, rec.mask) - 0.7 * pp.fill_missing(Fneu, rec.mask)
            Fc = Fc + 0.7 * np.array([np.median(f[m]) for f, m in zip(Fneu.T, rec.mask.T, strict=True)])
            F0 = pp.baseline(Fc, sampling_rate=15.0)
            np.testing.assert_allclose(rec.dff, (Fc - F0) / F0, atol=1e-4)
            np.testing.assert_array_equal(rec.roi_metadata["is_cell"], np.load(path / "iscell.npy")[:, 0] > 0)
            assert np.all(rec.roi_metadata["noise_level"] < 3)

    def test_combined_is_its_planes(self, version):
        folder = self.folder("two_planes", version)
        planes, combined = read_suite2p(folder), read_suite2p(folder / "combined")
        np.testing.assert_array_equal(planes.dff, combined.dff)
        np.testing.assert_array_equal(planes.mask, combined.mask)
        np.testing.assert_array_equal(planes.roi_ids, combined.roi_ids)
        np.testing.assert_array_equal(planes.source.table_rows, combined.source.table_rows)

    def test_rates_go_back(self, version, tmp_path):
        root = shutil.copytree(self.folder("two_planes", version), tmp_path / "suite2p")
        rec = read_suite2p(root)
        write_suite2p(result_of(rec), root, name="rates")
        for number in range(2):
            mine = rec.source.planes == number
            written = np.load(root / f"plane{number}" / "rates.npy")
            assert written.shape == np.load(root / f"plane{number}" / "F.npy").shape
            assert np.flatnonzero(np.isfinite(written[:, 0])).tolist() == rec.source.table_rows[mine].tolist()


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="needs NWB_CALCIUM_LVM_DATA")
def test_real_folders_of_special_kinds():
    folder = Path(str(DATA)) / "suite2p"
    with pytest.raises(DataError, match="Suite2p found no ROIs"):
        read_suite2p(folder / "no_rois_v0.14.4")
    rec = read_suite2p(folder / "two_channels_v1.1.0", accepted=False)
    red = np.load(folder / "two_channels_v1.1.0" / "suite2p" / "plane0" / "redcell.npy")
    np.testing.assert_array_equal(rec.roi_metadata["is_red"], red[:, 0] > 0)
    np.testing.assert_allclose(rec.roi_metadata["red_probability"], red[:, 1])
