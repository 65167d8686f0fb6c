"""nnU-Net's training log with the monitor's values, which ``progress.png`` shows as well."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from numpy.typing import NDArray
from PIL import Image

from nnunet_meep.atomic import replacing_file
from nnunet_meep.trainers.control import ErrorSums, Signal

#: Keys added to nnU-Net's own, with one value per epoch each.
KEYS = (
    "segmentation_loss",
    "term_value",
    "misclassified",
    "misclassified_entropy",
    "ece_per_class_or_region",
    "mean_fg_ece",
    "brier_per_class_or_region",
    "mean_fg_brier",
    "unexpected_errors",
    *(f"validation_{name}" for name in ErrorSums._fields),
    *(f"average_{name}" for name in Signal._fields),
    "lambda",
)

# Colours by Okabe and Ito, which colour-blind people can tell apart.
_BLUE, _VERMILLION, _GREEN, _PURPLE, _BLACK = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"
#: Each panel: (axis label, {key: (name, colour, line style)}) for its left and right axes.
PANELS = (
    (
        ("loss (training)", {"segmentation_loss": ("segmentation loss", _BLUE, "-")}),
        ("term (training)", {"term_value": ("term, without lambda", _GREEN, "--")}),
    ),
    (
        (
            "pseudo ECE, pseudo Brier (validation)",
            {
                "mean_fg_ece": ("pseudo ECE", _BLUE, "-"),
                "mean_fg_brier": ("pseudo Brier", _VERMILLION, "-"),
            },
        ),
        (
            "unexpected errors (validation)",
            {
                "unexpected_errors": ("unexpected errors (below 0: underconfident)", _GREEN, ":"),
                "average_unexpected": ("r, their average", _GREEN, "--"),
            },
        ),
    ),
    (
        ("share of voxels (training)", {"misclassified": ("misclassified", _BLACK, "-")}),
        (
            "entropy / log K (training)",
            {"misclassified_entropy": ("entropy of the misclassified", _PURPLE, "--")},
        ),
    ),
    (
        ("lambda", {"lambda": ("lambda", _BLACK, "-")}),
        (
            "share of voxels (validation, average)",
            {
                "average_errors": ("A, errors", _VERMILLION, "--"),
                "average_expected": ("E, expected errors", _BLUE, "--"),
            },
        ),
    ),
)
#: Lower limit of the axis: early in training, the share of unexpected errors may be far below 0.
_LOWEST_SHARE = -3.0


class CalibrationLogger(LocalLogger):
    """nnU-Net's logger with :data:`KEYS`, and with :data:`PANELS` in ``progress.png``."""

    def __init__(self, verbose: bool = False) -> None:
        super().__init__(verbose)
        self._add_missing()

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore a log; one that was written without this package gets NaN for :data:`KEYS`."""
        super().load_checkpoint(checkpoint)
        self._add_missing()

    def _add_missing(self) -> None:
        n_epochs = len(self.my_fantastic_logging["train_losses"])
        for key in KEYS:
            self.my_fantastic_logging.setdefault(key, [math.nan] * n_epochs)

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw nnU-Net's figure with our panels below it."""
        super().plot_progress_png(output_folder)
        _append_below(Path(output_folder) / "progress.png", self._panel())

    def _panel(self) -> NDArray[np.uint8]:
        """The panels as an image as wide as nnU-Net's figure, (height, width, 4)."""
        figure = Figure(figsize=(30, 13 * len(PANELS)))
        canvas = FigureCanvasAgg(figure)
        for left, sides in zip(np.ravel(figure.subplots(len(PANELS), 1)), PANELS, strict=True):
            right = left.twinx()
            right.grid(False)
            left.set_xlabel("epoch")
            for axes, (label, lines), legend_at in zip((left, right), sides, (0, 0.5), strict=True):
                for key, (name, color, style) in lines.items():
                    values = self.my_fantastic_logging[key]
                    marker = "o" if len(values) == 1 else None  # a line needs two
                    axes.plot(values, color=color, ls=style, label=name, linewidth=4, marker=marker)
                axes.set_ylabel(label)
                axes.legend(loc=(legend_at, 1))
        calibration, misclassified, weight, _, shares, entropy, errors = figure.axes[1:]
        for axes in (calibration, misclassified, errors):
            # Values span decades in a training; a log scale needs at least one that is positive.
            if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
                axes.set_yscale("log")
        entropy.set_ylim(0, 1.05)
        weight.set_ylim(bottom=0)
        lowest = np.nanmin([-1.05, *self.my_fantastic_logging["unexpected_errors"]])
        shares.set_ylim(max(lowest, _LOWEST_SHARE), 1.05)
        shares.axhline(0, color=_GREEN, linewidth=1)
        figure.tight_layout()
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())


def _append_below(path: Path, panel: NDArray[np.uint8]) -> None:
    """Append an image below the one in a PNG file."""
    with Image.open(path) as image:
        above = image.convert("RGB")
    below = Image.fromarray(panel).convert("RGB")
    both = Image.new("RGB", (max(above.width, below.width), above.height + below.height), "white")
    both.paste(above, (0, 0))
    both.paste(below, (0, above.height))
    with replacing_file(path) as temporary:
        both.save(temporary, compress_level=1)
