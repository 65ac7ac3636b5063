"""The documents: their Python runs, their command lines parse, messages they quote exist, links lead somewhere."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import typer
from _suite2p_folders import FakePlane, write_suite2p_folder

from nwb_calcium_lvm import CalciumGPFA, CalciumHMM, read_nwb
from nwb_calcium_lvm.cli import app
from nwb_calcium_lvm.io.demo_file import write_session_nwb
from nwb_calcium_lvm.simulate import session

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAM = "nwb-calcium-lvm"


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line number and text of each fenced block of a language."""
    text = page.read_text("utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, m.start(1)), m[1]) for m in found]


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


PYTHON_PAGES = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the documents read: an NWB file and a Suite2p folder."""
    folder = tmp_path_factory.mktemp("documents")
    simulated = session(
        n_states=3, n_rois=8, duration=90.0, sampling_rate=10.0, indicator="jGCaMP8s", nu=1.0, random_state=0
    )
    trials = simulated.trials or {}
    trials = trials | {"odor_on_time": trials["event_time"]}
    write_session_nwb(replace(simulated, trials=trials), folder / "session.nwb")
    write_suite2p_folder(folder, [FakePlane(seed=0), FakePlane(seed=1)])
    return folder


def names_a_reader_has(page: Path) -> dict[str, Any]:
    """What a page takes for granted: its reader came from a page that made it."""
    if page.name not in ("hmm.md", "index.md"):
        return {}
    recording = read_nwb("session.nwb").align("odor_on_time", (-2.0, 4.0))
    return {"CalciumHMM": CalciumHMM, "recording": recording, "running": np.arange(900) % 100 < 5}


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=names(PYTHON_PAGES))
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.usefixtures("quick_compilation")
def test_python_of_a_page_runs(page: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Each page starts from the same files, whatever the one before wrote.
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    shutil.copytree(data / "suite2p", tmp_path / "data" / "suite2p")
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    # The documents show what real data need; here the same code runs on less.
    for estimator in (CalciumHMM, CalciumGPFA):
        defaults = estimator.__init__.__kwdefaults__
        monkeypatch.setattr(estimator.__init__, "__kwdefaults__", defaults | {"n_init": 1, "max_iter": 5})
    namespace = {"__name__": "__main__", **names_a_reader_has(page)}
    try:
        for line, code in blocks(page, "python"):
            # Blank lines in front, so that a traceback names the line of the page.
            smaller = code.replace("range(2, 10)", "[2]").replace('"n_latents": [1, 2]', '"n_latents": [2]')
            exec(compile("\n" * line + smaller, str(page), "exec"), namespace)
    finally:
        plt.close("all")


def command_lines(page: Path) -> list[str]:
    """Every call of the program in blocks of commands, continued lines joined, the prompt taken off."""
    text = "".join(code for _, code in blocks(page, "(?:console|bash|sh)?")).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$").strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith(PROGRAM + " ")]


COMMANDS = sorted({line for page in PAGES for line in command_lines(page)})


# Typer has moved from Click to a copy of its own; both are reached through Typer's names.
UsageError = typer.BadParameter.__mro__[1]


def parse(words: list[str]) -> None:
    """Parse the words of a command line as the program does, and run nothing."""
    command: Any = typer.main.get_command(app)
    context = None
    while True:
        try:
            context = command.make_context(command.name, list(words), parent=context)
        except typer.Exit:  # --help and --version say their piece and leave
            return
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_line_in_the_documents_parses(line: str):
    parse(shlex.split(line, comments=True)[1:])


def test_a_wrong_command_line_is_noticed():
    with pytest.raises(UsageError):
        parse(["fit", "hmm", "session.nwb", "--no-such-option"])


def package_text() -> str:
    """Source of the package, with literals that go on over lines joined."""
    texts = [path.read_text("utf-8") for path in sorted((ROOT / "nwb_calcium_lvm").rglob("*.py"))]
    return re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(texts))


def test_messages_that_troubleshooting_quotes_exist():
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    quoted = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    source = package_text()
    assert len(quoted) > 20
    assert [text for text in quoted if text not in source] == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name} links to {target}"
