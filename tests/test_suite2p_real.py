"""Suite2p itself, run on a small simulated movie: what we read is what it used.

Needs the extra ``suite2p``; takes half a minute on a CPU.
"""

import numpy as np
import pytest

from nwb_calcium_lvm.io import read_suite2p
from nwb_calcium_lvm.preprocessing import baseline, fill_missing, subtract_neuropil

pytestmark = [pytest.mark.suite2p, pytest.mark.slow]

FS, TAU, N_FRAMES, SIZE = 15.0, 1.0, 600, 96


def simulated_movie(seed=0):
    """Return cells that flicker on a grid over a drifting background: integers of shape (time, y, x)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    centres = [
        (12 + 18 * i + rng.integers(-2, 3), 12 + 18 * j + rng.integers(-2, 3)) for i in range(5) for j in range(5)
    ]
    spikes = rng.poisson(0.02, (N_FRAMES, len(centres)))
    decay = np.exp(-np.arange(80) / (TAU * FS))
    calcium = np.column_stack([np.convolve(s, decay)[:N_FRAMES] for s in spikes.T])
    footprints = np.array([np.exp(-(((y - cy) ** 2 + (x - cx) ** 2) / 14.0)) for cy, cx in centres])
    background = 200 + 20 * np.sin(np.arange(N_FRAMES) / 60)[:, None, None] + 15 * rng.random((SIZE, SIZE))
    movie = background + np.tensordot(80 * (1 + 2.5 * calcium), footprints, axes=1)
    return np.clip(movie + rng.normal(0, 12, movie.shape), 0, 32000).astype(np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as suite2p 1.1 leaves it."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))  # importing suite2p writes its settings there
        suite2p = pytest.importorskip("suite2p")
        tifffile = pytest.importorskip("tifffile")
        settings = suite2p.default_settings()
        settings |= {"fs": FS, "tau": TAU, "diameter": [10.0, 10.0], "torch_device": "cpu"}
        settings["registration"] |= {"nonrigid": False}
        settings["io"] |= {"delete_bin": True, "save_mat": False}
        where = tmp_path_factory.mktemp("session")
        tifffile.imwrite(where / "movie.tif", simulated_movie())
        db = {"data_path": [str(where)], "save_path0": str(where), "nplanes": 1, "nchannels": 1}
        db |= {"input_format": "tif", "file_list": ["movie.tif"]}
        suite2p.run_s2p(settings=settings, db=db)
    return where / "suite2p"


@pytest.fixture(scope="module")
def dcnv(folder):
    return pytest.importorskip("suite2p.extraction.dcnv")


@pytest.fixture(scope="module")
def files(folder):
    return {name: np.load(folder / "plane0" / f"{name}.npy") for name in ("F", "Fneu", "spks", "iscell")}


def test_the_folder_is_read(folder, files):
    rec = read_suite2p(folder, accepted=False)
    assert rec.shape == files["F"].T.shape
    assert rec.n_rois > 10
    assert rec.sampling_rate == FS
    assert rec.metadata["software_version"].startswith("1.")
    np.testing.assert_array_equal(rec.roi_metadata["cell_probability"], files["iscell"][:, 1])


@pytest.mark.parametrize(("window", "sigma", "fs"), [(60.0, 10.0, FS), (7.0, 3.0, FS), (10.0, 10.0, 7.37)])
def test_maximin_is_suite2ps(files, dcnv, window, sigma, fs):
    import torch

    F, Fneu = files["F"], files["Fneu"]
    theirs = dcnv.preprocess(
        F - 0.7 * Fneu, baseline="maximin", win_baseline=window, sig_baseline=sigma, fs=fs, device=torch.device("cpu")
    )
    # Ours keeps the neuropil's median, a constant that the baseline takes along.
    Fc = subtract_neuropil(F.T, Fneu.T, 0.7)
    ours = Fc - baseline(Fc, "maximin", sampling_rate=fs, window=window, sigma=sigma)
    scale = np.abs(F).max()
    np.testing.assert_allclose(ours.T, theirs, atol=4 * np.finfo(np.float32).eps * scale, rtol=0)


def test_constant_percentile_is_suite2ps(files, dcnv):
    import torch

    Fc = files["F"] - 0.7 * files["Fneu"]
    theirs = dcnv.preprocess(
        Fc.copy(), baseline="prctile", win_baseline=60.0, sig_baseline=10.0, fs=FS, device=torch.device("cpu")
    )
    ours = Fc.T - baseline(Fc.T, "prctile", sampling_rate=FS)
    np.testing.assert_allclose(ours.T, theirs, atol=1e-3)


def test_our_input_to_deconvolution_gives_suite2ps_spikes(files, dcnv):
    Fc = subtract_neuropil(files["F"].T, files["Fneu"].T, 0.7)
    ours = Fc - baseline(Fc, "maximin", sampling_rate=FS)
    spikes = dcnv.oasis(np.ascontiguousarray(ours.T), batch_size=500, tau=TAU, fs=FS)
    # Where two pools are on the verge of merging, the last bit of the input decides; such samples are rare and small.
    scale = files["spks"].max()
    assert scale > 0
    np.testing.assert_allclose(spikes, files["spks"], atol=1e-5 * scale, rtol=0)


def test_dff_is_our_input_over_its_baseline(folder, files):
    rec = read_suite2p(folder, accepted=False)
    F, Fneu = (fill_missing(files[name].T, rec.mask) for name in ("F", "Fneu"))
    Fc = subtract_neuropil(F, Fneu, 0.7, rec.mask)
    F0 = baseline(Fc, "maximin", sampling_rate=FS)
    kept = rec.source.table_rows
    np.testing.assert_allclose(rec.dff, ((Fc - F0) / F0)[:, kept], atol=1e-6)
