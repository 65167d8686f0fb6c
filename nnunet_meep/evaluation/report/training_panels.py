"""Pictures of trainings for the page: a point for each training, and curves over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.comparison import Comparison, values_of_trainings
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.repeated import mean_of_defined
from nnunet_meep.evaluation.report.curves import TITLES
from nnunet_meep.evaluation.report.provenance import training_names
from nnunet_meep.evaluation.report.svg_axes import path, scale_around
from nnunet_meep.evaluation.report.verdict import columns

#: By model, for each training its ``name``, ``values`` (by curve, one number for each epoch, as for
#: :func:`.curves_figure`; others have their key as title), and maybe ``costs`` (by name, a number
#: or a text).
Curves: TypeAlias = "Mapping[str, Sequence[Mapping[str, Any]]]"

#: Of which metrics each training is a point, as far as the tables show them.
HEADLINE = ("dice", "ece", "brier_plus", "smece", "aurc", "error_rate_ratio")
_WIDTH, _ROW, _LEFT, _HEIGHT = 340, 34, 50, 200


def training_dots(comparison: Comparison) -> list[dict[str, Any]]:
    """Means of each training, if a model has several; else nothing.

    Returns:
        For each class ``key``, and ``plots``: ``metric``, ``heading``, ``ticks``, ``height`` and
        ``rows``, one for each model: ``y``, ``mean`` (that of the tables, None if undefined) and
        ``dots`` of (x, training, text).
    """
    if all(n == 1 for n in comparison.n_trainings.values()):
        return []
    names = {m: training_names(ts) for m, ts in comparison.evaluations.items()}
    return [
        {
            "key": key,
            "width": _WIDTH,
            "plots": [
                _dots(comparison, key, metric, names)
                for metric in columns(comparison, key)
                if metric in HEADLINE
            ],
        }
        for key in comparison.classes
    ]


def _dots(
    comparison: Comparison, key: str, metric: str, names: Mapping[str, list[str]]
) -> dict[str, Any]:
    entry = CATALOGUE[metric]
    means = {
        model: mean_of_defined(values_of_trainings(ts, comparison.cases, key, metric).T).tolist()
        for model, ts in comparison.evaluations.items()
    }
    unit = entry.unit.scale
    across = scale_around((unit * v for vs in means.values() for v in vs), 12, _WIDTH - 12)
    rows = []
    for i, model in enumerate(comparison.models):
        mean = comparison.summary[model][key][metric]["mean"]
        rows.append(
            {
                "y": 26 + i * _ROW,
                "mean": None if math.isnan(mean) else across(unit * mean),
                "dots": [
                    (across(unit * value), name, entry.number(value))
                    for value, name in zip(means[model], names[model], strict=True)
                    if not math.isnan(value)
                ],
            }
        )
    return {
        "metric": metric,
        "heading": entry.heading,
        "ticks": across.ticks(),
        "height": 44 + len(rows) * _ROW,
        "rows": rows,
    }


def refuse_curves(curves: Curves, models: Sequence[str]) -> None:
    """Refuse curves that do not belong to the models or are not lists of numbers.

    Raises:
        InputError: the curves of which model are not as :data:`Curves` says.
    """
    if unknown := [model for model in curves if model not in models]:
        raise InputError(
            f"curves: expected those of the models {', '.join(models)}, got {unknown[0]}"
        )
    for model, trainings in curves.items():
        if not isinstance(trainings, Sequence):
            raise InputError(f"curves of {model}: expected a list of trainings, got {trainings}")
        for training in trainings:
            if problem := _wrong_with(training):
                raise InputError(f"curves of {model}{problem}")


def _wrong_with(training: Any) -> str:
    """What makes an entry of the curves no training; empty if nothing does."""
    values = training.get("values") if isinstance(training, Mapping) else None
    if not isinstance(values, Mapping) or not isinstance(training.get("name"), str):
        return f": expected a name and values for each training, got {str(training)[:60]}"
    for name, numbers in values.items():
        if not isinstance(numbers, Sequence) or not all(map(_is_number, numbers)):
            return f", {training['name']}: expected numbers for {name}, got {str(numbers)[:60]}"
    if not isinstance(costs := training.get("costs", {}), Mapping):
        return f", {training['name']}: expected costs by name, got {str(costs)[:60]}"
    return ""


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, Real)


def training_curves(curves: Curves, models: Sequence[str]) -> list[dict[str, Any]]:
    """What the template draws for each curve.

    Returns:
        ``key`` and ``name``, the ticks of both axes, and ``lines``: model, training, path.
    """
    found = dict.fromkeys(n for ts in curves.values() for t in ts for n in t["values"])
    panels = []
    for curve in found:
        lines = [
            (models.index(model), t["name"], [math.nan if v is None else v for v in values])
            for model, trainings in curves.items()
            for t in trainings
            if (values := t["values"].get(curve))
        ]
        n = max((len(values) for _, _, values in lines), default=0)
        across = scale_around([0, n - 1], _LEFT, _WIDTH - 8)
        up = scale_around((v for *_, values in lines for v in values), _HEIGHT - 36, 8)
        panels.append(
            {
                "key": curve,
                "name": TITLES.get(curve, curve),
                "width": _WIDTH,
                "height": _HEIGHT,
                "left": _LEFT,
                "x_ticks": [tick for tick in across.ticks(whole=True) if 0 <= float(tick[1]) < n],
                "y_ticks": up.ticks(),
                "lines": [
                    (i, name, path([(across(k), up(v)) for k, v in enumerate(values)]))
                    for i, name, values in lines
                ],
            }
        )
    return panels


def training_costs(curves: Curves) -> dict[str, Any]:
    """The table of what trainings cost: ``head`` and ``rows``; no rows if nothing is given."""
    of_training = [(m, t["name"], t.get("costs", {})) for m, ts in curves.items() for t in ts]
    names = list(dict.fromkeys(name for *_, costs in of_training for name in costs))
    return {
        "head": names,
        "rows": [
            (model, training, [_cost(costs.get(name, "-")) for name in names])
            for model, training, costs in of_training
            if costs
        ],
    }


def _cost(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
