"""Docstrings are written in reStructuredText; the site is Markdown: formulas and references are turned into it."""

import re
import textwrap

import griffe

_MATH = re.compile(r"^( *)\.\. math::(.*)\n((?:\1 +.*\n|\s*\n)*)", re.MULTILINE)
_ROLE = re.compile(r":(?:math|func|class|meth|mod|attr|data):`~?([^`]+)`")


def _block(found):
    """A formula as a block of code: nothing is loaded from elsewhere to draw it."""
    lines = textwrap.dedent(found[2].strip() + "\n" + textwrap.dedent(found[3])).strip()
    return textwrap.indent(f"```latex\n{lines}\n```\n\n", found[1])


class Markdown(griffe.Extension):
    """Rewrites each docstring before it is taken apart."""

    def on_object(self, *, obj, **kwargs):
        """Turn the docstring of one object into Markdown."""
        if obj.docstring is not None:
            text = _MATH.sub(_block, obj.docstring.value)
            obj.docstring.value = _ROLE.sub(lambda found: f"`{found[1]}`", text)
