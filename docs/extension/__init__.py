"""What makes a site of ``docs/``, whose pages are plain Markdown that GitHub shows as well.

- The list of pages in ``index.md`` becomes the navigation: :mod:`.sections`.
- Pages from outside of ``docs/`` get a place in it, and links that lead out of it are mended:
  :mod:`.links`.
- Comments such as ``<!-- commands -->`` are replaced by what is made from the code:
  :mod:`.contents`.

Only this module needs Sphinx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from extension.contents import filled, with_shapes, write_report
from extension.links import DOCS, SITE, mended, origin, write_outside
from extension.sections import root_toctree, write_sections

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, bool]:
    # Before 800, when Sphinx looks whether html_extra_path exists.
    app.connect("config-inited", _write_pages)
    app.connect("source-read", _complete)
    app.connect("autodoc-process-docstring", _with_shapes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write_pages(app: Sphinx, config: Config) -> None:
    write_outside()
    write_sections()
    write_report(SITE / "extra" / "hippocampus")


def _complete(app: Sphinx, docname: str, source: list[str]) -> None:
    page = DOCS / f"{docname}.md"
    text = filled(mended(source[0], origin(page), page), page)
    source[0] = text + root_toctree() if docname == "index" else text


def _with_shapes(
    app: Sphinx, kind: str, name: str, of: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = with_shapes(lines)
