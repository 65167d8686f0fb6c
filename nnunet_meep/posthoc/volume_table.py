"""``volumes.csv`` beside calibrated predictions: expected volumes and their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.counting.case_counts import voxel_ml
from nnunet_meep.evaluation.report.tables import write_csv
from nnunet_meep.nnunet_files.cases import Dataset, case_names
from nnunet_meep.nnunet_files.derived import VolumeIntervals
from nnunet_meep.nnunet_files.images import read_codes
from nnunet_meep.nnunet_files.probabilities import read_channels

NAME = "volumes.csv"
COLUMNS = ("case", "class", "name", "expected_ml", "low_ml", "high_ml", "predicted_ml")


def write_volumes(
    folder: Path, intervals: VolumeIntervals, dataset: Dataset, progress: bool
) -> Path:
    """Write the volumes of all cases in a folder of calibrated predictions.

    One row for each case and class: the expected volume (of the calibrated probabilities), the
    interval around it, and the volume of the segmentation, in ml. A number that does not exist is
    an empty cell: volumes of 2D images, and intervals where there was nothing to learn or nothing
    is expected.

    Args:
        folder: where the predictions are.
        intervals: those of the calibrator that was applied.
        dataset: of the predictions.
        progress: show a progress bar on stderr.

    Returns:
        The path of the file.

    Raises:
        InputError: a file cannot be read.
        OSError: the file cannot be written.
    """
    path, rows = folder / NAME, dict[str, list[list[Any]]]()
    # Other processes may calibrate into the same folder: whoever is last has seen all cases.
    while names := sorted(_cases(folder, dataset) - set(rows)):
        for name in tqdm(names, desc="volumes", unit="case", disable=not progress):
            rows[name] = _rows(name, folder, intervals, dataset)
        with replacing_file(path) as temporary:
            write_csv(temporary, COLUMNS, [row for name in sorted(rows) for row in rows[name]])
    return path


def _cases(folder: Path, dataset: Dataset) -> set[str]:
    return case_names(folder, ".npz") & case_names(folder, dataset.file_ending)


def _rows(name: str, folder: Path, intervals: VolumeIntervals, dataset: Dataset) -> list[list[Any]]:
    labels = dataset.labels
    codes, spacing_mm, _ = read_codes(folder / f"{name}{dataset.file_ending}", dataset)
    ml = voxel_ml(codes.shape, spacing_mm)
    n_of_code = np.bincount(codes.ravel(), minlength=len(labels.values))
    expected = {
        channel: float(p.sum(dtype=np.float64)) * ml
        for channel, p in read_channels(folder / f"{name}.npz", (labels.n_channels, *codes.shape))
    }
    rows = []
    for i, (key, class_name) in enumerate(zip(labels.keys, labels.names, strict=True)):
        is_class = labels.y_of_code(labels.members(i))[: len(labels.values)] == 1
        predicted = int(n_of_code[: len(labels.values)][is_class].sum()) * ml
        of_class = expected[labels.channel(i)]
        low, high = intervals.interval(key, of_class)
        rows.append([name, key, class_name, of_class, low, high, predicted])
    return rows
