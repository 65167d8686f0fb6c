"""``meep-convert-folder``: convert a folder of scans and labels to nnU-Net's raw format."""

from __future__ import annotations

import argparse
import re

from nnunet_meep.cli._convert import add_arguments, add_division, convert, count, division
from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run

_EPILOG = """\
SRC is a folder with scans of one channel and their labels:

  images*/CASE_0000.nii.gz or images*/CASE.nii.gz
  labels*/CASE.nii.gz

All folders images* are pooled, and so are all folders labels*. Cases are sorted by name; --test and
--validation take them from the end. Without --validation, nnU-Net divides the training scans into
its usual five folds.

With --folds K, each scan is tested once. All scans are written to imagesTr and labelsTr, and
splits_final.json has K folds: fold 0 tests the scans 0, K, 2K, ... in the order of their names,
fold 1 the scans 1, K + 1, 2K + 1, ... Each fold validates on two other scans (with --validation N:
on N), spread over the names, and trains on the rest. The test scans of a fold are the cases of
labelsTr that are in neither of its lists. nnU-Net plans with all scans.

nnU-Net needs labels 1, 2, 3, ... with the ignore label last. Other labels are renumbered in the
order of their values. Images and labels that need no change are copied as they are.

examples:
  meep-convert-folder ~/data/hippocampus -d 4 --name Hippocampus --labels Anterior=1,Posterior=2 \\
      --channel MRI --test 40 --validation 20
  meep-convert-folder ~/data/flair -d 503 --name WMHFLAIR --labels WMH=1 --ignore 2 \\
      --channel FLAIR --folds 4
"""


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-convert-folder",
        description=(
            "Convert a folder of scans and labels to nnU-Net's raw format,\n"
            "$nnUNet_raw/Dataset<ID>_<NAME>, with labelled test scans: the same for all folds\n"
            "(--test), or different ones for each fold (--folds)."
        ),
        epilog=_EPILOG,
    )
    add_arguments(parser)
    parser.add_argument(
        "--name",
        type=_name,
        required=True,
        help="name of the data set: letters, digits, '_', '.' and '-'",
    )
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE,...",
        type=_labels,
        required=True,
        help="name and value of each label except the background, which is 0",
    )
    parser.add_argument(
        "--ignore",
        metavar="VALUE,...",
        type=lambda text: [_value(part) for part in text.split(",")],
        default=[],
        help="values of labels that become nnU-Net's ignore label",
    )
    parser.add_argument(
        "--channel",
        metavar="NAME",
        default="image",
        help=(
            "name of the channel, by which nnU-Net chooses the normalization; for CT scans it has "
            "to be CT (default: image)"
        ),
    )
    add_division(parser)
    parser.add_argument(
        "--folds",
        metavar="K",
        type=count,
        help=(
            "make K folds, each with its own test scans; --validation is then the number of scans "
            "for each fold (default: 2)"
        ),
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Convert a folder; returns 0, or 1 after one line for each problem."""
    options = _get_parser().parse_args(args)
    return run(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> None:
    from nnunet_meep.datasets.plain_folder import find

    dataset = find(
        options.source,
        name=options.name,
        classes=options.labels,
        ignored=options.ignore,
        channel=options.channel,
        division=division(options, n_folds=options.folds),
    )
    convert(dataset, options)


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not of letters, digits, '_', '.' and '-'")
    return text


def _labels(text: str) -> list[tuple[str, int]]:
    labels = []
    for part in text.split(","):
        name, _, value = part.partition("=")
        if not name or not value.isdecimal():
            raise argparse.ArgumentTypeError(
                f"expected NAME=VALUE, such as Anterior=1, got {part!r}"
            )
        labels.append((name, int(value)))
    return labels


def _value(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
