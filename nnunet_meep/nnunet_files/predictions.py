"""Opens folders of predictions and references and finds the cases in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.cases import (
    Dataset,
    Folders,
    PairedCases,
    find_folders,
    pair_cases,
    read_dataset,
)
from nnunet_meep.nnunet_files.networks import network_of
from nnunet_meep.nnunet_files.paths import real_path


@dataclass(frozen=True)
class Predictions:
    """Predictions and their reference segmentations.

    Attributes:
        folders: the folders they are in.
        dataset: labels, file ending and reader from ``dataset.json`` and ``plans.json``.
        paired: the cases, and the files that could not be paired.
        all_cases: False if only some of the cases were asked for.
    """

    folders: Folders
    dataset: Dataset
    paired: PairedCases
    all_cases: bool = True

    @classmethod
    def open(
        cls,
        gt_folder: Path | None,
        pred_folders: Sequence[Path],
        dataset_json: Path | None = None,
        plans_json: Path | None = None,
        cases: Sequence[str] | None = None,
    ) -> Predictions:
        """Find and pair the files; no voxels are read.

        Args:
            gt_folder, pred_folders: as for :func:`.find_folders`.
            dataset_json, plans_json: as for :func:`.read_dataset`.
            cases: names of the cases to take, as if there were no others; None: all.

        Raises:
            InputError: as these two, or there are no probabilities.
        """
        folders = find_folders(gt_folder, pred_folders)
        dataset = read_dataset(folders.predictions, dataset_json, plans_json)
        paired = pair_cases(folders, dataset.file_ending)
        if cases is not None:
            paired = _chosen(paired, cases, folders)
        return cls(folders, dataset, paired, cases is None)

    def not_predicted(self) -> list[str]:
        """The references without a prediction that could have one.

        Cases that no fold of a model validates on have none: a model is trained on them.
        """
        splits = self._validation_cases()
        validated = {case for cases in splits for case in cases}
        return [case for case in self.paired.not_predicted if not splits or case in validated]

    def incomplete_folds(self) -> list[dict[str, Any]]:
        """The folds of ``splits_final.json`` with validation cases that have no prediction.

        Empty unless the predictions are all those of ``fold_X/validation`` and
        ``splits_final.json`` is found.

        Returns:
            For each such fold: ``fold``, its number; ``evaluated``, whether its folder is among the
            predictions; ``missing``, names of the validation cases without a prediction;
            ``n_cases``, the number of its validation cases.
        """
        folds = self._own_folds()
        splits = self._validation_cases()
        predicted = {case.name for case in self.paired.cases}
        predicted |= {name for name, _ in self.paired.broken}
        found = []
        for i, cases in enumerate(splits):
            if missing := [case for case in cases if case not in predicted]:
                entry = {"fold": str(i), "evaluated": str(i) in folds, "missing": missing}
                found.append({**entry, "n_cases": len(cases)})
        return found

    def _own_folds(self) -> set[str]:
        """The folds whose ``fold_X/validation`` is among the predictions."""
        return {
            f.parent.name.removeprefix("fold_")
            for f in (real_path(folder) for folder in self.folders.predictions)
            if f.name == "validation" and f.parent.name.startswith("fold_")
        }

    def _validation_cases(self) -> list[list[str]]:
        """Those of each fold; empty if they are not known, or do not matter here."""
        return self._splits() if self._own_folds() and self.all_cases else []

    def _splits(self) -> list[list[str]]:
        """The validation cases of each fold; empty if ``splits_final.json`` is not found."""
        places = [real_path(self.folders.references).parent]
        network = network_of(self.folders.predictions)
        if (preprocessed := os.environ.get("nnUNet_preprocessed")) and network.dataset:
            places.append(Path(preprocessed) / network.dataset)
        for place in places:
            try:
                splits = read_json(place / "splits_final.json")
                cases = [split["val"] for split in splits]
            except (OSError, ValueError, TypeError, KeyError):
                continue
            if all(isinstance(c, list) and all(isinstance(n, str) for n in c) for c in cases):
                return [sorted(c) for c in cases]
        return []


def _chosen(paired: PairedCases, names: Sequence[str], folders: Folders) -> PairedCases:
    chosen = set(names)
    there = {case.name for case in paired.cases} | {name for name, _ in paired.broken}
    if not chosen or (unknown := sorted(chosen - there)):
        which = f"case {unknown[0]}" if chosen else "at least one case"
        raise InputError(f"{folders.predictions[0]}: expected {which} (--cases), found none")
    return PairedCases(
        [case for case in paired.cases if case.name in chosen],
        [(name, reason) for name, reason in paired.broken if name in chosen],
        [],
    )
