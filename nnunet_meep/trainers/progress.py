"""nnU-Net's training log with the monitor's values, which ``progress.png`` shows as well."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

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
_GREEN, _BLACK = "#009E73", "#000000"


class Side(NamedTuple):
    """One y axis of the panel.

    Attributes:
        label: of the axis.
        lines: {key of :data:`KEYS`: (name in the legend, line style, line width)}.
    """

    label: str
    lines: dict[str, tuple[str, str, float]]


#: On the left: what the training adjusts, or else what a fixed lambda is judged by.
LAMBDA = Side("lambda", {"lambda": ("lambda, the weight of the term", "-", 4)})
ECE = Side("pseudo ECE", {"mean_fg_ece": ("pseudo ECE, mean of the foreground classes", "-", 4)})
#: On the right. Single epochs are dotted, as in nnU-Net's figure.
UNEXPECTED = Side(
    "1 - expected errors / errors made",
    {
        "unexpected_errors": ("share of unexpected errors", ":", 3),
        "average_unexpected": ("share of unexpected errors (mov. avg.)", "-", 4),
    },
)
_TITLE = (
    "Calibration on validation patches. Where its largest probability is p, the network expects\n"
    "to be wrong with probability 1 - p. The share of unexpected errors is 0 if it makes as many\n"
    "errors as it expects, and 1 if it expects none of those that it makes."
)
#: In inches: as wide as nnU-Net's figure, and as high as one of its three panels.
_SIZE = (30, 18)
#: Range of the right axis' lower limit, which is below the last average. Shares of early epochs may
#: be far lower; there the line leaves the panel, rather than flatten what comes later.
_LOWEST_SHARE = (-3.0, -1.05)


class CalibrationLogger(LocalLogger):
    """nnU-Net's logger with :data:`KEYS`, and with one panel of them in ``progress.png``.

    Args:
        verbose: print what is logged, as in nnU-Net's logger.
        finds_lambda: show lambda in the panel; else, because it is constant, the pseudo ECE.
    """

    def __init__(self, verbose: bool = False, *, finds_lambda: bool = False) -> None:
        super().__init__(verbose)
        self._left = LAMBDA if finds_lambda else ECE
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
        """Draw nnU-Net's figure with our panel below it."""
        with replacing_file(Path(output_folder) / "progress.png") as temporary:
            super().plot_progress_png(str(temporary.parent))
            _append_below(temporary, self._panel())

    def _panel(self) -> NDArray[np.uint8]:
        """The panel as an image, (height, width, 4)."""
        figure = Figure(figsize=_SIZE, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        left = figure.subplots()
        right = left.twinx()
        right.grid(False)
        for axes, side, color in ((left, self._left, _BLACK), (right, UNEXPECTED, _GREEN)):
            for key, (name, style, width) in side.lines.items():
                values = self.my_fantastic_logging[key]
                marker = "o" if len(values) == 1 else None  # a line needs two
                axes.plot(values, color=color, ls=style, label=name, linewidth=width, marker=marker)
            axes.set_ylabel(side.label, color=color, labelpad=20)
        left.legend(loc=(0, 1))
        right.legend(loc=(0.5, 1))
        left.set_xlabel("epoch")
        figure.suptitle(_TITLE, x=0.05, ha="left")

        if self._left is LAMBDA:
            left.set_ylim(bottom=0)
        # An ECE spans decades in a training; a log scale needs at least one that is positive.
        elif any(value > 0 for value in self.my_fantastic_logging["mean_fg_ece"]):
            left.set_yscale("log")
        average = self.my_fantastic_logging["average_unexpected"][-1]
        lowest = np.clip(average - 0.05, *_LOWEST_SHARE)
        right.set_ylim(np.nan_to_num(lowest, nan=_LOWEST_SHARE[1]), 1.05)
        right.axhline(0, color=_GREEN, linewidth=2)
        for text, points, beside in (
            ("overconfident", 10, "bottom"),
            ("underconfident", -10, "top"),
        ):
            right.annotate(
                text,
                (0.01, 0),
                (0, points),
                xycoords=right.get_yaxis_transform(),
                textcoords="offset points",
                color=_GREEN,
                va=beside,
            )
        if np.isnan(self.my_fantastic_logging["mean_fg_ece"]).all():
            nothing = "nothing measured: the training log says why"
            right.text(0.5, 0.75, nothing, ha="center", transform=right.transAxes)
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
    both.save(path, compress_level=1)
