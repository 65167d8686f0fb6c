"""``report.html``: a comparison in a single file that works without network access."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from tqdm import tqdm

from nnunet_meep import __version__
from nnunet_meep.evaluation.comparison import Comparison, judged
from nnunet_meep.evaluation.counting.roi import describe
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.report.case_choice import RANKED_BY, ranked_cases
from nnunet_meep.evaluation.report.case_layers import (
    ENTROPY_MAP,
    PROBABILITY_MAP,
    CasePictures,
    color_steps,
)
from nnunet_meep.evaluation.report.comparison_pictures import ComparisonPicture
from nnunet_meep.evaluation.report.comparison_tables import (
    TOO_SMALL,
    about_differences,
    cell,
    challenge_columns,
    difference_table,
    note,
)
from nnunet_meep.evaluation.report.curves import MEANINGS, TITLES
from nnunet_meep.evaluation.report.figures import save_figure
from nnunet_meep.evaluation.report.lesion_tables import (
    WRONG_HEAD,
    about_compared,
    compared_lesions,
    has_lesions,
    wrong_lesions,
)
from nnunet_meep.evaluation.report.plots import MARKERS, PAGE_COLORS
from nnunet_meep.evaluation.report.provenance import page_title, provenance, settings_tables
from nnunet_meep.evaluation.report.reliability_panels import (
    GEOMETRY,
    reliability_bins_of,
    reliability_panels,
)
from nnunet_meep.evaluation.report.scans import MANY_CASES, scan_section
from nnunet_meep.evaluation.report.slice_figures import ERROR_COLORS
from nnunet_meep.evaluation.report.training_panels import (
    Curves,
    training_costs,
    training_curves,
    training_dots,
)
from nnunet_meep.evaluation.report.verdict import (
    columns,
    not_segmented,
    short_verdict,
    verdict_sentences,
)
from nnunet_meep.evaluation.result_format import TOP_LABEL, nan_to_none

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Heading and explanation of each picture that the page embeds as it is in the folder.
PICTURES = {
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
    "froc": (
        "Lesions found and false ones",
        "The share of the lesions that a model finds, against how many false ones per scan it "
        "takes (FROC): the lesions of its segmentation, from the one with the highest mean "
        "probability on. The point at the end is the segmentation with all of them.",
    ),
    "lesion_reliability": (
        "Reliability of lesions",
        "The share of real ones among segmented lesions of a certain mean probability. Below the "
        "diagonal a model is overconfident. The band is the 95 % interval over cases (BCa "
        "bootstrap).",
    ),
}

#: The same for the section on scans; the other picture there is the page's own.
SCAN_PICTURES = {
    "case_risk": (
        "Risk if the least sure scans are set aside",
        "Mean 1 - Dice of the cases that are left, if a person takes over those with the lowest "
        "expected Dice. A line that falls to the left puts the bad cases last.",
    ),
}


def render(
    comparison: Comparison,
    pictures: Mapping[str, ComparisonPicture],
    cases: Sequence[CasePictures],
    warnings: Sequence[str],
    curves: Curves,
    pages: Mapping[str, str] | None = None,
    progress: bool = False,
) -> str:
    """The page as HTML.

    Args:
        comparison: one that holds its evaluations.
        pictures: the result of :func:`.comparison_pictures`; of reliability the page has its own.
        cases: the cases that can be looked at.
        warnings: one line each.
        curves: of the trainings, see :data:`.Curves`; may be empty.
        pages: see :func:`.write_comparison_report`.
        progress: show a progress bar on stderr.
    """
    environment = Environment(
        loader=FunctionLoader(_read), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    bins = reliability_bins_of(comparison, progress)
    return environment.get_template("page.html.j2").render(
        title=page_title(comparison),
        version=__version__,
        provenance=provenance(comparison),
        pages=pages or {},
        models=comparison.models,
        colors=[PAGE_COLORS[i % len(PAGE_COLORS)] for i in range(len(comparison.models))],
        classes={key: _class_title(comparison, key) for key in comparison.classes},
        verdict=short_verdict(comparison),
        sentences=_in_words(comparison),
        not_segmented=not_segmented(comparison),
        warnings=list(warnings),
        reliability=reliability_panels(comparison, bins),
        geometry=GEOMETRY,
        markers=[path for _, path in MARKERS],
        tables=[_table(comparison, key) for key in comparison.classes],
        lesions=_lesions(comparison),
        differences=_differences(comparison),
        pictures=_pictures({n: p for n, p in pictures.items() if n in PICTURES}, progress),
        scans=scan_section(comparison),
        scan_pictures=_pictures(
            {n: p for n, p in pictures.items() if n in SCAN_PICTURES}, progress
        ),
        cases=comparison.cases,
        many_cases=len(comparison.cases) > MANY_CASES,
        case_pictures=cases,
        gradients={name: color_steps(name) for name in (PROBABILITY_MAP, ENTROPY_MAP)},
        error_colors=ERROR_COLORS,
        dots=training_dots(comparison),
        curves=training_curves(curves, comparison.models),
        costs=training_costs(curves),
        curve_definitions={
            key: (TITLES[key], MEANINGS[key])
            for key in MEANINGS
            if any(t["values"].get(key) for ts in curves.values() for t in ts)
        },
        settings=settings_tables(comparison),
        definitions={
            metric: heading
            for metric, heading in CATALOGUE.items()
            if any(metric in keys for keys in comparison.summary[comparison.models[0]].values())
        },
        data=_json(_data(comparison, bins)),
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


def _lesions(comparison: Comparison) -> dict[str, Any]:
    """The tables of lesions by class title; none if not all models have lesions."""
    if not has_lesions(comparison):
        return {"classes": []}
    return {
        "about": about_compared(comparison),
        "wrong_head": WRONG_HEAD,
        "classes": [
            {
                "title": _class_title(comparison, key),
                "rows": compared_lesions(comparison, key),
                "challenge": {
                    "metrics": {
                        metric: CATALOGUE[metric].heading
                        for metric in challenge_columns(comparison, key)
                    },
                    "rows": [
                        (m, [_cell(comparison, m, key, metric) for metric in metrics])
                        for m in comparison.models
                        if (metrics := challenge_columns(comparison, key))
                    ],
                },
                "wrong": wrong_lesions(comparison, key),
            }
            for key in comparison.classes
            if key != TOP_LABEL
        ],
    }


def _in_words(comparison: Comparison) -> list[str]:
    """The verdict on each metric in the tables; nothing as long as none is better or worse."""
    shown = {
        comparison.verdict(model, key, metric)
        for model in comparison.differences
        for key in comparison.classes
        for metric in columns(comparison, key)
    }
    return verdict_sentences(comparison) if {"better", "worse"} & shown else []


def _cell(comparison: Comparison, model: str, key: str, metric: str) -> dict[str, Any]:
    text, best = cell(comparison, model, key, metric)
    value = _value(comparison.summary[model][key][metric]["mean"])
    return {"model": model, "metric": metric, "text": text, "best": best, "value": value}


def _class_title(comparison: Comparison, key: str) -> str:
    name = comparison.classes[key]
    return "All classes (top label)" if key == TOP_LABEL else f"{name} (label {key})"


def _differences(comparison: Comparison) -> dict[str, Any]:
    """The table of differences, with the mean of the model that each row is about.

    For metrics whose best value is 1 it is the mean distance to 1, whose difference is shown. The
    page folds the table if there are too few cases for any corrected p to be small.
    """
    if not comparison.differences:
        return {"rows": []}
    shown = [
        (model, key, metric)
        for key in comparison.classes
        for metric in columns(comparison, key)
        for model in comparison.differences
    ]
    head, *texts = difference_table(comparison)
    rows = []
    for (model, key, metric), row in zip(shown, texts, strict=True):
        class_name, heading, _, *others = row
        mean = judged(comparison.summary[model][key][metric])
        text = "-" if math.isnan(mean) else CATALOGUE[metric].number(mean)
        numbers = [(t, "" if t in ("-", TOO_SMALL) else t.split(" ")[0]) for t in others]
        names = [(name, name) for name in (model, class_name, heading)]
        rows.append([*names, (text, "" if math.isnan(mean) else mean), *numbers])
    return {
        "about": about_differences(comparison),
        "head": ["model", *head[:2], "mean", *head[3:]],
        "rows": rows,
        "folded": "p (Holm)" not in head,
    }


def _pictures(pictures: Mapping[str, ComparisonPicture], progress: bool) -> list[dict[str, Any]]:
    """Each picture as one panel per class, so that the page can arrange them to fit its width."""
    texts = {**PICTURES, **SCAN_PICTURES}
    rendered: dict[str, dict[str, Any]] = {
        name: {"name": name, "heading": texts[name][0], "about": texts[name][1], "panels": []}
        for name in pictures
    }
    panels = [(name, key, text) for name, p in pictures.items() for key, text in p.panels.items()]
    for name, key, text in tqdm(panels, desc="pictures of the page", disable=not progress):
        uri = _svg(pictures[name].draw([key], ""))
        rendered[name]["panels"].append({"alt": f"{texts[name][0]}, {text}", "uri": uri})
    return list(rendered.values())


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    save_figure(figure, buffer, "svg")
    return _uri(buffer.getvalue(), "image/svg+xml")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _data(comparison: Comparison, bins: dict[str, Any]) -> dict[str, Any]:
    """The data that the page's script shows on demand: bins, summaries, values of each case."""
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
        "folders": {
            model: [
                pair
                for training in trainings
                for pair in (
                    *(("predictions", str(folder)) for folder in training.sources.pred_folders),
                    ("references", str(training.sources.gt_folder)),
                )
            ]
            for model, trainings in comparison.evaluations.items()
        },
        "cases": list(comparison.cases),
        "ranked": {metric: ranked_cases(comparison, metric) for metric in RANKED_BY},
        "summary": comparison.summary,
        "values": values,
        "bins": {
            key: {
                model: {name: [_value(v) for v in vs] for name, vs in of_model.items()}
                for model, of_model in of_models.items()
            }
            for key, of_models in bins.items()
        },
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
