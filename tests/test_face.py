"""``import nnunet_meep as nm``: its names, and the examples in its documentation."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest
from predictions import example_folders

import nnunet_meep as nm

#: Where the public names are documented.
MODULES = sorted({f"nnunet_meep.{home}" for home in nm._HOMES.values()} | {"nnunet_meep"})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return example_folders(tmp_path_factory.mktemp("examples"))


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_run(module, folders, monkeypatch) -> None:
    monkeypatch.chdir(folders)
    failed, _ = doctest.testmod(importlib.import_module(module))
    assert not failed


def test_every_function_and_class_has_an_example() -> None:
    finder = doctest.DocTestFinder()
    for name in sorted(set(nm.__all__) - {"InputError"}):
        examples = [e for test in finder.find(getattr(nm, name), name) for e in test.examples]
        assert examples, name


def test_the_package_has_its_names_and_imports_none_of_them_before() -> None:
    assert all(getattr(nm, name).__doc__ for name in nm.__all__)
    assert set(nm.__all__) <= set(dir(nm))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = nm.nothing
    script = (
        "import sys, nnunet_meep; print(*(m for m in sys.modules if m.startswith('nnunet_meep.')))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= {"nnunet_meep._autoload"}
