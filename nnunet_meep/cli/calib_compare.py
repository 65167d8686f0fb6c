"""``meep-calib-compare``: several models on the same cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._folders import add_cases, add_counting, add_references
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run, say
from nnunet_meep.errors import InputError, printable

_EPILOG = """\
models:
  NAME=FOLDER             what meep-calib-eval wrote for a model; or a folder of predictions in
                          whose folder 'calibration' it wrote it, or will now
  NAME=FOLDER,FOLDER,...  several trainings of one model: seeds, which have the same cases and are
                          averaged per case, or folds, which have cases of their own, or both

written into -o:
  report.html      everything in one file, for any browser: the verdict in sentences, tables,
                   pictures, single cases, settings, what each number means
  comparison.json  summary of each model, differences, tests, warnings
  comparison.csv   one row per model, class and metric
  comparison.md    tables, the best mean in bold, and the differences to the first model
  comparison.tex   the tables for LaTeX (booktabs), with captions and labels
  reliability, risk_coverage, volumes, errors, expected_dice, case_risk (.png and .svg)
                   models laid over each other: observed frequency against predicted
                   probability; errors that are left if the least sure voxels are set aside;
                   expected against true volume, against actual error rate, and against actual
                   Dice; mean 1 - Dice if the cases with the lowest expected Dice are set aside
  froc, lesion_reliability (.png and .svg)
                   with --lesions: lesions found against false ones per scan; the share of real
                   lesions against their mean probability
  slices/          the cases with the lowest Dice (.png and .svg): image, reference, probability,
                   errors and entropy of each model; of several seeds, the first

A comparison is always of the files that are there now. Each result is checked against what is in
them: new and changed cases are evaluated again, and a line says so. A result with other --bins,
another --tolerance or other --lesions, or with surface distances where --no-surface is given, is
evaluated again, too.
Warnings come first: cases that only some models have, incomplete folds, predictions without
references, calibrators that were fitted to the cases they are evaluated on.

Tables are means over cases, reliability and risk are over the pooled voxels.
Only cases that all models have are compared. The differences are paired by case, with 95 %
intervals over cases (BCa bootstrap). p is that of Wilcoxon's signed-rank test, alone and
Holm-corrected over the tests that the table shows. "n too small": with so few cases this p cannot
be below 0.05, whatever the difference; a column of p in which all are so is left out.
Both take the trainings as they are. If a model has several trainings, a second interval is over
trainings and cases, and decides what is better.
"not segmented": Dice is 0 in all cases whose reference has the class; such a model cannot be the
best for that class or for the top label.
"optimistic": its calibrator was fitted to cases that it is evaluated on.

examples:
  meep-calib-compare "Dice + CE=predictions/nnUNetTrainer" \\
      MEEP_KL=predictions/nnUNetTrainerMEEP_KL --gt labelsTs --images imagesTs -o comparison
  meep-calib-compare MEEP_KL=seed0,seed1,seed2 CE=other0,other1,other2 -o comparison
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-compare",
        description=(
            "Compare the calibration of several models on the same cases: tables, the\n"
            "differences to the first model with intervals and tests, pictures, a report."
        ),
        epilog=_EPILOG,
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=FOLDER", help="the models; see below", type=_model
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")
    add_references(
        parser, "reference segmentations (default: those that each was evaluated against)"
    )
    add_cases(parser)
    add_counting(parser, bins=None)
    parser.add_argument(
        "--as-stored",
        action="store_true",
        help=(
            "compare the results as they were written, without a look at their files, for "
            "predictions that are no longer there"
        ),
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="images (CASE_0000...) to show in the slices, for example imagesTs",
    )
    parser.add_argument(
        "--roi",
        metavar="ROI",
        help=(
            "over which voxels to compare, one of those that the models were evaluated over, as "
            "in meep-calib-eval (default: the first of each)"
        ),
    )
    return parser


def _model(text: str) -> tuple[str, list[Path]]:
    name, equals, folders = text.partition("=")
    if not name.strip() or not equals or not all(folders.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {text!r}")
    return printable(" ".join(name.split())), [Path(folder) for folder in folders.split(",")]


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    from nnunet_meep.evaluation.report.compare_folders import compare_folders
    from nnunet_meep.evaluation.report.comparison_report import write_comparison_report
    from nnunet_meep.evaluation.report.comparison_tables import terminal
    from nnunet_meep.nnunet_files.paths import refuse_no_folder

    # Check the arguments before all the work.
    names = [name for name, _ in options.models]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"{twice[0]}: expected each name once, got it {names.count(twice[0])} times"
        )
    refuse_no_folder(options.o)
    if options.images and not options.images.is_dir():
        raise InputError(f"{options.images}: expected a folder of images, found none (--images)")
    asked = {"bins": options.bins, "tolerance_mm": options.tolerance, "lesions": options.lesions}
    asked |= {"surface": False if options.no_surface else None}
    comparison = compare_folders(
        dict(options.models),
        gt_folder=options.gt,
        roi=options.roi,
        cases=options.cases,
        options={name: value for name, value in asked.items() if value is not None},
        processes=options.np,
        as_stored=options.as_stored,
    )
    paths, warnings = write_comparison_report(
        comparison, options.o, gt_folder=options.gt, images=options.images, progress=True
    )
    for line in warnings:
        say(f"Warning: {line}")
    print(terminal(comparison))
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")
