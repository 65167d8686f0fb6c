"""``meep-quickstart``: try everything out on a small data set."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from nnunet_meep.cli._parser import command_parser
from nnunet_meep.cli._run import run


def _get_parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "meep-quickstart",
        description=(
            "Tries the installation out: trains nnU-Net with its default loss and with MEEP-KL\n"
            "for a few dozen iterations each on a small synthetic data set, predicts test scans,\n"
            "and compares accuracy and calibration. Needs no GPU and no download; takes a few\n"
            "minutes on two cores. Shows each command as it runs it. So short a training proves\n"
            "the installation, not the method: nnU-Net trains 1000 epochs of 250 iterations."
        ),
        epilog=(
            "FOLDER must be new, empty, or hold only what an earlier meep-quickstart left there;\n"
            "that is deleted first. If it holds anything else, the command stops and changes\n"
            "nothing. Your nnUNet_raw, nnUNet_preprocessed and nnUNet_results are not used.\n\n"
            "examples:\n"
            "  meep-quickstart\n"
            "  meep-quickstart --data $nnUNet_raw/Dataset004_Hippocampus -o hippocampus"
        ),
    )
    parser.add_argument(
        "-o",
        metavar="FOLDER",
        type=Path,
        default=Path("meep_quickstart"),
        help="working folder, for everything (default: ./meep_quickstart)",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        type=Path,
        help=(
            "use this DatasetXXX_NAME folder in nnU-Net's raw format (only read) instead of the "
            "synthetic data; without labelsTs the validation cases of fold 0 are evaluated"
        ),
    )
    parser.add_argument(
        "-device",
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="as for nnUNetv2_train (default: cuda if there is a GPU, else cpu)",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(lambda: _quickstart(_get_parser().parse_args(args)))


def _quickstart(arguments: argparse.Namespace) -> None:
    from nnunet_meep.benchmark.quickstart import quickstart

    # If it is terminated (SIGTERM) or its terminal is closed (SIGHUP), it must end its commands
    # too, as with Ctrl-C. Under nohup, SIGHUP is ignored and must stay so.
    signals = {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    changed = [s for s in signals if signal.getsignal(s) is signal.SIG_DFL]
    for s in changed:
        signal.signal(s, signal.default_int_handler)
    try:
        quickstart(arguments.o, data=arguments.data, device=arguments.device)
    finally:
        for s in changed:
            signal.signal(s, signal.SIG_DFL)
