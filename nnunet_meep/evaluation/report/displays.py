"""Diagrams as objects that hold the numbers and draw them on your own axes.

Used like scikit-learn's displays: ``ReliabilityDisplay.from_evaluation(evaluation).plot(ax=ax)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from nnunet_meep.evaluation.arrays import Arrays, reliability_of_arrays, risk_coverage
from nnunet_meep.evaluation.metrics.calibration import merged_bins
from nnunet_meep.evaluation.report.plots import (
    COLORS,
    new_axes,
    plot_reliability,
    plot_risk_coverage,
)
from nnunet_meep.evaluation.results import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ReliabilityDisplay:
    """A reliability diagram of one class, or of the predicted label.

    Attributes:
        bins: ``edges``, ``count``, ``mean_p``, ``mean_y`` over all voxels, as in
            ``calibration.json``.
        per_case: the same for each case.
    """

    bins: dict[str, list[float]]
    per_case: Sequence[dict[str, list[float]]] = ()

    @classmethod
    def from_evaluation(
        cls, evaluation: Evaluation, key: str | None = None, *, roi: str | None = None
    ) -> ReliabilityDisplay:
        """From the result of :func:`.evaluate` or :func:`.read_evaluation`.

        Args:
            evaluation: the result.
            key: class key as in ``Evaluation.classes``, or ``"top_label"``; None: the first class.
            roi: name of the ROI; None: the first one.

        Raises:
            KeyError: there is no such class or ROI.

        Example:
            >>> import nnunet_meep as nm
            >>> evaluation = nm.evaluate("labelsTs", "predictions")
            >>> ax = nm.ReliabilityDisplay.from_evaluation(evaluation, "2").plot()
            >>> ax.figure.savefig("reliability.png")
        """
        roi = evaluation.roi if roi is None else roi
        key = next(iter(evaluation.classes)) if key is None else key
        per_case = [case.rois[roi].bins[key] for case in evaluation.cases]
        return cls(evaluation.pooled[roi].bins[key], per_case)

    @classmethod
    def from_predictions(
        cls,
        probabilities: Arrays,
        labels: Arrays,
        key: str = "1",
        *,
        n_bins: int = 15,
        ignore_label: int | None = None,
    ) -> ReliabilityDisplay:
        """From arrays, see :mod:`nnunet_meep.evaluation.arrays`; a list of arrays is several cases.

        Args:
            probabilities, labels: (K, *shape) and (*shape), or lists of them.
            key: a foreground class, ``"1"`` to ``"K - 1"``, or ``"top_label"``.
            n_bins: number of bins, of equal width.
            ignore_label: label of the voxels to leave out.

        Raises:
            ValueError: an argument is invalid.

        Example:
            >>> import nnunet_meep as nm
            >>> import numpy as np
            >>> p = np.array([[0.9, 0.3, 0.6], [0.1, 0.7, 0.4]])
            >>> display = nm.ReliabilityDisplay.from_predictions(p, np.array([0, 1, 1]), n_bins=2)
            >>> display.bins["mean_y"]
            [0.5, 1.0]
        """
        cases = reliability_of_arrays(probabilities, labels, key, n_bins, ignore_label)
        return cls(merged_bins(cases), cases)

    def plot(
        self, ax: Axes | None = None, *, label: str = "all cases", color: str | None = None
    ) -> Axes:
        """Draw the diagram, with single cases and a 95 % BCa bootstrap band over the cases.

        Args:
            ax: where to draw, for example over another model; None: new axes.
            label: legend entry of the line.
            color: matplotlib colour of everything but the diagonal; None: blue.

        Returns:
            The axes.
        """
        ax = new_axes(square=True) if ax is None else ax
        plot_reliability(
            ax, self.bins, per_case=self.per_case, label=label, color=color or COLORS[0]
        )
        ax.legend(loc="best", frameon=False, fontsize="small")
        return ax


@dataclass(frozen=True)
class RiskCoverageDisplay:
    """A risk-coverage curve: the error rate that remains without the least confident voxels.

    Attributes:
        coverage: fractions of the voxels, ascending.
        risk: the error rate among the most confident voxels that make up this fraction.
    """

    coverage: Sequence[float]
    risk: Sequence[float]

    @classmethod
    def from_evaluation(
        cls, evaluation: Evaluation, key: str | None = None, *, roi: str | None = None
    ) -> RiskCoverageDisplay:
        """From an evaluation, over the voxels of all its cases.

        Args:
            evaluation: the result of :func:`.evaluate` or :func:`.read_evaluation`.
            key: ``"top_label"``, or for nnU-Net's regions the key of one; None: the first curve.
            roi: name of the ROI; None: the first one.

        Raises:
            KeyError: there is no such curve or ROI.

        Example:
            >>> import nnunet_meep as nm
            >>> evaluation = nm.evaluate("labelsTs", "predictions")
            >>> ax = nm.RiskCoverageDisplay.from_evaluation(evaluation).plot(label="default")
        """
        curves = evaluation.pooled[evaluation.roi if roi is None else roi].risk_coverage
        return cls(**curves[next(iter(curves)) if key is None else key])

    @classmethod
    def from_predictions(
        cls, probabilities: ArrayLike, labels: ArrayLike, *, ignore_label: int | None = None
    ) -> RiskCoverageDisplay:
        """From the arrays of one case, see :func:`nnunet_meep.risk_coverage`.

        Args:
            probabilities, labels: (K, *shape) and (*shape).
            ignore_label: label of the voxels to leave out.

        Raises:
            ValueError: an argument is invalid.
        """
        curve = risk_coverage(probabilities, labels, ignore_label=ignore_label)
        return cls(**{name: values.tolist() for name, values in curve.items()})

    def plot(
        self, ax: Axes | None = None, *, label: str = "all cases", color: str | None = None
    ) -> Axes:
        """Draw the curve against the fraction of voxels left out, on a log scale.

        Args, Returns: as for :meth:`ReliabilityDisplay.plot`.
        """
        ax = new_axes() if ax is None else ax
        curve = {"coverage": list(self.coverage), "risk": list(self.risk)}
        plot_risk_coverage(ax, curve, label=label, color=color or COLORS[0])
        ax.legend(loc="best", frameon=False, fontsize="small")
        return ax
