"""What a report is made of: sections of facts, tables, pictures and advice. Nothing here knows of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    tone: Literal["plain", "note"] = "plain"
    kind: str = "text"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    kind: str = "heading"


@dataclass(frozen=True)
class Facts:
    """Names and values, a pair a line; ``wide`` ones take the width of the page."""

    pairs: Sequence[tuple[str, str]]
    title: str = ""
    wide: bool = False
    kind: str = "facts"


@dataclass(frozen=True)
class Table:
    """A table; numbers to the right.

    ``folded`` tables are shown when asked for; ``alone`` ones have nothing beside them.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    folded: bool = False
    alone: bool = False
    kind: str = "table"

    @property
    def cells(self) -> list[list[str]]:
        """The rows as text."""
        return [[said(value) for value in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers only."""
        return [all(_is_number(row[i]) for row in self.rows) for i in range(len(self.header))]


@dataclass(frozen=True)
class Picture:
    """A drawing as SVG, ``width`` pixels at most, and what is to be seen on it."""

    svg: str
    caption: str
    wide: bool = True
    width: int = 640
    kind: str = "picture"


@dataclass(frozen=True)
class Advice:
    """One thing that the numbers suggest.

    Attributes
    ----------
    level : {"problem", "hint"}
        Whether a result is in doubt, or could be better.
    about : str
        Which result, or the recording.
    finding : str
        What the numbers are.
    remedy : str
        What to do.
    """

    level: Literal["problem", "hint"]
    about: str
    finding: str
    remedy: str


@dataclass(frozen=True)
class AdviceList:
    """All that is suggested, problems first."""

    items: Sequence[Advice]
    kind: str = "advice"


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    text: str
    title: str = ""
    kind: str = "code"


Block = Text | Heading | Facts | Table | Picture | AdviceList | Code


@dataclass
class Section:
    """A heading and what is under it."""

    anchor: str
    title: str
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """The whole page."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str
    n_problems: int = 0
    n_hints: int = 0


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def said(value: Any) -> str:
    """Return a value as a reader wants it: few digits, no None."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if value != value:
            return "–"
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
