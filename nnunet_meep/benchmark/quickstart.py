"""Compare nnU-Net's default loss with MEEP-KL, from the images to the reliability diagrams.

Runs the public commands that a user would type, each in its own process, and shows them.
Everything happens inside one working folder::

    FOLDER/nnUNet_raw, nnUNet_preprocessed, nnUNet_results    nnU-Net's folders
    FOLDER/predictions/TRAINER                                probabilities of the test scans
    FOLDER/calibration/TRAINER                                what meep-calib-eval writes
    FOLDER/logs                                               the output of each command
    FOLDER/.meep-quickstart                                   the names of all these files

The trainings are far too short to judge a method by.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from nnunet_meep.benchmark.commands import (
    Runner,
    clock,
    prediction_progress,
    progress_bars,
    say,
    training_progress,
)
from nnunet_meep.datasets import synthetic
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.metrics.catalogue import CATALOGUE, Metric
from nnunet_meep.evaluation.report.tables import text_table

EPOCHS = 2
ITERATIONS = 20
#: Column heading in the table: trainer.
TRAINERS = {
    "nnU-Net": f"nnUNetTrainerDiceCE_{EPOCHS}epochs_{ITERATIONS}iters",
    "MEEP-KL": f"nnUNetTrainerMEEP_KL_{EPOCHS}epochs_{ITERATIONS}iters",
}
CONFIGURATION = "3d_fullres"
SYNTHETIC_DATASET = "Dataset001_SyntheticLA"
#: The metrics in the table, by their keys in the catalogue.
METRICS = ("dice", "hd", "hd95", "brier", "brier_plus", "ece")
#: Lists what a run left in its folder, one name per line: all that the next run may delete.
MARKER = ".meep-quickstart"
CAVEAT = (
    f"So short a training ({EPOCHS} epochs of {ITERATIONS} iterations; nnU-Net trains 1000 of "
    "250)\nproves the installation, not the method."
)


def quickstart(folder: Path, *, data: Path | None = None, device: str | None = None) -> None:
    """Train, predict, evaluate and compare inside ``folder``, with progress on stdout.

    Args:
        folder: new, empty, or left by an earlier quickstart, whose files are deleted first.
        data: a ``DatasetXXX_NAME`` folder in nnU-Net's raw format, which is only read; None makes
            a synthetic data set. The test scans are evaluated if they have labels, otherwise the
            validation cases of fold 0.
        device: ``cpu``, ``cuda`` or ``mps``; None: ``cuda`` if available, else ``cpu``.

    Raises:
        InputError: ``folder`` holds something else, ``data`` is not nnU-Net raw data, or a
            command failed; the message then names its log file.
    """
    started = time.monotonic()
    if data is not None:
        data = Path(os.path.abspath(data))
        on_test_scans = _check_raw_data(data, folder)
    else:
        on_test_scans = True
    _make_empty(folder)
    try:
        say(f"nnU-Net's default loss and MEEP-KL on {data or 'a small synthetic data set'}.")
        say(CAVEAT)
        say(
            f"\nEverything goes into {folder}: nnUNet_raw, nnUNet_preprocessed and nnUNet_results "
            "are set to folders\nin there for the commands below; yours are not used."
        )
        if device is None:
            device = _default_device()
        if data is not None and device == "cpu":
            say("On a CPU, scans of clinical size take hours: nnU-Net plans for a GPU of 8 GB.")
        dataset = SYNTHETIC_DATASET if data is None else data.name
        raw = folder / "nnUNet_raw" / dataset
        if data is None:
            synthetic.make_dataset(raw)
        else:
            _link(data, raw)
        evaluated = (
            "the test scans (imagesTs, labelsTs)"
            if on_test_scans
            else "the validation cases of fold 0, as there are no test scans with labels"
        )
        say(f"Data: {raw}; evaluated are {evaluated}.")
        calibrations = _run_commands(folder, dataset, device, on_test_scans, check=data is not None)
    finally:
        _leave_marker(folder)

    say(f"\n{comparison_table(calibrations)}\n")
    say("Reliability diagrams:")
    for trainer in TRAINERS.values():
        say(f"  {folder / 'calibration' / trainer / 'reliability.png'}")
    say(f"\nEverything took {clock(time.monotonic() - started)}. {CAVEAT}")
    say(
        "Next, with your own data and nnU-Net folders: "
        f"nnUNetv2_train DATASET {CONFIGURATION} 0 -tr nnUNetTrainerMEEP_KL_lambdaauto"
    )


def comparison_table(calibrations: dict[str, dict[str, Any]]) -> str:
    """A table with the mean over cases of each class and metric.

    Args:
        calibrations: column heading: content of a ``calibration.json``.
    """
    first = next(iter(calibrations.values()))
    rows = [["mean over cases", "", *calibrations, "better is"]]
    for key, entry in first["classes"].items():
        name = entry["name"]
        for key_of_metric in METRICS:
            metric = CATALOGUE[key_of_metric]
            per_case = [c["classes"][key]["per_case"] for c in calibrations.values()]
            cells = [_cell(metric, statistics[key_of_metric]) for statistics in per_case]
            if key_of_metric == "dice":
                cells = [f"{c}{_missed(s)}" for c, s in zip(cells, per_case, strict=True)]
            rows.append([name, metric.heading, *cells, metric.better.name.lower()])
            name = ""
    return text_table(rows)


def _missed(per_case: dict[str, Any]) -> str:
    """A remark if a class is not segmented, so that its other values are not taken as an advantage.

    In a case without the class, Dice is 0 or undefined: a mean of 0 means no overlap in any case.
    """
    is_missed = per_case["brier_plus"]["n"] and per_case["dice"]["mean"] == 0
    return " (not segmented)" if is_missed else ""


def _cell(metric: Metric, statistics: dict[str, Any]) -> str:
    if statistics["mean"] is None:
        return "undefined"
    # Without a predicted voxel there is no surface distance: the mean is then over fewer cases.
    fewer = f" (n={statistics['n']})" if statistics["n_undefined"] else ""
    return f"{metric.number(statistics['mean'])}{fewer}"


def _run_commands(
    folder: Path, dataset: str, device: str, on_test_scans: bool, *, check: bool
) -> dict[str, dict[str, Any]]:
    """Run the commands; returns the content of each trainer's ``calibration.json``."""
    raw = folder / "nnUNet_raw" / dataset
    runner = Runner(folder, n_commands=1 + len(TRAINERS) * (3 if on_test_scans else 2))
    plan = ["nnUNetv2_plan_and_preprocess", "-d", str(int(dataset[7:10])), "-c", CONFIGURATION]
    plan += ["-npfp", "2", "-np", "2"]
    if check:
        plan.append("--verify_dataset_integrity")
    runner.run(plan, progress_bars)
    calibrations = {}
    for heading, trainer in TRAINERS.items():
        train = ["nnUNetv2_train", dataset, CONFIGURATION, "0", "-tr", trainer, "-device", device]
        if not on_test_scans:
            train.append("--npz")
        runner.run(train, training_progress(EPOCHS))
        if on_test_scans:
            references = raw / "labelsTs"
            predictions = folder / "predictions" / trainer
            predict = ["nnUNetv2_predict", "-i", str(raw / "imagesTs"), "-o", str(predictions)]
            predict += ["-d", dataset, "-c", CONFIGURATION, "-f", "0", "-tr", trainer]
            predict += ["-device", device, "--save_probabilities"]
            runner.run(predict, prediction_progress)
        else:
            references = folder / "nnUNet_preprocessed" / dataset / "gt_segmentations"
            model = f"{trainer}__nnUNetPlans__{CONFIGURATION}"
            predictions = folder / "nnUNet_results" / dataset / model / "fold_0" / "validation"
        calibration = folder / "calibration" / trainer
        runner.run(
            ["meep-calib-eval", str(references), str(predictions), "-o", str(calibration)],
            progress_bars,
        )
        calibrations[heading] = json.loads((calibration / "calibration.json").read_text())
    return calibrations


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_raw_data(data: Path, folder: Path) -> bool:
    """Refuse now what nnU-Net would refuse later. Returns whether the test scans have labels."""
    if not data.is_dir():
        raise InputError(f"{data}: expected a folder with nnU-Net raw data, found none")
    inside, outside = data.resolve(), folder.resolve()
    if inside.is_relative_to(outside) or outside.is_relative_to(inside):
        raise InputError(f"{folder}: the working folder and the data {data} must not overlap")
    if not re.fullmatch(r"Dataset\d{3}_.+", data.name):
        raise InputError(f"{data}: expected nnU-Net raw data, a folder named DatasetXXX_NAME")
    try:
        ending = str(json.loads((data / "dataset.json").read_bytes())["file_ending"])
    except FileNotFoundError:
        raise InputError(f"{data}: expected nnU-Net raw data, found no dataset.json") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f'{data / "dataset.json"}: expected JSON with "file_ending", as nnU-Net has it'
        ) from None
    for part in ("imagesTr", "labelsTr"):
        if not _cases(data / part, ending):
            raise InputError(f"{data / part}: expected nnU-Net raw data, found no files *{ending}")
    images = {name[:-5] for name in _cases(data / "imagesTs", ending)}  # CASE_0000
    labels = _cases(data / "labelsTs", ending)
    if images and labels and images != labels:
        case = min(images ^ labels)
        raise InputError(
            f"{data}: expected the same cases in imagesTs and labelsTs, found {case} in one only"
        )
    return bool(images and labels)


def _cases(folder: Path, ending: str) -> set[str]:
    return {
        path.name.removesuffix(ending) for path in folder.glob("*") if path.name.endswith(ending)
    }


def _link(data: Path, destination: Path) -> None:
    destination.parent.mkdir()
    try:
        destination.symlink_to(data, target_is_directory=True)
    except OSError:  # no permission for links on Windows; some network drives
        shutil.copytree(data, destination)


def _make_empty(folder: Path) -> None:
    """Delete what the marker lists; refuse a folder that holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder or nothing, found a file")
    folder.mkdir(parents=True, exist_ok=True)
    marker = folder / MARKER
    listed = (
        set(marker.read_text(encoding="utf-8", errors="replace").splitlines())
        if marker.exists()
        else set()
    )
    if others := sorted(_names(folder) - listed):
        raise InputError(
            f"{folder}: found {others[0]}, which is not from an earlier meep-quickstart; nothing "
            "was changed; give another folder with -o, or delete this one"
        )
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != marker:
            path.unlink()
    marker.unlink(missing_ok=True)


def _leave_marker(folder: Path) -> None:
    names = sorted(_names(folder))
    (folder / MARKER).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _names(folder: Path) -> set[str]:
    """The names of all that is in a folder, except the marker; links are not followed."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return {name for name in paths if name != MARKER}
