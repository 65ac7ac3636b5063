"""What is written with the extension is read back as it was: any result, and fitted models that predict the same."""

from __future__ import annotations

import shutil

import pytest
from _results import assert_same, results
from hypothesis import HealthCheck, given, settings

from nwb_calcium_lvm import read_results, write_nwb
from nwb_calcium_lvm.result import InferenceResult


@pytest.mark.parametrize("ending", ["nwb", "nwb.zarr"])
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(result=results())
def test_any_result(tmp_path_factory: pytest.TempPathFactory, ending: str, result: InferenceResult):
    folder = tmp_path_factory.mktemp("any")
    path = write_nwb(result, folder / f"a.{ending}", name="a result")
    assert_same(result, read_results(path, "a result"))
    assert_same(result, read_results(path, lazy=True)["a result"])
    shutil.rmtree(folder)
