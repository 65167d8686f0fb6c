"""Folders of predictions and references, opened: which cases there are, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.evaluation.cases import (
    Dataset,
    Folders,
    PairedCases,
    find_folders,
    pair_cases,
    read_dataset,
)


@dataclass(frozen=True)
class Predictions:
    """Predictions and their references.

    Attributes:
        folders: where they are.
        dataset: what ``dataset.json`` and ``plans.json`` say.
        paired: the cases, and what does not pair up.
    """

    folders: Folders
    dataset: Dataset
    paired: PairedCases

    @classmethod
    def open(
        cls,
        gt_folder: Path | None,
        pred_folders: Sequence[Path],
        dataset_json: Path | None = None,
        plans_json: Path | None = None,
    ) -> Predictions:
        """Look at the folders; no voxel is read.

        Args:
            gt_folder, pred_folders: as for :func:`.find_folders`.
            dataset_json, plans_json: as for :func:`.read_dataset`.

        Raises:
            InputError: they are not what they should be.
        """
        folders = find_folders(gt_folder, pred_folders)
        dataset = read_dataset(folders.predictions, dataset_json, plans_json)
        return cls(folders, dataset, pair_cases(folders, dataset.file_ending))

    def incomplete_folds(self) -> list[dict[str, Any]]:
        """The folds of ``splits_final.json`` that are not there, or not completely predicted.

        Only for ``fold_X/validation`` against the references of nnU-Net's preprocessing, beside
        which the splits are.

        Returns:
            For each its ``fold``, whether it is ``evaluated`` at all, its ``missing`` validation
            cases and their number ``n_cases``, missing or not.
        """
        folds = {
            f.parent.name.removeprefix("fold_")
            for f in (folder.resolve() for folder in self.folders.predictions)
            if f.name == "validation" and f.parent.name.startswith("fold_")
        }
        try:
            path = self.folders.references.resolve().parent / "splits_final.json"
            splits = [sorted(map(str, split["val"])) for split in json.loads(path.read_bytes())]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        if not folds:
            return []
        predicted = {case.name for case in self.paired.cases}
        predicted |= {name for name, _ in self.paired.broken}
        found = []
        for i, cases in enumerate(splits):
            if missing := [case for case in cases if case not in predicted]:
                entry = {"fold": str(i), "evaluated": str(i) in folds, "missing": missing}
                found.append({**entry, "n_cases": len(cases)})
        return found
