"""The page as HTML: everything that a file says is escaped, and nothing is fetched from anywhere."""

from __future__ import annotations

from nwb_calcium_lvm.report._document import Document
from nwb_calcium_lvm.report._pictures import with_own_names

_TEMPLATE = "page.html.j2"


def render(document: Document) -> str:
    """Return the document as one self-contained HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nwb_calcium_lvm.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_own_names"] = with_own_names
    return environment.get_template(_TEMPLATE).render(document=document)
