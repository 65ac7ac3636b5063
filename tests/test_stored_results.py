"""Files that earlier versions wrote stay readable, and their models predict what they predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nwb_calcium_lvm import CalciumHMM, read_nwb, read_results

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
