"""``meep-calib-triage``: which predictions to review first, without references."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_meep.cli._folders import add_json_files
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
The expected Dice of a class is 2 sum(p s) / (sum(p) + sum(s)), where p is the probability of the
class, and s is 1 at segmented voxels, otherwise 0. Cases are sorted by the lowest expected Dice of
any class. 0 means that nothing is segmented although at least half a voxel is expected; "-", at the
end of the list, that nothing is segmented and nothing is expected.

The list is a ranking, not a guarantee: the network is less confident in the first cases. A network
can be confident and wrong, and such a case is at the end of the list; an expected Dice of 0.9 does
not promise a Dice of 0.9. Test this on cases of your own that have references: meep-calib-eval says
how far expected Dice is from actual Dice and how well it ranks the cases, and meep-calib-compare
plots both.

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
            "List the cases that a person should review first: those with the lowest Dice that\n"
            "the network expects of its own segmentation. Needs no references."
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
    add_json_files(parser)
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _get_parser().parse_args(args)
    return run(lambda: _triage(options))


def _triage(options: argparse.Namespace) -> None:
    from nnunet_meep.evaluation.report.triage_list import check_target, triage_table, write_triage
    from nnunet_meep.evaluation.triage import triage

    output: Path | None = options.o
    if output is not None:
        check_target(output)
    ranked = triage(
        options.pred_folder, dataset_json=options.djfile, plans_json=options.pfile, progress=True
    )
    print(triage_table(ranked))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_triage(ranked, output)
        print(f"\nWritten: {output}")
