"""``meep-calib-compare``: several models on the same cases."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_meep.cli._run import run

_EPILOG = """\
models:
  NAME=FOLDER             what meep-calib-eval wrote for a model, or the folder of predictions in
                          whose folder 'calibration' it wrote it
  NAME=FOLDER,FOLDER,...  several trainings (seeds) of one model: averaged per case first; their
                          spread is in comparison.json and comparison.csv

written into -o:
  comparison.json  everything: summary of each model, differences, tests, warnings
  comparison.csv   one row per model, class and metric
  comparison.md    tables, the best mean in bold, and the differences to the first model
  comparison.tex   the tables for LaTeX (booktabs)
  reliability, volumes, errors (.png and .svg)
                   models laid over each other: observed frequency against predicted
                   probability, expected against true volume, expected against actual error rate

Compared is the first region that each was evaluated over (--region of meep-calib-eval). Tables
are means over cases, the reliability diagram is over their pooled voxels.
Only cases that all models have are compared; a warning says what is left out, and which settings
are not the same. The differences are paired by case; p is Wilcoxon's signed-rank test, corrected
by Holm for all tests of the comparison.

example:
  meep-calib-eval labelsTs predictions/nnUNetTrainer
  meep-calib-eval labelsTs predictions/nnUNetTrainerMEEP_KL
  meep-calib-compare "Dice + CE=predictions/nnUNetTrainer" \\
      MEEP_KL=predictions/nnUNetTrainerMEEP_KL -o comparison
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="meep-calib-compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Compare the calibration of several models on the same cases: one table, and the\n"
            "differences to the first model with intervals and tests."
        ),
        epilog=_EPILOG,
    )
    parser.add_argument(
        "models", nargs="+", metavar="NAME=FOLDER", help="the models; see below", type=_model
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")
    return parser


def _model(text: str) -> tuple[str, list[Path]]:
    name, equals, folders = text.partition("=")
    if not name.strip() or not equals or not all(folders.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=FOLDER, got {text!r}")
    return name.strip(), [Path(folder) for folder in folders.split(",")]


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    from nnunet_meep.atomic import replacing_file
    from nnunet_meep.errors import InputError
    from nnunet_meep.evaluation import tables
    from nnunet_meep.evaluation.compare import Model, compare, load_result
    from nnunet_meep.evaluation.plots import comparison_figures, save_figure

    if options.o.exists() and not options.o.is_dir():
        raise InputError(f"{options.o}: expected a folder to write into, got a file (-o)")
    models = [
        Model(name, tuple(load_result(folder) for folder in folders))
        for name, folders in options.models
    ]
    comparison = compare(models)
    paths = tables.write(comparison, options.o)
    for name, figure in comparison_figures(models, comparison).items():
        for ending in ("png", "svg"):
            paths.append(options.o / f"{name}.{ending}")
            with replacing_file(paths[-1]) as path:
                save_figure(figure, path)
    print(tables.terminal(comparison))
    for line in comparison.warnings:
        print(f"Warning: {line}", file=sys.stderr)
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")
