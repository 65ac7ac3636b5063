"""The specification: generated, valid, complete, and safe to read back."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from itertools import combinations
from pathlib import Path

import jsonschema
import ndx_calcium_lvm
import pynwb
import pytest
import yaml
from hdmf.spec import SpecNamespace
from ndx_calcium_lvm.testing import mock

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "spec"
FILES = ("ndx-calcium-lvm.namespace.yaml", "ndx-calcium-lvm.extensions.yaml")
TYPES = [name for name in ndx_calcium_lvm.__all__ if name[0].isupper() and name != "NAMESPACE"]


def generator():
    spec = importlib.util.spec_from_file_location("create_extension_spec", ROOT / "src/spec/create_extension_spec.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_specification_is_what_the_script_generates(tmp_path):
    generator().main(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_text() == (SPEC / name).read_text(), f"{name}: run create_extension_spec.py"


@pytest.mark.parametrize("name", FILES)
def test_the_specification_meets_the_schema_of_nwb(name):
    schema = json.loads((Path(pynwb.__file__).parent / "nwb-schema" / "nwb.schema.json").read_text())
    jsonschema.validate(yaml.safe_load((SPEC / name).read_text()), schema)


def test_a_broken_specification_does_not_meet_it():
    schema = json.loads((Path(pynwb.__file__).parent / "nwb-schema" / "nwb.schema.json").read_text())
    content = yaml.safe_load((SPEC / FILES[1]).read_text())
    del content["groups"][0]["doc"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def namespace() -> SpecNamespace:
    return pynwb.get_manager().namespace_catalog.get_namespace(ndx_calcium_lvm.NAMESPACE)


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    meta = yaml.safe_load((ROOT / "ndx-meta.yaml").read_text())
    changes = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    versions = {project["version"], meta["version"], namespace().version, ndx_calcium_lvm.__version__, changes[1]}
    assert len(versions) == 1


def test_every_type_has_a_class_a_mock_and_a_section_in_the_documentation():
    content = yaml.safe_load((SPEC / FILES[1]).read_text())
    defined = {t["neurodata_type_def"] for t in (*content["groups"], *content["datasets"])}
    documented = set(re.findall(r"^#+ `(\w+)`", (ROOT / "docs" / "types.md").read_text(), re.MULTILINE))
    assert defined == set(TYPES) == documented
    assert {f"mock_{name}" for name in defined} == set(mock.__all__)


def test_every_field_is_in_the_documentation():
    told = (ROOT / "docs" / "types.md").read_text()
    content = yaml.safe_load((SPEC / FILES[1]).read_text())
    names = {
        part["name"]
        for kind in (*content["groups"], *content["datasets"])
        for parts in ("attributes", "datasets", "groups", "links")
        for part in kind.get(parts, ())
        if "name" in part
    }
    missing = {name for name in names if f"`{name}`" not in told}
    assert not missing


@pytest.mark.parametrize("name", TYPES)
def test_no_type_has_two_links_that_could_be_taken_for_one_another(name):
    """hdmf reads an optional link that is absent as any other link to a type that fits."""
    catalog = pynwb.get_manager().namespace_catalog
    links = getattr(namespace().get_spec(name), "links", ())
    for one, other in combinations(links, 2):
        lines = [set(catalog.get_hierarchy(ndx_calcium_lvm.NAMESPACE, link.target_type)) for link in (one, other)]
        assert one.target_type not in lines[1], f"{one.name}, {other.name}"
        assert other.target_type not in lines[0], f"{one.name}, {other.name}"
