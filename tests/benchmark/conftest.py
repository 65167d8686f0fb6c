from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_steps import COMMAND

from nnunet_meep.benchmark import report
from nnunet_meep.benchmark.running import runner
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.report import comparison_tables as tables


@pytest.fixture
def tables_only(monkeypatch) -> None:
    """Comparisons without pictures and page, which have tests of their own."""

    def write(comparison: Comparison, folder: Path, **_: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tables.write(comparison, folder)

    monkeypatch.setattr(report, "write_comparison_report", write)


@pytest.fixture
def small_step(tmp_path_factory, monkeypatch) -> None:
    """The command ``small-step`` is installed."""
    place = tmp_path_factory.mktemp("installed")
    (place / "small_step.py").write_text(COMMAND)
    (place / "small_step-1.dist-info").mkdir()
    (place / "small_step-1.dist-info" / "METADATA").write_text("Name: small-step\nVersion: 1\n")
    entry = "[console_scripts]\nsmall-step = small_step:main\n"
    (place / "small_step-1.dist-info" / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(place)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *([known] if known else [])]))
    for name in ("_LOOK", "_LOOK_AROUND", "_CHECK"):  # which small_steps.run changes
        monkeypatch.setattr(runner, name, getattr(runner, name))
