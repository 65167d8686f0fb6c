"""The tables and curves of ``lambda_auto.md``, of all results that are there.

    python benchmarks/lambda_auto_tables.py

Reads what ``lambda_auto.py`` keeps in ``lambda_auto/DATASET/TRAINER/fold_k``. Trainings of one name
that differ in the seed are taken together: each case counts with its mean over them.
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
#: nnU-Net's default, after its temperature: what the others are measured by.
REFERENCE = "DiceCE"
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
        tables = {
            "Test scans": scores_table(cases),
            f"Difference to {REFERENCE}, then T": differences_table(cases),
            "Each training": trainings_table(cases, trainings),
        }
        sections = [f"## {heading}\n\n{table}" for heading, table in tables.items()]
        text = "\n\n".join([f"# {folder.name}", *sections]) + "\n"
        folder.with_suffix(".md").write_text(text)
        print(text)
        draw_curves(trainings, folder.with_suffix(".png"))


# What is there


def finished(folder: Path) -> list[tuple[dict[str, Any], Path]]:
    """Name, iterations, seed and fold of each training, and its folder; plain before MEEP."""
    found = []
    for path in folder.glob("*/fold_*/training.json"):
        name, epochs, iterations, seed = TRAINER.fullmatch(path.parts[-3]).groups()
        key = {"name": name, "iterations": int(epochs) * int(iterations)}
        fold = int(path.parent.name.removeprefix("fold_"))
        found.append(({**key, "seed": int(seed or 0), "fold": fold}, path.parent))
    return sorted(found, key=lambda x: (*order(x[0]["name"]), x[0]["seed"], x[0]["fold"]))


def order(name: str) -> tuple[int, bool, bool, str]:
    """Dice, Dice + CE, CE; in each plain, the fixed lambda, the one that is found, variants."""
    return ["Dice", "DiceCE", "CE"].index(loss_of(name)), "MEEP" in name, "auto" in name, name


def loss_of(name: str) -> str:
    loss = name.split("MEEP")[0]
    return loss or "DiceCE"


def read_cases(folder: Path) -> pd.DataFrame:
    """A row for each case of each training, in units of the tables."""
    rows = []
    for key, path in finished(folder):
        for part in PARTS:
            for case in json.loads((path / part / "calibration.json").read_text())["cases"]:
                rows.append({**key, "part": part, "case": case["case"], **values_of(case)})
    return pd.DataFrame(rows)


def values_of(case: dict[str, Any]) -> dict[str, float]:
    """Means over foreground classes; ECE, E and A of the label as well."""
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
    """Of each training the curves, the temperature, and E and A of whole validation images."""
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
    """Mean over cases and its 95 % BCa bootstrap interval; cases without a value left out.

    A few cases drawn again and again give intervals that are too short: none for less than ten.
    """
    values = values[np.isfinite(values)]
    mean = f"{values.mean():.{digits}f}"
    # All alike: the same labels, before and after a temperature.
    if len(values) < 10 or np.ptp(values) == 0:
        return mean
    result = bootstrap((values,), np.mean, n_resamples=9999, rng=np.random.default_rng(0))
    low, high = result.confidence_interval
    return f"{mean} ({low:.{digits}f}, {high:.{digits}f})"


def of_cases(cases: pd.DataFrame, name: str, part: str) -> pd.DataFrame:
    """A row for each case: its means over trainings that differ in the seed."""
    chosen = cases[(cases["name"] == name) & (cases["part"] == part)]
    return chosen.groupby("case")[[*METRICS, "E", "A"]].mean()


def scores_table(cases: pd.DataFrame) -> str:
    """A row for each name, without and with temperature."""
    rows = []
    for name in cases["name"].unique():
        of_name = cases[cases["name"] == name]
        iterations, n_seeds = of_name["iterations"].iloc[0], of_name["seed"].nunique()
        for part, suffix in PARTS.items():
            values = of_cases(cases, name, part)
            row = [name + suffix, str(iterations), str(n_seeds), str(len(values))]
            row += [with_interval(values[m].to_numpy(), METRICS[m][2]) for m in METRICS]
            rows.append([*row, f"{1 - values['E'].mean() / values['A'].mean():.2f}"])
    return markdown(["trained with", "iterations", "seeds", "cases", *HEADINGS, "r"], rows)


def differences_table(cases: pd.DataFrame) -> str:
    """Paired by case: each name, as it is, minus nnU-Net's default after its temperature."""
    theirs = of_cases(cases, REFERENCE, "test_T")
    rows = []
    for name in cases["name"].unique():
        difference = (of_cases(cases, name, "test") - theirs).dropna(how="all")
        if len(difference):
            cells = [with_interval(difference[m].to_numpy(), METRICS[m][2]) for m in METRICS]
            of_name = cases[cases["name"] == name]
            counts = (of_name["iterations"].iloc[0], of_name["seed"].nunique(), len(difference))
            rows.append([name, *map(str, counts), *cells])
    return markdown(["trained with", "iterations", "seeds", "cases", *HEADINGS], rows)


def trainings_table(cases: pd.DataFrame, trainings: list[dict[str, Any]]) -> str:
    """A row for each training: what the control saw, whole validation images, test scans."""
    headings = ["trained with", "seed", "fold", "lambda", "T"]
    headings += [f"{name}, {of}" for of in ("patches", "images") for name in ("E %", "A %", "r")]
    rows = []
    for training in trainings:
        name, seed, fold = key = tuple(training[x] for x in ("name", "seed", "fold"))
        row = [name, str(seed or ""), str(fold)]
        row += [f"{training['lambda'][-1]:.3f}", f"{training['temperature']:.2f}"]
        for expected, actual in (
            (training["average_expected"][-1], training["average_errors"][-1]),
            (training["E"], training["A"]),
        ):
            row += [f"{100 * expected:.2f}", f"{100 * actual:.2f}", f"{1 - expected / actual:.2f}"]
        if has_other_signal(name):
            row[5:8] = ["", "", ""]
        own = cases.set_index(["name", "seed", "fold", "part"]).loc[(*key, "test")]
        row += [f"{own[m].mean():.{METRICS[m][2]}f}" for m in METRICS]
        rows.append(row)
    return markdown([*headings, *HEADINGS], rows)


# Curves


def has_other_signal(name: str) -> bool:
    """Is what its control sees not the E, A and r of all voxels?"""
    return name.endswith(("_boundary", "_confidence"))


def looks_of(name: str) -> dict[str, Any]:
    """A colour for each segmentation loss, a line and a marker for what is added to it."""
    colour = {"Dice": "#0072B2", "DiceCE": "#D55E00", "CE": "#009E73"}[loss_of(name)]
    if name.endswith("auto"):
        line, marker, opacity = "-", "o", 1
    elif "auto" in name:  # lambda_variants
        line, marker, opacity = "-.", "x", 0.5
    elif "MEEP" in name:
        line, marker, opacity = ":", "v", 1
    else:
        line, marker, opacity = "--", "s", 1
    where = {"markevery": [-1], "marker": marker}
    return {"color": colour, "linestyle": line, "alpha": opacity, **where}


def draw_curves(trainings: list[dict[str, Any]], path: Path) -> None:
    """Lambda and r over the epochs; r of the last epochs' patches against r of whole images."""
    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplot_mosaic([["lambda", "both"], ["r", "both"]], width_ratios=[3, 2])
    named: set[str] = set()
    for training in trainings:
        name = training["name"]
        style = {**looks_of(name), "label": None if name in named else name}
        named.add(name)
        share = np.arange(1, len(training["lambda"]) + 1) / len(training["lambda"])
        if "auto" in name:
            axes["lambda"].plot(share, training["lambda"], **style)
        r = training["average_unexpected"]
        if not has_other_signal(name):
            axes["r"].plot(share, r, **style)
            of_images = 1 - training["E"] / training["A"]
            axes["both"].plot(r[-1], of_images, **{**style, "linestyle": ""})
    axes["lambda"].set_ylabel("lambda of _lambdaauto")
    axes["r"].set_ylabel("r, share of unexpected errors")
    axes["r"].set_xlabel("share of the training")
    axes["r"].set_ylim(-1.5, 1.05)
    axes["r"].axhline(0, color="black", linewidth=0.5)
    axes["both"].set_xlabel("r of validation patches, last epochs")
    axes["both"].set_ylabel("r of whole validation images, after the training")
    axes["both"].axline((0, 0), slope=1, color="black", linewidth=0.5)
    axes["both"].set_aspect("equal")
    axes["both"].legend(fontsize=8)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
