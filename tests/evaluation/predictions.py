"""Folders of predictions as nnU-Net writes them, made small."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

import nnunet_meep as nm
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.posthoc.fit import fit

LABELS = {"background": 0, "Anterior": 1, "Posterior": 2}


#: Bins where only their being there matters.
ONE_BIN: dict[str, Any] = {"count": [1], "mean_p": [0.5], "mean_y": [0.5]}


def stored_result(
    cases: dict[str, dict[str, dict[str, float | None]]],
    top_label: dict[str, dict[str, float | None]] | None = None,
    names: dict[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The content of a ``calibration.json`` with which nothing is wrong.

    Args:
        cases: case: class key: metrics.
        top_label: case: metrics; None: of regions, which have none.
        names: of the classes by their keys; None: ``class 1`` and so on.
        settings: other than usual.
    """
    keys = list(next(iter(cases.values())))
    pooled = {"pooled": {"bins": {"edges": [0.0, 1.0], **ONE_BIN}}}
    content = {
        "schema": 4,
        "settings": {
            **{
                "bins": 15,
                "rois": ["image"],
                "surface": True,
                "tolerance_mm": 2.0,
                "lesions": None,
                "segmentation": "file",
            },
            **{"gt_folder": "gt", "pred_folder": "pred", "reader": None},
            **{"chill": False, "version": "1", **settings},
        },
        "network": {},
        "calibrators": [],
        "not_predicted": [],
        "skipped": [],
        "incomplete_folds": [],
        "by_roi": {},
        "lesions": None,
        "origin": {"written": "2026-01-01", "gt_folder": None, "pred_folders": [], "masks": {}},
        "files": {
            "dataset.json": "",
            "cases": {
                case: {role: f"{role} {case}" for role in ("probabilities", "reference")}
                for case in cases
            },
        },
        "classes": {
            key: {"name": f"class {key}" if names is None else names[key], **pooled} for key in keys
        },
        "top_label": None if top_label is None else {"classwise_ece": {"pooled": 0.0}, **pooled},
        "cases": [
            {
                "case": case,
                "classes": classes,
                "top_label": top_label and {"classwise_ece": 0.0, **top_label[case]},
                "n_not_argmax": 0,
                "n_clipped": 0,
                "bins": dict.fromkeys([*keys, *["top_label"] * (top_label is not None)], ONE_BIN),
            }
            for case, classes in cases.items()
        ],
    }
    return deepcopy(content)  # so that a test may change one place


def compared(models: dict[str, Any], **options: Any) -> Comparison:
    """Contents of ``calibration.json``, or lists of them, compared."""
    evaluations = {
        name: [Evaluation.from_dict(c) for c in ([given] if isinstance(given, dict) else given)]
        for name, given in models.items()
    }
    return compare(evaluations, **options)


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


def example_folders(root: Path) -> Path:
    """What the examples of the documentation read, in ``root``, which is returned.

    References in ``labelsTs``, ``predictions`` and ``predictions_meep`` of two models with their
    results, and ``calibrator.json``.
    """
    rng = np.random.default_rng(0)
    for i, name in enumerate(("predictions", "predictions_meep")):
        folder = PredictionFolder(root / f"made_{i}", LABELS)
        for case in "abc":
            folder.add(case, *softmax_case(rng, (5, 6, 7)))
        folder.pred.rename(root / name)
        if i:
            continue
        folder.gt.rename(root / "labelsTs")
    (root / "labelsTs_meep").symlink_to(root / "made_1" / "gt")
    for name, labels in (("predictions", "labelsTs"), ("predictions_meep", "labelsTs_meep")):
        evaluation = nm.evaluate(root / labels, root / name)
        nm.write_report(evaluation, root / name / "calibration")
    fit("temperature", root / "labelsTs", root / "predictions").calibrator.save(
        root / "calibrator.json"
    )
    return root
