"""The pictures of a comparison, with the models overlaid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.metrics.calibration import merged_bins
from nnunet_meep.evaluation.report.figures import (
    Layer,
    label_left_and_legend,
    panels_of,
    reliability_figure,
)
from nnunet_meep.evaluation.report.lesion_pictures import (
    LesionLayer,
    froc_figure,
    lesion_reliability_figure,
)
from nnunet_meep.evaluation.report.lesion_tables import has_lesions, lesions_by_case
from nnunet_meep.evaluation.report.plots import (
    color_of,
    line_of,
    marker_of,
    plain,
    plot_agreement,
    plot_case_risk,
    plot_risk_coverage,
)
from nnunet_meep.evaluation.result_format import TOP_LABEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure


#: Those of :func:`comparison_pictures` that not every comparison has.
OPTIONAL = ("volumes", "errors", "expected_dice", "case_risk", "froc", "lesion_reliability")


@dataclass(frozen=True)
class ComparisonPicture:
    """A picture with the models overlaid, drawn for all classes together or for each alone.

    Attributes:
        panels: panel titles by class key.
        draw: takes some of these keys and a title for the whole figure; returns the figure.
    """

    panels: dict[str, str]
    draw: Callable[[Sequence[str], str], Figure]


def comparison_pictures(comparison: Comparison) -> dict[str, ComparisonPicture]:
    """The pictures of a comparison, by name.

    Args:
        comparison: one that holds its evaluations.

    Returns:
        ``reliability``: pooled over the compared cases and the trainings of a model, with
        a BCa bootstrap band over cases; ``risk_coverage``: pooled over all cases of a model,
        averaged over its trainings; ``volumes``: expected against true volume of each case, left
        out for 2D images; ``errors``: expected against actual error rate of each case;
        ``expected_dice``: expected against actual Dice of each case; ``case_risk``: mean 1 - Dice
        of the cases with the highest expected Dice; ``froc`` and ``lesion_reliability``: of the
        lesions by their mean probability, pooled over the compared cases and the trainings. Each is
        left out if it would be empty.
    """
    titles = {
        key: "all classes (top label)" if key == TOP_LABEL else f"{name} (label {key})"
        for key, name in comparison.classes.items()
    }
    foreground = {k: t for k, t in titles.items() if k != TOP_LABEL}
    of_errors = {TOP_LABEL: titles[TOP_LABEL]} if TOP_LABEL in titles else foreground

    models = comparison.models

    def reliability(keys: Sequence[str], title: str) -> Figure:
        panels = {
            titles[key]: [layer(comparison, m, key, i) for i, m in enumerate(models)]
            for key in keys
        }
        return reliability_figure(panels, title, top_label=titles.get(TOP_LABEL))

    def risk_coverage(keys: Sequence[str], title: str) -> Figure:
        figure, axes = panels_of([titles[key] for key in keys], title)
        for (ax,), key in zip(axes, keys, strict=True):
            for i, model in enumerate(models):
                trainings = comparison.evaluations[model]
                curve = _mean_curve([t.pooled[t.roi].risk_coverage[key] for t in trainings])
                style = {"color": color_of(i), "linestyle": line_of(i)}
                plot_risk_coverage(ax, curve, label=plain(model), **style)
        label_left_and_legend(figure, axes)
        return figure

    def agreement(actual: str, expected: str, words: str, scale: float) -> Callable[..., Figure]:
        def draw(keys: Sequence[str], title: str) -> Figure:
            figure, axes = panels_of([titles[key] for key in keys], title)
            for (ax,), key in zip(axes, keys, strict=True):
                for i, model in enumerate(models):
                    x, y = (
                        scale * comparison.values(model, key, metric)
                        for metric in (actual, expected)
                    )
                    style = {"color": color_of(i), "marker": marker_of(i)}
                    plot_agreement(ax, x, y, label=plain(model), **style)
                ax.set(xlabel=f"true {words}", ylabel=f"expected {words}")
            label_left_and_legend(figure, axes)
            return figure

        return draw

    def case_risk(keys: Sequence[str], title: str) -> Figure:
        figure, axes = panels_of([titles[key] for key in keys], title)
        for (ax,), key in zip(axes, keys, strict=True):
            for i, model in enumerate(models):
                risk = comparison.ranking[model][key]["risk"]
                style = {"color": color_of(i), "marker": marker_of(i)}
                plot_case_risk(ax, risk, label=plain(model), **style)
        label_left_and_legend(figure, axes)
        return figure

    found = {
        "reliability": ComparisonPicture(titles, reliability),
        "risk_coverage": ComparisonPicture(of_errors, risk_coverage),
    }
    of_first = comparison.summary[models[0]]
    if any(of_first[key]["volume_true_ml"]["n"] for key in foreground):
        volumes = agreement("volume_true_ml", "volume_expected_ml", "volume, ml", 1)
        found["volumes"] = ComparisonPicture(foreground, volumes)
    if any(of_first[key]["error_rate"]["n"] for key in of_errors):
        errors = agreement("error_rate", "error_rate_expected", "error rate, %", 100)
        found["errors"] = ComparisonPicture(of_errors, errors)
    if any(
        of_class["n"] for of_model in comparison.ranking.values() for of_class in of_model.values()
    ):
        expected_dice = agreement("dice", "dice_expected", "Dice", 1)
        found["expected_dice"] = ComparisonPicture(foreground, expected_dice)
        found["case_risk"] = ComparisonPicture(foreground, case_risk)
    if has_lesions(comparison):
        found |= _of_lesions(comparison, foreground)
    return found


def _of_lesions(comparison: Comparison, titles: dict[str, str]) -> dict[str, ComparisonPicture]:
    def layers(keys: Sequence[str]) -> dict[str, list[LesionLayer]]:
        return {
            titles[key]: [
                LesionLayer(
                    plain(m),
                    lesions_by_case(comparison, m, key),
                    color=color_of(i),
                    linestyle=line_of(i),
                )
                for i, m in enumerate(comparison.models)
            ]
            for key in keys
        }

    n_bins = comparison.evaluations[comparison.models[0]][0].settings["bins"]
    return {
        "froc": ComparisonPicture(titles, lambda keys, title: froc_figure(layers(keys), title)),
        "lesion_reliability": ComparisonPicture(
            titles, lambda keys, title: lesion_reliability_figure(layers(keys), title, n_bins)
        ),
    }


def layer(comparison: Comparison, model: str, key: str, i: int = 0) -> Layer:
    """The bins of the i-th model for a class, over the compared cases and all its trainings."""
    trainings = comparison.evaluations[model]
    of_case = [{c.case: c.rois[t.roi].bins[key] for c in t.cases} for t in trainings]
    per_case = [
        merged_bins([bins[case] for bins in of_case if case in bins]) for case in comparison.cases
    ]
    return Layer(plain(model), merged_bins(per_case), per_case, color_of(i), marker_of(i))


def _mean_curve(curves: Sequence[dict[str, list[float]]]) -> dict[str, list[float]]:
    risk = np.array([curve["risk"] for curve in curves])
    return {"coverage": curves[0]["coverage"], "risk": risk.mean(axis=0).tolist()}
