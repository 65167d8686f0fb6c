from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_meep.benchmark import report
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.report import comparison_tables as tables


@pytest.fixture
def tables_only(monkeypatch) -> None:
    """Comparisons without pictures and page, which have tests of their own."""

    def write(comparison: Comparison, folder: Path, **_: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tables.write(comparison, folder)

    monkeypatch.setattr(report, "write_comparison_report", write)
