"""Diagrams as objects: they hold the numbers, and draw them on axes of your own.

As scikit-learn's display objects: ``ReliabilityDisplay.from_evaluation(evaluation).plot(ax=ax)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nnunet_meep.evaluation.report.plots import COLORS, new_axes, plot_reliability
from nnunet_meep.evaluation.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ReliabilityDisplay:
    """A reliability diagram of one class, or of the predicted label.

    Attributes:
        bins: of all voxels: ``edges``, ``count``, ``mean_p``, ``mean_y`` as in
            ``calibration.json``.
        per_case: the same of each case.
    """

    bins: dict[str, list[float]]
    per_case: Sequence[dict[str, list[float]]] = ()

    @classmethod
    def from_evaluation(
        cls, evaluation: Evaluation, key: str | None = None, *, roi: str | None = None
    ) -> ReliabilityDisplay:
        """Of what :func:`nnunet_meep.evaluation.evaluate.evaluate` gives.

        Args:
            evaluation: of some cases.
            key: of the class as in ``calibration.json``, or ``"top_label"``; None: the first one.
            roi: name of the ROI; None: the first one.

        Raises:
            KeyError: there is no such class or region.
        """
        roi = next(iter(evaluation.pooled)) if roi is None else roi
        key = evaluation.labels.keys[0] if key is None else key
        per_case = [case.rois[roi].bins[key] for case in evaluation.cases]
        return cls(evaluation.pooled[roi].bins[key], per_case)

    def plot(
        self, ax: Axes | None = None, *, label: str = "all cases", color: str | None = None
    ) -> Axes:
        """Draw it, with single cases and a 95 % BCa bootstrap band over them.

        Args:
            ax: where to draw, for example over another model; None: new axes.
            label: of the line in the legend.
            color: of all but the diagonal, as matplotlib names it; None: blue.

        Returns:
            The axes.
        """
        ax = new_axes() if ax is None else ax
        plot_reliability(
            ax, self.bins, per_case=self.per_case, label=label, color=color or COLORS[0]
        )
        ax.legend(loc="best", frameon=False, fontsize="small")
        return ax
