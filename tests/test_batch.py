"""Batches: settings that are checked, sessions done once, failures that stay their own, kills that leave nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _suite2p_folders import FakePlane, write_suite2p_folder
from typer.testing import CliRunner

from nwb_calcium_lvm import CalciumHMM, read_nwb, read_results, simulate
from nwb_calcium_lvm.batch import plan_batch, read_settings, run_batch
from nwb_calcium_lvm.batch.cluster import environment
from nwb_calcium_lvm.batch.records import Record, key_of, name_of, read_record, write_record
from nwb_calcium_lvm.batch.settings import make_estimator
from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.exceptions import DataError, NameClashError, WriteError
from nwb_calcium_lvm.io.demo_file import write_session_nwb

FIT = """
[model]
name = "hmm"

[model.parameters]
n_states = 2
n_init = 1
max_iter = 6

[output]
folder = "results"
"""


def write_sessions(folder: Path, n: int) -> list[Path]:
    paths = []
    for seed in range(n):
        truth = simulate.session(
            n_states=2, n_rois=5, duration=30.0, sampling_rate=10.0, trial_every=8.0, nu=1.0, random_state=seed
        )
        paths.append(write_session_nwb(truth, folder / f"session_{seed}.nwb"))
    return paths


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write_sessions(tmp_path_factory.mktemp("sessions"), 2)


@pytest.fixture
def sessions(made, tmp_path):
    return [Path(shutil.copy2(path, tmp_path / path.name)) for path in made]


@pytest.fixture
def fit(tmp_path):
    path = tmp_path / "FIT.toml"
    path.write_text(FIT)
    return path


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["batch", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def changed_at(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*.nwb")}


# -- Running ----------------------------------------------------------------------------------------------------------


def test_a_batch_goes_on_where_it_stopped_and_one_bad_file_stops_nothing(fit, sessions, tmp_path):
    bad = tmp_path / "bad.nwb"
    bad.write_text("junk")
    missing = tmp_path / "missing.nwb"
    everything = [sessions[0], bad, missing, sessions[1]]
    said = run(fit, *everything, "--workers", 0, code=1)
    assert "2 of 4 sessions done" in said
    assert "FAILED, DataError" in said
    results = tmp_path / "results"
    table = pd.read_csv(results / "summary.csv")
    assert table["session"].tolist() == [str(p) for p in everything]
    assert table["status"].tolist() == ["done", "failed", "failed", "done"]
    assert table["n_rois"].tolist()[::3] == [5, 5]
    assert np.isfinite(table["score"][[0, 3]]).all()
    assert table["error"].str.contains("does not exist").tolist()[2]
    if (results / "summary.parquet").exists():
        assert pd.read_parquet(results / "summary.parquet")["status"].tolist() == table["status"].tolist()
    assert not list(results.glob(".*partial*"))

    output = results / table["output"][0]
    result = read_results(output, "CalciumHMM")
    recording = read_nwb(sessions[0])
    assert table["score"][0] == pytest.approx(CalciumHMM.from_nwb(output).score(recording))
    assert result.source.path == sessions[0].resolve(), "the way back to the traces"

    before = changed_at(results)
    shutil.copy2(sessions[0], bad)
    said = run(fit, *everything, "--workers", 0, code=1)
    assert "2 of 4 sessions are done already" in said
    assert "3 of 4 sessions done" in said
    assert "bad.nwb: score" in said
    after = changed_at(results)
    assert {k: after[k] for k in before} == before, "what was done is not done again"


def test_a_changed_configuration_or_input_is_refused_until_asked_for(fit, sessions, tmp_path):
    one = sessions[:1]
    run(fit, *one, "--workers", 0)
    before = changed_at(tmp_path / "results")
    fit.write_text(FIT.replace("max_iter = 6", "max_iter = 7"))
    said = run(fit, *one, "--workers", 0, code=1)
    assert "another configuration" in said
    assert "pass --redo" in said
    assert "done with another configuration" in run(fit, *one, "--dry-run")
    fit.write_text(FIT)
    assert "0 of 1 sessions to do" in run(fit, *one, "--dry-run")
    os.utime(one[0], (1, 1))
    run(fit, *one, "--workers", 0, code=1)
    assert changed_at(tmp_path / "results") == before
    run(fit, *one, "--workers", 0, "--redo")
    redone = changed_at(tmp_path / "results")
    assert redone != before
    run(fit, *one, "--workers", 0, "--redo")
    assert changed_at(tmp_path / "results") == redone, "a --redo that was cut off goes on, too"


def test_a_report_can_be_had_later_without_another_fit(fit, sessions, tmp_path):
    one = sessions[:1]
    run(fit, *one, "--workers", 0)
    before = changed_at(tmp_path / "results")
    assert "report is to be written" in run(fit, *one, "--dry-run", "--report")
    run(fit, *one, "--workers", 0, "--report")
    assert changed_at(tmp_path / "results") == before
    (page,) = (tmp_path / "results").glob("*_report.html")
    assert "CalciumHMM" in page.read_text("utf-8")
    assert "0 of 1 sessions to do" in run(fit, *one, "--dry-run", "--report")


def test_a_fitted_model_is_applied_and_suite2p_folders_are_read(sessions, tmp_path):
    folder = write_suite2p_folder(tmp_path / "mouse", [FakePlane(seed=0)])
    fit = tmp_path / "OASIS.toml"
    fit.write_text('[model]\nname = "oasis"\n[read]\naccepted = false\n[output]\nfolder = "spikes"\nname = "rates"\n')
    hmm = CalciumHMM(n_states=2, n_init=1, max_iter=4, random_state=0).fit(read_nwb(sessions[0]))
    hmm.save(tmp_path / "model.npz")
    apply = tmp_path / "APPLY.toml"
    apply.write_text('[model]\nname = "hmm"\nfitted = "model.npz"\n[output]\nfolder = "applied"\n')
    source = folder if isinstance(folder, Path) else tmp_path / "mouse" / "suite2p"
    said = run(fit, source, sessions[0], "--workers", 0)
    assert "2 of 2 sessions done" in said
    assert set(pd.read_csv(tmp_path / "spikes" / "summary.csv")["score"].isna()) == {True}
    (output,) = (tmp_path / "spikes").glob("*suite2p-*.nwb")
    assert "rates" in read_results(output)
    run(apply, *sessions, "--workers", 0)
    table = pd.read_csv(tmp_path / "applied" / "summary.csv")
    assert table["score"][1] == pytest.approx(hmm.score(read_nwb(sessions[1])))


def test_nothing_is_written_by_a_dry_run(fit, sessions, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    said = run(fit, *sessions, "--dry-run")
    assert "2 of 2 sessions to do" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_workers_share_the_machine(fit, sessions, tmp_path):
    pytest.importorskip("distributed")
    told = []
    records = run_batch(
        read_settings(fit), sessions[:1], workers=1, tell=lambda record, done, total: told.append((done, total))
    )
    assert [r.status for r in records] == ["done"]
    assert told == [(1, 1)]


@pytest.mark.slow
def test_a_scheduler_that_runs_already_is_used(fit, sessions, caplog):
    distributed = pytest.importorskip("distributed")
    settings = read_settings(fit)
    # Its workers are threads of this process: JAX is here already, and what runs at once goes one by one.
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        records = run_batch(settings, sessions, scheduler=cluster.scheduler_address)
    assert [r.status for r in records] == ["done", "done"]
    assert "have imported JAX already" in caplog.text


def test_a_session_that_kills_its_worker_is_noted(fit, sessions, monkeypatch):
    class KilledWorker(Exception):
        pass

    def killing(jobs):
        for job in jobs:
            yield job, KilledWorker("gone")

    monkeypatch.setattr("nwb_calcium_lvm.batch.cluster.in_this_process", killing)
    settings = read_settings(fit)
    (record,) = run_batch(settings, sessions[:1], workers=0)
    assert record.status == "failed"
    assert "its worker process died, twice" in record.error
    assert read_record(settings.folder, record.name) == record


def test_what_is_interrupted_is_in_the_table(fit, sessions, monkeypatch):
    def interrupted(jobs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("nwb_calcium_lvm.batch.cluster.in_this_process", interrupted)
    settings = read_settings(fit)
    with pytest.raises(KeyboardInterrupt):
        run_batch(settings, sessions, workers=0)
    assert pd.read_csv(settings.folder / "summary.csv")["status"].tolist() == ["interrupted"] * 2


def test_what_workers_are_told_before_jax_is_imported():
    told = environment(4, 8)
    assert told["OMP_NUM_THREADS"] == told["NPROC"] == "2"
    assert told["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert 4 * float(told["XLA_PYTHON_CLIENT_MEM_FRACTION"]) <= 0.9
    assert environment(16, 8)["OMP_NUM_THREADS"] == "1"


# -- Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[modle]", r"'modle' is no table that is known. Did you mean 'model'\?"),
        (FIT + "fodler = 'x'", r"'fodler' is no key that is known. Did you mean 'folder'\?"),
        (FIT.replace("max_iter", "max_itr"), r"'max_itr' is no parameter that is known. Did you mean 'max_iter'\?"),
        (FIT.replace('"hmm"', '"hhm"'), "name = 'hhm'; expected one of hmm"),
        (FIT.replace("n_states = 2", "n_states = 0"), "n_states=0"),
        (FIT.replace('"results"', "3"), "folder = 3 is a int, expected text"),
        (FIT + "report = 1", "report = 1 is a int, expected true or false"),
        (FIT + "[read]\nplane = true", "plane = True is a truth value, expected a number"),
        (FIT + "[read]\nwindow = [3, 1]", "expected two times in s"),
        (FIT + "schema = 'own'", "expected 'extension' or 'core'"),
        (FIT + "schema = 'core'\nreport = true", "does not allow"),
        (FIT.replace("[model.parameters]", "weights = 'default'\n[model.parameters]"), "weights are for"),
        (FIT.replace("[model.parameters]", "fitted = 'm.npz'\n[model.parameters]"), "has its parameters already"),
        ('[model]\nname = "hmm"\nfitted = "m.npz"\n[output]\nfolder = "x"', "no fitted model"),
        ("[model]\nname = 'hmm'", r"says no folder in \[output\]"),
        ("model = 3", "Expected a table"),
        ("not toml", "cannot be read as TOML"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fit, text, message):
    fit.write_text(text)
    with pytest.raises(DataError, match=message):
        read_settings(fit)


def test_the_commented_example_of_the_documents_is_valid(tmp_path):
    page = Path(__file__).parents[1] / "docs" / "batch.md"
    if not page.exists():
        pytest.skip("needs the source tree")
    (tmp_path / "FIT.toml").write_text(page.read_text("utf-8").split("```toml\n")[1].split("```")[0])
    settings = read_settings(tmp_path / "FIT.toml")
    assert settings.folder == tmp_path / "results"


# -- Keys and records -------------------------------------------------------------------------------------------------


def test_keys_tell_sessions_states_and_configurations_apart(tmp_path):
    path = tmp_path / "a.nwb"
    path.write_text("1")
    key = key_of(path, {"a": 1})
    assert key == key_of(path, {"a": 1})
    assert key != key_of(path, {"a": 2})
    path.write_text("22")
    assert key != key_of(path, {"a": 1})
    folder = tmp_path / "suite2p" / "plane0"
    folder.mkdir(parents=True)
    (folder / "F.npy").write_text("1")
    key = key_of(folder.parent, {})
    (folder / "picture.png").write_text("no data")
    assert key == key_of(folder.parent, {})
    (folder / "iscell.npy").write_text("1")
    assert key != key_of(folder.parent, {})


def test_names_tell_where_sessions_lie():
    names = [name_of(Path(p)) for p in ("/a/suite2p", "/b/suite2p", "/a/s.nwb", "/a/s.nwb.zarr", "/a/wei rd*.nwb")]
    assert len(set(names)) == 5
    assert names[0].startswith("a_suite2p-")
    assert names[2].startswith("s-")
    assert names[4].startswith("wei_rd_-")


def test_a_record_that_cannot_be_read_is_none(tmp_path):
    record = Record("s", "name", "key", "done", score=1.5)
    write_record(tmp_path, record)
    assert read_record(tmp_path, "name") == record
    path = tmp_path / "records" / "name.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "of_a_later_version": 3}))
    assert read_record(tmp_path, "name") == record
    path.write_text(path.read_text()[:30])
    assert read_record(tmp_path, "name") is None


def test_what_no_batch_can_be_made_of(fit, sessions, tmp_path):
    settings = read_settings(fit)
    with pytest.raises(DataError, match="There is no session"):
        plan_batch(settings, [])
    with pytest.raises(DataError, match="named twice"):
        plan_batch(settings, [sessions[0], sessions[0]])
    with pytest.raises(DataError, match="workers=-1"):
        run_batch(settings, sessions, workers=-1)
    with pytest.raises(DataError, match="exclude each other"):
        run_batch(settings, sessions, workers=1, scheduler="tcp://x")
    assert "exclude each other" in run(fit, *sessions, "-j", 1, "--scheduler", "tcp://x", code=2)
    assert not list((tmp_path / "results").glob("*.nwb"))
    (tmp_path / "results").chmod(0o555)
    with pytest.raises(WriteError, match="read-only"):
        run_batch(settings, sessions, workers=0)
    (tmp_path / "results").chmod(0o755)


def test_two_batches_do_not_share_a_folder(fit, sessions, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "results").mkdir()
    with open(tmp_path / "results" / ".batch.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WriteError, match="Another batch is at work"):
            run_batch(read_settings(fit), sessions, workers=0)


def test_results_of_others_are_refused_before_any_work(fit, sessions):
    settings = read_settings(fit)
    run_batch(settings, sessions[:1], workers=0)
    fit.write_text(FIT.replace("n_states = 2", "n_states = 3"))
    with pytest.raises(NameClashError, match="redo=True"):
        run_batch(read_settings(fit), sessions, workers=0)
    assert len(list(settings.folder.glob("*.nwb"))) == 1


# -- Kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_40_is_killed_half_way_and_resumed(fit, tmp_path, workers):
    pytest.importorskip("distributed")
    paths = write_sessions(tmp_path, 39)
    paths.insert(20, tmp_path / "corrupt.nwb")
    whole = paths[0].read_bytes()
    paths[20].write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-c", "from nwb_calcium_lvm.cli import app; app()", "batch", str(fit), *map(str, paths)]
    command += ["--workers", str(workers), "-q"]
    results = tmp_path / "results"
    process = subprocess.Popen(command, cwd=tmp_path)
    deadline = time.monotonic() + 400
    while len(list((results / "records").glob("*.json"))) < 15:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(3.0)  # workers notice that their parent is gone
    done = changed_at(results)
    records = list((results / "records").glob("*.json"))
    for record in records:  # what is noted is whole
        found = json.loads(record.read_text())
        if found["status"] == "done":
            assert "CalciumHMM" in read_results(results / found["output"])
    for output in results.glob("[!.]*.nwb"):
        assert "CalciumHMM" in read_results(output), "no output is half-written"
    assert changed_at(results) == done, "no worker lives on"

    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 1, finished.stderr
    table = pd.read_csv(results / "summary.csv")
    assert (table["status"] == "done").sum() == 39
    assert table["status"][20] == "failed"
    assert not list(results.glob(".*partial*"))
    noted = {json.loads(r.read_text())["output"] for r in records} - {""}
    assert len(noted) >= 10
    after = changed_at(results)
    again = [name for name in noted if name in done and after[name] != done[name]]
    assert not again, "what was noted as done is not done again"


def test_amortised_inference_is_used_as_it_is_unless_updates_are_asked_for(sessions, tmp_path):
    fit = tmp_path / "VAE.toml"
    fit.write_text('[model]\nname = "vae"\n[model.parameters]\ngenerative = "linear"\n[output]\nfolder = "vae"\n')
    made = make_estimator(read_settings(fit))
    assert made.trained_.model.name == "linear"
    assert "2 of 2 sessions done" in run(fit, *sessions, "--workers", 0)
    fit.write_text('[model]\nname = "vae"\n[model.parameters]\nn_updates = 5\n[output]\nfolder = "vae"\n')
    assert not hasattr(make_estimator(read_settings(fit)), "trained_")
