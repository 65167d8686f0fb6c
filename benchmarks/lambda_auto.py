"""The runs behind ``lambda_auto.md``: plain, fixed lambda, and a lambda that finds itself.

    python benchmarks/lambda_auto.py hippocampus SRC WORK
    python benchmarks/lambda_auto.py wmh SRC WORK

SRC: ``hippocampus`` as for ``first_runs.py``; ``wmh`` takes a folder of 12 scans with
``imagesTr/CASE_0000.nii.gz`` (FLAIR) and ``labelsTr/CASE.nii.gz`` (1 = lesion, 2 = not scored), of
which four folds are made: 7 scans train, 2 validate (control and temperature), and 3 that neither
has seen are the fold's test scans, so that each scan is tested once. WORK holds nnU-Net's folders.

Two trainings run side by side on one CPU thread each. Each is evaluated as soon as it is predicted,
and what it gave is kept in ``lambda_auto/`` beside this file; what is there already is not run
again. At the end the tables are printed and the pictures drawn of all that is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from first_runs import (
    CONFIGURATION,
    HERE,
    PLANS,
    RUNS,
    Run,
    command,
    make_hippocampus,
    model_folder,
    one_thread,
    plan,
    work_in,
)
from scipy.stats import bootstrap

OUTPUT = HERE / "lambda_auto"
#: nnU-Net's default.
REFERENCE = "DiceCE"
#: Metric: heading, factor, digits.
METRICS = {
    "dice": ("Dice", 1, 3),
    "ece": ("foreground ECE e-3", 1e3, 2),
    "top_ece": ("top-label ECE e-3", 1e3, 2),
    "brier": ("Brier e-4", 1e4, 1),
    "nll": ("NLL e-3", 1e3, 1),
}


@dataclass(frozen=True)
class Comparison:
    """A data set, its folds, and the trainers of each."""

    run: Run
    n_folds: int


COMPARISONS = {
    "hippocampus": Comparison(
        replace(
            RUNS["hippocampus"],
            trainers=[
                f"nnUNetTrainer{name}_50epochs_50iters"
                for name in (
                    "Dice",
                    "DiceMEEP_KL",
                    "DiceMEEP_KL_lambdaauto",
                    "DiceCE",
                    "MEEP_KL",
                    "MEEP_KL_lambdaauto",
                )
            ]
            # Other signals and another term (lambda_variants/).
            + [
                f"nnUNetTrainer{loss}_lambdaauto_{variant}_50epochs_50iters"
                for variant in ("boundary", "confidence", "overN")
                for loss in ("DiceMEEP_KL", "MEEP_KL")
            ]
            # In 5000 iterations CE alone came to a Dice of 0.59.
            + [
                f"nnUNetTrainer{name}_50epochs_200iters"
                for name in ("CE", "CEMEEP_KL", "CEMEEP_KL_lambdaauto")
            ],
        ),
        n_folds=1,
    ),
    "wmh": Comparison(
        Run(
            "Dataset503_WMHFLAIR",
            [14, 96, 96],
            [8, 16, 32, 64, 64, 64],
            ["-gpu_memory_target", "2"],
            [
                f"nnUNetTrainer{name}_50epochs_25iters"
                for name in (
                    "Dice",
                    "DiceMEEP_KL_lambda1",
                    "DiceMEEP_KL_lambdaauto",
                    "DiceCE",
                    "MEEP_KL",
                    "MEEP_KL_lambdaauto",
                )
            ]
            + [
                f"nnUNetTrainer{name}_50epochs_100iters"
                for name in ("CE", "CEMEEP_KL_lambda0p3", "CEMEEP_KL_lambdaauto")
            ],
        ),
        n_folds=4,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=COMPARISONS)
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    arguments = parser.parse_args()
    comparison, work = COMPARISONS[arguments.run], arguments.work.absolute()
    run = comparison.run
    work_in(work)
    own_trainers = [str(HERE / "lambda_variants"), os.environ.get("nnUNet_extTrainer", "")]
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(filter(None, own_trainers))
    jobs = [
        (trainer, fold)
        for fold in range(comparison.n_folds)
        for trainer in run.trainers
        if not is_done(run, trainer, fold)
    ]
    jobs.sort(key=lambda job: n_iterations(job[0]))
    if jobs:
        raw = work / "nnUNet_raw" / run.dataset
        if not raw.exists():
            make = make_hippocampus if arguments.run == "hippocampus" else make_wmh
            make(arguments.source, raw)
        plan(run, work)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda job: one_run(run, work, *job), jobs))
    for heading, table in (
        ("test scans", scores_table(comparison)),
        (f"difference to {REFERENCE}, then T", differences_table(comparison)),
        ("what the control saw, and whole validation images", signals_table(comparison)),
    ):
        print(f"\n{run.dataset}, {heading}\n\n{table}")
    draw_curves(comparison)


def make_wmh(source: Path, raw: Path) -> None:
    """nnU-Net raw data of twelve FLAIR scans, and four folds."""
    cases = sorted(path.name[: -len(".nii.gz")] for path in (source / "labelsTr").glob("*.nii.gz"))
    if len(cases) != 12:
        sys.exit(f"{source}: expected 12 cases in labelsTr, found {len(cases)}")
    building = raw.with_name(".tmp-" + raw.name)
    shutil.rmtree(building, ignore_errors=True)
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (building / kind).mkdir(parents=True)
        for case in cases:
            shutil.copyfile(source / kind / f"{case}{ending}", building / kind / f"{case}{ending}")
    dataset = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "WMH": 1, "ignore": 2},
        "numTraining": 12,
        "file_ending": ".nii.gz",
    }
    (building / "dataset.json").write_text(json.dumps(dataset, indent=2))
    splits = []
    for fold in range(4):
        test = cases[fold::4]
        val = [cases[(fold + 1) % 4], cases[4 + (fold + 2) % 4]]
        train = [case for case in cases if case not in test + val]
        splits.append({"train": train, "val": val})
    (building / "splits_final.json").write_text(json.dumps(splits, indent=2))
    building.rename(raw)


def folder_of(run: Run, trainer: str, fold: int) -> Path:
    """Where the results of a run are kept."""
    return OUTPUT / run.dataset / trainer / f"fold_{fold}"


def is_done(run: Run, trainer: str, fold: int) -> bool:
    return (folder_of(run, trainer, fold) / "training.json").exists()


def one_run(run: Run, work: Path, trainer: str, fold: int) -> None:
    """Train, predict, fit a temperature to the validation scans, evaluate, keep."""
    result = model_folder(run, work, trainer) / f"fold_{fold}"
    options = ["-tr", trainer, "-p", PLANS, "-device", "cpu"]
    if not (result / "validation" / "summary.json").exists():
        begun = any((result / f"checkpoint_{x}.pth").exists() for x in ("latest", "final"))
        resume = ["--c"] if begun else []
        number = [run.dataset_id, CONFIGURATION, str(fold)]
        one_thread("nnUNetv2_train", *number, "--npz", *resume, *options)
    images = test_images(run, work, fold)
    predictions = work / "predictions" / run.dataset / trainer / f"fold_{fold}"
    if len(list(predictions.glob("*.npz"))) < len(list(images.glob("*.nii.gz"))):
        where = ["-i", str(images), "-o", str(predictions), "-d", run.dataset_id, "-f", str(fold)]
        how = ["-c", CONFIGURATION, "--save_probabilities", "-npp", "1", "-nps", "1"]
        one_thread("nnUNetv2_predict", *options, *where, *how)
    evaluate(run, work, trainer, fold)
    keep_training(run, trainer, fold, result)


def test_images(run: Run, work: Path, fold: int) -> Path:
    """The images that the fold neither trains on nor validates on."""
    raw = work / "nnUNet_raw" / run.dataset
    if (raw / "imagesTs").exists():
        return raw / "imagesTs"
    split = json.loads((raw / "splits_final.json").read_text())[fold]
    folder = work / "tests" / run.dataset / f"fold_{fold}"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (raw / "imagesTr").iterdir():
        if path.name[: -len("_0000.nii.gz")] not in split["train"] + split["val"]:
            shutil.copyfile(path, folder / path.name)
    return folder


def evaluate(run: Run, work: Path, trainer: str, fold: int) -> None:
    """Validation scans, test scans, test scans after the temperature of the validation scans.

    Paths relative to WORK, so that results name no machine.
    """
    raw = Path("nnUNet_raw") / run.dataset
    labels = raw / ("labelsTs" if (work / raw / "labelsTs").exists() else "labelsTr")
    references = Path("nnUNet_preprocessed") / run.dataset / "gt_segmentations"
    validation = model_folder(run, work, trainer).relative_to(work) / f"fold_{fold}" / "validation"
    test = Path("predictions") / run.dataset / trainer / f"fold_{fold}"
    calibrator = Path("calibrators") / run.dataset / trainer / f"fold_{fold}.json"
    calibrated = Path("calibrated") / run.dataset / trainer / f"fold_{fold}"
    (work / calibrator).unlink(missing_ok=True)
    shutil.rmtree(work / calibrated, ignore_errors=True)
    fit = ["temperature", str(references), str(validation), "-o", str(calibrator)]
    command("meep-calib-fit", *fit, cwd=work)
    command("meep-calib-apply", str(calibrator), str(test), "-o", str(calibrated), cwd=work)
    target = folder_of(run, trainer, fold)
    for part, truth, predictions in (
        ("validation", references, validation),
        ("test", labels, test),
        ("test_T", labels, calibrated),
    ):
        output = Path("evaluated") / run.dataset / trainer / f"fold_{fold}" / part
        folders = [str(truth), str(predictions), "-o", str(output), "--no-surface"]
        folders += ["-djfile", str(raw / "dataset.json")]
        command("meep-calib-eval", *folders, cwd=work)
        (target / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / output / "calibration.json", target / part / "calibration.json")
    shutil.copyfile(work / calibrator, target / "temperature.json")


def keep_training(run: Run, trainer: str, fold: int, result: Path) -> None:
    """What the log says of lambda and of errors, epoch by epoch."""
    import torch

    # nnU-Net's own file, made a moment ago by this script; it holds more than weights.
    path = result / "checkpoint_final.pth"
    log = torch.load(path, map_location="cpu", weights_only=False)["logging"]
    keys = ["lambda", "average_expected", "average_errors", "average_unexpected"]
    kept = {key: [float(x) for x in log[key]] for key in (*keys, "unexpected_errors")}
    target = folder_of(run, trainer, fold) / "training.json"
    temporary = target.with_name(".tmp-" + target.name)
    temporary.write_text(json.dumps(kept, indent=1))
    temporary.rename(target)


def cases_of(comparison: Comparison, trainer: str, part: str) -> list[dict[str, Any]]:
    """The cases of all folds that are there."""
    cases: list[dict[str, Any]] = []
    for fold in range(comparison.n_folds):
        path = folder_of(comparison.run, trainer, fold) / part / "calibration.json"
        if path.exists():
            cases += json.loads(path.read_text())["cases"]
    return cases


def value(case: dict[str, Any], metric: str) -> float:
    """Of a case, the mean over its foreground classes."""
    if metric == "top_ece":
        return case["top_label"]["ece"]
    values = [entry[metric] for entry in case["classes"].values() if entry[metric] is not None]
    return float(np.mean(values)) if values else math.nan


def error_rates(cases: list[dict[str, Any]]) -> tuple[float, float]:
    """E and A of whole images, means over cases."""
    keys = ("error_rate_expected", "error_rate")
    expected, actual = np.mean([[case["top_label"][key] for key in keys] for case in cases], axis=0)
    return expected, actual


def unexpected(cases: list[dict[str, Any]]) -> float:
    """r of whole images."""
    expected, actual = error_rates(cases)
    return 1 - expected / actual


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % over cases, BCa bootstrap."""
    result = bootstrap((values,), np.mean, n_resamples=9999, rng=np.random.default_rng(0))
    return result.confidence_interval.low, result.confidence_interval.high


def mean_and_interval(values: np.ndarray, digits: int) -> str:
    """A cell; cases without a value (a class that is nowhere) are left out."""
    values = values[np.isfinite(values)]
    if np.ptp(values) == 0:  # the same labels, before and after a temperature
        return f"{values.mean():.{digits}f}"
    low, high = interval(values)
    return f"{values.mean():.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def short(trainer: str) -> str:
    return trainer.removeprefix("nnUNetTrainer").rsplit("_", 2)[0]


def n_iterations(trainer: str) -> int:
    epochs, iterations = trainer.removesuffix("iters").split("_")[-2:]
    return int(epochs.removesuffix("epochs")) * int(iterations)


def markdown(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def values_of(comparison: Comparison, trainer: str, part: str, metric: str) -> dict[str, float]:
    """A number for each case, in the unit of the table."""
    factor = METRICS[metric][1]
    return {
        case["case"]: factor * value(case, metric) for case in cases_of(comparison, trainer, part)
    }


def scores_table(comparison: Comparison) -> str:
    """A row for each trainer, without and with temperature: mean over cases and its interval."""
    headings = ["trained with", "iterations", "n", *(heading for heading, _, _ in METRICS.values())]
    rows = []
    for trainer in comparison.run.trainers:
        for part, suffix in (("test", ""), ("test_T", ", then T")):
            cases = cases_of(comparison, trainer, part)
            if not cases:
                continue
            row = [short(trainer) + suffix, str(n_iterations(trainer)), str(len(cases))]
            for metric, (_, _, digits) in METRICS.items():
                values = values_of(comparison, trainer, part, metric).values()
                row.append(mean_and_interval(np.array(list(values)), digits))
            rows.append([*row, f"{unexpected(cases):.2f}"])
    return markdown([*headings, "r"], rows)


def differences_table(comparison: Comparison) -> str:
    """Paired: each trainer, as it is, minus nnU-Net's default after its temperature."""
    rows = []
    reference = next(x for x in comparison.run.trainers if short(x) == REFERENCE)
    for trainer in comparison.run.trainers:
        row = [short(trainer)]
        for metric, (_, _, digits) in METRICS.items():
            theirs = values_of(comparison, reference, "test_T", metric)
            ours = values_of(comparison, trainer, "test", metric)
            both = np.array([ours[case] - theirs[case] for case in ours if case in theirs])
            row.append(mean_and_interval(both, digits) if len(both) else "")
        if any(row[1:]):
            rows.append(row)
    return markdown(["trained with", *(heading for heading, _, _ in METRICS.values())], rows)


def signals_table(comparison: Comparison) -> str:
    """A row for each training: where the control ended, and E, A and r of whole images."""
    headings = ["trained with", "fold", "lambda", "T"]
    headings += [f"{name}, {of}" for of in ("patches", "images") for name in ("E %", "A %", "r")]
    rows = []
    for trainer in comparison.run.trainers:
        for training in trainings_of(comparison, trainer):
            row = [short(trainer), str(training["fold"]), f"{training['lambda'][-1]:.3f}"]
            row.append(f"{training['temperature']:.2f}")
            for expected, actual in (
                (training["average_expected"][-1], training["average_errors"][-1]),
                training["rates of images"],
            ):
                row += [
                    f"{100 * expected:.2f}",
                    f"{100 * actual:.2f}",
                    f"{1 - expected / actual:.2f}",
                ]
            rows.append(row)
    return markdown(headings, rows)


def trainings_of(comparison: Comparison, trainer: str) -> list[dict[str, Any]]:
    """Of each fold the curves, the temperature, and E and A of its whole validation images."""
    found = []
    for fold in range(comparison.n_folds):
        folder = folder_of(comparison.run, trainer, fold)
        if is_done(comparison.run, trainer, fold):
            training = json.loads((folder / "training.json").read_text())
            fitted = json.loads((folder / "temperature.json").read_text())
            training["fold"] = fold
            training["temperature"] = temperature_of(fitted)
            validation = json.loads((folder / "validation" / "calibration.json").read_text())
            training["rates of images"] = error_rates(validation["cases"])
            found.append(training)
    return found


def temperature_of(calibrator: dict[str, Any]) -> float:
    """The one number in a calibrator of temperature."""
    (found,) = set(_numbers_called("temperature", calibrator))
    return found


def _numbers_called(name: str, content: Any) -> list[float]:
    if isinstance(content, dict):
        own = [x for key, x in content.items() if key == name and isinstance(x, int | float)]
        return own + [x for part in content.values() for x in _numbers_called(name, part)]
    if isinstance(content, list):
        return [x for part in content for x in _numbers_called(name, part)]
    return []


def looks_of(name: str) -> dict[str, Any]:
    """A colour for each segmentation loss, a line and a marker for what is added to it."""
    dice = name == "Dice" or name.startswith("DiceMEEP")
    colour = "#0072B2" if dice else "#009E73" if name.startswith("CE") else "#D55E00"
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


def draw_curves(comparison: Comparison) -> None:
    """Lambda and r over the epochs; r of the last epochs' patches against r of whole images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    axes = figure.subplot_mosaic([["lambda", "both"], ["r", "both"]], width_ratios=[3, 2])
    for trainer in comparison.run.trainers:
        looks = looks_of(short(trainer))
        for i, training in enumerate(trainings_of(comparison, trainer)):
            style = {**looks, "label": short(trainer) if i == 0 else None}
            share = np.arange(1, len(training["lambda"]) + 1) / len(training["lambda"])
            if "auto" in trainer:
                axes["lambda"].plot(share, training["lambda"], **style)
            axes["r"].plot(share, training["average_unexpected"], **style)
            expected, actual = training["rates of images"]
            of_patches = training["average_unexpected"][-1]
            axes["both"].plot(of_patches, 1 - expected / actual, **{**style, "linestyle": ""})
    axes["lambda"].set_ylabel("lambda of _lambdaauto")
    if not axes["lambda"].lines:
        where = axes["lambda"].transAxes
        axes["lambda"].text(0.5, 0.5, "no run with _lambdaauto yet", ha="center", transform=where)
    axes["r"].set_ylabel("r, share of unexpected errors")
    axes["r"].set_xlabel("share of the training")
    axes["r"].set_ylim(-1.5, 1.05)
    axes["r"].axhline(0, color="black", linewidth=0.5)
    axes["both"].set_xlabel("r of validation patches, last epochs")
    axes["both"].set_ylabel("r of whole validation images, after the training")
    axes["both"].axline((0, 0), slope=1, color="black", linewidth=0.5)
    axes["both"].set_aspect("equal")
    axes["both"].legend(fontsize=8)
    figure.savefig(OUTPUT / f"{comparison.run.dataset}.png", dpi=110)


if __name__ == "__main__":
    main()
