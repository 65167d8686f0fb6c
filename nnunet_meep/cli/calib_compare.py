"""``meep-calib-compare``: compare several models on the same cases."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._folders import add_cases, add_counting, add_references
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run, say
from nnunet_meep.errors import InputError, printable

_EPILOG = """\
models:
  NAME=FOLDER             output folder of meep-calib-eval; or a folder of predictions, whose result
                          is in its subfolder 'calibration' or is written there now
  NAME=FOLDER,FOLDER,...  several trainings of one model: seeds (same cases, averaged per case),
                          folds (different cases), or both

written into -o:
  report.html      everything in one file, for any browser: verdict, tables, pictures, single
                   cases, settings, and what each number means
  comparison.json  summary of each model, differences, tests, warnings
  comparison.csv   one row per model, class and metric
  comparison.md    tables, the best mean in bold, and the differences from the first model
  comparison.tex   the tables for LaTeX (booktabs), with captions and labels
  reliability, risk_coverage, volumes, errors, expected_dice, case_risk (.png and .svg)
                   all models in one plot, in this order: observed frequency against predicted
                   probability; remaining errors if the least confident voxels are set aside;
                   expected against actual volume, error rate and Dice; mean of 1 - Dice if the
                   cases with the lowest expected Dice are set aside
  froc, lesion_reliability (.png and .svg)
                   with --lesions: lesions found against false lesions per scan; share of real
                   lesions against their mean probability
  slices/          the cases with the lowest Dice (.png and .svg): image, reference, probability,
                   errors and entropy of each model (of the first seed, if there are several)

The comparison always uses the current files. New and changed cases are evaluated again, and a line
reports this. A result with another --bins, --tolerance or --lesions is evaluated again, too, and so
is a result with surface distances if --no-surface is given.
Warnings come first: cases that only some models have, incomplete folds, predictions without
references, calibrators that were fitted to the cases they are evaluated on.

Tables show means over cases; reliability and risk are computed from the pooled voxels.
Only cases that all models have are compared. Differences are paired by case, with 95 % intervals
over cases (BCa bootstrap). p is from Wilcoxon's signed-rank test, uncorrected and Holm-corrected
over the tests in the table. "n too small": with so few cases, p cannot be below 0.05, however large
the difference; a column with no other entry is left out.
Intervals and tests over cases do not tell how much another training would differ. If a model has
several trainings, a second interval, over trainings and cases, decides which model is better.
"not segmented": Dice is 0 in all cases whose reference has the class; such a model cannot be the
best for that class or for the top label.
"optimistic": the calibrator was fitted to cases that the model is evaluated on.

examples:
  meep-calib-compare "Dice + CE=predictions/nnUNetTrainer" \\
      MEEP_KL=predictions/nnUNetTrainerMEEP_KL --gt labelsTs --images imagesTs -o comparison
  meep-calib-compare MEEP_KL=seed0,seed1,seed2 CE=other0,other1,other2 -o comparison
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-compare",
        description=(
            "Compare segmentation and calibration of several models on the same cases: tables,\n"
            "differences from the first model with intervals and tests, pictures, a report."
        ),
        epilog=_EPILOG,
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=FOLDER", help="one model or more; see below", type=_model
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")
    add_references(
        parser, "reference segmentations (default: those that each result was evaluated against)"
    )
    add_cases(parser)
    add_counting(parser, bins=None)
    parser.add_argument(
        "--as-stored",
        action="store_true",
        help=(
            "compare the results as they were written, without checking their files; for "
            "predictions that no longer exist"
        ),
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="images (CASE_0000...) to show in slices and report, for example imagesTs",
    )
    parser.add_argument(
        "--roi",
        metavar="ROI",
        help=(
            "region of interest to compare, written as in meep-calib-eval; one that the models "
            "were evaluated on (default: the first of each result)"
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
