"""Whether what was preprocessed, trained or validated is still of the raw data and the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.plans.plan import Data
from nnunet_meep.benchmark.running.data_sets import (
    SPLITS,
    file_ending,
    labelled_cases,
    read_splits,
)
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.errors import InputError
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.cases import case_names


def changes(raw: Path, prepared: Path) -> list[str]:
    """What has changed in a data set since nnU-Net preprocessed it, in words.

    Args:
        raw: the data set in ``nnUNet_raw``.
        prepared: the same in ``nnUNet_preprocessed``; may be missing.
    """
    found = _other_labels(raw, prepared)
    try:
        splits = read_splits(prepared / SPLITS)
    except InputError:  # not there yet; a damaged one is said elsewhere
        return found
    known = {case for split in splits for case in (*split["train"], *split["val"])}
    labelled = set(labelled_cases(raw))
    found += [f"{case} is no training case any more" for case in sorted(known - labelled)]
    folder = prepared / "gt_segmentations"
    there = case_names(folder, file_ending(raw)) if folder.is_dir() else set()
    if there.issuperset(known):  # preprocessed to the end
        found += [f"{case} has been added" for case in sorted(labelled - known - there)]
    return found


def check_unchanged(data: Data, folders: Folders) -> None:
    """Check that nnU-Net's preprocessed data, if there are any, are those of the raw data.

    Raises:
        InputError: labels or channels differ, or cases were added that no fold knows.
    """
    raw, prepared = (place / data.dataset for place in (folders.raw, folders.preprocessed))
    if found := changes(raw, prepared):
        raise InputError(
            f"{prepared}: expected the data of {raw}, found that {found[0]} since they were "
            f"preprocessed, and trainings on both must not be mixed; convert them under another "
            f"number, or delete {prepared} and {folders.results / data.dataset}"
        )


def check_trained(fold: Path, cases: Sequence[str], raw: Path) -> None:
    """Check that a training, if there is one, was made with the labels and the fold of today.

    Args:
        fold: nnU-Net's ``fold_X``.
        cases: the validation cases of the fold.
        raw: the data set in ``nnUNet_raw``.

    Raises:
        InputError: it has other labels, or has validated on other cases.
    """
    advice = f"delete {fold}, or restore what it was trained on"
    if found := _other_labels(raw, fold.parent):
        raise InputError(
            f"{fold}: expected a training on the data of {raw}, found that {found[0]} since; "
            f"{advice}"
        )
    validation = fold / "validation"
    there = case_names(validation, file_ending(raw)) if validation.is_dir() else set()
    if others := sorted(there - set(cases)):
        raise InputError(
            f"{validation}: expected the validation cases of the fold, found {others[0]}, which "
            f"{SPLITS} has elsewhere by now; {advice}"
        )


def check_fold(
    fold: Path, before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]
) -> None:
    """Check that a fold has the cases that a training began with.

    Args:
        fold: nnU-Net's ``fold_X``.
        before: what the training's record says; {} if it says nothing.
        now: what nnU-Net's splits say.

    Raises:
        InputError: cases moved into or out of it.
    """
    for name, kind in (("train", "training"), ("val", "validation")):
        if name in before and (moved := sorted(set(before[name]) ^ set(now[name]))):
            how = "is one no more" if moved[0] in before[name] else "became one"
            raise InputError(
                f"{fold}: expected the {kind} cases that it began with, found that {moved[0]} "
                f"{how} in {SPLITS}; delete {fold}, or restore the fold"
            )


def _other_labels(raw: Path, other: Path) -> list[str]:
    """In what a copy of ``dataset.json`` differs from the one in the raw data, if both exist.

    Only what decides how a network is trained; names of labels and channels may change.
    """
    try:
        now, before = (read_json(folder / "dataset.json") for folder in (raw, other))
        found = [_deciding(now), _deciding(before)]
    except (OSError, ValueError, AttributeError, TypeError):  # missing, or said elsewhere
        return []
    return [f"{key} changed" for key in found[0] if found[0][key] != found[1][key]]


def _deciding(dataset: dict[str, Any]) -> dict[str, Any]:
    return {
        "labels have": list(dataset["labels"].values()) if "labels" in dataset else None,
        "regions_class_order has": dataset.get("regions_class_order"),
        "channel_names have": _normalization(dataset.get("channel_names", {})),
        "file_ending has": dataset.get("file_ending"),
    }


def _normalization(channels: dict[str, str]) -> dict[int, str]:
    """How nnU-Net normalizes each channel, as far as it depends on its name.

    By the names in ``nnunetv2.preprocessing.normalization``; all others are ``zscore``.
    """
    special = ("ct", "nonorm", "rescale_to_0_1", "rgb_to_0_1")
    names = {int(number): name.casefold() for number, name in channels.items()}
    return {number: name if name in special else "zscore" for number, name in names.items()}
