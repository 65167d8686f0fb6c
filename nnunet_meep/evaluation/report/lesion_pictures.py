"""Pictures of lesions: what is found at how many false alarms, and how sure the network was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from nnunet_meep.evaluation.counting.components import Lesions
from nnunet_meep.evaluation.metrics.calibration import merged_bins
from nnunet_meep.evaluation.metrics.lesions import CONFIDENCES, lesion_bins, pooled_lesions
from nnunet_meep.evaluation.report.figures import label_left_and_legend, panels_of, scale_alike
from nnunet_meep.evaluation.report.plots import (
    BLUE,
    color_of,
    plot_froc,
    plot_histogram,
    plot_reliability,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LesionLayer:
    """One line in a picture of lesions.

    Attributes:
        label: in the legend.
        cases: the lesions of one class in each case, once for each training.
        confidence: one of ``CONFIDENCES``.
        color, linestyle: of the line.
        with_band: show the 95 % interval over cases in a reliability diagram.
    """

    label: str
    cases: Sequence[Sequence[Lesions]]
    confidence: str = next(iter(CONFIDENCES))
    color: str = BLUE
    linestyle: str = "-"
    with_band: bool = True

    @property
    def all_cases(self) -> list[Lesions]:
        """Those of all cases and trainings."""
        return list(chain.from_iterable(self.cases))


def by_confidence(cases: Sequence[Lesions]) -> list[LesionLayer]:
    """A layer for each confidence of the same lesions; only the first one has a band."""
    return [
        LesionLayer(text, [[case] for case in cases], name, color_of(i), with_band=i == 0)
        for i, (name, text) in enumerate(CONFIDENCES.items())
    ]


def froc_figure(panels: Mapping[str, Sequence[LesionLayer]], title: str) -> Figure:
    """Free-response ROC curves, one panel for each class.

    Args:
        panels: by panel title, the lines in the panel. Those by expected Dice are left out: they
            are the same as by the mean probability.
        title: of the figure.
    """
    figure, axes = panels_of(list(panels), title)
    for (ax,), layers in zip(axes, panels.values(), strict=True):
        for layer in layers:
            if layer.confidence == "dice_expected":
                continue
            curve = pooled_lesions(layer.all_cases, 1)["confidence"][layer.confidence]["froc"]
            style = {"color": layer.color, "linestyle": layer.linestyle}
            plot_froc(ax, curve, label=layer.label, **style)
    label_left_and_legend(figure, axes)
    return figure


def lesion_reliability_figure(
    panels: Mapping[str, Sequence[LesionLayer]], title: str, n_bins: int
) -> Figure:
    """Reliability diagrams over lesions, each with its histogram below.

    Args:
        panels: by panel title, the lines in the panel.
        title: of the figure.
        n_bins: number of bins.
    """
    figure, axes = panels_of(list(panels), title, histograms=True)
    for (diagram, histogram), layers in zip(axes, panels.values(), strict=True):
        for layer in layers:
            pooled = pooled_lesions(layer.all_cases, n_bins)
            bins = pooled["confidence"][layer.confidence]["bins"]
            per_case = [
                merged_bins([lesion_bins(case, layer.confidence, n_bins) for case in trainings])
                for trainings in layer.cases
                if layer.with_band and trainings
            ]
            style = {"label": layer.label, "color": layer.color}
            plot_reliability(diagram, bins, per_case=per_case, single_cases=False, **style)
            plot_histogram(histogram, bins, fill=len(layers) == 1, of="lesions", **style)
        diagram.set(xlabel="", ylabel="share of real lesions")
        diagram.tick_params(labelbottom=False)
        names = {CONFIDENCES[layer.confidence] for layer in layers}
        histogram.set_xlabel(f"confidence: {names.pop()}" if len(names) == 1 else "confidence")
    scale_alike([histogram for _, histogram in axes])
    label_left_and_legend(figure, axes)
    return figure
