"""``report.html``: a comparison in a single file that works without network access."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from tqdm import tqdm

from nnunet_meep import __version__
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.evaluation.report.comparison_pictures import ComparisonPicture
from nnunet_meep.evaluation.report.comparison_tables import (
    TOO_SMALL,
    about_differences,
    cell,
    difference_head,
    difference_rows,
    note,
)
from nnunet_meep.evaluation.report.figures import save_figure
from nnunet_meep.evaluation.report.plots import color_of
from nnunet_meep.evaluation.report.verdict import about, columns, verdict_sentences
from nnunet_meep.evaluation.result_format import TOP_LABEL, nan_to_none

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Heading and explanation of each picture; slices are shown with the cases instead.
PICTURES = {
    "reliability": (
        "Reliability",
        "The observed frequency of a class among the voxels to which a model gives the probability "
        "p, over all cases. On the diagonal the two agree; below it the model is overconfident. "
        "The band is the 95 % interval over cases (BCa bootstrap). The histogram, on a log scale, "
        "shows how many voxels each point stands for.",
    ),
    "risk_coverage": (
        "Risk and coverage",
        "The error rate of the remaining voxels, if a person takes over the most uncertain ones. "
        "The faster a line falls, the better a model knows where it is wrong.",
    ),
    "volumes": (
        "Expected and true volume",
        "The sum of the probabilities as a volume, against the volume of the reference; one point "
        "for each case.",
    ),
    "errors": (
        "Expected and actual errors",
        "The error rate that a model expects (mean of 1 - largest probability) against its actual "
        "error rate; one point for each case. Below the diagonal it is overconfident.",
    ),
}


def render(
    comparison: Comparison,
    pictures: Mapping[str, ComparisonPicture],
    slices: Mapping[str, tuple[str, Path]],
    warnings: Sequence[str],
    progress: bool = False,
) -> str:
    """The page as HTML.

    Args:
        comparison: one that holds its evaluations.
        pictures: the result of :func:`.comparison_pictures`.
        slices: by case, what the picture of its slice shows and the path of the PNG.
        warnings: one line each.
        progress: show a progress bar on stderr.
    """
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        title=f"Calibration of {counted(len(comparison.models), 'model')}",
        subtitle=about(comparison),
        version=__version__,
        models=[{"name": m, "color": color_of(i)} for i, m in enumerate(comparison.models)],
        verdict=verdict_sentences(comparison),
        warnings=list(warnings),
        tables=[_table(comparison, key) for key in comparison.classes],
        differences={
            "about": about_differences(comparison),
            "head": difference_head(comparison),
            "rows": [_sortable(row) for row in difference_rows(comparison)],
        },
        pictures=_pictures(pictures, progress),
        cases=comparison.cases,
        slices={
            case: {"title": title, "uri": _uri(path.read_bytes(), "image/png")}
            for case, (title, path) in slices.items()
        },
        settings=_settings(comparison),
        definitions={
            metric: heading
            for metric, heading in CATALOGUE.items()
            if any(metric in keys for keys in comparison.summary[comparison.models[0]].values())
        },
        data=_json(_data(comparison)),
    )


def _read(name: str) -> str:
    """The template, or a style or script that it includes; they are stored beside this file."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _table(comparison: Comparison, key: str) -> dict[str, Any]:
    shown = columns(comparison, key)
    return {
        "key": key,
        "title": _class_title(comparison, key),
        "metrics": {metric: CATALOGUE[metric].heading for metric in shown},
        "rows": [
            {
                "model": model,
                "note": note(comparison, model, key),
                "cells": [_cell(comparison, model, key, metric) for metric in shown],
            }
            for model in comparison.models
        ],
        "all": [
            {
                "metric": metric,
                "text": CATALOGUE[metric].heading,
                "cells": [_cell(comparison, model, key, metric) for model in comparison.models],
            }
            for metric in comparison.summary[comparison.models[0]][key]
        ],
    }


def _cell(comparison: Comparison, model: str, key: str, metric: str) -> dict[str, Any]:
    text, best = cell(comparison, model, key, metric)
    value = _value(comparison.summary[model][key][metric]["mean"])
    return {"model": model, "metric": metric, "text": text, "best": best, "value": value}


def _class_title(comparison: Comparison, key: str) -> str:
    name = comparison.classes[key]
    return "All classes (top label)" if key == TOP_LABEL else f"{name} (label {key})"


def _sortable(row: list[str]) -> list[tuple[str, str]]:
    """Each text with its sort key: the number it starts with, or the text; "" sorts last."""
    words = [*row[:3], *(text.split(" ")[0] for text in row[3:])]
    return [
        (text, "" if text in ("-", TOO_SMALL) else word)
        for text, word in zip(row, words, strict=True)
    ]


def _pictures(pictures: Mapping[str, ComparisonPicture], progress: bool) -> list[dict[str, Any]]:
    """Each picture as one panel per class, so that the page can arrange them to fit its width."""
    rendered: dict[str, dict[str, Any]] = {
        name: {"name": name, "heading": PICTURES[name][0], "about": PICTURES[name][1], "panels": []}
        for name in pictures
    }
    panels = [(name, key, text) for name, p in pictures.items() for key, text in p.panels.items()]
    for name, key, text in tqdm(panels, desc="report", disable=not progress):
        uri = _svg(pictures[name].draw([key], ""))
        rendered[name]["panels"].append({"alt": f"{PICTURES[name][0]}, {text}", "uri": uri})
    return list(rendered.values())


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    save_figure(figure, buffer, "svg")
    return _uri(buffer.getvalue(), "image/svg+xml")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _settings(comparison: Comparison) -> dict[str, Any]:
    """The table of settings: a column for each training, a row for each setting."""
    columns = [
        (model if len(trainings) == 1 else f"{model} ({i} of {len(trainings)})", training)
        for model, trainings in comparison.evaluations.items()
        for i, training in enumerate(trainings, 1)
    ]
    names = dict.fromkeys(name for _, t in columns for name in t.settings)
    rows = [
        (name, [json.dumps(t.settings.get(name)).strip('"') for _, t in columns]) for name in names
    ]
    rows.insert(0, ("cases", [str(len(t.cases)) for _, t in columns]))
    return {"head": [name for name, _ in columns], "rows": rows}


def _data(comparison: Comparison) -> dict[str, Any]:
    """The data that the page's script shows on demand: summaries and values of each case."""
    values = {
        model: {
            key: {
                metric: [_value(v) for v in comparison.values(model, key, metric)]
                for metric in metrics
            }
            for key, metrics in keys.items()
        }
        for model, keys in comparison.summary.items()
    }
    return {
        "classes": {key: _class_title(comparison, key) for key in comparison.classes},
        "metrics": {
            metric: {
                "text": m.heading,
                "digits": m.unit.digits,
                "scale": m.unit.scale,
                "what": m.explanation,
            }
            for metric, m in CATALOGUE.items()
        },
        "columns": {key: columns(comparison, key) for key in comparison.classes},
        "models": list(comparison.models),
        "roi": describe(comparison.roi),
        "settings": {
            model: [training.settings for training in trainings]
            for model, trainings in comparison.evaluations.items()
        },
        "cases": list(comparison.cases),
        "summary": comparison.summary,
        "values": values,
    }


def _value(value: float) -> float | None:
    """Round to six digits, which are enough for a page; NaN becomes None."""
    return (
        None if math.isnan(value) else float(np.format_float_positional(value, 6, fractional=False))
    )


def _json(content: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(nan_to_none(content), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
