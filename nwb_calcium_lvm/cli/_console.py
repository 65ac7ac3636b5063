"""What the command line prints, and how errors and warnings become one readable line each."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

Say = Callable[[str], None]

# Errors are worded for Python; on the command line their remedies have other names.
_FLAGS = {
    "overwrite=True": "--overwrite",
    "redo=True": "--redo",
    "workers=": "--workers ",
    "accepted=False": "--all-rois",
    "path=": "--out ",
    "name=": "--name ",
} | {f"{word}=": f"--{word.replace('_', '-')} " for word in ("series", "plane", "sampling_rate", "indicator")}
_FLAG = re.compile(r"(?<![\w-])(" + "|".join(_FLAGS) + ")")

_SHOWN = ("DataWarning", "ConvergenceWarning")  # by name: importing what defines them takes seconds


@contextmanager
def reporting(*, quiet: bool = False, debug: bool = False) -> Iterator[Say]:
    """Run a command: print what it says, turn errors into one line and exit code 1.

    Parameters
    ----------
    quiet : bool
        Print warnings and errors only.
    debug : bool
        Let errors through with their traceback.
    """

    def say(text: str) -> None:
        if not quiet:
            typer.echo(text)

    with _warnings_as_lines(), _notes_as_lines():
        try:
            yield say
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:  # whatever it is, the user of a command is told in a line
            if debug:
                raise
            typer.echo(f"Error: {_message(error)}", err=True)
            raise typer.Exit(1) from None


def table(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> str:
    """Return rows as aligned text; numbers to the right."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(f"  {line}" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "?"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _in_a_line(text: Any) -> str:
    return " ".join(_FLAG.sub(lambda found: _FLAGS[found[0]], str(text)).split())


def _message(error: Exception) -> str:
    text = _in_a_line(error.args[0] if isinstance(error, KeyError) and error.args else error)
    # A bare number or name, as of an IndexError or KeyError, says nothing without its kind.
    return text if len(text.split()) > 2 else f"{type(error).__name__}: {text}. Run again with --debug for details."


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if category.__name__ in _SHOWN:
            typer.echo(f"Warning: {_in_a_line(message)}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        yield


@contextmanager
def _notes_as_lines() -> Iterator[None]:
    class Echo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            typer.echo(f"Note: {record.getMessage()}", err=True)

    logger = logging.getLogger("nwb_calcium_lvm")
    handler, propagate = Echo(level=logging.WARNING), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
