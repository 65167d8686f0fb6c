"""The folds of a data set: the user's own, or those that nnU-Net draws."""

from __future__ import annotations

import json
import os
from pathlib import Path

from nnunet_meep.atomic import replacing_file
from nnunet_meep.benchmark.plans.plan import Data
from nnunet_meep.benchmark.running.data_sets import (
    SPLITS,
    labelled_cases,
    left_out,
    read_splits,
)
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.benchmark.running.unchanged import changes
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.paths import real_path

#: How many nnU-Net draws.
N_FOLDS = 5


def given_splits(data: Data, folders: Folders) -> Path | None:
    """The file of folds that a data set has, or will get; None if nnU-Net draws its own.

    Where it is preprocessed; else in the raw data, from where nnU-Net's planning takes it; else
    where the user has preprocessed the same data before, if they have not changed since.

    Raises:
        InputError: the last two differ.
    """
    path = folders.preprocessed / data.dataset / SPLITS
    if path.is_file():
        return path
    raw, given = folders.raw / data.dataset, folders.given and folders.given / data.dataset
    if given and not raw.exists():  # not linked yet
        raw = given
    of_raw = raw / SPLITS if (raw / SPLITS).is_file() else None
    theirs = None
    # Data that a plan converts are others of that name, unless they were there and are linked to.
    is_theirs = given and (not data.convert or real_path(raw) == real_path(given))
    if is_theirs and folders.given_preprocessed and raw.is_dir():
        theirs = _of_preprocessed(raw, folders.given_preprocessed / data.dataset)
    if of_raw and theirs and read_splits(of_raw) != read_splits(theirs):
        raise InputError(
            f"{theirs}: expected the folds of {of_raw}, found others; remove one of these files"
        )
    return of_raw or theirs


def _of_preprocessed(raw: Path, prepared: Path) -> Path | None:
    """The folds of preprocessed data, if these are still those of the raw data."""
    path = prepared / SPLITS
    return path if path.is_file() and not changes(raw, prepared) else None


def check_folds(data: Data, folders: Folders) -> None:
    """Check before any work that a data set has, or will have, the folds that a plan asks for.

    One that is not converted yet may get any.

    Raises:
        InputError: it has fewer, its file of folds is none, or there are two that differ.
    """
    if data.convert and not (folders.raw / data.dataset).exists():
        return
    path = given_splits(data, folders)
    n = N_FOLDS if path is None else len(read_splits(path))
    if wrong := [fold for fold in data.folds if fold >= n]:
        has = f" (as {path} has them)" if path else ""
        raise InputError(
            f"[data.{data.name}] folds: expected folds from 0 to {n - 1}{has}, got {wrong[0]}"
        )


def cases_left_out(raw: Path) -> list[int]:
    """For each fold of the user's data, how many labelled cases it neither trains nor validates on.

    Args:
        raw: the data set in ``nnUNet_raw``.
    """
    preprocessed = os.environ.get("nnUNet_preprocessed")
    path = _of_preprocessed(raw, Path(preprocessed) / raw.name) if preprocessed else None
    if path is None and (raw / SPLITS).is_file():
        path = raw / SPLITS
    if path is None:
        return [0] * N_FOLDS
    return [len(left_out(raw, split)) for split in read_splits(path)]


def write_splits(data: Data, folders: Folders) -> None:
    """The user's own folds, or nnU-Net's five, as its first training would write them.

    Here, because several trainings that begin together would write the file at the same time.
    """
    raw, path = folders.raw / data.dataset, folders.preprocessed / data.dataset / SPLITS
    given = given_splits(data, folders)
    if given == path:
        return
    folds = _nnunets_folds(raw) if given is None else read_splits(given)
    with replacing_file(path) as temporary:
        temporary.write_text(json.dumps(folds, indent=4))


def _nnunets_folds(raw: Path) -> list[dict[str, list[str]]]:
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases = labelled_cases(raw)
    if len(cases) < N_FOLDS:
        raise InputError(
            f"{raw}: expected at least {N_FOLDS} labelled cases for {N_FOLDS} folds, found "
            f"{len(cases)}"
        )
    folds = generate_crossval_split(cases, seed=12345, n_splits=N_FOLDS)
    return [{part: [str(case) for case in fold[part]] for part in fold} for fold in folds]
