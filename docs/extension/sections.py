"""The navigation: ``index.md`` lists all pages in sections, and each section becomes a page."""

from __future__ import annotations

import re

from extension.links import DOCS, SITE, mended, write_if_changed

INDEX = DOCS / "index.md"
_HEADING = re.compile(r"^\*\*(.+)\*\*$", re.MULTILINE)
_TARGET = re.compile(r"^- \[[^\]]*\]\(([^)]+)\.md\)", re.MULTILINE)


def sections() -> dict[str, str]:
    """The sections of ``index.md``: the list of links below each heading in bold."""
    _, *parts = _HEADING.split(INDEX.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def write_sections() -> None:
    """Write a page for each section: its list, and the same as navigation."""
    for title, links in sections().items():
        page = SITE / f"{_file(title)}.md"
        links = mended(links.strip(), INDEX, page)
        toctree = _toctree(_TARGET.findall(links))
        write_if_changed(page, f"# {title}\n\n{links}\n{toctree}")


def root_toctree() -> str:
    """What ``index.md`` is completed with: all sections."""
    return _toctree([f"site/{_file(title)}" for title in sections()])


def _toctree(entries: list[str]) -> str:
    return "\n".join(["", "```{toctree}", ":hidden:", "", *entries, "```", ""])


def _file(title: str) -> str:
    return title.lower().replace(" ", "-")
