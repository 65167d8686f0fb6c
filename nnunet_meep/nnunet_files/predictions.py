"""Folders of predictions and references, opened: which cases there are, and what they hold."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
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
        all_cases: are they all of the folders?
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
        """Look at the folders; no voxel is read.

        Args:
            gt_folder, pred_folders: as for :func:`.find_folders`.
            dataset_json, plans_json: as for :func:`.read_dataset`.
            cases: names of the cases to take, as if there were no others; None: all.

        Raises:
            InputError: they are not what they should be.
        """
        folders = find_folders(gt_folder, pred_folders)
        dataset = read_dataset(folders.predictions, dataset_json, plans_json)
        paired = pair_cases(folders, dataset.file_ending)
        if cases is not None:
            paired = _chosen(paired, cases, folders)
        return cls(folders, dataset, paired, cases is None)

    def incomplete_folds(self) -> list[dict[str, Any]]:
        """The folds of ``splits_final.json`` that are not there, or not completely predicted.

        Only for all cases of ``fold_X/validation``, and where nnU-Net's preprocessing has the
        splits.

        Returns:
            For each its ``fold``, whether it is ``evaluated`` at all, its ``missing`` validation
            cases and their number ``n_cases``, missing or not.
        """
        folds = {
            f.parent.name.removeprefix("fold_")
            for f in (folder.resolve() for folder in self.folders.predictions)
            if f.name == "validation" and f.parent.name.startswith("fold_")
        }
        splits = self._splits() if folds and self.all_cases else []
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
