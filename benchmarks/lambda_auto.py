"""The runs behind ``lambda_auto.md``: plain, fixed lambda, and a lambda that finds itself.

    python benchmarks/lambda_auto.py hippocampus SRC WORK
    python benchmarks/lambda_auto.py wmh SRC WORK

SRC: ``hippocampus`` as for ``first_runs.py``; ``wmh`` takes a folder of 12 scans of MS3SEG with
``imagesTr/CASE_0000.nii.gz`` (FLAIR) and ``labelsTr/CASE.nii.gz`` (1 = white matter lesion, 2 =
normal periventricular hyperintensity, which is not scored). They form four folds, each with 7 scans
for training, 2 for validation (control of lambda, temperature) and 3 held-out test scans, so that
each scan is tested once. WORK holds nnU-Net's folders.

Two trainings run in parallel on one CPU thread each, or several on one GPU (``--device cuda --jobs
12``). Each is evaluated as soon as its predictions are made. Its results are kept in
``lambda_auto/`` beside this file; runs with a result are not repeated. At the end, tables and
pictures of all results are made.
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
    """A data set with its trainers, and the number of folds."""

    run: Run
    n_folds: int


#: Automatic lambda and nnU-Net's default: the trainers that the conclusions are about.
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
            # A fixed lambda near the one that _lambdaauto found.
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
            # In 1250 iterations Dice + CE did not find the lesions in every fold: nine of these
            # runs are kept in lambda_auto/, but no further ones are made.
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
        for fold in range(comparison.n_folds):  # before parallel trainings need them
            make_test_images(run, work, fold)
        with ThreadPoolExecutor(arguments.jobs) as pool:
            runs = [pool.submit(one_run, run, work, *job, arguments.device) for job in jobs]
        for done in runs:  # after all have run, so that a failure does not stop the others
            done.result()
    lambda_auto_tables.main()


def make_wmh(source: Path, raw: Path) -> None:
    """Make nnU-Net raw data from twelve FLAIR scans, with four folds."""
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
    """The folder where the results of a run are kept."""
    return OUTPUT / run.dataset / trainer / f"fold_{fold}"


def is_done(run: Run, trainer: str, fold: int) -> bool:
    return (folder_of(run, trainer, fold) / "training.json").exists()


def one_run(run: Run, work: Path, trainer: str, fold: int, device: str) -> None:
    """Train, predict, evaluate, and keep the results."""
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
    """The folder of the fold's held-out test images."""
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
    """Raw data, references of test and of validation scans, validation predictions.

    Relative to WORK.
    """
    raw = Path("nnUNet_raw") / run.dataset
    labels = raw / ("labelsTs" if (work / raw / "labelsTs").exists() else "labelsTr")
    references = Path("nnUNet_preprocessed") / run.dataset / "gt_segmentations"
    model = model_folder(run, work, trainer).relative_to(work)
    return raw, labels, references, model / f"fold_{fold}" / "validation"


def evaluate(run: Run, work: Path, trainer: str, fold: int) -> None:
    """Evaluate the validation scans, and the test scans before and after temperature scaling.

    The temperature is fitted to the validation scans. Paths are relative to WORK, so that results
    do not reveal the machine.
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
            folders.append("--chill")  # labelsTr also holds other scans than the fold's test scans
        command("meep-calib-eval", *folders, cwd=work)
        if part != "validation":
            cases = json.loads((work / output / "calibration.json").read_text())["cases"]
            n_images = len(list(test_images(run, work, fold).glob("*.nii.gz")))
            if len(cases) != n_images:  # --chill skips missing cases
                sys.exit(f"{output}: expected {n_images} cases, found {len(cases)}")
        (target / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(work / output / "calibration.json", target / part / "calibration.json")
    shutil.copyfile(work / calibrator, target / "temperature.json")


def keep_training(run: Run, trainer: str, fold: int, result: Path, device: str) -> None:
    """Keep lambda and the errors of each epoch from the log, and the device it was trained on."""
    import torch

    # It holds more than weights; it is safe to load, because this script has just made it.
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
