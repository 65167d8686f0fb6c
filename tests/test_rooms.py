"""The rooms of the package and the arrows between them: which may import which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nnunet_meep

PACKAGE = Path(nnunet_meep.__file__).resolve().parent

#: room: the rooms that it may import, all of them above it. Modules outside the rooms come below.
ARROWS = {
    "losses": set(),
    "nnunet_files": set(),
    "datasets": {"nnunet_files"},
    "evaluation.counting": {"nnunet_files"},
    "evaluation.metrics": {"evaluation.counting"},
    "evaluation": {"nnunet_files", "evaluation.counting", "evaluation.metrics"},
    "evaluation.report": {
        *("nnunet_files", "evaluation.counting", "evaluation.metrics", "evaluation"),
    },
    "posthoc": {
        *("nnunet_files", "evaluation.counting", "evaluation.metrics", "evaluation"),
        "evaluation.report",
    },
    "trainers": {"losses", "nnunet_files", "evaluation.counting"},
    "benchmark.plans": {"evaluation.counting", "evaluation.metrics", "posthoc", "trainers"},
    "benchmark.running": {"benchmark.plans", "evaluation.report", "nnunet_files"},
    "benchmark": {
        *("benchmark.plans", "benchmark.running", "datasets", "trainers"),
        *("nnunet_files", "evaluation", "evaluation.metrics", "evaluation.report"),
    },
}
ARROWS["cli"] = set(ARROWS)
#: Modules in the root that every room but ``losses`` may import; they import nothing of ours.
COMMON = {"errors", "atomic", "cores", "garbage", "json_file", "workers"}
ROOT = {"__init__", "__main__", "_autoload", *COMMON}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(path):
    """The folder of a module, as in :data:`ARROWS`, or the name of a module in the root."""
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(parts):
    """The room of a dotted name below the package, given as its parts."""
    both = ".".join(parts[:2])
    return both if both in ARROWS else parts[0]


def our_imports(path):
    """Names below ``nnunet_meep`` that a module imports anywhere, also inside functions.

    Each as its room: ``from nnunet_meep.errors import InputError`` gives ``errors``.
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
                yield room_of(rest.split("."))


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
        "from .metrics import scores\n"
        "def f():\n"
        "    from nnunet_meep.datasets import a\n"
        "import numpy, nnunet_meep_other.x\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "nnunet_meep")
    assert sorted(our_imports(path)) == [
        *("benchmark", "cli", "datasets", "evaluation.metrics", "losses", "posthoc", "trainers"),
    ]


@pytest.mark.parametrize("path", modules(), ids=module_name)
def test_arrows_between_rooms_point_one_way(path):
    mine = room(path)
    found = set(our_imports(path)) - {mine}
    found -= {"__version__"}
    if mine == "__init__":  # only for type checkers; tests/evaluation/test_arrays.py holds that
        return
    if mine in ROOT or mine == "losses":
        assert not found
    else:
        assert found <= ARROWS[mine] | COMMON


def test_nobody_imports_a_command():
    importers = {room(path) for path in modules() if "cli" in our_imports(path)}
    assert importers <= {"cli"}


def test_no_two_rooms_need_each_other():
    above = set()
    for name, may_import in ARROWS.items():
        assert may_import - {name} <= above
        above.add(name)


WITHOUT_TORCH = [
    name for name in ARROWS if name.split(".")[0] not in ("losses", "trainers", "benchmark", "cli")
]


def test_rooms_that_need_no_torch_import_without_it():
    names = [module_name(path) for path in modules() if room(path) in WITHOUT_TORCH]
    script = (
        "import importlib, sys\n"
        "sys.modules['torch'] = None\n"  # any import of it raises
        f"for name in {names!r}:\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_no_room_is_over_a_sixth_of_the_package():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    for name in ARROWS:
        of_room = sum(n for path, n in lines.items() if room(path) == name)
        assert of_room <= sum(lines.values()) / 6, name


def test_no_file_is_over_400_lines():
    """But the kernels, which are one algorithm in two languages."""
    long = {
        module_name(path)
        for path in modules()
        if len(path.read_text(encoding="utf-8").splitlines()) > 400
    }
    assert long <= {"nnunet_meep.losses.kernels"}


def test_the_table_of_the_rooms_is_that_of_the_arrows():
    """In the developer documentation, without the arrows that follow from others."""
    text = (PACKAGE.parent / "docs" / "developer.md").read_text(encoding="utf-8")
    table = text.partition("| room | subject | imports |\n")[2].partition("\n\n")[0]
    rows = [
        [re.findall(r"`([\w/]+)`", cell) for cell in line.split(" | ")]
        for line in table.split("\n")[1:]
    ]
    named = {
        room.replace("/", "."): {name.replace("/", ".") for name in imports}
        for (room,), _, imports in rows
    }
    assert sorted(named) == sorted(ARROWS)

    def reached(room):
        return named[room].union(*(reached(other) for other in named[room]))

    for name, allowed in ARROWS.items():
        assert named[name] <= allowed <= reached(name), name
