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
            "apply the calibrator even if it was fitted to another trainer, configuration, fold or "
            "checkpoint, and record this; another data set is always refused"
        ),
    )


def say_note(line: str) -> None:
    """Print a note, at once."""
    print(f"Note: {line}", flush=True)


def say_labels(applied: Applied) -> None:
    """Print what became of the labels, if any have changed, and where the volumes are."""
    if changed := applied.n_changed:
        what = "calibration, with its thresholds," if applied.by_thresholds else "calibration"
        say_note(
            f"the {what} changed the label of {sum(changed.values()):,} voxels, in "
            f"{len(changed)} of {applied.n_in_words}"
        )
    if gone := applied.vanished:
        say_note(f"in these cases, no voxel has the label of {' or '.join(gone)} any more")
    if applied.volumes is not None:
        print(f"volumes with their intervals: {applied.volumes}")
