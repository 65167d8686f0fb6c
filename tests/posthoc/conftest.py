from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from predictions import PredictionFolder
from too_sure import KINDS, overconfident, overconfident_regions


@pytest.fixture
def make_validation(tmp_path: Path) -> Callable[..., PredictionFolder]:
    """Make a folder of overconfident predictions of one of ``KINDS``."""

    def make(
        kind: str, n_cases: int = 3, name: str = "val", seed: int = 0, **dataset_json: Any
    ) -> PredictionFolder:
        content, n_classes = KINDS[kind]
        labels = {**content["labels"], **dataset_json.pop("more_labels", {})}
        order = {k: v for k, v in content.items() if k != "labels"}
        folder = PredictionFolder(tmp_path / name, labels, **order, **dataset_json)
        rng = np.random.default_rng(seed)
        for i in range(n_cases):
            p, y = overconfident(rng, n_classes) if n_classes else overconfident_regions(rng)
            folder.add(f"case_{i}", p, y)
        return folder

    return make
