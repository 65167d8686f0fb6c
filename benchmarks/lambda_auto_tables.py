"""Make the tables and curves of ``lambda_auto.md`` from all results that exist.

    python benchmarks/lambda_auto_tables.py

Reads what ``lambda_auto.py`` keeps in ``lambda_auto/DATASET/TRAINER/fold_k``. Trainings that differ
only in the seed are averaged for each case.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import bootstrap

OUTPUT = Path(__file__).resolve().parent / "lambda_auto"
#: What all others are compared with: the longest training with nnU-Net's default loss, after
#: temperature scaling.
REFERENCE = "DiceCE"
KEYS = ("name", "iterations", "seed", "fold")
PARTS = {"test": "", "test_T": ", then T"}
#: Metric: heading, factor, digits.
METRICS = {
    "dice": ("Dice", 1, 3),
    "ece": ("foreground ECE e-3", 1e3, 2),
    "top_ece": ("top-label ECE e-3", 1e3, 2),
    "brier": ("Brier e-4", 1e4, 1),
    "nll": ("NLL e-3", 1e3, 1),
}
HEADINGS = [heading for heading, _, _ in METRICS.values()]
TRAINER = re.compile(r"nnUNetTrainer(.+)_(\d+)epochs_(\d+)iters(?:_seed(\d+))?")


def main() -> None:
    for folder in sorted(path for path in OUTPUT.iterdir() if finished(path)):
        cases, trainings = read_cases(folder), read_trainings(folder)
        longest = cases.loc[cases["name"] == REFERENCE, "iterations"].max()
        tables = {
            "Test scans": scores_table(cases),
            f"Difference to {REFERENCE} of {longest} iterations, then T": differences_table(
                cases, (REFERENCE, longest)
            ),
            "Each training": trainings_table(cases, trainings),
        }
        sections = [f"## {heading}\n\n{table}" for heading, table in tables.items()]
        text = "\n\n".join([f"# {folder.name}", *sections]) + "\n"
        folder.with_suffix(".md").write_text(text)
        print(text)
        draw_curves(trainings, folder.with_suffix(".png"))


# Reading results


def finished(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Name, iterations, seed and fold of each training, and its folder; the longest last."""
    found = []
    for path in folder.glob("*/fold_*/training.json"):
        name, epochs, iterations, seed = TRAINER.fullmatch(path.parts[-3]).groups()
        key = {"name": name, "iterations": int(epochs) * int(iterations)}
        fold = int(path.parent.name.removeprefix("fold_"))
        found.append(({**key, "seed": int(seed or 0), "fold": fold}, path.parent))

    def key_of(entry: tuple[dict[str, Any], Path]) -> tuple:
        key = entry[0]
        return key["iterations"], *order(key["name"]), key["seed"], key["fold"]

    return sorted(found, key=key_of)


def order(name: str) -> tuple[int, bool, bool, str]:
    """Sort key: Dice, Dice + CE, CE; within each the plain loss, fixed lambda, automatic lambda."""
    return ["Dice", "DiceCE", "CE"].index(loss_of(name)), "MEEP" in name, "auto" in name, name


def loss_of(name: str) -> str:
    loss = name.split("MEEP")[0]
    return loss.split("_")[0] or "DiceCE"


def read_cases(folder: Path) -> pd.DataFrame:
    """A row for each case of each training, in the units of the tables."""
    rows = []
    for key, path in finished(folder):
        for part in PARTS:
            for case in json.loads((path / part / "calibration.json").read_text())["cases"]:
                rows.append({**key, "part": part, "case": case["case"], **values_of(case)})
    return pd.DataFrame(rows)


def values_of(case: dict[str, Any]) -> dict[str, float]:
    """Metrics of a case: means over foreground classes; ECE, E and A of the top label."""
    classes = case["classes"].values()
    means = {
        metric: np.mean([x[metric] for x in classes if x[metric] is not None] or [np.nan])
        for metric in METRICS
        if metric != "top_ece"
    }
    top = case["top_label"]
    means["top_ece"] = top["ece"]
    scaled = {metric: METRICS[metric][1] * value for metric, value in means.items()}
    return {**scaled, "E": top["error_rate_expected"], "A": top["error_rate"]}


def read_trainings(folder: Path) -> list[dict[str, Any]]:
    """For each training its curves, temperature, and E and A of whole validation images."""
    trainings = []
    for key, path in finished(folder):
        curves = json.loads((path / "training.json").read_text())
        validation = json.loads((path / "validation" / "calibration.json").read_text())["cases"]
        rates = pd.DataFrame([values_of(case) for case in validation])[["E", "A"]].mean()
        (temperature,) = set(
            re.findall(r'"temperature": ([\d.e+-]+)', (path / "temperature.json").read_text())
        )
        found = {"temperature": float(temperature), "E": rates["E"], "A": rates["A"]}
        trainings.append({**key, **curves, **found})
    return trainings


# Tables


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_interval(values: np.ndarray, digits: int) -> str:
    """Mean over cases and its 95 % BCa bootstrap interval; cases without a value are left out.

    No interval for fewer than ten cases, for which bootstrap intervals are too short.
    """
    values = values[np.isfinite(values)]
    mean = f"{values.mean():.{digits}f}"
    # All values can be equal: a temperature does not change the labels, and so not Dice.
    if len(values) < 10 or np.ptp(values) == 0:
        return mean
    result = bootstrap((values,), np.mean, n_resamples=9999, rng=np.random.default_rng(0))
    low, high = result.confidence_interval
    return f"{mean} ({low:.{digits}f}, {high:.{digits}f})"


def of_cases(cases: pd.DataFrame, training: tuple[str, int], part: str) -> pd.DataFrame:
    """A row for each case: its means over trainings that differ in the seed."""
    name, iterations = training
    chosen = cases[(cases["name"] == name) & (cases["iterations"] == iterations)]
    return chosen[chosen["part"] == part].groupby("case")[[*METRICS, "E", "A"]].mean()


def names_of(cases: pd.DataFrame) -> list[tuple[tuple[str, int], int]]:
    """For each name and number of iterations, the number of seeds."""
    groups = cases.groupby(["name", "iterations"], sort=False)["seed"].nunique()
    return list(groups.items())


def scores_table(cases: pd.DataFrame) -> str:
    """A row for each name and length, without and with temperature scaling."""
    rows = []
    for training, n_seeds in names_of(cases):
        name, iterations = training
        for part, suffix in PARTS.items():
            values = of_cases(cases, training, part)
            row = [name + suffix, str(iterations), str(n_seeds), str(len(values))]
            row += [with_interval(values[m].to_numpy(), METRICS[m][2]) for m in METRICS]
            rows.append([*row, f"{1 - values['E'].mean() / values['A'].mean():.2f}"])
    return markdown(["trained with", "iterations", "seeds", "cases", *HEADINGS, "r"], rows)


def differences_table(cases: pd.DataFrame, reference: tuple[str, int]) -> str:
    """Differences paired by case: each loss, uncalibrated, minus the reference after scaling."""
    theirs = of_cases(cases, reference, "test_T")
    rows = []
    for training, n_seeds in names_of(cases):
        difference = (of_cases(cases, training, "test") - theirs).dropna(how="all")
        if len(difference):
            cells = [with_interval(difference[m].to_numpy(), METRICS[m][2]) for m in METRICS]
            counts = (training[1], n_seeds, len(difference))
            rows.append([training[0], *map(str, counts), *cells])
    return markdown(["trained with", "iterations", "seeds", "cases", *HEADINGS], rows)


def trainings_table(cases: pd.DataFrame, trainings: list[dict[str, Any]]) -> str:
    """A row for each training: E, A and r on patches and whole validation images; test scores."""
    headings = ["trained with", "iterations", "seed", "fold", "on", "lambda", "T"]
    headings += [f"{name}, {of}" for of in ("patches", "images") for name in ("E %", "A %", "r")]
    rows = []
    for training in trainings:
        key = tuple(training[x] for x in KEYS)
        name, iterations, seed, fold = key
        row = [name, str(iterations), str(seed or ""), str(fold), training.get("device", "CPU")]
        row += [f"{training['lambda'][-1]:.3f}", f"{training['temperature']:.2f}"]
        for expected, actual in (
            (training["average_expected"][-1], training["average_errors"][-1]),
            (training["E"], training["A"]),
        ):
            row += [f"{100 * expected:.2f}", f"{100 * actual:.2f}", f"{1 - expected / actual:.2f}"]
        if has_other_signal(name):
            row[7:10] = ["", "", ""]
        own = cases.set_index([*KEYS, "part"]).loc[(*key, "test")]
        row += [f"{own[m].mean():.{METRICS[m][2]}f}" for m in METRICS]
        rows.append(row)
    return markdown([*headings, *HEADINGS], rows)


# Curves


OTHER_SIGNALS = ("_boundary", "_confidence")


def has_other_signal(name: str) -> bool:
    """Whether its lambda is controlled by another signal than E, A and r of all voxels."""
    return name.endswith(OTHER_SIGNALS)


#: What is added to the segmentation loss: line style and marker.
LOOKS = {
    "plain": ("--", "s"),
    "fixed lambda": (":", "v"),
    "lambda auto": ("-", "o"),
    "lambda auto, variants": ("-.", "x"),
}


def kind_of(name: str) -> str:
    if name.endswith((*OTHER_SIGNALS, "_overN")):
        return "lambda auto, variants"
    if "auto" in name:
        return "lambda auto"
    return "fixed lambda" if "MEEP" in name else "plain"


def draw_curves(trainings: list[dict[str, Any]], path: Path) -> None:
    """Plot lambda and r over the epochs, in a column for each segmentation loss and length.

    Beside them, r of whole images against r of the last epochs' patches.
    """
    columns = list(dict.fromkeys((x["iterations"], loss_of(x["name"])) for x in trainings))
    figure = Figure(figsize=(2.9 * len(columns) + 4.5, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[2.9 * len(columns), 4.5])
    axes = left.subplots(2, len(columns), sharex=True, sharey="row", squeeze=False)
    both = right.subplots()
    colours = {"Dice": "#0072B2", "DiceCE": "#D55E00", "CE": "#009E73"}
    low, high = -1.5, 1.05
    limits = low - 0.05, high  # room for what is drawn at the edge
    for training in trainings:
        name, curve, r = training["name"], training["lambda"], training["average_unexpected"]
        line, marker = LOOKS[kind_of(name)]
        style = {"color": colours[loss_of(name)], "linestyle": line, "marker": marker}
        style |= {"markevery": [-1], "alpha": 0.8, "linewidth": 1.2}
        column = axes[:, columns.index((training["iterations"], loss_of(name)))]
        share = np.arange(1, len(curve) + 1) / len(curve)
        if "auto" in name:
            column[0].plot(share, curve, **style)
        if not has_other_signal(name):
            column[1].plot(share, np.clip(r, low, None), **style)
            of_images = 1 - training["E"] / training["A"]
            both.plot(
                max(r[-1], low), max(of_images, low), **{**style, "linestyle": "", "alpha": 0.5}
            )
    for (iterations, loss), column in zip(columns, axes.T, strict=True):
        column[0].set_title(f"{loss}, {iterations} iterations", fontsize=10)
        column[1].set_xlabel("share of the training")
        column[1].axhline(0, color="black", linewidth=0.5)
    axes[0, 0].set_ylabel("lambda of _lambdaauto")
    axes[1, 0].set_ylabel("r, share of unexpected errors")
    axes[1, 0].set_ylim(limits)
    kinds = [kind for kind in LOOKS if kind in {kind_of(x["name"]) for x in trainings}]
    for kind in kinds:
        line, marker = LOOKS[kind]
        axes[1, -1].plot([], [], color="black", linestyle=line, marker=marker)
    left.legend(axes[1, -1].lines[-len(kinds) :], kinds, loc="outside lower center", ncols=2)
    both.set(xlim=limits, ylim=limits, aspect="equal")
    both.set_title("r of each training (what is lower drawn at -1.5)", fontsize=10)
    both.set_xlabel("validation patches, last epochs")
    both.set_ylabel("whole validation images, after the training")
    both.axline((0, 0), slope=1, color="black", linewidth=0.5)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
