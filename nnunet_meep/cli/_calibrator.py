"""Shared code of the commands that apply a calibrator."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_meep.posthoc.apply import Applied


def add_any_network(parser: argparse.ArgumentParser) -> None:
    """Add the option to apply a calibrator to another network."""
    parser.add_argument(
        "--any-network",
        action="store_true",
        help=(
            "apply the calibrator to another trainer, configuration, fold or checkpoint than it "
            "was fitted to, and write that down; never to another data set"
        ),
    )


def say_network(applied: Applied) -> None:
    """Print notes if the predictions are, or may be, of another network than the calibrator's."""
    if applied.differences:
        print(
            f"Note: the calibrator was fitted to another network: {'; '.join(applied.differences)}"
        )
    if applied.unknown:
        print(
            f"Note: not checked, because the predictions or the calibrator do not say it: "
            f"{', '.join(applied.unknown)}"
        )
