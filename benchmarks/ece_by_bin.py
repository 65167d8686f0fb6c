"""Where the ECE comes from: each bin's contribution, with its sign, for several models.

    python benchmarks/ece_by_bin.py RESULTS DATA -o PICTURE.png "MODEL=TRAINER + METHOD" ...

RESULTS is what ``meep-benchmark report`` keeps in ``report/results``. Bars are means over the
trainings of a model, over the pooled test voxels, and over the foreground classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nnunet_meep.benchmark.results import read_results
from nnunet_meep.evaluation.results import Evaluation

#: By Okabe and Ito.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("data")
    parser.add_argument("models", nargs="+", metavar="MODEL=TRAINER")
    parser.add_argument("-o", type=Path, required=True)
    arguments = parser.parse_args()
    trainings = read_results(arguments.results).of(arguments.data)
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    models = [text.split("=", 1) for text in arguments.models]
    width = 0.8 / len(models)
    for i, ((name, model), color) in enumerate(zip(models, COLORS, strict=False)):
        found = [t.models()[model] for t in trainings if model in t.models()]
        of_trainings = np.array([contributions(evaluation) for evaluation in found])
        means = of_trainings.mean(axis=0)
        at = np.arange(len(means)) + width * (i - (len(models) - 1) / 2)
        ece = np.abs(of_trainings).sum(axis=1).mean()
        axes.bar(at, means, width, color=color, label=f"{name}: ECE {ece:.2f} e-3")
    n = len(means)
    axes.set_xticks(np.arange(n + 1) - 0.5, [f"{i / n:.2f}" for i in range(n + 1)])
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xlabel("probability of a foreground class")
    axes.set_ylabel("(mean probability - frequency of the class)\ntimes share of the voxels, e-3")
    axes.set_title("Above 0: predicted too often; below 0: too rarely")
    axes.legend()
    figure.savefig(arguments.o, dpi=110)


def contributions(evaluation: Evaluation) -> NDArray[np.float64]:
    """Signed contributions of the bins to the pooled ECE in e-3, means over classes, (bins,)."""
    parts = []
    for key in evaluation.classes:
        bins = evaluation.pooled[evaluation.roi].bins[key]
        count, mean_p, mean_y = (np.array(bins[name]) for name in ("count", "mean_p", "mean_y"))
        gap = np.where(count > 0, mean_p - mean_y, 0.0)
        parts.append(1e3 * gap * count / count.sum())
    return np.mean(parts, axis=0)


if __name__ == "__main__":
    main()
