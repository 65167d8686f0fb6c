"""Contents that are made from the code where a page has a comment in their place.

``<!-- commands -->``: the help of each command. ``<!-- docstrings of MODULE -->``: those of the
public names of a module; ``<!-- docstring of NAME -->``: of a module itself, or of a class.
``<!-- report of hippocampus -->``: a window with the report.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory

import nnunet_meep
from extension.links import DOCS, MEASURED

_COMMENT = re.compile(r"<!-- (commands|docstrings?|report)(?: of ([\w.]+))? -->")
#: A literal, or the star and the name of axes in a shape.
_SHAPE = re.compile(r"(``.*?``)|(?<!\w)\*(\w+)(?=[,)])")
#: Letters in a line of help.
_WIDTH = "92"


def filled(text: str, page: Path) -> str:
    """The text of a page with these contents."""

    def content(match: re.Match[str]) -> str:
        if match[1] == "commands":
            return commands()
        if match[1] == "report":
            return report(match[2], page)
        return docstrings(match[2], members=match[1] == "docstrings")

    return _COMMENT.sub(content, text)


def commands() -> str:
    """The help of each command in ``[project.scripts]``, and of each of its subcommands."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        parts = []
        scripts = distribution("nnunet-meep").entry_points.select(group="console_scripts")
        for script in sorted(scripts, key=lambda script: script.name):
            parser = import_module(script.module)._get_parser()
            parts += [f"## {script.name}", _help(parser)]
            for name, of_part in _subcommands(parser).items():
                parts += [f"### {script.name} {name}", _help(of_part)]
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    return "\n\n".join(parts)


def _help(parser: argparse.ArgumentParser) -> str:
    return f"```text\n{parser.format_help().rstrip()}\n```"


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def docstrings(name: str, *, members: bool) -> str:
    """What Sphinx's autodoc shows of a module or class; of a module's members only if asked for."""
    is_class = name.rpartition(".")[2][0].isupper()
    kind = "autoclass" if is_class else "automodule"
    option = "   :members:\n" if members or is_class else ""
    return f"```{{eval-rst}}\n.. {kind}:: {name}\n{option}```"


def with_shapes(lines: list[str]) -> list[str]:
    """A docstring in which the star of a shape, (K, *shape), does not begin an emphasis."""
    return [_SHAPE.sub(lambda match: match[1] or rf"\*{match[2]}", line) for line in lines]


def report(data: str, page: Path) -> str:
    """A window with the report that :func:`write_report` wrote, and a link to it."""
    target = Path(os.path.relpath(DOCS / data / "report.html", page.parent)).as_posix()
    return (
        f'<p><a href="{target}">Open it on a page of its own</a></p>\n'
        f'<iframe src="{target}" title="Report" loading="lazy" style="width: 100%; height: 36rem; '
        'border: 1px solid var(--pst-color-border)"></iframe>'
    )


def write_report(folder: Path) -> None:
    """Write the report of the committed hippocampus results; it is not made anew for nothing.

    Takes about 15 seconds, and trains nothing.
    """
    sources = [*Path(nnunet_meep.__file__).parent.rglob("*"), *(MEASURED / "results").rglob("*")]
    page = folder / "report.html"
    if page.exists() and page.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    with TemporaryDirectory() as work:
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from nnunet_meep.cli.benchmark import main; exit(main())"),
                *("report", MEASURED / "plans" / "hippocampus.toml"),
                *("--results", MEASURED / "results", "--work", work),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"meep-benchmark report: {done.stderr.strip()}")
        written = next(Path(work).glob("report/hippocampus/*_temperature"))
        for path in written.rglob("report.html"):
            copy = folder / path.relative_to(written)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
