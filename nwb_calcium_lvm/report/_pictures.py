"""Drawings as SVG that takes the colours and the type of the page it is in, light or dark."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nwb_calcium_lvm.plotting._style import FAINT, INK
from nwb_calcium_lvm.report._document import Picture, Text

logger = logging.getLogger(__name__)

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and has the page's type
    "text.parse_math": False,  # a ROI called "$x$" is no formula
    "path.simplify": True,
    "axes.unicode_minus": True,
}
# Colours that stand for ink and background follow the page; those that carry meaning stay.
_FOLLOW = {INK: "var(--ink)", "#000000": "var(--ink)", FAINT: "var(--faint)", "#b0b0b0": "var(--faint)"}


def picture(draw: Callable[[], Any], caption: str, *, wide: bool = True) -> Picture | Text:
    """Draw, and return the drawing; where it cannot be drawn, say so instead of losing the whole page.

    Parameters
    ----------
    draw : callable
        Returns a Figure or Axes.
    caption : str
        What is to be seen.
    wide : bool
        Whether it takes the width of the page; others stand side by side.
    """
    try:
        with mpl.rc_context(_SETTINGS):
            drawn = draw()
            figure = drawn if isinstance(drawn, Figure) else drawn.figure
            return Picture(_svg(figure, caption), caption, wide, round(96 * figure.get_figwidth()))
    except Exception as error:  # a file may hold anything; one picture that fails is no reason to show none
        logger.info("Could not draw %r", caption, exc_info=True)
        return Text(f"Not drawn: {caption} ({type(error).__name__}: {error})", tone="note")


def small_axes() -> Axes:
    """Return axes as wide as a phone, so that their text is not shrunk there."""
    return Figure(figsize=(4.2, 2.7), layout="constrained").subplots()


def _svg(figure: Any, caption: str) -> str:
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": caption}):  # so that the same report is the same file
        figure.savefig(stream, format="svg", dpi=150, transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # the page has that
    # Groups are numbered from 1 in each drawing; several in one page would share names that nothing refers to.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    text = re.sub(r"font: ([\d.]+px|[\w\- ]+ [\d.]+px) [^;\"]*", _page_type, text)
    for colour, follows in _FOLLOW.items():
        text = re.sub(rf"(fill|stroke): {colour}\b", rf"\1: {follows}", text, flags=re.IGNORECASE)
    # A hundredth of a point is finer than any screen, and makes a third of the size.
    text = re.sub(r'(?<= d=")[^"]*', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', text, count=1)


def with_own_names(svg: str, prefix: str) -> str:
    """Put a prefix before each name in a drawing, so that two drawings in one page share none."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def _page_type(found: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0] if size else '9px'}"
