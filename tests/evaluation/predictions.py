"""Folders of predictions as nnU-Net writes them, made small."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}


#: What a ``calibration.json`` has beside numbers, where nothing is to be said of them.
NOTHING_TO_SAY: dict[str, Any] = {
    "network": {},
    "calibrators": [],
    "not_predicted": [],
    "skipped": [],
    "incomplete_folds": [],
    "by_roi": {},
    "origin": {"written": "2026-01-01", "gt_folder": None, "pred_folders": [], "masks": {}},
}


def files_of(cases: Iterable[str]) -> dict[str, Any]:
    """What a ``calibration.json`` says of the files of cases."""
    roles = ("probabilities", "reference")
    return {
        "dataset.json": "",
        "cases": {c: {role: f"{role} {c}" for role in roles} for c in cases},
    }


class PredictionFolder:
    """``gt`` and ``pred`` under a root, filled case by case."""

    def __init__(self, root: Path, labels: dict[str, Any], **dataset_json: Any) -> None:
        self.gt, self.pred = root / "gt", root / "pred"
        self.gt.mkdir(parents=True)
        self.pred.mkdir()
        self.file_ending = dataset_json.get("file_ending", ".nii.gz")
        content = {
            "channel_names": {"0": "MRI"},
            "labels": labels,
            "numTraining": 1,
            "file_ending": self.file_ending,
            **dataset_json,
        }
        self.content = content
        (self.pred / "dataset.json").write_text(json.dumps(content))
        (self.pred / "plans.json").write_text(json.dumps({"image_reader_writer": "SimpleITKIO"}))

    def add(
        self,
        case: str,
        probabilities: np.ndarray,
        reference: np.ndarray,
        spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        """Arrays in the axis order of the image array; spacing in the same order.

        The segmentation is what nnU-Net's rule makes of the probabilities.
        """
        for folder, label_map in ((self.gt, reference), (self.pred, self.rule(probabilities))):
            image = sitk.GetImageFromArray(label_map)
            image.SetSpacing(spacing_mm[::-1])
            sitk.WriteImage(image, folder / f"{case}{self.file_ending}")
        np.savez_compressed(self.pred / f"{case}.npz", probabilities=probabilities)

    def rule(self, probabilities: np.ndarray) -> np.ndarray:
        order = self.content.get("regions_class_order")
        if order is None:
            return probabilities.argmax(0).astype(np.uint8)
        segmentation = np.zeros(probabilities.shape[1:], np.uint8)
        for p, label in zip(probabilities, order, strict=True):
            segmentation[p > 0.5] = label
        return segmentation


def softmax_case(
    rng: np.random.Generator, shape: tuple[int, ...], n_classes: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (C, *shape), float32, and a label map that they predict badly."""
    logits = 2 * rng.normal(size=(n_classes, *shape))
    p = np.exp(logits) / np.exp(logits).sum(0)
    reference = np.where(rng.random(shape) < 0.3, rng.integers(0, n_classes, shape), p.argmax(0))
    return p.astype(np.float32), reference.astype(np.uint8)
