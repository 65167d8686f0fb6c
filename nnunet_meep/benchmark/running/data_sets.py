"""The cases of a data set: which a fold trains, validates and tests on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.plans.plan import Data
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.errors import InputError, is_meant
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.cases import case_names
from nnunet_meep.nnunet_files.paths import itk_path

SPLITS = "splits_final.json"
#: What nnU-Net plans.
PLANNED = ("2d", "3d_fullres", "3d_lowres")


@dataclass(frozen=True)
class TestScans:
    """The test scans of a fold, which have labels.

    Attributes:
        images: their folder; it holds no other scans.
        references: the folder of their labels.
        cases: their names.
        is_whole: whether ``references`` holds no other labels.
        image_names: of their files, one or several for each case.
        ending: of the files.
    """

    __test__ = False  # not a test, in spite of its name

    images: str
    references: str
    cases: tuple[str, ...]
    is_whole: bool
    image_names: tuple[str, ...]
    ending: str

    @property
    def image_files(self) -> tuple[str, ...]:
        """Their images."""
        return tuple(f"{self.images}/{name}" for name in self.image_names)

    @property
    def label_files(self) -> tuple[str, ...]:
        """Their labels."""
        return tuple(f"{self.references}/{case}{self.ending}" for case in self.cases)


def checked_json(path: Path, expected: str, is_right: Callable[[Any], bool]) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: it is missing, no JSON, or ``is_right`` says no.
    """
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path}: expected {expected}, found no file") from None
    except ValueError as error:
        raise InputError(f"{path}: expected {expected}, found no JSON: {error}") from None
    if not is_right(content):
        raise InputError(f"{path}: expected {expected}, found something else")
    return content


def file_ending(raw: Path) -> str:
    """The ending of the scans of a data set, from its ``dataset.json``."""
    return str(_entry(raw, "file_ending", str))


def labelled_cases(raw: Path) -> list[str]:
    """Names of the cases in ``labelsTr``."""
    folder, ending = raw / "labelsTr", file_ending(raw)
    names = sorted(case_names(folder, ending)) if folder.is_dir() else []
    if not names:
        raise InputError(f"{folder}: expected labels *{ending}, found none")
    return names


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """nnU-Net's folds: for each, the names of its ``train`` and ``val`` cases."""

    def is_split(split: Any) -> bool:
        return isinstance(split, dict) and all(
            isinstance(split.get(part), list) and all(isinstance(c, str) for c in split[part])
            for part in ("train", "val")
        )

    return list(
        checked_json(
            path,
            "nnU-Net's folds, a list of objects with train and val",
            lambda c: isinstance(c, list) and bool(c) and all(map(is_split, c)),
        )
    )


def fold_of(path: Path, fold: int) -> dict[str, list[str]]:
    """One fold of a file of splits.

    nnU-Net makes a random split of its own where the file has fewer folds; that is refused.
    """
    splits = read_splits(path)
    if fold >= len(splits):
        raise InputError(
            f"{path}: expected fold {fold}, found folds 0 to {len(splits) - 1}; nnU-Net would "
            f"train on a random split instead"
        )
    if not splits[fold]["val"]:
        raise InputError(f"{path}: expected validation cases in fold {fold}, found none")
    return splits[fold]


def check_configuration(data: Data, plans: Path) -> None:
    """Check before any work that nnU-Net's plans have, or may have, the plan's configuration.

    Args:
        plans: nnU-Net's file; may be missing.

    Raises:
        InputError: they do not have it.
    """
    try:
        known, where = list(read_json(plans)["configurations"]), f" (in {plans})"
    except (OSError, ValueError, KeyError, TypeError):  # not planned yet
        known, where = list(PLANNED), ""
    of_others = not where and data.network is not None and data.network.planner
    if data.configuration not in known and not of_others:
        raise InputError(
            f"[data.{data.name}] configuration: {is_meant(data.configuration, known)}expected one "
            f"of {', '.join(known)}{where}, got {data.configuration}"
        )


def given_test_scans(raw: Path) -> list[str]:
    """Names of the cases with test scans and labels (``imagesTs``, ``labelsTs``); maybe none.

    Raises:
        InputError: some have only one of both.
    """
    ending = file_ending(raw)
    folders = [raw / part for part in ("imagesTs", "labelsTs")]
    images, labels = (case_names(f, ending) if f.is_dir() else set() for f in folders)
    images = {re.sub(r"_\d{4}$", "", name) for name in images}
    if not labels:
        return []
    if images != labels:
        raise InputError(
            f"{raw}: expected the same cases in imagesTs and labelsTs, found "
            f"{min(images ^ labels)} in one only"
        )
    return sorted(labels)


def left_out(raw: Path, split: dict[str, list[str]]) -> list[str]:
    """Labelled cases that a fold neither trains nor validates on: test scans of its own."""
    mentioned = {*split["train"], *split["val"]}
    return [case for case in labelled_cases(raw) if case not in mentioned]


def test_scans(
    data: Data, splits: Sequence[dict[str, list[str]]], fold: int, folders: Folders
) -> TestScans | None:
    """The test scans of a fold: those in ``imagesTs``, or those that the fold leaves out.

    None if there are none with labels, or if a fold of the plan leaves out none: results on test
    scans and on validation cases must not be compared as one.

    Args:
        splits: all folds of the data set.
    """
    raw, place = folders.raw / data.dataset, f"{{raw}}/{data.dataset}"
    ending = file_ending(raw)
    if given := given_test_scans(raw):
        names = _image_names(raw / "imagesTs", given, ending)
        return TestScans(
            f"{place}/imagesTs", f"{place}/labelsTs", tuple(given), True, names, ending
        )
    if all(left_out(raw, splits[other]) for other in data.folds):
        images = f"{{work}}/test_images/{data.name}/fold_{fold}"
        own = left_out(raw, splits[fold])
        names = _image_names(raw / "imagesTr", own, ending)
        return TestScans(images, f"{place}/labelsTr", tuple(own), False, names, ending)
    return None


def _image_names(folder: Path, cases: Sequence[str], ending: str) -> tuple[str, ...]:
    """The files of cases in a folder of images: one for each channel, or for all of a picture."""
    wanted = set(cases)
    names = [name for name in case_names(folder, ending) if name[:-5] in wanted]
    return tuple(f"{name}{ending}" for name in sorted(names) if re.search(r"_\d{4}$", name))


def is_2d(raw: Path) -> bool:
    """Whether its first image has two dimensions, as far as it can be told from its header."""
    import SimpleITK as sitk

    ending = file_ending(raw)
    images = [p for p in raw.glob("imagesTr/*") if p.name.endswith(ending) and p.name[0] != "."]
    if not images:
        raise InputError(f"{raw / 'imagesTr'}: expected images *{ending}, found none")
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_path(min(images)))
    try:
        reader.ReadImageInformation()
    except RuntimeError:  # a format of nnU-Net's other readers
        return False
    size = reader.GetSize()
    return len(size) == 2 or 1 in size


def _entry(raw: Path, name: str, kind: type) -> Any:
    """An entry of a data set's ``dataset.json``."""
    content = checked_json(
        raw / "dataset.json",
        f'nnU-Net\'s dataset.json with "{name}"',
        lambda c: isinstance(c, dict) and isinstance(c.get(name), kind),
    )
    return content[name]
