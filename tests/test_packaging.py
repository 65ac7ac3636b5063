"""What holds for the package as a whole: a light import, an installed copy under test, no trace of one machine."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

import nwb_calcium_lvm

ROOT = Path(__file__).parents[1]
HEAVY = (
    "jax",
    "jinja2",
    "dask",
    "distributed",
    "flax",
    "optax",
    "pynwb",
    "hdmf",
    "h5py",
    "matplotlib",
    "pandas",
    "sklearn",
    "scipy.stats",
)


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_after(statement: str) -> set[str]:
    return set(run_python(f"import sys; {statement}; print(*sys.modules)").split())


def test_importing_the_package_loads_nothing_heavy():
    assert not modules_after("import nwb_calcium_lvm").intersection(HEAVY)


def test_importing_the_package_is_quick():
    # The best of three, so that a busy machine does not decide; the import itself is a few milliseconds.
    code = "import time; t = time.perf_counter(); import nwb_calcium_lvm; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.5


@pytest.mark.parametrize("name", ["CalciumHMM", "observations", "hmm", "read_nwb", "Recording"])
def test_a_public_name_starts_no_device(name):
    backends = run_python(
        f"import nwb_calcium_lvm; nwb_calcium_lvm.{name}\n"
        "import sys\n"
        "bridge = sys.modules.get('jax._src.xla_bridge')\n"
        "print(len(bridge._backends) if bridge else 0)"
    )
    assert int(backends) == 0


@pytest.mark.parametrize("name", ["Recording", "InferenceResult", "read_nwb", "read_suite2p", "preprocessing", "io"])
def test_reading_runs_without_jax(name):
    assert "jax" not in modules_after(f"import nwb_calcium_lvm; nwb_calcium_lvm.{name}")


@pytest.mark.parametrize("name", [n for n in nwb_calcium_lvm.__all__ if n != "__version__"])
def test_every_public_name_exists_and_is_documented(name):
    assert (getattr(nwb_calcium_lvm, name).__doc__ or "").strip()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = nwb_calcium_lvm.no_such_name


def installed():
    try:
        return distribution("nwb-calcium-lvm")
    except PackageNotFoundError:
        pytest.skip("not installed")


def test_the_version_is_said_once():
    assert installed().version == nwb_calcium_lvm.__version__


def test_an_installed_package_is_what_is_tested():
    direct = json.loads(installed().read_text("direct_url.json") or "{}")
    if direct.get("dir_info", {}).get("editable"):
        pytest.skip("an editable install is the source tree")
    if {"", str(ROOT)} & set(sys.path):
        pytest.skip("python -m pytest puts the source tree first; plain pytest does not")
    assert Path(nwb_calcium_lvm.__file__).is_relative_to(Path(str(installed().locate_file(""))).resolve())


def test_the_wheel_ships_both_packages_and_their_types():
    shipped = {str(f) for f in installed().files or ()}
    if any(f.endswith(".pth") for f in shipped):
        pytest.skip("an editable install ships only a pointer")
    needed = {"nwb_calcium_lvm/py.typed", "ndx_calcium_lvm/__init__.py", "nwb_calcium_lvm/report/page.html.j2"}
    assert needed <= shipped


def text_files():
    folders = ("nwb_calcium_lvm", "extensions", "tests", "examples", "docs", "benchmarks")
    kinds = {".py", ".md", ".toml", ".yaml", ".yml", ".cff", ".json"}
    files = [f for folder in folders for f in (ROOT / folder).rglob("*") if f.suffix in kinds]
    return [f for f in (*files, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.cff")) if f.is_file()]


# Written so that this file does not find itself.
PERSONAL = re.compile(
    r"(?<![\w.])/(?:" + "|".join(["ro" + "ot", "ho" + "me", "Us" + "ers", "wo" + "rk", "t" + "mp"]) + r")/\w"
)


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")
def test_no_file_names_a_folder_of_one_machine():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PERSONAL.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="needs the source tree")
def test_links_between_documents_lead_somewhere():
    documents = [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    broken = [
        f"{page.name}: {target}"
        for page in documents
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not broken, "\n".join(broken)
