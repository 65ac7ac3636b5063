"""The doctor: well where all is well, and what it says where something is off."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from nwb_calcium_lvm import CalciumHMM
from nwb_calcium_lvm.cli import _doctor as doctor
from nwb_calcium_lvm.cli import app


def test_a_sound_installation_is_well(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "All is well." in result.output
    for words in ("Python", "platform", "JAX devices", "memory", "disk here", "self-test", "read back equal"):
        assert words in result.output


def well(name="x"):
    return [doctor.Check(name, "ok", "fine")]


def test_what_is_off_is_named_with_its_remedy_and_exit_code(monkeypatch):
    for name in ("check_packages", "check_extras", "check_devices", "check_room"):
        monkeypatch.setattr(doctor, name, well)
    monkeypatch.setattr(doctor, "check_python", lambda: [doctor.Check("Python", "off", "2.7", "Install another.")])
    monkeypatch.setattr(doctor, "check_self_test", lambda: 1 / 0)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "Python: Install another." in result.output
    assert "ZeroDivisionError" in result.output
    assert "2 of 6 checks are off." in result.output


@pytest.mark.parametrize(
    ("line", "there", "status"),
    [
        ("numpy>=2.0", "2", "ok"),
        ("numpy>=2.0", "2.0.1", "ok"),
        ("numpy>=2.0", "1.26.4", "off"),
        ("numpy>=2.10", "2.9", "off"),
        ("numpy>=2.0", "2.1.0rc1", "ok"),
        ("dask[distributed]>=2024.8", "2026.1.0", "ok"),
        ("tqdm", "0.1", "ok"),
        ("numpy>=2.0", None, "off"),
    ],
)
def test_versions_are_compared_as_numbers(line, there, status, monkeypatch):
    def version(name):
        if there is None:
            raise PackageNotFoundError(name)
        return there

    monkeypatch.setattr(doctor, "version", version)
    check = doctor._package(line)
    assert check.status == status
    assert (line in check.remedy) == (status == "off")


def test_a_source_tree_and_missing_extras_are_notes(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    monkeypatch.setattr(doctor, "version", missing)
    found = doctor.check_packages() + doctor.check_extras()
    assert {c.status for c in found} == {"note"}


def test_too_little_room_is_off(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    monkeypatch.setattr(doctor, "_free_memory", lambda: 0.1)
    assert [c.status for c in doctor.check_room()] == ["off"] * 3
    monkeypatch.setattr(doctor, "_free_memory", lambda: None)
    assert doctor.check_room()[2].status == "note"


def test_a_fit_that_finds_nothing_is_noticed(monkeypatch):
    infer = CalciumHMM.infer

    def wrong(self, X):
        result = infer(self, X)
        states = result.arrays["states"]
        result.arrays["states"] = states._replace(values=0 * states.values)
        return result

    monkeypatch.setattr(CalciumHMM, "infer", wrong)
    (check,) = doctor.check_self_test()
    assert check.status == "off"
    assert "report it" in check.remedy
