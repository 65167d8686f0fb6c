"""The rooms of the package and the arrows between them: which may import which."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_meep

PACKAGE = Path(nnunet_meep.__file__).resolve().parent

#: room: the rooms that it may import. Modules outside the rooms come below.
ARROWS = {
    "losses": set(),
    "evaluation": set(),
    "datasets": set(),
    "posthoc": {"evaluation"},
    "trainers": {"losses", "evaluation"},
    "benchmark": {"evaluation", "posthoc", "datasets"},
    "cli": {"losses", "evaluation", "datasets", "posthoc", "trainers", "benchmark"},
}
#: Modules in the root that every room but ``losses`` may import; they import nothing of ours.
COMMON = {"errors", "atomic", "gunzip"}
ROOT = {"__init__", "_autoload", *COMMON}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(path):
    """The first folder below the package, or the name of a module in the root."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def our_imports(path):
    """Names below ``nnunet_meep`` that a module imports anywhere, also inside functions.

    Each as its first part: ``from nnunet_meep.errors import InputError`` gives ``errors``.
    """
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            full_names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            full_names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in full_names:
            first, _, rest = name.partition(".")
            if first == "nnunet_meep" and rest:
                yield rest.split(".")[0]


def test_every_module_is_in_a_room_or_one_of_the_few_in_the_root():
    rooms = {room(path) for path in modules()}
    assert rooms <= set(ARROWS) | ROOT


def test_the_reader_of_imports_sees_all_forms(tmp_path, monkeypatch):
    folder = tmp_path / "nnunet_meep" / "evaluation"
    folder.mkdir(parents=True)
    path = folder / "x.py"
    path.write_text(
        "import nnunet_meep.losses.terms\n"
        "from nnunet_meep.trainers.names import parse\n"
        "from nnunet_meep import posthoc\n"
        "from .. import cli\n"
        "from ..benchmark import table\n"
        "from . import bins\n"
        "def f():\n"
        "    from nnunet_meep.datasets import a\n"
        "import numpy, nnunet_meep_other.x\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "nnunet_meep")
    assert sorted(our_imports(path)) == [
        *("benchmark", "cli", "datasets", "evaluation", "losses", "posthoc", "trainers"),
    ]


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_arrows_between_rooms_point_one_way(path):
    mine = room(path)
    found = set(our_imports(path)) - {mine}
    found -= {"__version__"}
    if mine in ROOT or mine == "losses":
        assert not found
    else:
        assert found <= ARROWS[mine] | COMMON


def test_nobody_imports_a_command():
    importers = {room(path) for path in modules() if "cli" in our_imports(path)}
    assert importers <= {"cli"}


@pytest.mark.parametrize("room_without_torch", ["evaluation", "posthoc", "datasets"])
def test_rooms_that_need_no_torch_import_without_it(room_without_torch):
    folder = PACKAGE / room_without_torch
    names = [f"nnunet_meep.{room_without_torch}"]
    names += [f"{names[0]}.{module.name}" for module in pkgutil.iter_modules([str(folder)])]
    script = (
        "import importlib, sys\n"
        "sys.modules['torch'] = None\n"  # any import of it raises
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
