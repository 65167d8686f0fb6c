"""The runs behind ``first_runs.md``: stock nnU-Net commands, from raw scans to committed numbers.

    python benchmarks/first_runs.py hippocampus SRC WORK
    python benchmarks/first_runs.py la SRC WORK

SRC: ``hippocampus`` takes a folder with ``imagesTr/CASE_0000.nii.gz`` and ``labelsTr/CASE.nii.gz``
(Medical Segmentation Decathlon, task 4; of its first 200 cases in name order, 140 are for training,
the next 20 for validation and the last 40 for testing); ``la`` takes what ``meep-convert-la``
takes. WORK holds nnU-Net's folders and grows to about 2 GB.

Two trainings run in parallel, on one CPU thread each. If started again, it resumes from nnU-Net's
last checkpoint, or at the next step without a result. At the end, numbers, pictures and checkpoints
(without what inference does not need) are written to folders beside this file.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLANS = "nnUNetPlansSmall"
CONFIGURATION = "3d_fullres"


@dataclass(frozen=True)
class Run:
    """A data set, a network small enough for a CPU, and the trainers to compare."""

    dataset: str
    patch_size: list[int]  # z, y, x
    features: list[int]
    planner_options: list[str]
    trainers: list[str]

    @property
    def dataset_id(self) -> str:
        return str(int(self.dataset[7:10]))


RUNS = {
    "hippocampus": Run(
        dataset="Dataset004_Hippocampus",
        patch_size=[40, 56, 40],
        features=[8, 16, 32, 64],
        planner_options=[],
        trainers=[
            f"nnUNetTrainer{name}_50epochs_50iters"
            for name in ("DiceCE", "MEEP_KL", "Dice", "DiceMEEP_KL", "DiceMEEP_KL_lambda0p15")
        ],
    ),
    "la": Run(
        dataset="Dataset501_LA",
        patch_size=[32, 64, 80],
        features=[8, 16, 32, 64, 64],
        planner_options=[
            "-gpu_memory_target",
            "2",
            "-overwrite_target_spacing",
            "1.25",
            "1.25",
            "1.25",
        ],
        trainers=[f"nnUNetTrainer{name}_20epochs_40iters" for name in ("DiceCE", "MEEP_KL")],
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("source", metavar="SRC", type=Path)
    parser.add_argument("work", metavar="WORK", type=Path)
    arguments = parser.parse_args()
    run, work = RUNS[arguments.run], arguments.work.absolute()
    work_in(work)

    raw = work / "nnUNet_raw" / run.dataset
    if not raw.exists():
        if arguments.run == "hippocampus":
            make_hippocampus(arguments.source, raw)
        else:
            command("meep-convert-la", str(arguments.source), "-d", run.dataset_id)
    plan(run, work)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda trainer: train_and_predict(run, work, trainer), run.trainers))
    for trainer in run.trainers:
        evaluate(run, work, trainer)
        collect_model(run, work, trainer)
    for part in ("test", "validation"):
        print(f"\n{run.dataset}, {part} scans\n\n{markdown_table(run, part)}")


def work_in(work: Path) -> None:
    """Set nnU-Net's folders to WORK, and its environment variables for a small machine."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (work / name).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(work / name)
    # The last three keep glibc from returning the memory of each activation to the system, which
    # makes an iteration on a CPU take a fifth less time.
    small = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2", "OMP_NUM_THREADS": "1"}
    malloc = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
    os.environ.update({**small, **malloc, "MALLOC_ARENA_MAX": "1"})


def make_hippocampus(source: Path, raw: Path) -> None:
    """Make nnU-Net raw data from the first 200 cases, with the split in this file's docstring."""
    cases = sorted(p.name[: -len(".nii.gz")] for p in (source / "labelsTr").glob("*.nii.gz"))[:200]
    if len(cases) < 200:
        sys.exit(f"{source}: expected 200 hippocampus cases in labelsTr, found {len(cases)}")
    building = raw.with_name(".tmp-" + raw.name)
    shutil.rmtree(building, ignore_errors=True)
    for i, case in enumerate(cases):
        part = "Tr" if i < 160 else "Ts"
        for kind, name in (("images", f"{case}_0000.nii.gz"), ("labels", f"{case}.nii.gz")):
            (building / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / f"{kind}Tr" / name, building / f"{kind}{part}" / name)
    dataset = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
        "numTraining": 160,
        "file_ending": ".nii.gz",
    }
    (building / "dataset.json").write_text(json.dumps(dataset, indent=2))
    splits = [{"train": cases[:140], "val": cases[140:160]}]
    (building / "splits_final.json").write_text(json.dumps(splits, indent=2))
    building.rename(raw)


def plan(run: Run, work: Path) -> None:
    """Make nnU-Net's plans with a smaller network and batch size 2, and preprocess the data."""
    preprocessed = work / "nnUNet_preprocessed" / run.dataset
    done = preprocessed / ".first_runs_preprocessed"
    if done.exists():
        return
    d = ["-d", run.dataset_id]
    command("nnUNetv2_extract_fingerprint", *d, "--verify_dataset_integrity", "-np", "2")
    command("nnUNetv2_plan_experiment", *d, "-overwrite_plans_name", PLANS, *run.planner_options)
    path = preprocessed / f"{PLANS}.json"
    plans = json.loads(path.read_text())
    configuration = plans["configurations"][CONFIGURATION]
    configuration["batch_size"] = 2
    configuration["patch_size"] = run.patch_size
    configuration["architecture"]["arch_kwargs"]["features_per_stage"] = run.features
    path.write_text(json.dumps(plans, indent=2))
    command("nnUNetv2_preprocess", *d, "-plans_name", PLANS, "-c", CONFIGURATION, "-np", "2")
    done.touch()


def model_folder(run: Run, work: Path, trainer: str) -> Path:
    name = f"{trainer}__{PLANS}__{CONFIGURATION}"
    return work / "nnUNet_results" / run.dataset / name


def train_and_predict(run: Run, work: Path, trainer: str) -> None:
    """Train fold 0 with ``--npz``, then predict the test scans with probabilities."""
    fold = model_folder(run, work, trainer) / "fold_0"
    options = ["-tr", trainer, "-p", PLANS, "-device", "cpu"]
    if not (fold / "validation" / "summary.json").exists():
        resume = ["--c"] if (fold / "checkpoint_latest.pth").exists() else []
        resume = ["--c"] if (fold / "checkpoint_final.pth").exists() else resume
        one_thread("nnUNetv2_train", run.dataset_id, CONFIGURATION, "0", "--npz", *resume, *options)
    output = work / "predictions" / run.dataset / trainer
    images = work / "nnUNet_raw" / run.dataset / "imagesTs"
    if len(list(output.glob("*.npz"))) < len(list(images.glob("*_0000.nii.gz"))):
        options += ["-i", str(images), "-o", str(output), "-d", run.dataset_id, "-f", "0"]
        options += ["-c", CONFIGURATION, "--save_probabilities", "-npp", "1", "-nps", "1"]
        one_thread("nnUNetv2_predict", *options)


def evaluate(run: Run, work: Path, trainer: str) -> None:
    """Evaluate test and validation scans; relative paths, so that results do not name a machine."""
    validation = model_folder(run, work, trainer) / "fold_0" / "validation"
    for part, references, predictions in (
        ("test", work / "nnUNet_raw" / run.dataset / "labelsTs", None),
        ("validation", work / "nnUNet_preprocessed" / run.dataset / "gt_segmentations", validation),
    ):
        folder = predictions or work / "predictions" / run.dataset / trainer
        pair = [os.path.relpath(path, work) for path in (references, folder)]
        output = HERE / "first_runs" / run.dataset / trainer / part
        command("meep-calib-eval", *pair, "-o", str(output), cwd=work)


def collect_model(run: Run, work: Path, trainer: str) -> None:
    """Copy what nnU-Net needs to predict, without optimizer state and training log."""
    import torch

    source = model_folder(run, work, trainer)
    target = HERE / "models" / run.dataset / source.name
    (target / "fold_0").mkdir(parents=True, exist_ok=True)
    for name in ("dataset.json", "plans.json"):
        shutil.copyfile(source / name, target / name)
    # It holds more than weights; it is safe to load, because this script has just made it.
    checkpoint = torch.load(
        source / "fold_0" / "checkpoint_final.pth", map_location="cpu", weights_only=False
    )
    needed = ("network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes")
    kept = {key: checkpoint[key] for key in needed}
    torch.save(kept, target / "fold_0" / "checkpoint_final.pth")


def markdown_table(run: Run, part: str) -> str:
    """Mean over cases of each metric, a row for each trainer and class."""
    units = {"dice": 1, "hd": 1, "hd95": 1, "brier": 1e4, "brier_plus": 1, "ece": 1e3}
    headings = ["trainer", "class", "Dice", "HD mm", "HD95 mm", "Brier e-4", "Brier+", "ECE e-3"]
    headings.append("pooled ECE e-3")
    lines = [f"| {' | '.join(headings)} |", "|" + " --- |" * len(headings)]
    for trainer in run.trainers:
        path = HERE / "first_runs" / run.dataset / trainer / part / "calibration.json"
        for entry in json.loads(path.read_text())["classes"].values():
            means = [entry["per_case"][metric]["mean"] * unit for metric, unit in units.items()]
            digits = [3, 2, 2, 1, 3, 2]
            cells = [f"{mean:.{n}f}" for mean, n in zip(means, digits, strict=True)]
            cells.append(f"{entry['pooled']['ece'] * 1e3:.2f}")
            name = trainer.removeprefix("nnUNetTrainer").rsplit("_", 2)[0]
            lines.append(f"| {name} | {entry['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def command(name: str, *arguments: str, cwd: Path | None = None) -> None:
    """Run a command of this environment and stop if it fails."""
    print("$", name, *arguments, flush=True)
    subprocess.run([Path(sys.executable).with_name(name), *arguments], check=True, cwd=cwd)


def one_thread(name: str, *arguments: str) -> None:
    """:func:`command` with one torch thread, instead of nnU-Net's default of one per core."""
    print("$", name, *arguments, flush=True)
    script = [sys.executable, str(Path(__file__).resolve()), "on-one-thread", name, *arguments]
    subprocess.run(script, check=True)


def on_one_thread(name: str) -> None:
    multiprocessing.cpu_count = lambda: 1  # what nnU-Net gives to torch.set_num_threads
    if name == "nnUNetv2_train":
        from nnunetv2.run.run_training import run_training_entry as entry
    else:
        from nnunetv2.inference.predict_from_raw_data import predict_entry_point as entry
    entry()


if __name__ == "__main__":
    if sys.argv[1:2] == ["on-one-thread"]:
        del sys.argv[:2]  # what is left is the argv of nnU-Net's command
        on_one_thread(sys.argv[0])
    else:
        main()
