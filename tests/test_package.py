"""What a user meets first: the version, the commands, the README."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_meep
from nnunet_meep.trainers.grammar import RECOMMENDED

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def commands():
    """{command: "module:function"} of [project.scripts]."""
    section = re.search(r"^\[project\.scripts\]\n(.*?)(?=^\[|\Z)", PYPROJECT, re.M | re.S)
    return dict(re.findall(r'^([\w-]+) = "([\w.:]+)"', section[1], re.M))


every_command = pytest.mark.parametrize("command", commands())


def test_the_version_is_in_one_place_and_is_that_of_the_installation():
    assert importlib.metadata.version("nnunet-meep") == nnunet_meep.__version__
    assert re.search(r'^dynamic = .*"version"', PYPROJECT, re.M)
    assert not re.search(r"^version\s*=", PYPROJECT, re.M)


def test_the_installation_has_the_commands_of_pyproject():
    installed = importlib.metadata.distribution("nnunet-meep").entry_points
    scripts = {e.name: e.value for e in installed if e.group == "console_scripts"}
    assert scripts == commands()


@every_command
def test_a_command_shows_what_it_is_for_without_importing_torch(command):
    module, function = commands()[command].split(":")
    script = (
        "import sys\n"
        f"sys.argv = [{command!r}, '--help']\n"
        f"from {module} import {function} as main\n"
        "try:\n"
        "    code = main(['--help'])\n"
        "except SystemExit as error:\n"
        "    code = error.code\n"
        "assert not code, code\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith(f"usage: {command}")
    # argparse: the usage, an empty line, the description, the lists of arguments
    _, description, *_ = result.stdout.split("\n\n")
    assert len(description.split()) >= 5
    assert not re.match(r"(positional arguments|options|optional arguments):", description)


@every_command
def test_a_command_says_its_version(command, capsys):
    module, function = commands()[command].split(":")
    with pytest.raises(SystemExit) as end:
        getattr(importlib.import_module(module), function)(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"{command} {nnunet_meep.__version__}\n"


def test_the_package_lists_its_commands_with_a_line_each():
    lines = subprocess.run(
        [sys.executable, "-m", "nnunet_meep"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    listed = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("meep-")}
    assert set(listed) == set(commands())
    assert all(len(words) >= 4 for words in listed.values())


@every_command
def test_the_readme_names_every_command(command):
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_documentation_names_every_trainer():
    from nnunet_meep.trainers.grammar import base_names

    page = (ROOT / "docs" / "reference" / "trainer-names.md").read_text(encoding="utf-8")
    assert not [name for name in base_names() if not re.search(rf"\b{name}\b", page)]


def test_the_readme_uses_the_recommended_trainer():
    assert f"-tr {RECOMMENDED} --npz" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140


DOCS = ROOT / "docs"
#: Without what a build of the site has left behind.
PAGES = [ROOT / "README.md", *sorted(set(DOCS.rglob("*.md")) - set((DOCS / "site").rglob("*.md")))]
MEASURED = sorted((ROOT / "benchmarks").glob("*.md"))


@pytest.mark.parametrize("page", [*PAGES, *MEASURED], ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_page_is_in_the_index():
    """From which the site takes its navigation."""
    targets = re.findall(r"\]\(([^)#]+)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    listed = [(DOCS / target).resolve() for target in targets if "://" not in target]
    assert len(listed) == len(set(listed))
    wanted = {*PAGES, *MEASURED, ROOT / "CHANGELOG.md"} - {DOCS / "index.md"}
    missing = sorted(str(page.relative_to(ROOT)) for page in wanted - set(listed))
    assert not missing, f"docs/index.md: expected a link to each page, found none to {missing}"
    assert set(listed) <= wanted


@pytest.mark.parametrize("module", ["nnunet_meep.losses", "nnunet_meep.trainers"])
def test_every_public_name_exists_and_has_a_docstring(module):
    room = importlib.import_module(module)
    assert room.__all__
    for name in room.__all__:
        assert getattr(room, name).__doc__


def test_the_package_says_that_it_is_typed():
    assert (Path(nnunet_meep.__file__).parent / "py.typed").is_file()
