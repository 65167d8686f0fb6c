"""Figures of all data sets: reliability of a few models, and how lambda and r went.

    python benchmarks/result_figures.py FOLDER PLAN... [--results benchmarks/results]

Takes the trainings of the plans that have results; the data sets are in the order of the plans.
Writes ``results_reliability.png``, over the pooled test voxels of all trainings of each model;
``results_lambda.png``, with a line for each training of MEEP that found its lambda; and
``results_cases.png``, each test case with the default and with MEEP-H, and the name of the worst.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ece_by_bin import COLORS
from matplotlib.figure import Figure
from results_table import short

from nnunet_meep.benchmark.plans.read_plan import read_plan
from nnunet_meep.benchmark.results import Results, TrainingResult, read_results
from nnunet_meep.evaluation.comparison import FOREGROUND, values_of_trainings
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE
from nnunet_meep.evaluation.metrics.repeated import mean_of_defined
from nnunet_meep.evaluation.report.figures import Layer, reliability_figure, save_figure
from nnunet_meep.evaluation.results import Evaluation

MODELS = {
    "default": "DiceCE",
    "default + temperature": "DiceCE + temperature",
    "MEEP-H, lambda auto": "MEEP_H_lambdaauto",
}
#: Whose lambda is drawn.
FOUND = ("MEEP_H_lambdaauto", "MEEP_KL_lambdaauto")
#: What is drawn of each epoch.
CURVES = {"lambda": "lambda", "unexpected_errors": "r, share of unexpected errors"}

#: What is drawn of each test case, and which case is the worst.
OF_CASES = {"dice": np.nanargmin, "ece": np.nanargmax}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("plans", type=Path, nargs="+", metavar="PLAN")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_name("results"))
    given = parser.parse_args()
    planned = [(model.data, model.trainer) for p in given.plans for model in read_plan(p).models]
    trainings = read_results(given.results).trainings
    results = Results(tuple(t for t in trainings if (t.data, t.trainer) in planned))
    data = list(dict.fromkeys(name for name, _ in planned))
    for name, figure in (
        ("reliability", reliability(results, data)),
        ("lambda", lambdas(results, data)),
        ("cases", cases(results, data)),
    ):
        save_figure(figure, given.folder / f"results_{name}.png", "png")


def reliability(results: Results, data: Sequence[str]) -> Figure:
    panels: dict[str, list[Layer]] = {}
    for name in data:
        by_model = {label: _of(results.of(name), model) for label, model in MODELS.items()}
        found = {label: evaluations for label, evaluations in by_model.items() if evaluations}
        classes = next(iter(found.values()))[0].classes if found else {}
        for key, class_name in classes.items():
            panels[f"{name}, {class_name}"] = [
                Layer(label, _added_up(evaluations, key), color=color)
                for (label, evaluations), color in zip(found.items(), COLORS, strict=False)
            ]
    return reliability_figure(panels, "Test voxels of all trainings")


def lambdas(results: Results, data: Sequence[str]) -> Figure:
    figure = Figure(figsize=(4.5 * len(data), 6), layout="constrained")
    axes = figure.subplots(2, len(data), sharex="col", squeeze=False)
    for column, name in zip(axes.T, data, strict=True):
        for trainer, color in zip(FOUND, COLORS[1:], strict=False):
            trainings = [t for t in results.of(name) if short(t.trainer) == trainer]
            for axis, curve in zip(column, CURVES, strict=True):
                for i, training in enumerate(trainings):
                    label = "" if i else trainer
                    axis.plot(training.curves[curve], color=color, linewidth=1, label=label)
        column[0].set_title(name)
        column[0].set_ylim(bottom=0)
        column[1].set_ylim(-0.5, 1)
        column[1].axhline(0.05, color="grey", linewidth=0.8, linestyle=":")
        column[1].set_xlabel("epoch")
        column[0].legend(fontsize="small")
    for axis, label in zip(axes[:, 0], CURVES.values(), strict=True):
        axis.set_ylabel(label)
    return figure


def cases(results: Results, data: Sequence[str]) -> Figure:
    """Each test case with the default and with MEEP-H, means over trainings and classes."""
    default, _, recommended = MODELS
    figure = Figure(figsize=(4.5 * len(data), 4.5 * len(OF_CASES)), layout="constrained")
    axes = figure.subplots(len(OF_CASES), len(data), squeeze=False)
    for column, name in zip(axes.T, data, strict=True):
        compared = [_of(results.of(name), MODELS[label]) for label in (default, recommended)]
        tested = sorted({case.case for evaluation in compared[0] for case in evaluation.cases})
        for axis, (metric, at_worst) in zip(column, OF_CASES.items(), strict=True):
            across, up = (
                mean_of_defined(values_of_trainings(trainings, tested, FOREGROUND, metric))
                for trainings in compared
            )
            scale = CATALOGUE[metric].unit.scale
            across, up = across * scale, up * scale
            worst = at_worst(up)
            axis.scatter(across, up, s=14, color=COLORS[2])
            axis.axline((0, 0), slope=1, color="grey", linewidth=0.8, linestyle=":")
            ends = np.nanmin([across, up]), np.nanmax([across, up])
            margin = 0.05 * (ends[1] - ends[0])
            limits = (ends[0] - margin, ends[1] + margin)
            axis.set(xlim=limits, ylim=limits, aspect="equal")
            right = across[worst] > np.mean(ends)
            axis.annotate(
                tested[worst],
                (across[worst], up[worst]),
                (-4 if right else 4, 4),
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize="small",
            )
            heading = CATALOGUE[metric].heading
            axis.set_xlabel(f"{heading}, {default}")
            axis.set_ylabel(f"{heading}, {recommended}")
        column[0].set_title(name)
    return figure


def _of(trainings: Sequence[TrainingResult], model: str) -> list[Evaluation]:
    return [e for t in trainings for name, e in t.models().items() if short(name) == model]


def _added_up(evaluations: Sequence[Evaluation], key: str) -> Mapping[str, list[float]]:
    """The bins of a class over the pooled voxels of several evaluations."""
    bins = [evaluation.pooled[evaluation.roi].bins[key] for evaluation in evaluations]
    count = np.array([b["count"] for b in bins], float)
    means = {}
    for name in ("mean_p", "mean_y"):
        sums = np.where(count > 0, count * np.array([b[name] for b in bins]), 0).sum(axis=0)
        with np.errstate(invalid="ignore"):
            means[name] = (sums / count.sum(axis=0)).tolist()
    return {"edges": bins[0]["edges"], "count": count.sum(axis=0).tolist(), **means}


if __name__ == "__main__":
    main()
