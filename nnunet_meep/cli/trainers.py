"""``meep-trainers``: list all trainer names, or explain some of them."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable
from functools import partial

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run
from nnunet_meep.cli._version_info import version_info
from nnunet_meep.errors import InputError
from nnunet_meep.trainers import grammar, names, nearest, others

_WIDTH = 88


def main(args: list[str] | None = None) -> int:
    """List or explain trainer names; returns 1 if a given name is wrong or seems misspelt.

    With ``--version-info`` print what a report of a bug has to say instead.
    """
    options = _get_parser().parse_args(args)
    if options.version_info:
        return run(lambda: print(version_info()))
    given = options.names
    if not given:
        return run(lambda: print(_overview()))
    # One by one, so that a wrong name does not keep the others from being explained.
    return max([run(partial(_explain, name)) for name in given])


def _overview() -> str:
    options = [(option.example, option.meaning) for option in grammar.OPTIONS.values()]
    losses = ", ".join(loss for loss in grammar.SEGMENTATION_LOSSES if loss != "DiceCE")
    return "\n".join(
        [
            "nnUNetv2_train DATASET CONFIGURATION FOLD -tr NAME. "
            f"NAME is {grammar.PREFIX} and a loss:",
            *_aligned(grammar.SEGMENTATION_LOSSES.items()),
            f"or {losses} or nothing (= Dice + CE), followed by a term:",
            *_aligned((term, _meaning(term)) for term in grammar.TERMS),
            "Then options, in this order, each at most once:",
            *_aligned(options),
            "",
            f"Example: {grammar.EXAMPLE}; meep-trainers NAME explains a name.",
            f"Recommended, unless you have a reason for another: {grammar.RECOMMENDED}.",
        ]
    )


def _meaning(term: str) -> str:
    """What a term is, its lambda if the name gives none, and what it does not go with."""
    weights = grammar.TERMS[term].weights
    usual = weights["DiceCE"]
    text = f"{grammar.TERMS[term].meaning}; default lambda {usual:g}"
    for other in sorted({weight for weight in weights.values() if weight != usual}):
        text += f", with {_listed([loss for loss in weights if weights[loss] == other])} {other:g}"
    without = [loss for loss in grammar.SEGMENTATION_LOSSES if loss not in weights]
    return f"{text}; not with {_listed(without)}" if without else text


def _listed(losses: list[str]) -> str:
    *others, last = losses
    return f"{', '.join(others)} and {last}" if others else last


def _explain(name: str) -> None:
    print(_explanation(name))


def _explanation(name: str) -> str:
    problem = ""
    try:
        experiment = names.parse(name)
    except names.TrainerNameError as error:
        experiment, problem = None, str(error)
    if experiment is None:
        foreign = f"{name!r} is no name of nnunet-meep"
        known = others.written_classes()
        if not problem and name in known:
            return f"{foreign}: it is left to nnU-Net, which has it"
        meant = nearest.meant(name)
        if not (problem or meant or known):  # nnU-Net is not here
            return f"{foreign}: it is left to nnU-Net"
        if folder := others.folder_with(name, others.external_folders()):
            return f"{foreign}: nnU-Net finds it in {folder}"
        raise InputError(
            problem
            or f"{foreign}, of nnU-Net or of a trainer in the folders of nnUNet_extTrainer"
            + (f"; if one of ours is meant, {meant}" if meant else "")
        )
    return "\n".join([name, *_aligned(names.explain(experiment).items())])


def _aligned(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align rows in columns, as lines of text; the last column is wrapped."""
    rows = list(rows)
    *widths, _ = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for *cells, text in rows:
        before = "  " + "".join(c.ljust(w + 2) for c, w in zip(cells, widths, strict=True))
        lines += textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=before,
            subsequent_indent=" " * len(before),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-trainers",
        description=(
            "List all trainer names of nnunet-meep, or explain some of them.\n\n"
            "Without NAME, lists all trainers and options. With NAME, explains each name, or says\n"
            "what is wrong with it and which valid name is nearest (exit code 1). Trains nothing:\n"
            "use it to check a name before a training."
        ),
        epilog=(
            "examples:\n"
            "  meep-trainers\n"
            f"  meep-trainers {grammar.EXAMPLE} nnUNetTrainerCE\n"
            "  meep-trainers $TRAINER && nnUNetv2_train 501 3d_fullres 0 -tr $TRAINER --npz"
        ),
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "names", metavar="NAME", nargs="*", default=[], help="a trainer name to explain"
    )
    asked.add_argument(
        "--version-info",
        action="store_true",
        help="show versions, devices and nnU-Net's folders, for a bug report",
    )
    return parser
