"""Make the tables and pictures of ``lambda_auto.md`` from all results in ``against_default/``.

    python benchmarks/against_default_tables.py

Trainings that differ only in the seed or in the fold are repetitions of one loss.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t

OUTPUT = Path(__file__).resolve().parent / "against_default"
#: Method of meep-calib-fit: suffix of the part's name.
METHODS = {"temperature": "T", "platt": "PS", "isotonic": "IR"}
PARTS = {"test": "as it is", **{f"test_{short}": name for name, short in METHODS.items()}}


class Metric(NamedTuple):
    heading: str
    factor: float
    digits: int
    higher_is_better: bool = False


#: ``top_`` marks metrics of the top label; all others are means over the foreground classes.
METRICS = {
    "dice": Metric("Dice", 1, 3, higher_is_better=True),
    "hd": Metric("HD mm", 1, 2),
    "hd95": Metric("HD95 mm", 1, 2),
    "assd": Metric("ASSD mm", 1, 2),
    "ece": Metric("ECE e-3", 1e3, 2),
    "top_ece": Metric("top-label ECE e-3", 1e3, 2),
    "brier": Metric("Brier e-4", 1e4, 1),
    "nll": Metric("NLL e-3", 1e3, 1),
    "top_aurc": Metric("AURC e-3", 1e3, 2),
}
HEADINGS = [metric.heading for metric in METRICS.values()]
TRAINER = re.compile(r"nnUNetTrainer(.+)_(\d+)epochs_(\d+)iters(?:_seed(\d+))?")
DEFAULT = "DiceCE"
#: Which part of a loss is compared with which part of the default.
COMPARED = (("test", "test_T"), ("test", "test_PS"), ("test", "test_IR"), ("test_IR", "test_IR"))


#: What stands behind ``_lambdaauto`` in the names of own_trainers/term_variants.py.
VARIANTS = {
    "": "",
    "_over_N": ", over N",
    "_mean": " (mean with MEEP-KL)",
    "_floor": ", p of the label above 0.05",
}


class Training(NamedTuple):
    """One training of a loss: its results for each part, and its log.

    Attributes:
        loss: the trainer's name without prefix, length and seed.
        scores: {part: (cases, metrics)}, in the units of the tables; NaN if undefined.
        volume: expected / true volume of the uncalibrated test scans, mean over classes.
        r: fraction of unexpected errors on the uncalibrated test scans.
        r_validation: the same on the validation scans.
        temperature: the one fitted to the validation scans.
    """

    loss: str
    seed: int
    fold: int
    cases: list[str]
    scores: dict[str, NDArray[np.float64]]
    volume: float
    r: float
    r_validation: float
    temperature: float
    log: dict[str, Any]
    path: Path


def main() -> None:
    for folder in sorted(path for path in OUTPUT.iterdir() if path.is_dir()):
        trainings = read(folder)
        tables = {
            "Test scans": scores_table(trainings),
            "Differences to the default": differences_table(trainings),
            "Each training": trainings_table(trainings),
        }
        sections = [f"## {heading}\n\n{table}" for heading, table in tables.items()]
        text = "\n\n".join([f"# {folder.name}", *sections]) + "\n"
        folder.with_suffix(".md").write_text(text)
        print(text)
        draw_curves(trainings, OUTPUT / f"{folder.name}_curves.png")
        draw_bins(trainings, OUTPUT / f"{folder.name}_bins.png")


# Reading results


def read(folder: Path) -> list[Training]:
    """The trainings of a data set, sorted by loss (the default first), seed and fold."""
    trainings = [training(path.parent) for path in folder.glob("*/fold_*/training.json")]
    return sorted(trainings, key=lambda x: (x.loss != DEFAULT, x.loss, x.seed, x.fold))


def training(path: Path) -> Training:
    name, _, _, seed = TRAINER.fullmatch(path.parent.name).groups()
    results = {
        part: json.loads((path / part / "calibration.json").read_text())["cases"]
        for part in ("validation", *PARTS)
    }
    scores = {
        part: np.array([[value(case, metric) for metric in METRICS] for case in cases])
        for part, cases in results.items()
    }
    (temperature,) = set(
        re.findall(r'"temperature": ([\d.e+-]+)', (path / "temperature.json").read_text())
    )
    test = results["test"]
    volumes = [
        sum(case["classes"][c]["volume_expected_ml"] for case in test)
        / sum(case["classes"][c]["volume_true_ml"] for case in test)
        for c in test[0]["classes"]
    ]
    return Training(
        loss=name,
        seed=int(seed or 0),
        fold=int(path.name.removeprefix("fold_")),
        cases=[case["case"] for case in test],
        scores=scores,
        volume=float(np.mean(volumes)),
        r=unexpected(test),
        r_validation=unexpected(results["validation"]),
        temperature=float(temperature),
        log=json.loads((path / "training.json").read_text()),
        path=path,
    )


def value(case: dict[str, Any], metric: str) -> float:
    """A metric of a case, in the unit of the tables; NaN if undefined."""
    if metric.startswith("top_"):
        found = [case["top_label"][metric.removeprefix("top_")]]
    else:
        found = [of_class[metric] for of_class in case["classes"].values()]
    numbers = [x for x in found if x is not None]
    return METRICS[metric].factor * float(np.mean(numbers)) if numbers else math.nan


def unexpected(cases: list[dict[str, Any]]) -> float:
    """r of whole images, from the sums of their expected and actual error rates."""
    tops = [case["top_label"] for case in cases]
    expected = sum(top["error_rate_expected"] for top in tops)
    return 1 - expected / sum(top["error_rate"] for top in tops)


def by_loss(trainings: list[Training]) -> dict[str, list[Training]]:
    losses = dict.fromkeys(x.loss for x in trainings)
    return {loss: [x for x in trainings if x.loss == loss] for loss in losses}


def in_words(loss: str) -> str:
    """``MEEP_H_lambdaauto_over_N`` as ``Dice + CE + MEEP-H, over N``."""
    name, _, variant = loss.partition("_lambdaauto")
    own, _, term = name.partition("MEEP_")
    segmentation = {"": "Dice + CE", "DiceCE": "Dice + CE"}.get(own, own)
    if not term:
        return segmentation
    return f"{segmentation} + MEEP-{term}{VARIANTS[variant]}"


# Tables


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scores_table(trainings: list[Training]) -> str:
    """Mean over trainings of the means over cases, with the lowest and the highest training."""
    rows = []
    for loss, repetitions in by_loss(trainings).items():
        for part, how in PARTS.items():
            means = np.array([np.nanmean(x.scores[part], axis=0) for x in repetitions])
            cells = [
                f"{column.mean():.{m.digits}f} ({column.min():.{m.digits}f} to "
                f"{column.max():.{m.digits}f})"
                for column, m in zip(means.T, METRICS.values(), strict=True)
            ]
            rows.append([in_words(loss), how, str(len(repetitions)), *cells])
    return markdown(["trained with", "then", "trainings", *HEADINGS], rows)


def differences_table(trainings: list[Training]) -> str:
    """Each loss minus the default, with an interval over trainings and cases."""
    groups = by_loss(trainings)
    default = groups.pop(DEFAULT, [])
    rows = []
    for loss, repetitions in groups.items():
        for part, theirs in COMPARED:
            found = [difference(repetitions, default, part, theirs, i) for i in range(len(METRICS))]
            cells = [
                cell(*interval, m) for interval, m in zip(found, METRICS.values(), strict=True)
            ]
            against = f"{PARTS[part]}, against {PARTS[theirs]}"
            n = f"{len(repetitions)}, {len(default)}"
            rows.append([in_words(loss), against, n, *cells])
    return markdown(["trained with", "compared", "trainings", *HEADINGS], rows)


def cell(mean: float, half_width: float, metric: Metric) -> str:
    text = f"{mean:+.{metric.digits}f} ± {half_width:.{metric.digits}f}"
    return f"**{text}**" if abs(mean) > half_width else text


def difference(
    ours: list[Training], theirs: list[Training], part: str, other: str, metric: int
) -> tuple[float, float]:
    """Mean difference and half the width of its 95 % interval.

    With folds, which have different cases, it is a t interval over the folds' differences. With
    seeds, where all trainings have the same cases, trainings and cases are both random: the
    variance is the sum of the variances of our trainings, of their trainings, and of the cases'
    differences, each divided by its number, with Satterthwaite's degrees of freedom. That counts
    the interaction of training and case twice, so the interval is rather too wide.
    """
    folds = sorted({x.fold for x in ours} & {x.fold for x in theirs})
    if len({x.fold for x in [*ours, *theirs]}) > 1:
        differences = np.array(
            [
                np.mean([np.nanmean(x.scores[part][:, metric]) for x in ours if x.fold == fold])
                - np.mean(
                    [np.nanmean(x.scores[other][:, metric]) for x in theirs if x.fold == fold]
                )
                for fold in folds
            ]
        )
        variances = [(differences.var(ddof=1) / len(folds), len(folds) - 1)]
        mean = differences.mean()
    else:
        one = np.array([x.scores[part][:, metric] for x in ours])
        two = np.array([x.scores[other][:, metric] for x in theirs])
        of_cases = np.nanmean(one, axis=0) - np.nanmean(two, axis=0)
        of_cases = of_cases[np.isfinite(of_cases)]
        mean = np.nanmean(one) - np.nanmean(two)
        variances = [(of_cases.var(ddof=1) / len(of_cases), len(of_cases) - 1)]
        for values in (one, two):
            if len(values) > 1:
                means = np.nanmean(values, axis=1)
                variances.append((means.var(ddof=1) / len(means), len(means) - 1))
    total = sum(variance for variance, _ in variances)
    if not total:
        return mean, 0.0
    freedom = total**2 / sum(variance**2 / n for variance, n in variances)
    return mean, float(t.ppf(0.975, freedom) * math.sqrt(total))


def trainings_table(trainings: list[Training]) -> str:
    """A row for each training: final lambda and r, and scores of the uncalibrated test scans."""
    headings = ["trained with", "seed", "fold", "lambda", "T"]
    headings += ["r, patches", "r, validation", "r, test", "volume, expected / true"]
    rows = []
    for x in trainings:
        row = [in_words(x.loss), str(x.seed or ""), str(x.fold), f"{x.log['lambda'][-1]:.3f}"]
        row += [f"{x.temperature:.2f}", f"{x.log['average_unexpected'][-1]:.2f}"]
        row += [f"{x.r_validation:.2f}", f"{x.r:.2f}", f"{x.volume:.2f}"]
        means = np.nanmean(x.scores["test"], axis=0)
        row += [f"{v:.{m.digits}f}" for v, m in zip(means, METRICS.values(), strict=True)]
        rows.append(row)
    return markdown([*headings, *HEADINGS], rows)


# Pictures

#: Colours by Okabe and Ito.
COLOURS = {
    DEFAULT: "#000000",
    "MEEP_H_lambdaauto": "#D55E00",
    "MEEP_KL_lambdaauto": "#0072B2",
    "DiceMEEP_H_lambdaauto": "#E69F00",
    "DiceMEEP_KL_lambdaauto": "#56B4E9",
}


def draw_curves(trainings: list[Training], path: Path) -> None:
    """Plot lambda and r over the course of the training, one line for each training."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for loss, repetitions in by_loss(trainings).items():
        for i, x in enumerate(repetitions):
            log = x.log
            share = (np.arange(len(log["lambda"])) + 0.5) / len(log["lambda"])
            style = {"color": COLOURS[loss], "linewidth": 1.2, "alpha": 0.8}
            if loss != DEFAULT:
                above.plot(share, log["lambda"], **style)
            label = None if i else in_words(loss)
            below.plot(share, np.clip(log["average_unexpected"], -1.5, None), label=label, **style)
    above.set_ylabel("lambda")
    below.set(xlabel="share of the training", ylim=(-1.55, 1.05))
    below.set_ylabel("r, share of unexpected errors\n(average; validation patches)")
    below.axhline(0, color="black", linewidth=0.5)
    figure.legend(*below.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


def draw_bins(trainings: list[Training], path: Path) -> None:
    """Plot each bin's contribution to the foreground ECE, with the sign of the error."""
    shown = {DEFAULT: "test_T", "MEEP_H_lambdaauto": "test", "MEEP_KL_lambdaauto": "test"}
    groups = {loss: x for loss, x in by_loss(trainings).items() if loss in shown}
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes: Axes = figure.subplots()
    for i, (loss, repetitions) in enumerate(groups.items()):
        of_trainings = np.array([bins_of(x.path / shown[loss]) for x in repetitions])
        parts = of_trainings.mean(axis=0)
        label = in_words(loss) + (", temperature" if loss == DEFAULT else ", as it is")
        label += f": ECE {np.abs(of_trainings).sum(axis=1).mean():.2f} e-3"
        width = 0.8 / len(groups)
        at = np.arange(len(parts)) + width * (i - (len(groups) - 1) / 2)
        axes.bar(at, parts, width, color=COLOURS[loss], label=label)
    n = len(parts)
    axes.set_xticks(np.arange(n + 1) - 0.5, [f"{i / n:.2f}" for i in range(n + 1)])
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set_xlabel("probability of a foreground class")
    axes.set_ylabel("(mean probability - share of the class)\ntimes share of the voxels, e-3")
    axes.set_title("Above 0: predicted too often; below 0: too rarely (means over trainings)")
    axes.legend()
    figure.savefig(path, dpi=110)


def bins_of(path: Path) -> NDArray[np.float64]:
    """Signed contributions of the bins to the pooled ECE in e-3, means over classes, (bins,)."""
    classes = json.loads((path / "calibration.json").read_text())["classes"].values()
    parts = []
    for of_class in classes:
        bins = of_class["pooled"]["bins"]
        count, mean_p, mean_y = (
            np.array([x or 0.0 for x in bins[key]]) for key in ("count", "mean_p", "mean_y")
        )
        parts.append(1e3 * (mean_p - mean_y) * count / count.sum())
    return np.mean(parts, axis=0)


if __name__ == "__main__":
    main()
