"""``meep-convert-folder``: a folder of scans with labels into nnU-Net's raw format."""

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

All folders images* are taken together, and so are all folders labels*. The cases are divided in the
order of their names: --test and --validation take them from the end. Without --validation nnU-Net
makes its five folds of the training scans.

With --folds K every scan is tested once. All are written for training, and splits_final.json has K
folds: fold 0 tests the scans 0, K, 2K, ... in the order of their names, fold 1 the scans 1, K + 1,
2K + 1, ... Each fold validates on two others (--validation N: on N), spread over the names, and
trains on the rest. The test scans of a fold are in neither of its lists: they are all cases of
labelsTr that the fold does not name. nnU-Net plans with all scans.

nnU-Net needs labels 1, 2, 3, ... with the ignore label last: they are numbered so, in the order of
their values. Images and labels that need no change are copied as they are.

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
            "Write a folder of scans with labels for nnU-Net, as $nnUNet_raw/Dataset<ID>_<NAME>,\n"
            "with labelled test scans or with folds that have their own."
        ),
        epilog=_EPILOG,
    )
    add_arguments(parser)
    parser.add_argument("--name", type=_name, required=True, help="the data set's name")
    parser.add_argument(
        "--labels",
        metavar="NAME=VALUE,...",
        type=_labels,
        required=True,
        help="name and value of each label but the background, which is 0",
    )
    parser.add_argument(
        "--ignore",
        metavar="VALUE,...",
        type=lambda text: [_value(part) for part in text.split(",")],
        default=[],
        help="labels that become nnU-Net's ignore label",
    )
    parser.add_argument(
        "--channel",
        metavar="NAME",
        default="image",
        help="the channel's name, by which nnU-Net normalizes: CT for CT (default: image)",
    )
    add_division(parser)
    parser.add_argument(
        "--folds",
        metavar="K",
        type=count,
        help="K folds with test scans of their own; --validation is then for each (default: 2)",
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
