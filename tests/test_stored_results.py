"""Files that earlier versions wrote stay readable, and their models predict what they predicted."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumHMM, load_model, read_nwb, read_results
from nwb_calcium_lvm._core import persistence

STORED = sorted((Path(__file__).parent / "stored").glob("results_*.nwb"))


def test_there_are_some():
    assert STORED


@pytest.mark.parametrize("path", STORED, ids=[p.stem for p in STORED])
def test_results_of_an_earlier_version(path: Path):
    expected = json.loads(path.with_suffix(".json").read_text())
    results = read_results(path)
    assert set(results) == {"whole", "trials"}
    whole, trials = results["whole"], results["trials"]
    assert whole["states"].tolist() == expected["states"]
    np.testing.assert_array_equal(trials.time, expected["trial_times"])
    assert np.asarray(trials.segments.trial_ids).tolist() == expected["trial_ids"]
    np.testing.assert_array_equal(trials["decay_time"], expected["decay_time"])
    assert trials.parameters["decay_time"].unit == "s"
    recording = read_nwb(path)
    hmm = CalciumHMM.from_nwb(path, "whole")
    assert hmm.predict(recording).tolist() == expected["states"]
    assert hmm.score(recording) == pytest.approx(expected["score"], abs=1e-9)


# -- Saved models -----------------------------------------------------------------------------------------------------

MODELS = sorted((Path(__file__).parent / "stored").glob("models_*/*.npz"))


def test_every_class_that_can_be_saved_was():
    assert {path.stem for path in MODELS} == set(persistence._CLASSES)


@pytest.mark.parametrize("path", MODELS, ids=[f"{p.stem}-{p.parent.name}" for p in MODELS])
@pytest.mark.filterwarnings("ignore::nwb_calcium_lvm.exceptions.DataWarning")
def test_a_model_of_an_earlier_version(path: Path):
    spec = importlib.util.spec_from_file_location("make_models", path.parents[1] / "make_models.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    expected = np.array(json.loads((path.parent / "expected.json").read_text())[path.stem])
    model = load_model(path)
    assert type(model).__name__ == path.stem
    np.testing.assert_allclose(model.transform(made.traces()[0]), expected, rtol=1e-3, atol=1e-4)
