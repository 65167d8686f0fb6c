"""Models compared that are given as folders of predictions or results, as on a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.counting.roi import parse_roi
from nnunet_meep.evaluation.report.evaluation_report import write_evaluation_report
from nnunet_meep.evaluation.trainings import open_training

#: The flags that ask for options of :func:`.evaluate`.
_FLAGS = {
    **{"bins": "--bins", "tolerance_mm": "--tolerance", "surface": "--no-surface"},
    "lesions": "--lesions",
}


def compare_folders(
    models: Mapping[str, Sequence[Path]],
    *,
    gt_folder: Path | None = None,
    roi: str | None = None,
    cases: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    processes: int | None = None,
    as_stored: bool = False,
) -> Comparison:
    """Evaluate what has no result or has changed, with progress bars, and compare the models.

    Args:
        models: for each name the folder of each training, see :func:`.open_training`; what is
            evaluated is written into them.
        gt_folder: references; None: those of each result.
        roi: name of the ROI; None: the first one of each result.
        cases: names of the cases to compare; None: all that the models have in common.
        options: ``bins``, ``tolerance_mm``, ``lesions`` or ``surface`` of :func:`.evaluate`, in
            place of those of the results.
        processes: number of worker processes; None: one for each core that may be used.
        as_stored: take the results as they were written.

    Raises:
        InputError: an argument, a folder or a file cannot be used.
    """
    if gt_folder is not None and not gt_folder.is_dir():
        raise InputError(f"{gt_folder}: expected a folder of references, found none (--gt)")
    if as_stored and (gt_folder is not None or options):
        flag = "--gt" if gt_folder else _FLAGS[next(iter(options or {}))]
        raise InputError(
            f"{flag}: expected none with --as-stored, which takes results as they were written"
        )
    if roi is not None and not as_stored:
        parse_roi(roi)  # an unknown one is an error before all the work
    evaluations, notes = {}, []
    for name, folders in models.items():
        trainings = [
            open_training(
                folder,
                write=write_evaluation_report,
                gt_folder=gt_folder,
                roi=roi,
                options=options,
                processes=processes,
                as_stored=as_stored,
            )
            for folder in folders
        ]
        evaluations[name] = [training.evaluation for training in trainings]
        notes += [(name, line) for training in trainings for line in training.notes]
    return compare(evaluations, cases=cases, notes=notes)
