"""A writer that is killed, meets a full disk or fails anywhere leaves the file as it was, or complete."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if os.name != "posix":
    pytest.skip("signals, quotas and mounts of POSIX", allow_module_level=True)

from _fault_worker import CASES, ERRORS

HERE = Path(__file__).parent
MEBIBYTE = 2**20
Ask = Callable[..., Any]


@contextmanager
def worker(folder: Path, case: str, *, disk: int | None = None) -> Iterator[Ask]:
    """Start the process that writes; with ``disk``, on a file system of so many bytes."""
    command = [sys.executable, str(HERE / "_fault_worker.py"), str(folder), case]
    if disk is not None:
        mount = f'mount -t tmpfs -o size={disk} none "$0" && exec "$@"'
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder), *command]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout
        assert json.loads(said.readline()) == "ready"
        asked = process.stdin

        def ask(action: str, **options: Any) -> Any:
            print(json.dumps([action, options]), file=asked, flush=True)
            return json.loads(said.readline())

        yield ask
        asked.close()


@pytest.fixture
def tiny_disks() -> None:
    """Skip where file systems cannot be mounted."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare here")
    trial = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")


CORE_FIRST = [
    pytest.param(name, marks=() if name == "core" else [pytest.mark.slow, pytest.mark.thorough]) for name in CASES
]


class Judge:
    """Tells whether a file is the original or complete, and that it can be written afterwards."""

    def __init__(self, ask: Ask):
        self.ask = ask
        undisturbed = ask("attempt")
        assert undisturbed["error"] is None
        assert not undisturbed["same"]
        self.seconds: float = undisturbed["seconds"]
        self.replaced: float = undisturbed["replaced"]
        self.steps: list[str] = undisturbed["steps"]
        self.names: list[str] = undisturbed["listing"]
        assert len(self.names) == 1
        self.complete = ask("contents")
        ask("restore")

    def outcome(self, facts: dict[str, Any]) -> str:
        if facts["same"]:
            return "original"
        assert self.ask("contents") == self.complete
        return "complete"

    def goes_on(self) -> None:
        """The next write succeeds, and removes what is left of the last one."""
        again = self.ask("attempt")
        assert (again["error"], again["ended"], again["listing"]) == (None, 0, self.names)
        assert self.ask("contents") == self.complete
        self.ask("restore")


# -- Kills ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_killed_at_fifty_moments(tmp_path: Path, case: str):
    rng = np.random.default_rng(50)
    with worker(tmp_path, case) as ask:
        judge = Judge(ask)
        tail = judge.seconds - judge.replaced
        # Spread over the whole write; the last part, which is short, gets some of its own.
        moments = [{"delay": float(d)} for d in (np.arange(40) + rng.random(40)) / 40 * judge.replaced]
        moments += [{"after": float(d)} for d in (np.arange(10) + rng.random(10)) / 10 * tail]
        outcomes, leftovers = [], 0
        for n, moment in enumerate(moments):
            facts = ask("attempt", **moment)
            assert facts["ended"] == -9
            outcomes.append(judge.outcome(facts))
            leftovers += len(facts["listing"]) - 1
            if case == "zarr" and n % 5:  # a store takes long to write
                ask("restore")
            else:
                judge.goes_on()
    assert set(outcomes[:40]) >= {"original"}
    assert set(outcomes[40:]) == {"complete"}
    assert leftovers > 0  # some moments fell into the writing


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_killed_before_and_after_each_step(tmp_path: Path, case: str):
    with worker(tmp_path, case) as ask:
        judge = Judge(ask)
        outcomes = []
        for step in some_of(judge.steps):
            facts = ask("attempt", step=step + 1)
            assert facts["ended"] == -9
            outcomes.append(judge.outcome(facts))
        judge.goes_on()
    assert outcomes == sorted(outcomes, reverse=True)  # original until it was put in place, complete from then on
    assert set(outcomes) == {"original", "complete"}


def some_of(steps: list[str], most: int = 3) -> list[int]:
    """Indices of the steps; of a kind that there are many of, such as values written, the ends and a sample."""
    some: set[int] = set()
    for kind in set(steps):
        places = [i for i, step in enumerate(steps) if step == kind]
        sample = np.random.default_rng(0).permutation(places)[: most - 2].tolist() if len(places) > most else places
        some |= {places[0], places[-1], *sample}
    return sorted(some)


# -- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CORE_FIRST)
def test_an_error_at_any_step_leaves_nothing(tmp_path: Path, case: str):
    rng = np.random.default_rng(1)
    with worker(tmp_path, case) as ask:
        judge = Judge(ask)
        # What cannot be removed stays; and no call reports an error after it has put a file in place.
        left_out = ("os.remove", "os.rmdir", "shutil.rmtree", "after replace")
        steps = [i for i in some_of(judge.steps) if judge.steps[i] not in left_out]
        begun = judge.steps.index("tempfile.mkstemp")
        for step in steps:
            # HDF5's own error comes from HDF5.
            of_hdf5 = judge.steps[step].startswith(("h5py", "after h5py"))
            error = str(rng.choice([kind for kind in ERRORS if kind != "hdf5" or of_hdf5]))
            facts = ask("attempt", step=step + 1, error=error)
            said = f"{error} at step {step} ({judge.steps[step]}): {facts}"
            assert facts["ended"] == 0, said
            if judge.outcome(facts) == "complete":
                assert facts["error"] is None or error not in ("full", "broken", "hdf5"), said
                # The store that was replaced is taken away file by file, and can get stuck; the next write goes on.
                assert facts["listing"] == judge.names or case == "zarr", said
                ask("restore")
                continue
            assert facts["listing"] == judge.names, said
            assert facts["error"] is not None, said
            if error in ("full", "broken", "hdf5") and step >= begun:
                assert "WriteError" in facts["error"], said
                assert "path=" in facts["message"], said
        judge.goes_on()


# -- No room ----------------------------------------------------------------------------------------------------------


def refused(facts: dict[str, Any], names: list[str], *, remedy: str) -> bool:
    """Check that a write was refused without a trace; say whether it was."""
    assert facts["ended"] == 0, facts  # HDF5 ends the process when it is left with a file it could not write
    assert facts["listing"] == names, facts
    if facts["error"] is None:
        return False
    assert facts["same"], facts
    assert "WriteError" in facts["error"], facts
    assert remedy in facts["message"], facts
    return True


def test_a_quota_that_is_too_small(tmp_path: Path):
    with worker(tmp_path, "core") as ask:
        judge = Judge(ask)
        size = ask("size")
        outcomes = []
        for quota in [*np.geomspace(0.5 * size, 2 * size, 12).tolist(), size + 64 * MEBIBYTE]:
            facts = ask("attempt", quota=int(quota))
            outcomes.append(refused(facts, judge.names, remedy="quota"))
            if not outcomes[-1]:
                assert judge.outcome(facts) == "complete"
                ask("restore")
        judge.goes_on()
    assert outcomes[0]
    assert not outcomes[-1]


@pytest.mark.usefixtures("tiny_disks")
def test_a_full_disk(tmp_path: Path):
    with worker(tmp_path, "core", disk=48 * MEBIBYTE) as ask:
        judge = Judge(ask)
        size = ask("size")
        # Seen before anything is written
        ask("hog", leave=size // 2)
        assert refused(ask("attempt"), judge.names, remedy="Free some")
        # The disk looked empty, but someone else was quicker.
        outcomes = []
        for leave in [*np.geomspace(0.5 * size, 2 * size, 12).tolist(), size + 24 * MEBIBYTE]:
            ask("hog", leave=int(leave))
            facts = ask("attempt", blind=True)
            outcomes.append(refused(facts, judge.names, remedy="space and quota"))
            if outcomes[-1]:
                assert facts["lost"] == 0
            else:
                assert judge.outcome(facts) == "complete"
                ask("restore")
        assert outcomes[0]
        assert not outcomes[-1]
        ask("hog", leave=40 * MEBIBYTE)
        judge.goes_on()


@pytest.mark.usefixtures("tiny_disks")
def test_a_disk_that_others_fill_meanwhile(tmp_path: Path):
    with worker(tmp_path, "core", disk=48 * MEBIBYTE) as ask:
        judge = Judge(ask)
        facts = ask("attempt", crowded=True)
        assert facts["taken"] > MEBIBYTE
        assert facts["error"] is None  # the room was reserved
        assert judge.outcome(facts) == "complete"
