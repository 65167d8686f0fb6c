"""The cases that a calibrator is fitted to: their files, and the entry about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.cache import case_identity
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.nnunet_files.cases import Case, Dataset, refuse_unpaired
from nnunet_meep.nnunet_files.networks import (
    Network,
    average_of,
    network_of,
    refuse_several_networks,
)
from nnunet_meep.nnunet_files.predictions import Predictions


@dataclass(frozen=True)
class FittingSet:
    """Predictions as nnU-Net wrote them, and their references.

    Attributes:
        predictions: the folders and cases.
        roi: the voxels to use.
        files: by case, the identities of its files when they were found.
        network: the network that a calibrator fitted to them is for.
        cross_fitted: whether that is the average of folds, of which each predicted cases that it
            was not trained on.
    """

    predictions: Predictions
    roi: Roi
    files: list[dict[str, str]]
    network: Network
    cross_fitted: bool

    @classmethod
    def open(
        cls,
        gt_folder: Path | None,
        pred_folders: Path | Sequence[Path],
        dataset_json: Path | None,
        plans_json: Path | None,
        cases: Sequence[str] | None,
        roi: Roi,
        *,
        folds: bool,
    ) -> FittingSet:
        """Find the files; no voxels are read.

        Args:
            gt_folder, pred_folders, dataset_json, plans_json, cases, folds: as for :func:`.fit`.
            roi: the voxels to use.

        Raises:
            InputError: a folder or file cannot be used, a prediction is calibrated already, or
                there are no several folds.
        """
        given = [pred_folders] if isinstance(pred_folders, Path) else list(pred_folders)
        predictions = Predictions.open(gt_folder, given, dataset_json, plans_json, cases)
        refuse_unpaired(predictions.folders, predictions.paired)
        # Those of the cases: others, with --cases, have nothing to say.
        used = [
            folder
            for folder in predictions.folders.predictions
            if any(case.probabilities.parent == folder for case in predictions.paired.cases)
        ]
        refuse_several_networks(used)
        network = network_of(used)
        if folds:
            network = average_of(network)
        files = [_files(case, predictions.dataset, roi) for case in predictions.paired.cases]
        return cls(predictions, roi, files, network, cross_fitted=folds)

    @property
    def cases(self) -> list[Case]:
        return self.predictions.paired.cases

    @property
    def dataset(self) -> Dataset:
        return self.predictions.dataset

    def refuse_changed(self) -> None:
        """Check, after all is read, that the files are those that were found.

        Raises:
            InputError: they are not.
        """
        for case, before in zip(self.cases, self.files, strict=True):
            if _files(case, self.dataset, self.roi) != before:
                raise InputError(
                    f"{case.probabilities}: {case.name} was changed while it was read; fit again "
                    f"when nothing writes to its files"
                )

    def to_dict(self) -> dict[str, Any]:
        """The entries of ``fitted_on`` in ``calibrator.json`` that say which cases these are."""
        folders = self.predictions.folders
        return {
            "gt_folder": str(folders.references),
            "pred_folders": [str(f) for f in folders.predictions],
            "n_cases": len(self.cases),
            "cases": [
                {"case": case.name, **{role: f[role] for role in ("probabilities", "reference")}}
                for case, f in zip(self.cases, self.files, strict=True)
            ],
            "roi": self.roi.name,
            "cross_fitted": self.cross_fitted,
        }


def _files(case: Case, dataset: Dataset, roi: Roi) -> dict[str, str]:
    files = case_identity(case, dataset.file_ending, [roi])
    if "calibrator" in files:
        raise InputError(
            f"{case.probabilities}: expected a prediction as nnU-Net wrote it, found a calibrated "
            f"one (--after names the calibrator that comes before thresholds or volume intervals)"
        )
    return files
