"""``nwb-calcium-lvm doctor``: is this installation as it should be, and what to do where it is not."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import typer

from nwb_calcium_lvm.cli._console import Say, table

_PACKAGE = "nwb-calcium-lvm"
_LEAST_DISK, _LEAST_MEMORY = 1.0, 1.0  # GB
_TOLERANCE = 1e-6


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes
    ----------
    name : str
    status : {"ok", "note", "off"}
        ``"note"`` is worth knowing and nothing to mend; ``"off"`` makes the doctor fail.
    found : str
        What there is.
    remedy : str
        What to do, where something is to be done.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def run_doctor(say: Say) -> None:
    """Run all checks, print them, and leave with exit code 1 if something is off."""
    checks: list[Check] = []
    for step in (check_python, check_packages, check_extras, check_devices, check_room, check_self_test):
        try:
            checks += step()
        except Exception as error:  # a doctor that falls ill tells of it
            checks.append(Check(step.__name__.removeprefix("check_"), "off", f"{type(error).__name__}: {error}"))
    say(table([(c.status, c.name, c.found) for c in checks], ("", "what", "found")))
    todo = [c for c in checks if c.remedy]
    if todo:
        say("\nWhat to do:")
        for c in todo:
            say(f"  {c.name}: {c.remedy}")
    off = [c for c in checks if c.status == "off"]
    say(f"\n{len(off)} of {len(checks)} checks are off." if off else "\nAll is well.")
    if off:
        raise typer.Exit(1)


def check_python() -> list[Check]:
    """Python, platform and package."""
    from nwb_calcium_lvm import __file__ as home
    from nwb_calcium_lvm import __version__

    current = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return [
        Check("package", "ok", f"nwb_calcium_lvm {__version__} in {Path(str(home)).parent}"),
        Check("Python", "ok" if fits else "off", current, "" if fits else "Install Python 3.11, 3.12 or 3.13."),
        Check("platform", "ok", f"{platform.platform()}, {os.cpu_count()} processors"),
    ]


def check_packages() -> list[Check]:
    """Versions of what is required, against what is asked for."""
    try:
        wanted = [line for line in requires(_PACKAGE) or [] if "extra ==" not in line]
    except PackageNotFoundError:
        return [Check("packages", "note", "the package is not installed: this is its source tree", "pip install .")]
    return [_package(line) for line in wanted]


def _package(line: str) -> Check:
    name, least = re.match(r"([\w.\-]+)(?:\[[^]]*\])?\s*(?:>=\s*([\w.]+))?", line).groups()  # pyright: ignore[reportOptionalMemberAccess]
    try:
        found = version(name)
    except PackageNotFoundError:
        return Check(name, "off", "missing", f'pip install "{line}"')
    if least is not None and _numbers(found) < _numbers(least):
        return Check(name, "off", f"{found}, expected {least} or later", f'pip install --upgrade "{line}"')
    return Check(name, "ok", found if least is None else f"{found} (at least {least})")


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", text)
    parts = [int(part) for part in release[0].split(".")] if release else [0]
    while parts and parts[-1] == 0:  # 2.0 and 2 are one version
        parts.pop()
    return tuple(parts)


def check_extras() -> list[Check]:
    """Whether optional packages are there."""
    found = []
    for extra, package, what in (
        ("zarr", "hdmf-zarr", "NWB in Zarr"),
        ("dask", "distributed", "batch on several processes or machines"),
        ("dask", "pyarrow", "batch summaries as parquet"),
    ):
        try:
            found.append(Check(f"extra {extra}", "ok", f"{package} {version(package)} ({what})"))
        except PackageNotFoundError:
            found.append(
                Check(f"extra {extra}", "note", f'no {package} ({what}); pip install "nwb-calcium-lvm[{extra}]"')
            )
    return found


def check_devices() -> list[Check]:
    """What JAX computes on."""
    import jax

    devices = jax.devices()
    kinds = ", ".join(f"{d.platform}:{d.id} {d.device_kind}" for d in devices)
    remedy = ""
    if devices[0].platform == "cpu" and shutil.which("nvidia-smi") and os.environ.get("JAX_PLATFORMS", "") != "cpu":
        remedy = 'There is a GPU, and JAX does not use it: pip install "nwb-calcium-lvm[cuda]".'
    return [Check("JAX devices", "note" if remedy else "ok", f"JAX {jax.__version__}: {kinds}", remedy)]


def check_room() -> list[Check]:
    """Free memory and disk."""
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    scratch = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    memory = _free_memory()
    return [
        _enough("disk here", free, _LEAST_DISK, "Results are copies of their files: make room, or work elsewhere."),
        _enough("disk for temporary files", scratch, _LEAST_DISK, "Set TMPDIR to a folder with more room."),
        Check("memory", "note", "not known on this system")
        if memory is None
        else _enough("memory", memory, _LEAST_MEMORY, "Close other programs."),
    ]


def _enough(name: str, gigabytes: float, least: float, remedy: str) -> Check:
    enough = gigabytes >= least
    return Check(name, "ok" if enough else "off", f"{gigabytes:,.1f} GB free", "" if enough else remedy)


def _free_memory() -> float | None:
    """Return free memory in GB, if the system tells."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) / 1e6  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError, AttributeError):
        return None


def check_self_test(clock: Callable[[], float] = time.monotonic) -> list[Check]:
    """Simulate, fit, write and read back, in a temporary folder; compare numbers."""
    import numpy as np

    from nwb_calcium_lvm import CalciumHMM, read_nwb, read_results, simulate, write_nwb
    from nwb_calcium_lvm.io.demo_file import write_session_nwb

    started = clock()
    truth = simulate.session(n_states=2, n_rois=6, duration=40.0, sampling_rate=10.0, nu=1.0, random_state=0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        path = write_session_nwb(truth, Path(folder) / "session.nwb")
        recording = read_nwb(path)
        hmm = CalciumHMM(n_states=2, n_init=1, max_iter=15, random_state=0).fit(recording)
        result = hmm.infer(recording)
        back = read_results(write_nwb(result, Path(folder) / "result.nwb"))["CalciumHMM"]
        same = all(
            np.allclose(np.asarray(result[name], float), np.asarray(back[name], float), rtol=_TOLERANCE, atol=1e-12)
            for name in (*result.arrays, *result.parameters)
        )
    history = np.asarray(hmm.log_likelihood_history_)
    agree = float(np.mean(np.asarray(back["states"]) == truth.states))
    agree = max(agree, 1.0 - agree)  # of two states, which is called 0 is chance
    rising = bool(np.isfinite(history).all() and history[-1] > history[0])
    found = f"states agree in {100 * agree:.0f} % of frames; read back {'equal' if same else 'DIFFERENT'}"
    fine = same and rising and agree > 0.8
    remedy = "" if fine else "Reinstall in a fresh environment; if it persists, report it with this output."
    return [Check("self-test", "ok" if fine else "off", f"{found}; {clock() - started:.1f} s", remedy)]
