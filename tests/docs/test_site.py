"""The documentation site: its navigation, links and generated contents, without Sphinx."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from predictions import compared, example_folders, stored_result

from nnunet_meep.cli.benchmark import _get_parser
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.json_file import read_json

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``site("links")``: a module of ``docs/extension``."""
    monkeypatch.syspath_prepend(ROOT / "docs")
    yield lambda name: import_module(f"extension.{name}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "extension"]:
        del sys.modules[name]


def test_every_page_is_in_the_navigation(site: Any) -> None:
    """As the index lists them: none is lost between its Markdown and the toctrees."""
    sections, links = site("sections"), site("links")
    found = sections.sections()
    assert "How to" in found
    n_listed = sum(len(re.findall(r"^- \[", text, re.M)) for text in found.values())
    entries = []
    for title, text in found.items():
        page = links.SITE / f"{title}.md"
        mended = links.mended(text, sections.INDEX, page)
        targets = sections._TARGET.findall(mended)
        entries += [(page.parent / f"{target}.md").resolve() for target in targets]
    assert len(entries) == len(set(entries)) == n_listed
    copies = set(links.outside().values())
    assert all(entry.exists() or entry in copies for entry in entries)
    assert copies <= set(entries)


def test_links_out_of_the_documentation(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    links = site("links")
    page = links.DOCS / "concepts" / "lambda.md"

    def mended(text: str) -> str:
        return str(links.mended(text, page, page))

    monkeypatch.setattr(links, "_repository", lambda: None)
    same = "[a](https://x.y) [b](#c) [c](trust.md#d) [d](missing.md) `x[0](y)`"
    assert mended(same) == same
    measured = "[text](../../benchmarks/loss.md#the-rivals)"
    assert mended(measured) == "[text](../site/benchmarks/loss.md#the-rivals)"
    source, folder = "[`a`](../../nnunet_meep/errors.py)", "[b](../../nnunet_meep)"
    assert mended(f"{source}, {folder}") == "[`a`](path:../../nnunet_meep/errors.py), b"
    monkeypatch.setattr(links, "_repository", lambda: "https://host/meep")
    assert mended(source) == "[`a`](https://host/meep/blob/main/nnunet_meep/errors.py)"
    assert mended(folder) == "[b](https://host/meep/tree/main/nnunet_meep)"
    # A page from elsewhere: its links are relative to where it is in the repository.
    measured_page = ROOT / "benchmarks" / "lambda_auto.md"
    text = '<img src="pictures/terms.png" alt="">, [a](loss.md), [b](../docs/index.md)'
    placed = links.outside()[measured_page]
    assert links.origin(placed) == measured_page
    picture = '<img src="../../../benchmarks/pictures/terms.png" alt="">'
    assert (
        links.mended(text, measured_page, placed) == f"{picture}, [a](loss.md), [b](../../index.md)"
    )


def test_the_help_of_every_command_is_in_the_site(site: Any) -> None:
    page = REFERENCE / "commands.md"
    filled = site("contents").filled(page.read_text(encoding="utf-8"), page)
    scripts = re.search(
        r"^\[project\.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.M | re.S
    )
    assert scripts
    for line in scripts[1].splitlines():
        assert f"\n## {line.split()[0]}\n\n```text\nusage: {line.split()[0]}" in filled
    assert "\n### meep-benchmark status\n\n```text\nusage: meep-benchmark status" in filled
    wanted = _get_parser().format_help().split("where it runs:")[1].strip()
    assert wanted.split("\n")[0] in filled


def test_shapes_are_no_emphasis(site: Any) -> None:
    line = "(K, *shape) and (*shape), a ``(*shape)``, 2 * x, *this* stays"
    (escaped,) = site("contents").with_shapes([line])
    assert escaped == r"(K, \*shape) and (\*shape), a ``(*shape)``, 2 * x, *this* stays"


def documented(page: str, heading: str = "") -> list[str]:
    """The keys in the first column of the table below a heading."""
    text = (REFERENCE / page).read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    cells = re.findall(r"^\| (`.*?) \|", text.partition("\n## ")[0], re.M)
    return re.findall(r"`([^`]+)`", " ".join(cells))


def test_every_metric_has_a_formula() -> None:
    text = (REFERENCE / "formulas.md").read_text(encoding="utf-8")
    lines = re.findall(r"^`[^\n]*\n\n```math", text, re.M)
    keys = [key for line in lines for key in re.findall(r"`([a-z]\w+)`", line)]
    assert len(keys) == len(set(keys))
    missing, unknown = sorted(set(CATALOGUE) - set(keys)), sorted(set(keys) - set(CATALOGUE))
    assert not missing, f"docs/reference/formulas.md: write the formula of {', '.join(missing)}"
    assert not unknown, f"docs/reference/formulas.md: no metric is called {', '.join(unknown)}"


@pytest.mark.usefixtures("unrendered")
def test_the_page_on_files_has_the_keys_of_the_files(tmp_path: Path) -> None:
    folder = example_folders(tmp_path)
    case = {"a": {"1": dict.fromkeys(CATALOGUE, 0.5)}}
    contents = {
        "calibration.json": read_json(folder / "predictions" / "calibration" / "calibration.json"),
        "comparison.json": compared({"x": stored_result(case), "y": stored_result(case)}).to_dict(),
        "calibrator.json": read_json(folder / "calibrator.json"),
    }
    for name, content in contents.items():
        keys = set(documented("files.md", name))
        either = {"classes", "joint"} if name == "calibrator.json" else set()
        assert keys - either == set(content) - either, f"docs/reference/files.md: {name}"
