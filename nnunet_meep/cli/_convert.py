"""Shared code of the commands that convert data sets: arguments and printed lines."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_meep.cli._run import say

if TYPE_CHECKING:
    from nnunet_meep.datasets.division import Division
    from nnunet_meep.datasets.raw_folder import RawDataset


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the source, the data set's number, and flags on what is written."""
    parser.add_argument("source", metavar="SRC", type=Path, help="folder with the data")
    parser.add_argument(
        "-d",
        dest="dataset_id",
        metavar="ID",
        type=_dataset_id,
        required=True,
        help="number of the data set in nnU-Net, 1 to 999",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help=(
            "only print which files were found and what would be written; the contents of the "
            "files are not checked"
        ),
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the data set's folder in $nnUNet_raw if it exists",
    )


def add_division(parser: argparse.ArgumentParser) -> None:
    """Add how many cases are for testing and for validation."""
    for flag, what in (
        ("--test", "use the last N cases, sorted by name, for testing (imagesTs, labelsTs)"),
        ("--validation", "use the N cases before them for validation in fold 0, the only fold"),
        ("--cases", "use only the first N labelled cases (default: all)"),
    ):
        parser.add_argument(flag, metavar="N", type=count, help=what)


def division(options: argparse.Namespace, *, n_folds: int | None = None) -> Division:
    """The division that was asked for with the arguments of :func:`add_division`."""
    from nnunet_meep.datasets.division import Division

    return Division(
        n_cases=options.cases,
        n_test=options.test or 0,
        n_validation=options.validation,
        n_folds=n_folds,
    )


def count(text: str) -> int:
    """Parse a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def convert(dataset: RawDataset, options: argparse.Namespace) -> None:
    """Write a data set, or print what would be written."""
    from nnunet_meep.datasets.raw_folder import target, write
    from nnunet_meep.errors import InputError
    from nnunet_meep.nnunet_files.paths import real_path

    folder = target(dataset, options.dataset_id, overwrite=options.overwrite)
    replaced = real_path(folder)
    read = [path for scan in dataset.scans for path in (*scan.channels, scan.mask)]
    if inside := [path for path in (options.source, *read) if replaced in _places(path)]:
        raise InputError(
            f"{inside[0]}: expected a source outside of {folder}, which would be replaced; "
            f"choose another number with -d"
        )
    if options.dry_run:
        for scan in dataset.scans:
            part = "Ts" if scan.is_test else "Tr"
            print(f"{scan.name} ({part}): {', '.join(map(str, (*scan.channels, scan.mask)))}")
        for line in dataset.problems:
            say(f"Problem: {line}")
    else:
        write(dataset, folder)
    for line in dataset.notes:
        print(line)
    for line in dataset.warnings:
        say(f"Warning: {line}")
    splits = f", splits_final.json with {dataset.folds}" if dataset.splits else ""
    print(
        f"{'Would write' if options.dry_run else 'Wrote'} {folder} from {dataset.layout}: "
        f"{dataset.n_training} training scans, {dataset.n_test} test scans{splits}"
    )
    if options.dry_run and dataset.problems:
        raise InputError(f"{len(dataset.problems)} problems, see above; nothing would be written")
    root = os.environ.get("nnUNet_preprocessed")
    preprocessed = Path(root or ".") / folder.name
    if not options.dry_run and root and preprocessed.is_dir():
        say(
            f"Warning: {preprocessed} is of other data, converted before; delete it and the "
            f"trainings on them, or convert under another number"
        )
    if not options.dry_run:
        print(
            f"Next: meep-benchmark init {options.dataset_id}, to compare trainers; or by hand: "
            f"nnUNetv2_plan_and_preprocess -d {options.dataset_id} --verify_dataset_integrity"
        )


def _places(path: Path) -> tuple[Path, ...]:
    """Where a file or folder really is: its path, and the folders above it."""
    from nnunet_meep.nnunet_files.paths import real_path

    return (real_path(path), *real_path(path).parents)


def _dataset_id(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 999:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 999")
    return number
