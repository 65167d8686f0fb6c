"""What the commands that apply a calibrator have in common."""

from __future__ import annotations

import argparse


def add_any_network(parser: argparse.ArgumentParser) -> None:
    """The option to apply a calibrator to another network."""
    parser.add_argument(
        "--any-network",
        action="store_true",
        help=(
            "apply the calibrator to another trainer, configuration, fold or checkpoint than it "
            "was fitted to, and write that down; never to another data set"
        ),
    )
