"""Folders of predictions and references, opened: which cases there are, and what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.nnunet_files.cases import (
    Dataset,
    Folders,
    PairedCases,
    find_folders,
    pair_cases,
    read_dataset,
)
from nnunet_meep.nnunet_files.networks import network_of


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

        Only for ``fold_X/validation``, and where nnU-Net's preprocessing has the splits.

        Returns:
            For each its ``fold``, whether it is ``evaluated`` at all, its ``missing`` validation
            cases and their number ``n_cases``, missing or not.
        """
        folds = {
            f.parent.name.removeprefix("fold_")
            for f in (folder.resolve() for folder in self.folders.predictions)
            if f.name == "validation" and f.parent.name.startswith("fold_")
        }
        splits = self._splits() if folds else []
        predicted = {case.name for case in self.paired.cases}
        predicted |= {name for name, _ in self.paired.broken}
        found = []
        for i, cases in enumerate(splits):
            if missing := [case for case in cases if case not in predicted]:
                entry = {"fold": str(i), "evaluated": str(i) in folds, "missing": missing}
                found.append({**entry, "n_cases": len(cases)})
        return found

    def _splits(self) -> list[list[str]]:
        """The validation cases of each fold; nothing if they are not known."""
        places = [self.folders.references.resolve().parent]
        network = network_of(self.folders.predictions)
        if (preprocessed := os.environ.get("nnUNet_preprocessed")) and network.dataset:
            places.append(Path(preprocessed) / network.dataset)
        for place in places:
            try:
                splits = json.loads((place / "splits_final.json").read_bytes())
                cases = [split["val"] for split in splits]
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                continue
            if all(isinstance(c, list) and all(isinstance(n, str) for n in c) for c in cases):
                return [sorted(c) for c in cases]
        return []
