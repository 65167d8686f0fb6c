from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from predictions import LABELS, PredictionFolder


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., PredictionFolder]:
    def make(labels: dict[str, Any] = LABELS, **dataset_json: Any) -> PredictionFolder:
        return PredictionFolder(tmp_path, labels, **dataset_json)

    return make
