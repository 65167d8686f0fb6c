"""Evaluates one case from its files with numpy and SimpleITK alone, in float64.

Whatever is wrong with a file makes it raise something, and then the package must refuse it, too.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def metrics(root: Path, case: str, file_ending: str) -> dict[str, dict[str, float]]:
    """{key of a class or region: Dice, Brier score, NLL and ECE (15 bins)}.

    Args:
        root: has ``gt`` and ``pred``.
        case: its name.
        file_ending: of the references and segmentations.
    """
    dataset = json.loads((root / "pred/dataset.json").read_bytes())
    labels = dataset["labels"]
    ignore = labels.pop("ignore", None)
    regions = "regions_class_order" in dataset
    p = np.load(root / f"pred/{case}.npz", allow_pickle=False)["probabilities"]
    assert p.dtype.kind == "f"
    p = p.astype(np.float64)
    assert np.isfinite(p).all()
    reference = _label_map(root / f"gt/{case}{file_ending}")
    predicted = _label_map(root / f"pred/{case}{file_ending}")
    assert p.shape[1:] == reference.shape == predicted.shape, (p.shape, reference.shape)
    assert reference.size
    values = {
        v for label in labels.values() for v in (label if isinstance(label, list) else [label])
    }
    allowed = values | ({ignore} if ignore is not None else set())
    assert set(np.unique(reference)) <= allowed
    assert set(np.unique(predicted)) <= values
    foreground = [label for label in labels.values() if label not in (0, [0])]
    assert len(p) == len(foreground) + (not regions)
    assert np.abs(p - np.clip(p, 0, 1)).max() < 1e-2
    assert regions or np.abs(p.sum(0) - 1).max() < 3e-2
    counted = reference != ignore if ignore is not None else np.full(reference.shape, True)
    if not regions:
        assert sorted(labels.values()) == list(range(len(labels)))
        foreground = sorted(foreground)
    result = {}
    for index, label in enumerate(foreground):
        members = label if isinstance(label, list) else [label]
        channel = p[index if regions else label][counted]
        y = np.isin(reference, members)[counted]
        yhat = np.isin(predicted, members)[counted]
        key = str(tuple(label)) if isinstance(label, list) else str(label)
        result[key] = _metrics(np.clip(channel, 0, 1), y, yhat)
    return result


def _label_map(path: Path) -> np.ndarray:
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert array.ndim == 3
    return array


def _metrics(p: np.ndarray, y: np.ndarray, yhat: np.ndarray) -> dict[str, float]:
    edges = np.linspace(0, 1, 16)
    bins = np.clip(np.digitize(p, edges, right=True) - 1, 0, 14)
    gap = sum(abs((p - y)[bins == b].sum()) for b in range(15))
    clipped = np.clip(p, 1e-12, 1 - 1e-12)
    n = len(p)
    both = yhat.sum() + y.sum()
    return {
        "dice": 2 * (y & yhat).sum() / both if both else np.nan,
        "brier": ((p - y) ** 2).mean() if n else np.nan,
        "nll": -np.where(y, np.log(clipped), np.log(1 - clipped)).mean() if n else np.nan,
        "ece": gap / n if n else np.nan,
    }
