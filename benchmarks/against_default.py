"""nnU-Net's default and the lambda that finds itself, each with every post-hoc calibration.

    python benchmarks/against_default.py hippocampus SRC WORK
    python benchmarks/against_default.py wmh SRC WORK
    python benchmarks/against_default.py la SRC WORK

Trains for 2500 iterations with several seeds or folds. Each training is evaluated as it is, and
after temperature scaling, Platt scaling and isotonic regression fitted to its validation scans.
Data, folds and networks are those of ``lambda_auto.py`` (``la``: of ``first_runs.py``); surface
distances are measured as well. Results are kept in ``against_default/`` beside this file, and runs
with a result are not repeated. ``against_default_tables.py`` makes tables and pictures of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import against_default_tables
import lambda_auto
from against_default_tables import METHODS, OUTPUT
from first_runs import RUNS, Run, command, make_hippocampus, plan, work_in
from lambda_auto import (
    COMPARISONS,
    Comparison,
    folders_of,
    make_test_images,
    make_wmh,
    test_images,
)

LENGTH = "_50epochs_50iters"
#: The default, the recommended term, and the paper's better term; all with Dice + CE.
FIRST = ("DiceCE", "MEEP_H_lambdaauto", "MEEP_KL_lambdaauto")
#: The same automatic lambda with Dice alone.
DICE = ("DiceMEEP_H_lambdaauto", "DiceMEEP_KL_lambdaauto")


#: Other terms with the same control (own_trainers/term_variants.py).
VARIANTS = (
    *("MEEP_H_lambdaauto_over_N", "MEEP_KL_lambdaauto_over_N"),
    *("MEEP_H_lambdaauto_mean", "MEEP_KL_lambdaauto_floor"),
)


def trainers(losses: Sequence[str], n_seeds: int) -> list[str]:
    seeds = ("", *(f"_seed{i}" for i in range(1, n_seeds)))
    return [f"nnUNetTrainer{loss}{LENGTH}{seed}" for seed in seeds for loss in losses]


ASKED = {
    "hippocampus": Comparison(
        replace(
            RUNS["hippocampus"],
            trainers=trainers(FIRST, 5) + trainers(DICE, 5) + trainers(VARIANTS, 3),
        ),
        n_folds=1,
    ),
    "wmh": replace(
        COMPARISONS["wmh"], run=replace(COMPARISONS["wmh"].run, trainers=trainers(FIRST, 1))
    ),
    "la": Comparison(replace(RUNS["la"], trainers=trainers(FIRST, 3)), n_folds=1),
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
    own = str(Path(__file__).resolve().parent / "own_trainers")
    theirs = os.environ.get("nnUNet_extTrainer", "")
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(filter(None, [own, theirs]))
    # Take its training and prediction, but our evaluation and output folder.
    lambda_auto.OUTPUT, lambda_auto.evaluate = OUTPUT, evaluate
    jobs = [
        (trainer, fold)
        for trainer in asked.run.trainers
        for fold in range(asked.n_folds)
        if not lambda_auto.is_done(asked.run, trainer, fold)
    ]
    if jobs:
        run_all(arguments, asked, jobs)
    against_default_tables.main()


def run_all(
    arguments: argparse.Namespace, asked: Comparison, jobs: Sequence[tuple[str, int]]
) -> None:
    """Make the data if necessary; train, predict and evaluate what is missing."""
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
    """Evaluate the validation scans, and the test scans as they are and after each calibrator.

    Paths are relative to WORK, so that results do not reveal the machine.
    """
    raw, labels, references, validation = folders_of(run, work, trainer, fold)
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
            folders.append("--chill")  # labelsTr also holds other scans than the fold's test scans
        command("meep-calib-eval", *folders, cwd=work)
        n_images = len(list(test_images(run, work, fold).glob("*.nii.gz")))
        cases = json.loads((work / output / "calibration.json").read_text())["cases"]
        if part != "validation" and len(cases) != n_images:  # --chill skips missing cases
            sys.exit(f"{output}: expected {n_images} cases, found {len(cases)}")
        (target / part).mkdir(exist_ok=True)
        shutil.copyfile(work / output / "calibration.json", target / part / "calibration.json")


if __name__ == "__main__":
    main()
