"""What to cite: complete, once each, and in forms that reference managers read."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nwb_calcium_lvm
from nwb_calcium_lvm import (
    CalciumGPFA,
    CalciumHMM,
    CalciumLFADS,
    FilterSpikeEstimator,
    OASISSpikeEstimator,
    S2SSpikeEstimator,
    VAESpikeEstimator,
    cite,
    read_results,
)
from nwb_calcium_lvm._core.persistence import _CLASSES
from nwb_calcium_lvm.citing import _OF_MODEL, references_of
from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.exceptions import DataError
from nwb_calcium_lvm.provenance import Source
from nwb_calcium_lvm.references import TABLE

STORED = Path(__file__).parent / "stored" / "results_0.1.0.nwb"


def keys(what):
    return [r.key for r in references_of(what)]


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (CalciumHMM(), ["rabiner1989", "ganmor2016", "keeley2025"]),
        (CalciumHMM(observation="gaussian"), ["rabiner1989"]),
        (CalciumGPFA(observation="calcium_noisy"), ["yu2009", "ganmor2016", "keeley2025", "minka2001"]),
        (CalciumLFADS(coordinated_dropout=0.3), ["pandarinath2018", "ganmor2016", "keeley2025", "keshtkaran2022"]),
        (CalciumLFADS(observation="poisson"), ["pandarinath2018"]),
        (S2SSpikeEstimator(), ["sebastian2021", "rupprecht2021"]),
        (FilterSpikeEstimator(), ["minka2001", "ganmor2016", "rupprecht2021"]),
        (VAESpikeEstimator(), ["speiser2017", "deneux2016"]),
        (OASISSpikeEstimator(), ["friedrich2017", "rupprecht2021"]),
    ],
)
def test_an_estimator_rests_on_its_model_its_observations_and_this_software(estimator, expected):
    assert keys(estimator) == [*expected, "nwb_calcium_lvm"]


def test_every_estimator_has_references():
    assert set(_OF_MODEL) == set(_CLASSES)


def test_a_result_adds_where_its_traces_came_from():
    result = read_results(STORED, "whole")
    assert keys(result)[-2:] == ["ruebel2022", "nwb_calcium_lvm"]
    assert "pachitariu2017" in keys(replace(result, source=Source("suite2p")))
    assert "version 9.9" in cite(replace(result, versions={"nwb-calcium-lvm": "9.9"}))


def test_a_file_adds_nwb_and_the_extension():
    found = keys(STORED)
    assert found[-3:] == ["ruebel2022", "ndx_calcium_lvm", "nwb_calcium_lvm"]
    assert len(found) == len(set(found)), "two results of one model count once"
    assert cite(str(STORED)) == cite(STORED)


def test_text_is_a_line_each_and_bibtex_an_entry_each():
    text, entries = cite(CalciumHMM()), cite(CalciumHMM(), style="bibtex")
    assert len(text.splitlines()) == 4
    assert text.startswith("Rabiner LR (1989). A tutorial")
    assert "Ganmor E, Krumin M, Rossi LF, Carandini M and Simoncelli EP (2016)" in text
    assert "Pandarinath C et al. (2018)" in cite(CalciumLFADS())
    assert re.findall(r"^@\w+\{(\w+),$", entries, re.MULTILINE) == keys(CalciumHMM())
    assert entries.count("{") == entries.count("}")


@pytest.mark.parametrize("reference", TABLE.values(), ids=TABLE)
def test_every_reference_can_be_found_and_printed(reference):
    assert reference.role
    assert reference.title in reference.text()
    assert reference.link or reference.kind == "misc"
    entry = reference.bibtex()
    assert entry.count("{") == entry.count("}")
    assert "author = {" in entry
    assert not re.search(r"(?<!\\)_", re.sub(r"@\w+\{\w+,|(doi|url) = .*", "", entry)), "TeX takes _ for a subscript"


def test_what_is_nothing_to_cite(tmp_path):
    with pytest.raises(DataError, match=r"Expected one of 'text', 'bibtex'"):
        cite(CalciumHMM(), style="apa")
    with pytest.raises(DataError, match="Expected an estimator"):
        cite(3)
    (tmp_path / "junk.nwb").write_text("junk")
    with pytest.raises(DataError, match="this is not one"):
        cite(tmp_path / "junk.nwb")


def test_the_command():
    result = CliRunner().invoke(app, ["cite", str(STORED)])
    assert result.exit_code == 0
    assert result.output.strip() == cite(STORED)
    assert "@article{ruebel2022," in CliRunner().invoke(app, ["cite", str(STORED), "--bibtex"]).output


def test_it_is_public():
    assert nwb_calcium_lvm.cite is cite
