"""The runs behind ``lambda_auto.md``: plain, fixed lambda, and a lambda that finds itself.

    python benchmarks/lambda_auto.py hippocampus SRC WORK
    python benchmarks/lambda_auto.py wmh SRC WORK

SRC: ``hippocampus`` as for ``first_runs.py``; ``wmh`` takes a folder of 12 scans of MS3SEG with
``imagesTr/CASE_0000.nii.gz`` (FLAIR) and ``labelsTr/CASE.nii.gz`` (1 = white matter lesion, 2 =
normal periventricular hyperintensity, which is not scored), of which four folds are made: 7 scans
train, 2 validate (control and temperature), and 3 that neither has seen are the fold's test scans,
so that each scan is tested once. WORK holds nnU-Net's folders.

Two trainings run side by side on one CPU thread each, or several on one GPU (``--device cuda --jobs
12``). Each is evaluated as soon as it is predicted, and what it gave is kept in ``lambda_auto/``
beside this file; what is there already is not run again. At the end the tables are printed and the
pictures drawn of all that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import lambda_auto_tables
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
from lambda_auto_tables import OUTPUT


@dataclass(frozen=True)
class Comparison:
    """A data set, its folds, and the trainers of each."""

    run: Run
    n_folds: int


#: The lambda that finds itself and nnU-Net's default: what the verdict is about.
FIRST = ("DiceMEEP_KL_lambdaauto", "DiceCE", "MEEP_KL_lambdaauto")
COMPARISONS = {
    "hippocampus": Comparison(
        replace(
            RUNS["hippocampus"],
            trainers=[
                f"nnUNetTrainer{name}_50epochs_50iters{seed}"
                for seed in ("", "_seed1", "_seed2")
                for name in FIRST
            ]
            # CE alone needs another optimiser to converge (own_trainers/ce_with_adam.py).
            + [
                f"nnUNetTrainer{name}_Adam1en3_50epochs_50iters"
                for name in ("CE", "CEMEEP_KL_lambdaauto", "CEMEEP_KL")
            ]
            # Other signals and another term: own_trainers/lambda_variants.py at commit 2850b87.
            + [
                f"nnUNetTrainer{loss}_lambdaauto_{variant}_50epochs_50iters"
                for variant in ("boundary", "confidence", "overN")
                for loss in ("DiceMEEP_KL", "MEEP_KL")
            ]
            + [
                f"nnUNetTrainer{name}_50epochs_50iters{seed}"
                for seed in ("", "_seed1", "_seed2")
                for name in ("Dice", "DiceMEEP_KL", "MEEP_KL")
            ]
            # About what _lambdaauto came to, as a fixed lambda.
            + [
                f"nnUNetTrainer{name}_50epochs_50iters"
                for name in ("DiceMEEP_KL_lambda0p15", "MEEP_KL_lambda0p15")
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
            # In 1250 iterations Dice + CE did not find the lesions in every fold: nine of those
            # runs are kept in lambda_auto/, and no more of them are made.
            [
                f"nnUNetTrainer{name}_50epochs_25iters"
                for name in ("Dice", "DiceMEEP_KL_lambda1", "DiceMEEP_KL_lambdaauto")
            ]
            + [f"nnUNetTrainer{name}_50epochs_50iters" for name in (*FIRST, "MEEP_KL", "Dice")]
            + [
                f"nnUNetTrainer{name}_Adam1en3_50epochs_50iters"
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
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    at_a_time = {"type": int, "choices": range(1, 17), "default": 2, "metavar": "N"}
    parser.add_argument("--jobs", **at_a_time, help="trainings at a time, 1 to 16 (default: 2)")
    arguments = parser.parse_args()
    comparison, work = COMPARISONS[arguments.run], arguments.work.absolute()
    run = comparison.run
    work_in(work)
    folders = [str(HERE / "own_trainers"), os.environ.get("nnUNet_extTrainer", "")]
    os.environ["nnUNet_extTrainer"] = os.pathsep.join(filter(None, folders))
    jobs = [
        (trainer, fold)
        for trainer in run.trainers
        for fold in range(comparison.n_folds)
        if not is_done(run, trainer, fold)
    ]
    if jobs:
        raw = work / "nnUNet_raw" / run.dataset
        if not raw.exists():
            make = make_hippocampus if arguments.run == "hippocampus" else make_wmh
            make(arguments.source, raw)
        plan(run, work)
        for fold in range(comparison.n_folds):  # before two trainings ask for them
            make_test_images(run, work, fold)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            runs = [pool.submit(one_run, run, work, *job, arguments.device) for job in jobs]
        for done in runs:  # after all of them: what failed keeps no other from running
            done.result()
    lambda_auto_tables.main()


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


def one_run(run: Run, work: Path, trainer: str, fold: int, device: str) -> None:
    """Train, predict, fit a temperature to the validation scans, evaluate, keep."""
    result = model_folder(run, work, trainer) / f"fold_{fold}"
    options = ["-tr", trainer, "-p", PLANS, "-device", device]
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
    keep_training(run, trainer, fold, result, device)


def test_images(run: Run, work: Path, fold: int) -> Path:
    """The folder of the images that the fold neither trains on nor validates on."""
    given = work / "nnUNet_raw" / run.dataset / "imagesTs"
    return given if given.exists() else work / "tests" / run.dataset / f"fold_{fold}"


def make_test_images(run: Run, work: Path, fold: int) -> None:
    raw, folder = work / "nnUNet_raw" / run.dataset, test_images(run, work, fold)
    if folder.exists():
        return
    split = json.loads((raw / "splits_final.json").read_text())[fold]
    building = folder.with_name(".tmp-" + folder.name)
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for path in (raw / "imagesTr").iterdir():
        if path.name[: -len("_0000.nii.gz")] not in split["train"] + split["val"]:
            shutil.copyfile(path, building / path.name)
    building.rename(folder)


def folders_of(run: Run, work: Path, trainer: str, fold: int) -> tuple[Path, Path, Path, Path]:
    """Raw data, references of test and of validation scans, validation predictions; from WORK."""
    raw = Path("nnUNet_raw") / run.dataset
    labels = raw / ("labelsTs" if (work / raw / "labelsTs").exists() else "labelsTr")
    references = Path("nnUNet_preprocessed") / run.dataset / "gt_segmentations"
    model = model_folder(run, work, trainer).relative_to(work)
    return raw, labels, references, model / f"fold_{fold}" / "validation"


def evaluate(run: Run, work: Path, trainer: str, fold: int) -> None:
    """Validation scans, test scans, test scans after the temperature of the validation scans.

    Paths relative to WORK, so that results name no machine.
    """
    raw, labels, references, validation = folders_of(run, work, trainer, fold)
    test = Path("predictions") / run.dataset / trainer / f"fold_{fold}"
    calibrator = Path("calibrators") / run.dataset / trainer / f"fold_{fold}" / "calibrator.json"
    calibrated = Path("calibrated") / run.dataset / trainer / f"fold_{fold}"
    for begun in (calibrator.parent, calibrated):
        shutil.rmtree(work / begun, ignore_errors=True)
    (work / calibrator.parent).mkdir(parents=True)
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
        if part != "validation":
            folders.append("--chill")  # a fold's test scans are some of labelsTr
        command("meep-calib-eval", *folders, cwd=work)
        if part != "validation":
            cases = json.loads((work / output / "calibration.json").read_text())["cases"]
            n_images = len(list(test_images(run, work, fold).glob("*.nii.gz")))
            if len(cases) != n_images:  # --chill leaves out what is missing
                sys.exit(f"{output}: expected {n_images} cases, found {len(cases)}")
        (target / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / output / "calibration.json", target / part / "calibration.json")
    shutil.copyfile(work / calibrator, target / "temperature.json")


def keep_training(run: Run, trainer: str, fold: int, result: Path, device: str) -> None:
    """What the log says of lambda and of errors, epoch by epoch; and where it was trained."""
    import torch

    # nnU-Net's own file, made a moment ago by this script; it holds more than weights.
    path = result / "checkpoint_final.pth"
    log = torch.load(path, map_location="cpu", weights_only=False)["logging"]
    keys = ["lambda", "average_expected", "average_errors", "average_unexpected"]
    keys += ["unexpected_errors"]
    kept = {key: [float(x) for x in log[key]] for key in keys}
    kept["device"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    target = folder_of(run, trainer, fold) / "training.json"
    temporary = target.with_name(".tmp-" + target.name)
    temporary.write_text(json.dumps(kept, indent=1))
    temporary.rename(target)


if __name__ == "__main__":
    main()
