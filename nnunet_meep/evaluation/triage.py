"""Which predictions to review first, by the Dice that the network expects; without references.

A case is counted as in an evaluation, with its own segmentation in place of the reference. All
voxels count; an evaluation leaves out those with the ignore label, which only a reference has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting import TOLERANCE_MM
from nnunet_meep.evaluation.counting.reference import read_reference
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.evaluation.metrics.scores import expected_dice
from nnunet_meep.evaluation.stored_results import StrPath
from nnunet_meep.nnunet_files.cases import Case, Dataset, case_names, read_dataset
from nnunet_meep.nnunet_files.paths import refuse_no_file

if TYPE_CHECKING:
    import pandas

#: What is known of each class of a case, by its key in the catalogue of metrics.
METRICS = ("dice_expected", "volume_expected_ml", "volume_pred_ml")


@dataclass(frozen=True)
class TriagedCase:
    """What a network says of its segmentation of a case.

    Attributes:
        case: name of the case.
        classes: ``METRICS`` of each class, by its key (as in ``Labels.keys``). ``dice_expected`` is
            in [0, 1], NaN if the class is neither segmented nor expected; volumes are NaN in 2D.
    """

    case: str
    classes: dict[str, dict[str, float]]

    @property
    def lowest(self) -> str:
        """The key of the class with the lowest expected Dice; the first if all are undefined."""
        expected = {key: metrics["dice_expected"] for key, metrics in self.classes.items()}
        return min(expected, key=lambda k: math.inf if math.isnan(expected[k]) else expected[k])

    @property
    def dice_expected(self) -> float:
        """The lowest expected Dice of any class; NaN if all are undefined."""
        return self.classes[self.lowest]["dice_expected"]


@dataclass(frozen=True)
class Triage:
    """The result of :func:`triage`.

    Attributes:
        classes: names of the classes or of nnU-Net's regions, by key.
        cases: the one with the lowest expected Dice first, undefined ones last.
    """

    classes: dict[str, str]
    cases: list[TriagedCase]

    @property
    def columns(self) -> list[str]:
        """Column names of :meth:`rows`."""
        of_classes = [f"{metric} {key}" for key in self.classes for metric in METRICS]
        return ["case", "dice_expected", "class", "name", *of_classes]

    def rows(self) -> Iterator[list[Any]]:
        """One row for each case: its lowest expected Dice, of which class, and all classes."""
        for case in self.cases:
            numbers = [case.classes[key][metric] for key in self.classes for metric in METRICS]
            key = case.lowest
            yield [case.case, case.dice_expected, key, self.classes[key], *numbers]

    def to_dataframe(self) -> pandas.DataFrame:
        """:meth:`rows` with :attr:`columns`, as in ``triage.csv``."""
        import pandas

        return pandas.DataFrame(list(self.rows()), columns=self.columns)


def triage(
    pred_folder: StrPath,
    *,
    cases: Sequence[str] | None = None,
    dataset_json: StrPath | None = None,
    plans_json: StrPath | None = None,
    progress: bool = False,
) -> Triage:
    """Rank predictions by their lowest expected Dice of any class, then by the next lowest.

    It is a ranking, no guarantee: it can be trusted as far as expected Dice has been found to agree
    with actual Dice on test cases that have references (:func:`.evaluate`).

    Args:
        pred_folder: predictions, ``CASE.npz`` beside ``CASE<file_ending>``.
        cases: names of the cases; None: all.
        dataset_json: nnU-Net's file; None: there or two folders up.
        plans_json: the same; ``nnUNetv2_ensemble`` does not write it.
        progress: show a progress bar on stderr.

    Raises:
        InputError: the folder or a file cannot be used.

    Example:
        >>> import nnunet_meep as nm
        >>> ranked = nm.triage("predictions")
        >>> sorted(case.case for case in ranked.cases)
        ['a', 'b', 'c']
        >>> ranked.cases[0].dice_expected <= ranked.cases[-1].dice_expected
        True
    """
    folder = Path(pred_folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of predictions, found none")
    paths = (None if path is None else Path(path) for path in (dataset_json, plans_json))
    dataset = read_dataset([folder], *paths)
    names = _names(folder, dataset.file_ending) if cases is None else sorted(set(cases))
    with tqdm(names, desc=folder.name, unit="case", disable=not progress) as bar:
        found = [_of_case(folder, name, dataset) for name in bar]

    def order(case: TriagedCase) -> tuple[list[float], str]:
        expected = [metrics["dice_expected"] for metrics in case.classes.values()]
        return sorted(math.inf if math.isnan(value) else value for value in expected), case.case

    classes = dict(zip(dataset.labels.keys, dataset.labels.names, strict=True))
    return Triage(classes, sorted(found, key=order))


def _names(folder: Path, file_ending: str) -> list[str]:
    """The cases of a folder, each of which has to have both files."""
    probabilities, segmentations = case_names(folder, ".npz"), case_names(folder, file_ending)
    if lonely := sorted(segmentations - probabilities):
        raise InputError(
            f"{folder}: expected {lonely[0]}.npz with the probabilities of "
            f"{lonely[0]}{file_ending}, found none; predict with --save_probabilities"
        )
    if not probabilities:
        raise InputError(f"{folder}: expected CASE.npz files with probabilities, found none")
    return sorted(probabilities)


def _of_case(folder: Path, name: str, dataset: Dataset) -> TriagedCase:
    from nnunet_meep.evaluation.counting.one_pass import sum_case  # the compiled part

    segmentation = folder / f"{name}{dataset.file_ending}"
    refuse_no_file(segmentation)
    if not segmentation.is_file():
        raise InputError(
            f"{segmentation}: expected the segmentation of {name}.npz beside it, found none"
        )
    case = Case(name, segmentation, folder / f"{name}.npz", segmentation)
    image, labels = Roi("image"), dataset.labels
    reference = read_reference(case, dataset, [image])
    sums = sum_case(case, labels, reference, 1, [image], False, TOLERANCE_MM)
    classes = {}
    for i, key in enumerate(labels.keys):
        of_class = sums.rois["image"].channels[labels.channel(i)]
        sum_p = math.fsum(of_class.cells.sum_p.flat)
        classes[key] = {
            "dice_expected": expected_dice(of_class.expected_overlap, sum_p, of_class.tp),
            "volume_expected_ml": of_class.volume_expected_ml,
            "volume_pred_ml": of_class.volume_pred_ml,
        }
    return TriagedCase(name, classes)
