"""Models on disk: what is loaded predicts as what was saved, and no file makes the loader run anything."""

import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest

from nwb_calcium_lvm import CalciumHMM, Recording, load_model
from nwb_calcium_lvm.exceptions import DataError, WriteError
from nwb_calcium_lvm.io import archive
from nwb_calcium_lvm.simulate import hmm_experiment

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def session():
    return hmm_experiment(n_states=2, n_rois=4, n_frames=200, rate_on=0.6, measurement_sd=0.0, random_state=0)


def small(**options):
    return CalciumHMM(
        **{"n_states": 2, "n_init": 1, "max_iter": 5, "random_state": 0, "max_spikes_per_frame": 8, **options}
    )


@pytest.fixture(scope="module")
def fitted(session):
    return small(sampling_rate=10.0).fit(session.traces)


@pytest.fixture
def saved(fitted, tmp_path):
    return fitted.save(tmp_path / "model.npz")


@pytest.mark.parametrize("observation", ["calcium", "ar_gaussian", "gaussian", "poisson"])
def test_round_trip(session, observation, tmp_path):
    X = np.asarray(session.spikes if observation == "poisson" else session.traces, float)
    model = small(observation=observation, sampling_rate=10.0).fit(X)
    path = model.save(str(tmp_path / "a model"))
    assert path == tmp_path / "a model"
    copy = load_model(str(path))
    assert type(copy) is CalciumHMM
    assert copy.get_params() == model.get_params()
    learned = {k: v for k, v in vars(model).items() if k.endswith("_")}
    assert {k for k in vars(copy) if k.endswith("_")} == set(learned)
    for name, value in learned.items():
        np.testing.assert_array_equal(getattr(copy, name), value)
        assert type(getattr(copy, name)) is type(value), name
    for method in ("predict_proba", "filter_proba", "predict", "score", "log_likelihood", "bic"):
        np.testing.assert_array_equal(getattr(copy, method)(X), getattr(model, method)(X))
    np.testing.assert_array_equal(copy.dwell_time_, model.dwell_time_)
    np.testing.assert_array_equal(copy.sample(5, random_state=0)[0], model.sample(5, random_state=0)[0])


def test_names_of_columns_and_rois(session, tmp_path):
    """pandas' names are objects, which NumPy would pickle."""
    frame = pd.DataFrame(session.traces, columns=list("abcd"))
    copy = load_model(small().fit(frame).save(tmp_path / "m"))
    np.testing.assert_array_equal(copy.feature_names_in_, list("abcd"))
    copy.predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        copy.predict(frame[["b", "a", "c", "d"]])
    ids = np.array(["cell 1", "cell 2", "Zelle β", 4], dtype=object)
    copy = load_model(small().fit(Recording(session.traces, roi_ids=[*ids[:3].tolist(), "4"])).save(tmp_path / "m"))
    assert copy.roi_ids_.tolist() == ["cell 1", "cell 2", "Zelle β", "4"]


def test_a_generator_as_seed_is_left_out(session, tmp_path):
    model = small(random_state=np.random.RandomState(0)).fit(session.traces)
    assert load_model(model.save(tmp_path / "m")).random_state is None


def test_loads_in_another_process(saved, fitted, session, tmp_path):
    np.save(tmp_path / "x.npy", session.traces)
    script = (
        "import sys, numpy as np\nfrom nwb_calcium_lvm import load_model\n"
        "print(repr(load_model(sys.argv[1]).log_likelihood(np.load(sys.argv[2]))))"
    )
    command = [sys.executable, "-c", script, str(saved), str(tmp_path / "x.npy")]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(out.stdout) == fitted.log_likelihood(session.traces)


def test_holds_no_pickle(saved):
    with np.load(saved, allow_pickle=False) as stored:
        assert all(not stored[name].dtype.hasobject for name in stored.files)


# -- Writing whole or not at all --------------------------------------------------------------------------------------


def _left(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_failed_write_leaves_the_old_file(saved, fitted, monkeypatch):
    before = saved.read_bytes()

    def full(*args, **kwargs):
        args[0].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive.np, "savez", full)
    with pytest.raises(WriteError, match=r"as it was.*No space left"):
        fitted.save(saved)
    assert saved.read_bytes() == before
    assert _left(saved.parent) == ["model.npz"]


def test_an_interrupted_write_leaves_the_old_file(saved, fitted, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(archive.os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fitted.save(saved)
    assert saved.read_bytes() == before
    assert _left(saved.parent) == ["model.npz"]


def test_what_cannot_be_saved_is_refused_before_anything_is_written(saved, session):
    class Mine(CalciumHMM):
        """Not known to load_model."""

    before = saved.read_bytes()
    model = Mine(2, n_init=1, max_iter=5).fit(session.traces)
    with pytest.raises(DataError, match="Mine cannot be saved"):
        model.save(saved)
    assert saved.read_bytes() == before


def test_objects_are_never_pickled_by_the_way(tmp_path):
    with pytest.raises(TypeError, match="pickle"):
        archive.write_archive(tmp_path / "m", {}, {"a": np.array([{}], dtype=object)})
    assert _left(tmp_path) == []


def test_where_it_cannot_write(fitted, tmp_path):
    with pytest.raises(WriteError, match="exists and is writable"):
        fitted.save(tmp_path / "nowhere" / "model")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="could not be written"):
        fitted.save(tmp_path / "folder")
    assert _left(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_are_those_of_any_new_file(saved, fitted):
    other = saved.with_name("other")
    other.touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
    saved.chmod(0o600)
    fitted.save(saved)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600


# -- Files of others --------------------------------------------------------------------------------------------------


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def _rewrite(path, change):
    """Save the archive again with another header."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = json.loads(bytes(arrays.pop("header.json")).decode())
    header = change(header)
    text = json.dumps(header).encode()
    np.savez(path, **{"header.json": np.frombuffer(text, np.uint8)}, **arrays)
    return path


def test_a_pickle_is_not_run(saved, tmp_path):
    bare = tmp_path / "bare"
    bare.write_bytes(pickle.dumps(_Bomb()))
    inside = tmp_path / "inside.npz"
    with np.load(saved) as stored:
        np.savez(inside, means_=np.array([_Bomb()], dtype=object), **{"header.json": stored["header.json"]})
    npy = tmp_path / "array.npy"
    np.save(npy, np.array([_Bomb()], dtype=object), allow_pickle=True)
    for path in (bare, inside, npy):
        with pytest.raises(DataError, match=r"is not a model saved by estimator.save"):
            load_model(path)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
def test_cut_off(saved, keep):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match="is not a model"):
        load_model(saved)


def test_every_flipped_bit_is_noticed_or_harmless(saved):
    content = saved.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 60):
        saved.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        try:
            load_model(saved)
        except DataError:
            continue


def test_files_of_other_kinds(tmp_path):
    files = {"text.txt": b"states\n1\n2\n", "empty": b"", "data.h5": b"\x89HDF\r\n\x1a\n" + bytes(100)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.save(tmp_path / "plain.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive_of_text:
        archive_of_text.writestr("header.json", "{}")
    for path in [*tmp_path.iterdir(), tmp_path]:
        with pytest.raises(DataError, match=r"is not a model saved by estimator.save"):
            load_model(path)
    with pytest.raises(DataError, match=r"does not exist. Expected a model saved by"):
        load_model(tmp_path / "missing")


@pytest.mark.parametrize("name", ["Popen", "subprocess.Popen", "LogisticRegression", None, 3, ["CalciumHMM"]])
def test_unknown_class(saved, name):
    with pytest.raises(DataError, match=r"this version knows .*CalciumHMM"):
        load_model(_rewrite(saved, lambda h: {**h, "class": name}))


@pytest.mark.parametrize(
    "change",
    [
        {"fitted": {"predict": 3}},
        {"fitted": {"__class__": "Popen"}},
        {"fitted": {"__dict__": {}}},
        {"fitted": {"firing_rates_": 3}},
        {"fitted": []},
        {"parameters": {"command": "ls"}},
        {"parameters": None},
        {"objects": None},
    ],
)
def test_forged_content(saved, change):
    with pytest.raises(DataError, match="does not hold what makes a CalciumHMM"):
        load_model(_rewrite(saved, lambda h: {**h, **change}))


@pytest.mark.parametrize(
    "header", [[], 3, None, {}, {"format": "nwb_calcium_lvm model"}, {"format": 1, "version": "a"}]
)
def test_forged_header(saved, header):
    with pytest.raises(DataError, match="is not a model"):
        load_model(_rewrite(saved, lambda _: header))


def test_later_versions_and_other_formats(saved):
    with pytest.raises(DataError, match=r"version 99.*up to version 1. Update the package"):
        load_model(_rewrite(saved, lambda h: {**h, "version": 99}))
    with pytest.raises(DataError, match="'another'"):
        load_model(_rewrite(saved, lambda h: {**h, "format": "another", "version": 1}))
