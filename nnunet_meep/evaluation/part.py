"""Count a part of the cases, so that several machines can share an evaluation.

Each part keeps the sums of its cases in the same folder. :func:`.evaluate` with this folder then
counts nothing and has the same result as if it had counted everything, bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting import TOLERANCE_MM
from nnunet_meep.evaluation.counting.reference import FILE
from nnunet_meep.evaluation.setup import Setup
from nnunet_meep.evaluation.stored_results import StrPath
from nnunet_meep.nnunet_files.cases import Case


@dataclass(frozen=True)
class Part:
    """Part ``number`` of ``n_parts``, counted from 1."""

    number: int
    n_parts: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """Read ``3/16``.

        Raises:
            InputError: the text is something else.
        """
        match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise InputError(
                f"--part: expected NUMBER/PARTS, for example 3/16, with a number from 1 to that of "
                f"the parts, got {text!r}"
            )
        return cls(int(match[1]), int(match[2]))

    def of(self, cases: Sequence[Case]) -> list[Case]:
        """Its cases: every ``n_parts``-th one, beginning with the ``number``-th."""
        return list(cases[self.number - 1 :: self.n_parts])


@dataclass(frozen=True)
class Counts:
    """What became of the cases of a part.

    Attributes:
        n_counted: number of cases that were counted.
        n_kept: number of cases whose sums had been there.
        n_skipped: number of cases that ``chill`` left out.
    """

    n_counted: int
    n_kept: int
    n_skipped: int


def count_part(
    part: Part,
    gt_folder: StrPath | None,
    pred_folders: StrPath | Sequence[StrPath],
    *,
    keep: StrPath,
    dataset_json: StrPath | None = None,
    plans_json: StrPath | None = None,
    bins: int = 15,
    rois: Sequence[str] = ("image",),
    surface: bool = True,
    tolerance_mm: float = TOLERANCE_MM,
    lesions: float | None = None,
    segmentation: str = FILE,
    cases: Sequence[str] | None = None,
    processes: int | None = 1,
    chill: bool = False,
    progress: bool = False,
) -> Counts:
    """Count the cases of a part that are not in ``keep``, after the same checks of all cases.

    Args:
        part: which cases.
        keep: folder for the sums; created if there are any. Nothing else is written.
        gt_folder, pred_folders, dataset_json, plans_json, bins, rois, surface, tolerance_mm,
            lesions, segmentation, cases, processes, chill, progress: as for :func:`.evaluate`.

    Raises:
        InputError: the folders, an argument or a file cannot be used.
        OSError: sums cannot be written.
    """
    setup = Setup.of(
        gt_folder,
        pred_folders,
        dataset_json=dataset_json,
        plans_json=plans_json,
        bins=bins,
        rois=rois,
        surface=surface,
        tolerance_mm=tolerance_mm,
        lesions=lesions,
        segmentation=segmentation,
        cases=cases,
        unpaired=chill,
        keep=keep,
    )
    mine = part.of(setup.predictions.paired.cases)
    to_count = [case for case in mine if not setup.job.is_kept(case)]
    n_skipped = 0
    if to_count:
        with closing(setup.outcomes(to_count, processes, progress)) as outcomes:
            for _, outcome in outcomes:
                if isinstance(outcome, InputError):
                    if not chill:
                        raise outcome
                    n_skipped += 1
    return Counts(len(to_count) - n_skipped, len(mine) - len(to_count), n_skipped)
