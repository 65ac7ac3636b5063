"""From an NWB file to a page: read, put together, render, write whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nwb_calcium_lvm.exceptions import DataError, NameClashError
from nwb_calcium_lvm.io import read_results
from nwb_calcium_lvm.io._atomic import check_writable, write_safely
from nwb_calcium_lvm.io.session_facts import describe_session
from nwb_calcium_lvm.report._advice import advice_on
from nwb_calcium_lvm.report._document import Document, Section
from nwb_calcium_lvm.report._other_sections import (
    advice_section,
    provenance_section,
    references_section,
    selection_section,
)
from nwb_calcium_lvm.report._page import render
from nwb_calcium_lvm.report._reading import Traces, read_traces
from nwb_calcium_lvm.report._recording_sections import quality_section, recording_section
from nwb_calcium_lvm.report._result_sections import result_section
from nwb_calcium_lvm.result import InferenceResult

_ENDINGS = (".html", ".htm")
_LARGE = 64 * 2**20  # bytes that a page may take: far more than any has


@dataclass(frozen=True)
class Plan:
    """What a report would be of.

    Attributes
    ----------
    out : Path
        The page.
    results : dict of str to InferenceResult
        What it would show.
    """

    out: Path
    results: Mapping[str, InferenceResult]


def write_report(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    names: str | Sequence[str] | None = None,
    *,
    overwrite: bool = False,
    reading: Mapping[str, Any] | None = None,
    selections: Mapping[str, Any] | None = None,
) -> Path:
    """Write one self-contained HTML page on an NWB file and the results in it.

    The page needs no network: pictures, styles and all else are in it. All that the file says is escaped.

    Parameters
    ----------
    path : path
        NWB file, HDF5 or Zarr.
    out : path, optional
        The page, ending in ``.html``, or a folder for it. Default: ``<file>_report.html`` beside the file.
    names : str or sequence of str, optional
        Results to show. Default: all; a file without any gives a page on the recording.
    overwrite : bool
        Replace a page that is there.
    reading : mapping, optional
        Arguments of :func:`nwb_calcium_lvm.read_nwb` that say how to read the traces, such as ``series``.
    selections : mapping of str to Selection, optional
        Of :func:`nwb_calcium_lvm.hmm.select_n_states`, to be drawn.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataError
        If ``path`` is no NWB file, or has no result of a name.
    NameClashError
        If ``out`` exists and ``overwrite`` is False.
    WriteError
        If it cannot be written; nothing has changed then.

    Notes
    -----
    Every ROI is read once, a block at a time, up to 2 GB of traces; of results, the frames that are drawn, and what
    is one number per frame. So memory does not grow with the length of the recording times its ROIs.

    Examples
    --------
    >>> write_report("session_calcium_lvm.nwb")  # doctest: +SKIP
    PosixPath('session_calcium_lvm_report.html')
    """
    source = Path(path).expanduser()
    plan = plan_report(source, out, names, overwrite=overwrite)
    session = describe_session(source)
    traces, problem = _traces(source, plan.results, reading or {})
    page = render(_document(source, plan.results, session, traces, problem, selections or {}))
    replaced = plan.out if plan.out.exists() else None
    return write_safely(
        plan.out,
        base=replaced,
        edit=lambda temporary: _put(temporary, page),
        check=_check,
        extra_bytes=min(len(page) * 4, _LARGE),
        copy_base=False,
    )


def plan_report(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    names: str | Sequence[str] | None = None,
    *,
    overwrite: bool = False,
) -> Plan:
    """Say what :func:`write_report` would show and write, and raise what it would raise before it reads traces."""
    source = Path(path).expanduser()
    target = _target(source, out)
    results = _results(source, names)
    if target.exists() and not overwrite:
        raise NameClashError(f"{target} exists. Pass overwrite=True to replace it, or another path for the page.")
    check_writable(target.resolve())
    return Plan(target, results)


def _target(source: Path, out: str | os.PathLike[str] | None) -> Path:
    name = f"{source.name.removesuffix('.zarr').removesuffix('.nwb')}_report.html"
    if out is None:
        return source.with_name(name)
    target = Path(out).expanduser()
    if target.is_dir():
        return target / name
    if target.suffix.lower() not in _ENDINGS:
        raise DataError(f"{target} does not end in .html. Expected the name of a page, such as {name}, or a folder.")
    return target


def _results(source: Path, names: str | Sequence[str] | None) -> dict[str, InferenceResult]:
    if not source.exists():
        raise DataError(f"{source} does not exist. Expected an NWB file.")
    if names is None:
        return read_results(source, lazy=True)
    wanted = [names] if isinstance(names, str) else list(names)
    return {name: read_results(source, name, lazy=True) for name in wanted}


def _traces(
    source: Path, results: Mapping[str, InferenceResult], reading: Mapping[str, Any]
) -> tuple[Traces | None, str | None]:
    """Read the traces, or say why not: results are worth a page without them."""
    try:
        return read_traces(source, results, reading), None
    except DataError as error:
        if reading:  # asked for, and not to be had
            raise
        return None, str(error)


def _document(
    source: Path,
    results: Mapping[str, InferenceResult],
    session: Mapping[str, Mapping[str, str]],
    traces: Traces | None,
    problem: str | None,
    selections: Mapping[str, Any],
) -> Document:
    sections: list[Section | None] = [recording_section(session, traces, problem)]
    sections.append(None if traces is None else quality_section(traces))
    sections += [result_section(name, r, traces, i) for i, (name, r) in enumerate(results.items(), 1)]
    advice = advice_on(results, traces)
    sections += [
        selection_section(results, selections),
        advice_section(advice),
        references_section(source, results),
        provenance_section(results),
    ]
    models = ", ".join(results) or "no results yet: fit a model, such as nwb-calcium-lvm fit hmm"
    problems = sum(item.level == "problem" for item in advice)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Document(
        title=source.name,
        subtitle=f"Results: {models}",
        sections=[section for section in sections if section is not None],
        footer=f"Made by nwb_calcium_lvm {_version()} on {now} from {source.name}.",
        n_problems=problems,
        n_hints=len(advice) - problems,
    )


def _version() -> str:
    try:
        return version("nwb-calcium-lvm")
    except PackageNotFoundError:
        from nwb_calcium_lvm import __version__

        return __version__


def _put(temporary: Path, page: str) -> None:
    temporary.write_text(page, encoding="utf-8")


def _check(temporary: Path) -> None:
    if not temporary.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise OSError("the page was cut off while it was written")
