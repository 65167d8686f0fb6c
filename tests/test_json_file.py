"""JSON is read in one place, which refuses what would bring down those who work on it."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import nnunet_meep
from nnunet_meep.errors import InputError
from nnunet_meep.json_file import parse_json, read_json
from nnunet_meep.nnunet_files.cases import read_dataset
from nnunet_meep.trainers.export import export_model

PACKAGE = Path(nnunet_meep.__file__).parent


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 101 + "]" * 101, '{"a":' * 101, "{", "é"])
def test_damaged_or_too_deep_is_one_line(text, tmp_path) -> None:
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_json(tmp_path / "a.json")


def test_what_is_not_too_deep_comes_as_it_is() -> None:
    for content in (json.loads("[" * 100 + "]" * 100), {"a": [1.5, {"b": None}], "µ": "x"}, 3):
        for encoding in ("utf-8", "utf-16"):
            assert parse_json(json.dumps(content, ensure_ascii=False).encode(encoding)) == content


@pytest.mark.parametrize("name", ["dataset.json", "plans.json"])
def test_the_files_of_nnunet_may_be_too_deep(name, tmp_path) -> None:
    for other in ("dataset.json", "plans.json"):
        (tmp_path / other).write_text("[" * 100_000 if other == name else '{"labels": {}}')
    for read in (lambda: read_dataset([tmp_path]), lambda: export_model(tmp_path, tmp_path / "o")):
        with pytest.raises(InputError, match=r"json.*nested more than 100 times"):
            read()


def test_nobody_else_parses_json() -> None:
    """But the round trip of a cache's key, in memory."""
    for path in PACKAGE.rglob("*.py"):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("json.loads", "json.load")
        ]
        assert len(calls) == (path.name in ("json_file.py", "cache.py")), path
