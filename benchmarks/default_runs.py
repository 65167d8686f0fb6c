"""nnU-Net's default with several seeds, and what post-hoc calibration makes of it.

    python benchmarks/default_runs.py hippocampus SRC WORK
    python benchmarks/default_runs.py wmh SRC WORK
    python benchmarks/default_runs.py la SRC WORK

What a loss has to be held against: Dice + CE of 2500 iterations, as it is and after a
temperature, Platt scaling and isotonic regression, fitted to its validation scans. Data, folds and
networks are those of ``lambda_auto.py`` (``la``: of ``first_runs.py``); distances are measured,
too. Results are kept in ``default_runs/`` beside this file, and what is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lambda_auto
import numpy as np
from first_runs import HERE, RUNS, Run, command, make_hippocampus, model_folder, plan, work_in
from lambda_auto import COMPARISONS, Comparison, make_test_images, make_wmh, test_images

OUTPUT = HERE / "default_runs"
#: Method of meep-calib-fit, and what stands behind the name of the part.
METHODS = {"temperature": "T", "platt": "PS", "isotonic": "IR"}
#: Metric: unit and digits. ``top_`` is of the top label, all others are of foreground classes.
METRICS = {
    "dice": (1, 3),
    "hd": (1, 2),
    "hd95": (1, 2),
    "assd": (1, 2),
    "ece": (1e3, 2),
    "top_ece": (1e3, 2),
    "brier": (1e4, 1),
    "nll": (1e3, 1),
    "top_aurc": (1e3, 2),
}
HEADINGS = [
    "Dice",
    "HD mm",
    "HD95 mm",
    "ASSD mm",
    "ECE e-3",
    "top-label ECE e-3",
    "Brier e-4",
    "NLL e-3",
]
HEADINGS.append("AURC e-3")
DEFAULT = "nnUNetTrainerDiceCE_50epochs_50iters"


def seeds(n: int) -> list[str]:
    return [DEFAULT, *(f"{DEFAULT}_seed{i}" for i in range(1, n))]


ASKED = {
    "hippocampus": Comparison(replace(RUNS["hippocampus"], trainers=seeds(5)), n_folds=1),
    "wmh": replace(COMPARISONS["wmh"], run=replace(COMPARISONS["wmh"].run, trainers=[DEFAULT])),
    "la": Comparison(replace(RUNS["la"], trainers=seeds(3)), n_folds=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=ASKED)
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, choices=range(1, 17), default=2, metavar="N")
    arguments = parser.parse_args()
    asked, work = ASKED[arguments.run], arguments.work.absolute()
    work_in(work)
    # Its training and prediction; what is made of them, and where it is kept, is ours.
    lambda_auto.OUTPUT, lambda_auto.evaluate = OUTPUT, evaluate
    jobs = [
        (trainer, fold)
        for trainer in asked.run.trainers
        for fold in range(asked.n_folds)
        if not lambda_auto.is_done(asked.run, trainer, fold)
    ]
    if jobs:
        run_all(arguments, asked, jobs)
    print(table(asked.run))


def run_all(
    arguments: argparse.Namespace, asked: Comparison, jobs: Sequence[tuple[str, int]]
) -> None:
    """Make the data if need be, and train, predict and evaluate what is missing."""
    work = arguments.work.absolute()
    raw = work / "nnUNet_raw" / asked.run.dataset
    if not raw.exists() and arguments.run == "la":
        command("meep-convert-la", str(arguments.source), "-d", asked.run.dataset_id)
    elif not raw.exists():
        make = make_hippocampus if arguments.run == "hippocampus" else make_wmh
        make(arguments.source, raw)
    plan(asked.run, work)
    for fold in range(asked.n_folds):
        make_test_images(asked.run, work, fold)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        runs = [
            pool.submit(lambda_auto.one_run, asked.run, work, *job, arguments.device)
            for job in jobs
        ]
    for done in runs:
        done.result()


def evaluate(run: Run, work: Path, trainer: str, fold: int) -> None:
    """Validation scans; test scans as they are, and after each calibrator.

    Paths relative to WORK, so that results name no machine.
    """
    raw = Path("nnUNet_raw") / run.dataset
    labels = raw / ("labelsTs" if (work / raw / "labelsTs").exists() else "labelsTr")
    references = Path("nnUNet_preprocessed") / run.dataset / "gt_segmentations"
    validation = model_folder(run, work, trainer).relative_to(work) / f"fold_{fold}" / "validation"
    where = Path(run.dataset) / trainer / f"fold_{fold}"
    test, target = Path("predictions") / where, OUTPUT / where
    target.mkdir(parents=True, exist_ok=True)
    parts = [("validation", references, validation), ("test", labels, test)]
    for method, short in METHODS.items():
        calibrator = Path("calibrators") / where / short / "calibrator.json"
        calibrated = Path("calibrated") / where / short
        for begun in (calibrator.parent, calibrated):
            shutil.rmtree(work / begun, ignore_errors=True)
        (work / calibrator.parent).mkdir(parents=True)
        fit = [method, str(references), str(validation), "-o", str(calibrator)]
        command("meep-calib-fit", *fit, cwd=work)
        command("meep-calib-apply", str(calibrator), str(test), "-o", str(calibrated), cwd=work)
        shutil.copyfile(work / calibrator, target / f"{method}.json")
        parts.append((f"test_{short}", labels, calibrated))
    for part, truth, predictions in parts:
        output = Path("evaluated") / where / part
        folders = [str(truth), str(predictions), "-o", str(output), "-np", "1"]
        folders += ["-djfile", str(raw / "dataset.json")]
        if part != "validation":
            folders.append("--chill")  # a fold's test scans are some of labelsTr
        command("meep-calib-eval", *folders, cwd=work)
        n_images = len(list(test_images(run, work, fold).glob("*.nii.gz")))
        cases = json.loads((work / output / "calibration.json").read_text())["cases"]
        if part != "validation" and len(cases) != n_images:  # --chill leaves out what is missing
            sys.exit(f"{output}: expected {n_images} cases, found {len(cases)}")
        (target / part).mkdir(exist_ok=True)
        shutil.copyfile(work / output / "calibration.json", target / part / "calibration.json")


def table(run: Run) -> str:
    """Means over test scans and foreground classes: of all trainings, and from the lowest to the
    highest of them."""
    lines = [f"| {' | '.join(['', *HEADINGS])} |", "|" + " --- |" * (len(HEADINGS) + 1)]
    for name, part in {"as it is": "test", **{m: f"test_{s}" for m, s in METHODS.items()}}.items():
        found = sorted((OUTPUT / run.dataset).glob(f"*/fold_*/{part}/calibration.json"))
        rows = np.array([means(json.loads(path.read_text())) for path in found])
        cells = [
            f"{rows[:, i].mean():.{n}f} ({rows[:, i].min():.{n}f} to {rows[:, i].max():.{n}f})"
            for i, (_, n) in enumerate(METRICS.values())
        ]
        lines.append(f"| {name}, {len(rows)} trainings | {' | '.join(cells)} |")
    return "\n".join(lines)


def means(result: dict) -> list[float]:
    """Of a ``calibration.json``, in the units of the table."""
    top, classes = result["top_label"]["per_case"], result["classes"].values()
    return [
        unit * top[metric.removeprefix("top_")]["mean"]
        if metric.startswith("top_")
        else unit * np.mean([c["per_case"][metric]["mean"] for c in classes])
        for metric, (unit, _) in METRICS.items()
    ]


if __name__ == "__main__":
    main()
