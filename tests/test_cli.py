"""The command line: what it says, writes, refuses, and how fast it starts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from nwb_calcium_lvm import simulate
from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.cli._console import _in_a_line, table
from nwb_calcium_lvm.cli._fit import parameters_of
from nwb_calcium_lvm.io.demo_file import write_session_nwb

FAST = ["--set", "n_init=1", "--set", "max_iter=8"]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def names_in(path, result=None):
    """Names in the module of results, or in one of them."""
    with h5py.File(path) as file:
        return set(file["processing/ophys"] if result is None else file[f"processing/ophys/{result}"])


@pytest.fixture(scope="module")
def truth():
    return simulate.session(
        n_states=2, n_rois=6, duration=40.0, sampling_rate=10.0, trial_every=8.0, nu=1.0, random_state=0
    )


@pytest.fixture(scope="module")
def original(truth, tmp_path_factory):
    return write_session_nwb(truth, tmp_path_factory.mktemp("original") / "session.nwb")


@pytest.fixture
def nwb(original, tmp_path):
    return Path(shutil.copy(original, tmp_path / "session.nwb"))


@pytest.fixture
def suite2p(truth, tmp_path):
    plane = tmp_path / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    n_rois = truth.n_rois
    np.save(plane / "F.npy", truth.fluorescence.T.astype(np.float32))
    np.save(plane / "Fneu.npy", truth.neuropil.T.astype(np.float32))
    np.save(plane / "iscell.npy", np.column_stack([np.ones(n_rois), np.full(n_rois, 0.9)]))
    stat = [
        {
            "med": [8 * i, 8 * i],
            "npix": 4,
            "ypix": 8 * i + np.arange(4),
            "xpix": 8 * i + np.arange(4),
            "lam": np.ones(4),
        }
        for i in range(n_rois)
    ]
    np.save(plane / "stat.npy", np.array(stat, dtype=object), allow_pickle=True)
    ops = {"fs": 12.0, "tau": 1.0, "neucoeff": 0.7, "nplanes": 1, "nframes": len(truth.traces), "baseline": "maximin"}
    np.save(plane / "ops.npy", ops | {"Lx": 64, "Ly": 64}, allow_pickle=True)
    return tmp_path / "suite2p"


# -- Help -------------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from nwb_calcium_lvm.cli import app\n"
        "assert CliRunner().invoke(app, ['fit', 'hmm', '--help']).exit_code == 0\n"
        "heavy = {'jax', 'matplotlib', 'pynwb', 'numpy', 'scipy', 'sklearn', 'h5py'} & set(sys.modules)\n"
        "print(sorted(heavy))\n"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "-h"], ["info", "--help"], ["fit", "--help"]])
def test_help_and_version(arguments):
    assert "Usage" in run(*arguments)
    assert run("--version").strip()[0].isdigit()


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_on_nwb_says_what_is_there_and_what_would_be_read(nwb):
    said = run("info", nwb)
    assert "traces" in said
    assert "processing/ophys/Fluorescence/RoiResponseSeries" in said
    assert "neuropil: processing/ophys/Fluorescence/Neuropil" in said
    assert "Recording(6 ROIs x 400 frames, 10 Hz, 40 s, dF/F" in said
    assert "noise level: median" in said
    assert "columns id, start_time, stop_time, event_time" in said


def test_info_on_suite2p(suite2p):
    said = run("info", suite2p)
    assert "Suite2p folder" in said
    assert "Recording(6 ROIs x 400 frames, 12 Hz" in said


def test_info_takes_the_options_of_reading(nwb, suite2p):
    assert "400 frames, 25 Hz" in run("info", suite2p, "--sampling-rate", 25)
    assert "no_such" in run("info", nwb, "--series", "no_such", code=1)


@pytest.mark.parametrize("kind", ["missing", "not_nwb", "empty_folder"])
def test_what_cannot_be_read_is_said_in_a_line(kind, tmp_path):
    path = tmp_path / {"missing": "a.nwb", "not_nwb": "b.nwb", "empty_folder": "folder"}[kind]
    if kind == "not_nwb":
        path.write_text("not HDF5")
    if kind == "empty_folder":
        path.mkdir()
    for command in (["info"], ["fit", "hmm"]):
        said = run(*command, path, code=1)
        assert "Error: " in said
        assert "Expected" in said
        assert len([line for line in said.splitlines() if line.startswith("Error")]) == 1


# -- fit --------------------------------------------------------------------------------------------------------------


def test_fit_writes_a_copy_beside_and_a_picture(nwb, truth):
    before = nwb.read_bytes()
    said = run("fit", "hmm", nwb, "-k", 2, *FAST)
    written, picture = nwb.with_name("session_calcium_lvm.nwb"), nwb.with_name("session_calcium_lvm_CalciumHMM.png")
    assert f"Wrote {written}" in said
    assert f"Drew {picture}" in said
    assert "mean visit (s)" in said
    assert picture.stat().st_size > 10_000
    assert {"states", "firing_rates", "state_probabilities", "model"} <= names_in(written, "CalciumHMM")
    assert nwb.read_bytes() == before, "the source is as it was"
    with h5py.File(written) as file:
        assert file["processing/ophys/CalciumHMM/state_probabilities/data"].shape == (400, 2)


def test_fit_in_place_then_name_clash_then_overwrite(nwb):
    run("fit", "hmm", nwb, "--in-place", "-k", 2, *FAST, "--no-plot", "-q")
    assert "states" in names_in(nwb, "CalciumHMM")
    assert list(nwb.parent.iterdir()) == [nwb], "nothing but the file"
    before = nwb.read_bytes()
    said = run("fit", "hmm", nwb, "--in-place", "-k", 2, *FAST, "--no-plot", code=1)
    assert "already" in said
    assert "--overwrite" in said
    assert "iterations" not in said, "found out before the fit"
    assert nwb.read_bytes() == before
    run("fit", "hmm", nwb, "--in-place", "-k", 2, *FAST[:2], "--set", "max_iter=6", "--no-plot", "--overwrite")
    with h5py.File(nwb) as file:
        assert len(file["processing/ophys/CalciumHMM/model/objective_history"]) == 6
    run("fit", "hmm", nwb, "--in-place", "-k", 2, *FAST, "--no-plot", "--name", "second")
    assert {"CalciumHMM", "second"} <= names_in(nwb)
    said = run("info", nwb)
    assert "Results in it:" in said
    assert re.search(r"second +CalciumHMM +no +6 +400 +states, state_probabilities", said)


def test_fit_of_windows_around_an_event(nwb, tmp_path):
    out, png = tmp_path / "windows.nwb", tmp_path / "windows.png"
    window = ["--event", "event_time", "--window", "-1", "2"]
    run("fit", "hmm", nwb, "-o", out, "--plot", png, "-k", 2, *FAST, *window, "-q")
    assert png.exists()
    with h5py.File(out) as file:
        assert file["processing/ophys/CalciumHMM/states/data"].shape == (5 * 30,)
        assert len(file["processing/ophys/CalciumHMM/segments/id"]) == 5
    said = run("fit", "hmm", nwb, "--trials", "trials", "--dry-run")
    assert "5 trials" in said


def test_fit_of_a_model_without_spikes(nwb, tmp_path):
    said = run("fit", "hmm", nwb, "-o", tmp_path / "g.nwb", "--observation", "gaussian", "-k", 2, *FAST)
    assert "mean rate" not in said
    assert "state_means" in names_in(tmp_path / "g.nwb", "CalciumHMM")


def test_fit_with_core_types_and_into_zarr(nwb, tmp_path):
    run("fit", "hmm", nwb, "-o", tmp_path / "core.nwb", "--schema", "core", "-k", 2, *FAST, "--no-plot", "-q")
    assert {"CalciumHMM_states", "CalciumHMM_provenance"} <= names_in(tmp_path / "core.nwb")
    run("fit", "hmm", nwb, "-o", tmp_path / "store.nwb.zarr", "-k", 2, *FAST, "--no-plot", "-q")
    assert "CalciumHMM" in run("info", tmp_path / "store.nwb.zarr")
    said = run("fit", "hmm", nwb, "-o", tmp_path / "x.nwb", "--schema", "own", "-k", 2, *FAST, code=1)
    assert "Expected 'extension', or 'core'" in said
    assert "iterations" not in said, "found out before the fit"


def test_fit_of_suite2p_writes_nwb_and_rates_beside_the_plane(suite2p):
    run("fit", "hmm", suite2p, "-k", 2, *FAST, "--write-suite2p", "-q")
    assert "CalciumHMM" in names_in(suite2p.with_name("suite2p_calcium_lvm.nwb"))
    rates = np.load(suite2p / "plane0" / "CalciumHMM_rates.npy")
    assert rates.shape == (6, 400)
    assert np.isfinite(rates).all()
    said = run("fit", "hmm", suite2p, "-k", 2, *FAST, "--write-suite2p", "--overwrite", code=1)
    assert "CalciumHMM_rates.npy exists and is not overwritten" in said
    assert "iterations" not in said


def test_fit_gpfa(nwb, tmp_path):
    out = tmp_path / "latents.nwb"
    told = run("fit", "gpfa", nwb, "--n-latents", 2, "-o", out, "--dry-run")
    assert "Would fit 2 latents" in told
    assert not out.exists()
    told = run("fit", "gpfa", nwb, "-k", 2, "--kernel", "matern52", *FAST, "-o", out)
    assert "process: time scale (s)" in told
    assert {"latents", "latents_std", "firing_rates", "firing_rates_std"} <= names_in(out, "CalciumGPFA")
    assert out.with_name("latents_CalciumGPFA.png").stat().st_size > 10_000
    told = run("fit", "gpfa", nwb, "--kernel", "rbf", "--set", "inference=kalman", code=2)
    assert "has no state-space form" in " ".join(told.replace("│", " ").split())


def test_dry_run_does_nothing(nwb):
    said = run("fit", "hmm", nwb, "--dry-run", "--set", "stickiness=50")
    assert "stickiness=50" in said
    assert "Would write" in said
    assert "processing/ophys/CalciumHMM/states: DiscreteStateSeries, 400, state" in said
    assert re.search(r"needs up to [\d.]+ MB of [\d,]+ MB free", said)
    assert "Would draw" in said
    assert list(nwb.parent.iterdir()) == [nwb]


def test_a_picture_is_not_replaced_unasked(nwb, tmp_path):
    png = tmp_path / "mine.png"
    png.write_text("mine")
    said = run("fit", "hmm", nwb, "--plot", png, code=1)
    assert "--overwrite" in said
    assert png.read_text() == "mine"
    assert not nwb.with_name("session_calcium_lvm.nwb").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "a.nwb", "--in-place"], "exclude each other"),
        (["--plot", "a.png", "--no-plot"], "exclude each other"),
        (["--set", "n_states"], "NAME=VALUE"),
        (["--set", "=3"], "NAME=VALUE"),
        (["--set", "colour=red"], "CalciumHMM has no colour. It has: ar_order"),
        (["-k", "3", "--set", "n_states=4"], "n_states is set twice"),
        (["-k", "0"], "n_states=0"),
        (["-k", "two"], "--n-states"),
        (["--observation", "quantum"], "quantum"),
        (["--write-suite2p"], "is for Suite2p folders"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_usage_is_exit_2(nwb, arguments, message):
    said = run("fit", "hmm", nwb, *arguments, code=2)
    assert message in " ".join(said.split())
    assert list(nwb.parent.iterdir()) == [nwb]


@pytest.mark.parametrize("arguments", [["--in-place"], ["--series", "x"], ["--event", "event_time"], ["--trials", "t"]])
def test_what_suite2p_folders_do_not_have_is_exit_2(suite2p, arguments):
    assert "Suite2p folder" in " ".join(run("fit", "hmm", suite2p, *arguments, code=2).split())


def test_unknown_event_names_the_columns(nwb):
    said = run("fit", "hmm", nwb, "--event", "reward", code=1)
    assert "no column 'reward'. It has: id, start_time" in said


def test_remedies_are_worded_for_the_command_line(suite2p):
    iscell = np.load(suite2p / "plane0" / "iscell.npy")
    iscell[:, 0] = 0
    np.save(suite2p / "plane0" / "iscell.npy", iscell)
    said = run("fit", "hmm", suite2p, code=1)
    assert "Pass --all-rois" in said
    assert "6 ROIs" in run("info", suite2p, "--all-rois")


def test_debug_shows_where_it_went_wrong(tmp_path):
    with pytest.raises(Exception, match="does not exist"):
        CliRunner().invoke(app, ["info", str(tmp_path / "no.nwb"), "--debug"], catch_exceptions=False)


def test_parameters_are_json_or_text():
    found = parameters_of({"n_states": 4, "observation": None}, ["tol=1e-3", "solver=gradient", "sampling_rate=null"])
    assert found == {"n_states": 4, "tol": 1e-3, "solver": "gradient", "sampling_rate": None}


@pytest.mark.parametrize(
    ("worded_for_python", "in_a_line"),
    [
        ("Pass overwrite=True,\n or another name=.", "Pass --overwrite, or another --name ."),
        ("pass path= in a folder that is.", "pass --out in a folder that is."),
        ("sampling_rate=0 is not a rate", "--sampling-rate 0 is not a rate"),
        ("filename=3 and my-path=4 stay", "filename=3 and my-path=4 stay"),
    ],
)
def test_options_have_the_names_they_have_here(worded_for_python, in_a_line):
    assert _in_a_line(worded_for_python) == in_a_line


def test_tables_are_aligned():
    text = table([("a", 1.5, None), ("longer", 10, 2)], ("name", "value", "n"))
    assert text.splitlines() == ["  name    value  n", "  a         1.5  ?", "  longer     10  2"]


# -- demo -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dry_demo_writes_nothing(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "demo_overview.png" in done.output
    assert not list(tmp_path.iterdir())


def test_demo_goes_the_whole_way_and_finds_the_states(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "demo_session_calcium_lvm.nwb").write_text("of an earlier demo")
    said = run("demo", "--out", tmp_path / "demo")
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {"demo_session.nwb", "demo_session_calcium_lvm.nwb", "demo_overview.png"}
    assert "simulated:" in said
    accuracy = float(said.split("frames in the right state:")[1].split()[0])
    assert accuracy > 90.0


def test_trials_asked_of_a_file_without_a_table_are_refused_in_the_words_of_the_command(truth, tmp_path):
    from dataclasses import replace

    path = write_session_nwb(replace(truth, trials=None), tmp_path / "session.nwb")
    said = run("fit", "hmm", path, "--event", "event_time", code=1)
    assert "no trials table" in said
    assert "--trials" in said
