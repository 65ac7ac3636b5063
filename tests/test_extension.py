"""The NWB extension that ships with the package: its own tests, and what concerns the two together."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
EXTENSION = REPOSITORY / "extensions" / "ndx-calcium-lvm"

if not EXTENSION.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

pytest.importorskip("jsonschema")
sys.path.append(str(EXTENSION / "tests"))
pytest.register_assert_rewrite("test_ndx_spec", "test_ndx_types", "test_ndx_round_trip")

from test_ndx_round_trip import *  # noqa: E402, F403
from test_ndx_spec import *  # noqa: E402, F403
from test_ndx_types import *  # noqa: E402, F403


def test_the_wheel_takes_the_specification_from_its_one_place():
    for folder, source in ((REPOSITORY, "extensions/ndx-calcium-lvm/spec"), (EXTENSION, "spec")):
        wheel = tomllib.loads((folder / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
        assert wheel["force-include"] == {source: "ndx_calcium_lvm/spec"}


def test_the_installed_package_ships_the_specification():
    try:
        shipped = {str(f) for f in distribution("nwb-calcium-lvm").files or ()}
    except PackageNotFoundError:
        pytest.skip("not installed")
    if any(f.endswith(".pth") for f in shipped):
        pytest.skip("an editable install ships only a pointer")
    names = {f"ndx_calcium_lvm/spec/ndx-calcium-lvm.{part}.yaml" for part in ("namespace", "extensions")}
    assert names <= shipped
    for name in names:
        here = (EXTENSION / "spec" / Path(name).name).read_text()
        assert files("ndx_calcium_lvm").joinpath("spec", Path(name).name).read_text() == here
