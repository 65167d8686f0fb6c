"""``meep-calib-triage``: which predictions to review first, without references."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
For each class of each case, the Dice that the network expects of its segmentation,
2 sum(p s) / (sum(p) + sum(s)): p is the probability of the class, s is 1 at segmented voxels. Cases
are listed by the lowest value of any class. 0: nothing is segmented, though at least half a voxel
is expected; "-", at the end: neither.

What it means: the network is less sure of the first cases. It is a ranking, no guarantee. A network
can be sure and wrong, and then such a case is at the end of the list; an expected Dice of 0.9 is no
promise of 0.9. Trust it as far as it holds on your own test cases that have references:
meep-calib-eval says there how far expected Dice is off and how well it ranks, meep-calib-compare
draws it.

written with -o: one row per case, with the lowest expected Dice and its class, and for each class
expected Dice, expected volume (sum of p) and segmented volume. meep-predict writes the same list as
triage.csv.

example:
  nnUNetv2_predict -i images -o predictions -d 501 -c 3d_fullres -f 0 --save_probabilities
  meep-calib-triage predictions -o triage.csv
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-calib-triage",
        description=(
            "Which of these predictions should a person review first? Lists cases by the\n"
            "Dice that the network expects of its own segmentations; needs no references."
        ),
        epilog=_EPILOG,
    )
    parser.add_argument(
        "pred_folder",
        type=Path,
        metavar="PRED_FOLDER",
        help="predictions with probabilities: CASE.npz beside the segmentation",
    )
    parser.add_argument("-o", type=Path, metavar="FILE.csv", help="also write the list as CSV")
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _triage(options.pred_folder, options.o))


def _triage(pred_folder: Path, output: Path | None) -> None:
    from nnunet_meep.errors import InputError
    from nnunet_meep.evaluation.report.triage_list import triage_table, write_triage
    from nnunet_meep.evaluation.triage import triage

    if output is not None and output.is_dir():
        raise InputError(f"{output}: expected a file to write, found a folder (-o)")
    ranked = triage(pred_folder, progress=True)
    print(triage_table(ranked))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_triage(ranked, output)
        print(f"\nWritten: {output}")
