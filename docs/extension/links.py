"""Pages from outside of ``docs/``, and links that lead out of it."""

from __future__ import annotations

import os
import re
from importlib.metadata import metadata
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
MEASURED = ROOT / "benchmarks"
#: What is written before each build; not in the repository.
SITE = DOCS / "site"
_IMAGES = {".png", ".svg"}
#: Text and target of a link, or the target of an image.
_TARGET = re.compile(r'\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)|src="(?P<image>[^"]+)"')


def outside() -> dict[Path, Path]:
    """Pages of the repository that are not in ``docs/``, each with its place in the site."""
    measured = {page: SITE / "benchmarks" / page.name for page in sorted(MEASURED.glob("*.md"))}
    return {
        ROOT / "README.md": SITE / "readme.md",
        ROOT / "CHANGELOG.md": SITE / "changelog.md",
        **measured,
    }


def write_outside() -> None:
    """Write copies of these where Sphinx finds them."""
    for source, page in outside().items():
        page.parent.mkdir(parents=True, exist_ok=True)
        write_if_changed(page, source.read_text(encoding="utf-8"))


def write_if_changed(path: Path, text: str) -> None:
    """Write a page; one that stays the same keeps its time, so that Sphinx need not read it."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def origin(page: Path) -> Path:
    """The file in the repository that a page of the site is of, to which its links are relative."""
    return next((source for source, copy in outside().items() if copy == page), page)


def mended(text: str, source: Path, page: Path) -> str:
    """The text of a page with links that work in the site.

    What is no page of the site is linked to in the repository, if ``[project.urls]`` says where
    that is; otherwise files are downloads, and a link to a folder is only its text.

    Args:
        text: Markdown.
        source: the file whose links these are.
        page: where the text is in the site.
    """

    places = outside()

    def link(match: re.Match[str]) -> str:
        name, _, heading = (match["target"] or match["image"]).partition("#")
        path = (source.parent / name).resolve()
        if not name or "://" in name or not path.exists():
            return match[0]
        if path in places:
            path = places[path]
        elif not (path.is_relative_to(DOCS) or path.suffix in _IMAGES):
            if url := _repository():
                kind = "tree" if path.is_dir() else "blob"
                return f"[{match['text']}]({url}/{kind}/main/{path.relative_to(ROOT).as_posix()})"
            if path.is_dir():
                return str(match["text"])
            return f"[{match['text']}](path:{Path(os.path.relpath(path, page.parent)).as_posix()})"
        target = Path(os.path.relpath(path, page.parent)).as_posix()
        if match["image"]:
            return f'src="{target}"'
        return f"[{match['text']}]({target}{f'#{heading}' if heading else ''})"

    return _TARGET.sub(link, text)


def _repository() -> str | None:
    """The address of the repository in ``[project.urls]``; None if there is none."""
    lines = metadata("nnunet-meep").get_all("Project-URL") or []
    urls = dict(line.split(", ", 1) for line in lines)
    return urls.get("Source") or urls.get("Repository")
