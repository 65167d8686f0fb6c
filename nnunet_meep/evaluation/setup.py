"""What an evaluation is of: its arguments and folders, checked before any voxel is read."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from nnunet_meep.atomic import remove_left_over
from nnunet_meep.cores import usable_cores
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.bins import MAX_BINS
from nnunet_meep.evaluation.counting.reference import ARGMAX, FILE
from nnunet_meep.evaluation.counting.roi import Roi, parse_roi
from nnunet_meep.evaluation.pool import Finished, Job, is_small
from nnunet_meep.evaluation.stored_results import StrPath
from nnunet_meep.nnunet_files.cases import Case, Folders, refuse_unpaired
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.networks import Network, network_of
from nnunet_meep.nnunet_files.paths import real_path
from nnunet_meep.nnunet_files.predictions import Predictions


@dataclass(frozen=True)
class Setup:
    """An evaluation that can begin.

    Attributes:
        given: the folders of predictions, as they were given.
        dataset_json, plans_json: nnU-Net's files, if they were given.
        predictions: the cases in them, and their references.
        dataset_identity: hash of the content of ``dataset.json``.
        network: the network that made the predictions.
        job: what to do with each case.
    """

    given: tuple[Path, ...]
    dataset_json: Path | None
    plans_json: Path | None
    predictions: Predictions
    dataset_identity: str
    network: Network
    job: Job

    @classmethod
    def of(
        cls,
        gt_folder: StrPath | None,
        pred_folders: StrPath | Sequence[StrPath],
        *,
        dataset_json: StrPath | None,
        plans_json: StrPath | None,
        bins: int,
        rois: Sequence[str],
        surface: bool,
        tolerance_mm: float,
        lesions: float | None,
        segmentation: str,
        cases: Sequence[str] | None,
        unpaired: bool,
        keep: StrPath | None,
    ) -> Setup:
        """Check the arguments of :func:`.evaluate` and open its folders.

        Args:
            gt_folder, pred_folders, dataset_json, plans_json, bins, rois, surface, tolerance_mm,
                lesions, segmentation, cases, keep: as for :func:`.evaluate`.
            unpaired: accept predictions and references that cannot be paired.

        Raises:
            InputError: the folders or an argument cannot be used.
        """
        if not 1 <= bins <= MAX_BINS:
            raise InputError(f"bins: expected a number of bins from 1 to {MAX_BINS}, got {bins}")
        if not rois or len(set(rois)) < len(rois):
            raise InputError(f"rois: expected each ROI once, got {' '.join(rois) or 'none'}")
        if not 0 <= tolerance_mm < math.inf:
            raise InputError(f"tolerance_mm: expected a distance in mm, got {tolerance_mm:g}")
        if lesions is not None and not 0 <= lesions < math.inf:
            raise InputError(f"lesions: expected a size in mm^3, at least 0, got {lesions:g}")
        if segmentation not in (FILE, ARGMAX):
            raise InputError(f"segmentation: expected {FILE} or {ARGMAX}, got {segmentation}")
        asked_rois = tuple(parse_roi(name) for name in rois)
        gt_folder, dataset_json, plans_json, keep = map(
            _path, (gt_folder, dataset_json, plans_json, keep)
        )
        if isinstance(pred_folders, str | os.PathLike):
            pred_folders = [pred_folders]
        given = tuple(Path(folder) for folder in pred_folders)
        predictions = Predictions.open(gt_folder, given, dataset_json, plans_json, cases)
        folders, dataset = predictions.folders, predictions.dataset
        if not unpaired:
            refuse_unpaired(folders, predictions.paired, hint=" (--chill evaluates the others)")
        _refuse_to_keep_among(keep, folders, asked_rois)
        return cls(
            given,
            dataset_json,
            plans_json,
            predictions,
            file_identity(dataset.path),
            network_of(folders.predictions),
            Job(dataset, bins, asked_rois, surface, tolerance_mm, lesions, segmentation, keep),
        )

    def outcomes(
        self,
        cases: list[Case],
        processes: int | None,
        progress: bool,
    ) -> Generator[tuple[Case, Finished | InputError], None, None]:
        """Evaluate cases; each with its result, or with the error that there is none.

        Close it after use: when Python exits it is too late for the pool's pipes.

        Args:
            cases: some of the cases, in the order of the results.
            processes, progress: as for :func:`.evaluate`.
        """
        if self.job.keep is not None:  # where all cases are kept, nothing else would do it
            remove_left_over(self.job.keep)
        n_processes = processes or usable_cores()
        # Another process would take longer to start than a single small case takes.
        outcomes = (
            self.job.in_this_process(cases)
            if n_processes == 1 or (len(cases) == 1 and is_small(cases[0]))
            else self.job.in_processes(cases, n_processes)
        )
        bar_of = partial(tqdm, desc=_name(self.given[0]), unit="case", disable=not progress)
        with (
            closing(outcomes) as in_order,
            closing(bar_of(in_order, total=len(cases))) as bar,
        ):
            yield from zip(cases, bar, strict=True)


def _name(folder: Path) -> str:
    """The name of a folder of predictions, or of the model whose fold it is."""
    parts = [p for p in real_path(folder).parts if not re.fullmatch(r"fold_\w+|validation", p)]
    return parts[-1]


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _refuse_to_keep_among(keep: Path | None, folders: Folders, rois: Sequence[Roi]) -> None:
    """Refuse a folder that is read: sums are named like probabilities and would replace them."""
    masks = [roi.mask_folder for roi in rois if roi.mask_folder is not None]
    for folder in (folders.references, *folders.predictions, *masks):
        if keep is not None and real_path(keep) == real_path(folder):
            raise InputError(
                f"{keep}: expected a folder for the sums of finished cases, found one that is "
                f"read; give another output folder (-o)"
            )
