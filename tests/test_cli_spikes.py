"""The commands `spikes` and `train-s2s`: from known spikes to weights, and from a file to rates in NWB."""

import subprocess
import sys
import time

import numpy as np
import pytest
from _suite2p_folders import FakePlane, write_suite2p_folder
from scipy.io import savemat
from typer.testing import CliRunner

from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.io import read_results
from nwb_calcium_lvm.io.demo_file import write_session_nwb
from nwb_calcium_lvm.simulate import session

TINY = [
    f"--set={s}" for s in ("channels=4", "dilations=[1]", "steps=20", "check_every=10", "n_members=1", "batch_size=4")
]


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    root = tmp_path_factory.mktemp("truth")
    rng = np.random.default_rng(0)
    for name in ("DS01/a", "DS01/b", "DS22/a"):
        spikes = np.sort(rng.uniform(0, 60, 40))
        times = np.arange(1800) / 30
        counts = np.histogram(spikes, np.append(times, 60))[0]
        trace = np.convolve(counts, 0.3 * np.exp(-np.arange(60) / 15))[:1800] + 0.03 * rng.normal(size=1800)
        path = root / f"{name}.mat"
        path.parent.mkdir(exist_ok=True)
        savemat(path, {"CAttached": {"fluo_mean": trace, "fluo_time": times, "events_AP": spikes * 1e4}})
    return root


@pytest.fixture(scope="module")
def weights(truth, tmp_path_factory):
    out = tmp_path_factory.mktemp("weights") / "mine.npz"
    done = run("train-s2s", truth, "-o", out, "--leave-out", "DS22", *TINY)
    assert done.exit_code == 0, done.output
    assert "Read 2 neurons of 1 data sets" in done.output
    assert "network 0, step 20" in done.output
    return out


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("nwb") / "session.nwb"
    simulated = session(n_states=2, n_rois=5, duration=30.0, sampling_rate=15.0, indicator="gcamp6f", random_state=0)
    write_session_nwb(simulated, path)
    return path


def test_training_again_goes_on_from_its_checkpoints(truth, weights):
    before = weights.read_bytes()
    done = run("train-s2s", truth, "-o", weights, "--leave-out", "DS22", *TINY)
    assert done.exit_code == 0, done.output
    assert "step 10" not in done.output
    assert weights.read_bytes() == before


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_weights(truth, tmp_path):
    settings = ("channels=4", "dilations=[1]", "steps=200", "check_every=10", "n_members=2", "batch_size=4")
    words = [truth, "--leave-out", "DS22", *(f"--set={s}" for s in settings)]
    assert run("train-s2s", *words, "-o", tmp_path / "whole.npz").exit_code == 0
    command = [
        sys.executable,
        "-c",
        "from nwb_calcium_lvm.cli import app; app()",
        "train-s2s",
        *words,
        "-o",
        tmp_path / "killed.npz",
    ]
    child = subprocess.Popen([str(w) for w in command], stdout=subprocess.DEVNULL)
    second = tmp_path / "killed_checkpoints" / "member_1.npz"
    until = time.monotonic() + 300
    while not second.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert second.exists()
    assert not (tmp_path / "killed.npz").exists()
    done = run("train-s2s", *words, "-o", tmp_path / "killed.npz")
    assert done.exit_code == 0, done.output
    assert "network 0" not in done.output  # that one was done
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "killed.npz") as killed:
        assert whole.files == killed.files
        for name in whole.files:
            np.testing.assert_array_equal(killed[name], whole[name])


@pytest.mark.parametrize("model", ["s2s", "vae", "filter", "oasis"])
def test_rates_of_an_nwb_file(model, weights, recording, tmp_path):
    out = tmp_path / "rates.nwb"
    options = ["--weights", weights] if model == "s2s" else []
    options += ["--spike-times"] if model == "s2s" else []
    done = run("spikes", recording, "--model", model, "-o", out, *options)
    assert done.exit_code == 0, done.output
    assert "Rates of 5 of 5 ROIs" in done.output
    name = {
        "s2s": "S2SSpikeEstimator",
        "vae": "VAESpikeEstimator",
        "filter": "FilterSpikeEstimator",
        "oasis": "OASISSpikeEstimator",
    }[model]
    rates = read_results(out, name).arrays["firing_rates"]
    assert rates.unit == "Hz"
    assert np.shape(rates.values) == (450, 5)
    assert np.isfinite(np.asarray(rates.values)).all()
    assert (read_results(out, name).spikes is not None) is (model == "s2s")


def test_rates_of_a_suite2p_folder_and_beside_it(weights, tmp_path):
    write_suite2p_folder(tmp_path, [FakePlane(seed=0)])
    done = run("spikes", tmp_path / "suite2p", "--weights", weights, "-o", tmp_path / "a.nwb", "--write-suite2p")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "suite2p" / "plane0" / "S2SSpikeEstimator_rates.npy").exists()
    again = run("spikes", tmp_path / "suite2p", "--weights", weights, "-o", tmp_path / "b.nwb", "--write-suite2p")
    assert again.exit_code == 1
    assert "is not overwritten" in again.output


def test_a_dry_training_writes_nothing(truth, tmp_path):
    done = run("train-s2s", truth, "-o", tmp_path / "no.npz", "--leave-out", "DS22", "--dry-run", *TINY)
    assert done.exit_code == 0, done.output
    assert "Would train 1 networks" in done.output
    assert "Nothing was written" in done.output
    assert not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(weights, recording, tmp_path):
    done = run("spikes", recording, "--weights", weights, "-o", tmp_path / "no.nwb", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "Nothing was written" in done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "mlspike"], "expected one of s2s, vae, filter, oasis"),
        (["--model", "oasis", "--weights", "x.npz"], "oasis has none"),
        (["--model", "oasis", "--spike-times"], "how sure spikes of others are"),
        (["--in-place", "-o", "x.nwb"], "exclude each other"),
    ],
)
def test_wrong_words_of_spikes(words, message, recording):
    done = run("spikes", recording, *words)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--config", "huge"], 2, "expected one of default, published"),
        (["--set", "chanels=3"], 2, "no field"),
        (["-o", "weights.txt"], 2, "ends in .npz"),
        (["--leave-out", "DS"], 1, "Nothing of"),
    ],
)
def test_wrong_words_of_training(words, code, message, truth):
    done = run("train-s2s", truth, *words)
    assert done.exit_code == code
    assert message in " ".join(done.output.split())


def test_a_folder_without_recordings(tmp_path):
    done = run("train-s2s", tmp_path)
    assert done.exit_code == 1
    assert "holds no .mat files" in done.output
