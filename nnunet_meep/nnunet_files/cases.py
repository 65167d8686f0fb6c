"""Data sets and cases of nnU-Net: their folders and files, paired by name.

A case has two files: ``CASE.npz`` with probabilities (see :mod:`.probabilities`), as written by
``nnUNetv2_predict --save_probabilities`` and ``nnUNetv2_train --npz``, and the reference
segmentation ``CASE<file_ending>``. The latter is read with nnU-Net's own reader (see
:mod:`.images`), so that both have the same axes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.labels import Labels, read_labels
from nnunet_meep.nnunet_files.paths import real_path, refuse_no_file
from nnunet_meep.nnunet_files.probabilities import open_probabilities

#: Name of the file in which ``nnUNetv2_predict`` keeps its arguments, beside the predictions.
ARGUMENTS = "predict_from_raw_data_args.json"


@dataclass(frozen=True)
class Dataset:
    """The content of ``dataset.json`` and ``plans.json`` that evaluation and calibration need."""

    labels: Labels
    file_ending: str
    reader: str | None  # name of nnU-Net's reader class; None: nnU-Net chooses it by the file
    dataset_json: dict[str, Any]
    path: Path  # the dataset.json file


@dataclass(frozen=True)
class Case:
    """The files of a case.

    Attributes:
        name: name of the case.
        reference: the reference segmentation.
        probabilities: ``CASE.npz``.
        segmentation: the predicted segmentation in the same folder; None if there is none.
    """

    name: str
    reference: Path
    probabilities: Path
    segmentation: Path | None = None


@dataclass(frozen=True)
class Folders:
    """The folders of references and predictions.

    Attributes:
        references: folder of reference segmentations.
        predictions: folders of predictions. A model folder is replaced by those of its folds.
    """

    references: Path
    predictions: tuple[Path, ...]


@dataclass(frozen=True)
class PairedCases:
    """The cases found in some folders, and the files that could not be paired.

    Attributes:
        cases: cases with exactly one reference and one file of probabilities, sorted by name.
        broken: (case name, one line that describes what is wrong with its files).
        not_predicted: names of the cases that have a reference but no prediction.
    """

    cases: list[Case]
    broken: list[tuple[str, str]]
    not_predicted: list[str]


def find_folders(gt_folder: Path | None, pred_folders: Sequence[Path]) -> Folders:
    """Find the folders of references and predictions.

    Args:
        gt_folder: folder of reference segmentations. None for
            ``$nnUNet_preprocessed/DATASET/gt_segmentations``, which needs predictions in a model
            folder (``TRAINER__PLANS__CONFIG``) or its ``fold_X/validation``.
        pred_folders: folders of predictions, or model folders, which stand for their
            ``fold_X/validation`` folders; ``fold_all`` is left out if there are others.

    Raises:
        InputError: a folder is missing, given twice, or has the wrong content, such as that of
            ``fold_all``; or ``nnUNet_preprocessed`` is needed and not set.
    """
    expanded: list[Path] = []
    for i, folder in enumerate(pred_folders):
        if real_path(folder) in map(real_path, pred_folders[:i]):
            raise InputError(f"{folder}: expected each folder of predictions once, got it twice")
        if not folder.is_dir():
            raise InputError(f"{folder}: expected a folder of predictions, found none")
        folds = sorted(folder.glob("fold_*/validation"))
        folds = [fold for fold in folds if not _is_fold_all(fold)] or folds
        if _has_probabilities(folder) or not folds:
            expanded.append(folder)
            continue
        expanded += [fold for fold in folds if _has_probabilities(fold)]
        if empty := [fold for fold in folds if not _has_probabilities(fold)]:
            raise InputError(
                f"{empty[0]}: expected CASE.npz files with probabilities, found none; train with "
                f"--npz, or nnUNetv2_train ... --val --npz for a model that is trained"
            )
    if trained := [folder for folder in expanded if _is_fold_all(folder)]:
        raise InputError(
            f"{trained[0]}: expected predictions of cases that the network was not trained on, got "
            f'those of fold "all", which is trained on all cases'
        )
    if gt_folder is None:
        gt_folder = _default_references(expanded[0])
    if not gt_folder.is_dir():
        raise InputError(f"{gt_folder}: expected a folder of reference segmentations, found none")
    if real_path(gt_folder) in map(real_path, expanded):
        raise InputError(
            f"{gt_folder}: expected a folder of reference segmentations, got that of the "
            f"predictions, which would be compared with themselves"
        )
    if _has_probabilities(gt_folder) and not any(map(_has_probabilities, expanded)):
        raise InputError(
            f"{gt_folder}: expected references, found predictions (CASE.npz), and none in "
            f"{expanded[0]}: the folder of references comes first, then that of predictions"
        )
    return Folders(gt_folder, tuple(expanded))


def _is_fold_all(folder: Path) -> bool:
    folder = real_path(folder)
    return folder.name == "validation" and folder.parent.name == "fold_all"


def read_dataset(
    pred_folders: Sequence[Path], dataset_json: Path | None = None, plans_json: Path | None = None
) -> Dataset:
    """Labels, file ending and reader of folders of predictions.

    A file that is not given is searched for in each folder, where ``nnUNetv2_predict`` puts it,
    and two levels up, where it is for ``fold_0/validation``.

    Raises:
        InputError: a file is not found, is not JSON, or lacks an entry; or the folders have
            different labels, file endings or readers.
    """
    first = _read_dataset(pred_folders[0], dataset_json, plans_json)
    for folder in pred_folders[1:]:
        other = _read_dataset(folder, dataset_json, plans_json)
        for name in ("labels", "file_ending", "reader"):
            mine, theirs = getattr(first, name), getattr(other, name)
            if mine != theirs:
                raise InputError(
                    f"{folder}: expected the same {name} as in {pred_folders[0]}, {mine}, "
                    f"got {theirs}"
                )
    return first


def pair_cases(folders: Folders, file_ending: str) -> PairedCases:
    """Pair references and predictions by name.

    Raises:
        InputError: there are no probabilities at all.
    """
    references = case_names(folders.references, file_ending)
    segmentations = {f: case_names(f, file_ending) for f in folders.predictions}
    probabilities = {f: case_names(f, ".npz") for f in folders.predictions}
    if not any(probabilities.values()):
        n = sum(map(len, segmentations.values()))
        raise InputError(
            f"{folders.predictions[0]}: expected CASE.npz files with probabilities, found none "
            f"beside {n} segmentations ({file_ending}); predict with --save_probabilities (or "
            f"train with --npz)"
        )
    predicted = set().union(*segmentations.values(), *probabilities.values())
    cases, broken = [], []
    for name in sorted(predicted):
        reference = folders.references / f"{name}{file_ending}"
        npz = [f / f"{name}.npz" for f in folders.predictions if name in probabilities[f]]
        lonely = [f for f in folders.predictions if name in segmentations[f] - probabilities[f]]
        if len(npz) > 1:
            broken.append(
                (name, f"{npz[0]}: expected one prediction of {name}, found {npz[1]} too")
            )
        elif lonely:
            broken.append(
                (
                    name,
                    f"{lonely[0] / (name + file_ending)}: expected {name}.npz with its "
                    f"probabilities beside it, found none; predict with --save_probabilities "
                    f"(or train with --npz)",
                )
            )
        elif name not in references:
            broken.append((name, f"{npz[0]}: expected a reference {reference}, found none"))
        else:
            segmentation = npz[0].with_name(name + file_ending)
            found = segmentation if name in segmentations[npz[0].parent] else None
            cases.append(Case(name, reference, npz[0], found))
    return PairedCases(cases, broken, sorted(references - predicted))


def refuse_unpaired(folders: Folders, paired: PairedCases, hint: str = "") -> None:
    """Refuse missing or surplus files, so that no case is left out silently.

    Args:
        folders: the folders.
        paired: the result of :func:`pair_cases` for them.
        hint: added to the error about references without a prediction: what to do about them.

    Raises:
        InputError: files cannot be paired.
    """
    # nnUNetv2_predict writes this file, and then every reference should have a prediction. The
    # validation folder of a training has only the cases of one fold, the references are of all.
    predicted = [f for f in folders.predictions if (f / ARGUMENTS).is_file()]
    if predicted and (missing := paired.not_predicted):
        raise InputError(
            f"{predicted[0]}: expected a prediction for each of the references in "
            f"{folders.references}, {len(missing)} have none: "
            f"{', '.join(missing[:5])}{', ...' * (len(missing) > 5)}{hint}"
        )
    if paired.broken:
        raise InputError("; ".join(reason for _, reason in paired.broken))


def _read_dataset(pred_folder: Path, dataset_json: Path | None, plans_json: Path | None) -> Dataset:
    dataset_path = find_json(pred_folder, dataset_json, "dataset.json", "-djfile")
    plans_path = find_json(pred_folder, plans_json, "plans.json", "-pfile")
    dataset, plans = _load_json(dataset_path), _load_json(plans_path)
    file_ending = dataset.get("file_ending")
    if not isinstance(file_ending, str) or not file_ending.startswith("."):
        raise InputError(
            f'{dataset_path}: expected "file_ending", for example ".nii.gz", got {file_ending!r}'
        )
    reader = plans.get("image_reader_writer")
    if not isinstance(reader, str | None):
        raise InputError(
            f'{plans_path}: expected "image_reader_writer" with the name of one of nnU-Net\'s '
            f"readers, got {reader!r}"
        )
    return Dataset(
        labels=read_labels(dataset, dataset_path),
        file_ending=file_ending,
        reader=reader,
        dataset_json=dataset,
        path=dataset_path,
    )


def _default_references(pred_folder: Path) -> Path:
    model = real_path(pred_folder).parent.parent
    if real_path(pred_folder).name != "validation" or not (model / "plans.json").is_file():
        raise InputError(
            f"{pred_folder}: expected the folder of reference segmentations before it, or with "
            f"--gt; only for a model folder (TRAINER__PLANS__CONFIG) or its fold_X/validation they "
            f"are nnU-Net's own"
        )
    preprocessed = os.environ.get("nnUNet_preprocessed")
    if not preprocessed:
        raise InputError(
            "nnUNet_preprocessed is not set: the references of a model folder are in it; set it, "
            "or give the folder of references before that of the predictions"
        )
    dataset = _load_json(model / "plans.json").get("dataset_name") or model.parent.name
    return Path(preprocessed) / str(dataset) / "gt_segmentations"


def _has_probabilities(folder: Path) -> bool:
    return next(folder.glob("*.npz"), None) is not None


def find_json(pred_folder: Path, given: Path | None, name: str, flag: str) -> Path:
    """Path of ``dataset.json`` or ``plans.json``: as given, in the folder, or two levels up.

    Raises:
        InputError: the file is not found; the message names ``flag``, with which to give it.
    """
    candidates = [given] if given else [pred_folder / name, pred_folder / ".." / ".." / name]
    for path in candidates:
        refuse_no_file(path)
        if path.is_file():
            return path
    if given:
        raise InputError(f"{given}: expected nnU-Net's {name}, found no file ({flag})")
    raise InputError(
        f"{pred_folder}: expected {name} in it or two folders up, found none; give it with {flag}"
    )


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def case_names(folder: Path, ending: str) -> set[str]:
    """Names of the cases that have a file with this ending in a folder."""
    return {
        p.name.removesuffix(ending)
        for p in folder.iterdir()
        if p.name.endswith(ending) and not p.name.startswith(".")
    }


def n_voxels_of(path: Path) -> int | None:
    """Number of voxels that an npz declares; only its header is read. None if that cannot be."""
    try:
        with open_probabilities(path) as file:
            return math.prod(file.shape[1:])
    except InputError:  # it will be raised again when the probabilities are read
        return None
