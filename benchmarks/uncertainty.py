"""What the probabilities tell a reader: of whole scans, of volumes, and of single lesions.

Takes what ``meep-benchmark run`` leaves in a work folder: predictions of the test scans, as they
are and with the temperature of the plan, and those of the validation scans. Trainings whose names
differ in the seed alone are one model; folds are evaluated together, over the scans that all have.

- Scans: the Dice that a network expects of each segmentation, against the actual one.
- Volumes: intervals of 90 % (split conformal prediction) from the validation scans, and how many
  true volumes of the test scans are inside.
- Lesions: which of the predicted components match one of the reference, and how sure the network
  was of each (--lesions: of these data sets; components of organs say little).

    python benchmarks/uncertainty.py WORK --lesions lesions
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from machine import machine
from tqdm import tqdm

import nnunet_meep as nm
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.metrics.case_ranking import case_ranking
from nnunet_meep.evaluation.report.tables import markdown_table
from nnunet_meep.evaluation.results import Evaluation
from nnunet_meep.evaluation.volume_coverage import volume_coverage
from nnunet_meep.posthoc.fit_derived import Goal, fit_derived

COVERAGE = 0.9
#: The least sure of the predicted components, those that a reader looks at first.
FIRST = 0.25
SCANS = {
    "Dice": ("dice", ".3f"),
    "expected Dice": ("dice_expected", ".3f"),
    "off by": ("error", ".3f"),
    "rank correlation": ("spearman", ".2f"),
    "E-AURC e-3": ("e_aurc", ".1f"),
}
VOLUMES = {
    "segmented volume off by": ("volume_pred", ".1%"),
    "expected volume off by": ("volume_expected", ".1%"),
    "expected / true volume": ("bias_expected", ".2f"),
    f"inside the {COVERAGE:.0%} interval": ("inside", ".1%"),
    "its width": ("width", ".0%"),
}
LESIONS = {
    "predicted": ("n", ".0f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "mean p of right ones": ("p_right", ".2f"),
    "of false ones": ("p_false", ".2f"),
    f"false of the {FIRST:.0%} least sure": ("false_first", ".0%"),
    "ECE": ("ece", ".3f"),
    "average precision": ("ap", ".2f"),
}


@dataclass
class Training:
    """The folds of a training, as it is or with a calibrator.

    Attributes:
        seed: "" if it has none.
        references, predictions: of the test scans, for each fold.
        validation: (references, predictions) of the validation scans, for each fold.
        calibrators: that of each fold; empty if the training is as it is.
    """

    seed: str
    references: Path
    predictions: list[Path] = field(default_factory=list)
    validation: list[tuple[Path, Path]] = field(default_factory=list)
    calibrators: list[Path] = field(default_factory=list)

    @property
    def cases(self) -> set[str]:
        return {path.stem for fold in self.predictions for path in fold.glob("*.npz")}


def find(work: Path, data: Path) -> dict[str, list[Training]]:
    """{name of a model: its trainings}, of one data set of the work folder."""
    models: dict[str, list[Training]] = defaultdict(list)
    for folder in sorted(path for path in data.iterdir() if path.is_dir()):
        folds = sorted(folder.glob("fold_*"))
        dataset = json.loads((folds[0] / "plans.json").read_bytes())["dataset_name"]
        raw = work / "nnUNet_raw" / dataset
        cases = {path.stem for path in folds[0].glob("*.npz")}
        references = next(
            part
            for part in (raw / "labelsTs", raw / "labelsTr")
            if cases <= {path.name.removesuffix(".nii.gz") for path in part.glob("*.nii.gz")}
        )
        name, _, seed = folder.name.removeprefix("nnUNetTrainer").partition("_seed")
        name = re.sub(r"_\d+epochs_\d+iters", "", name)
        plain = Training(seed, references)
        calibrated = Training(seed, references)
        for fold in folds:
            results = work / "nnUNet_results" / dataset
            (validation,) = results.glob(f"{folder.name}__*/{fold.name}/validation")
            gt = work / "nnUNet_preprocessed" / dataset / "gt_segmentations"
            place = Path(data.name, folder.name, fold.name, "temperature")
            plain.predictions.append(fold)
            plain.validation.append((gt, validation))
            if (work / "calibrated" / place).is_dir():
                calibrated.predictions.append(work / "calibrated" / place)
                calibrated.validation.append((gt, validation))
                calibrated.calibrators.append(work / "calibrators" / place / "calibrator.json")
        models[name].append(plain)
        if calibrated.predictions:
            models[f"{name} + temperature"].append(calibrated)
    return models


def evaluated(training: Training, cases: set[str], lesions: bool) -> Evaluation:
    """The test scans of all folds together."""
    return nm.evaluate(
        training.references,
        training.predictions,
        surface=False,
        lesions=0 if lesions else None,
        cases=sorted(cases),
    )


def of_classes(evaluation: Evaluation, metric: str) -> list[list[float]]:
    """The metric of each class in each case."""
    rois = [case.rois["image"] for case in evaluation.cases]
    return [[roi.classes[key][metric] for roi in rois] for key in evaluation.classes]


def of_scans(evaluation: Evaluation) -> dict[str, float]:
    """Means over classes of how expected Dice and volumes are right."""
    expected, actual = (of_classes(evaluation, m) for m in ("dice_expected", "dice"))
    rankings = [case_ranking(e, a) for e, a in zip(expected, actual, strict=True)]
    true, predicted, sum_p = (
        np.array(of_classes(evaluation, f"volume_{v}_ml")) for v in ("true", "pred", "expected")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        of_predicted, of_expected = (np.abs(v - true) / true for v in (predicted, sum_p))
    return {
        "dice": float(np.nanmean(actual)),
        "dice_expected": float(np.nanmean(expected)),
        "error": float(np.nanmean(of_classes(evaluation, "dice_expected_error"))),
        "spearman": float(np.mean([r["spearman"]["value"] for r in rankings])),
        "e_aurc": 1e3 * float(np.mean([r["e_aurc"]["value"] for r in rankings])),
        "volume_pred": float(np.mean(of_predicted[np.isfinite(of_predicted)])),
        "volume_expected": float(np.mean(of_expected[np.isfinite(of_expected)])),
        "bias_expected": float(np.nansum(sum_p) / np.nansum(true)),
    }


def of_volumes(training: Training, evaluation: Evaluation) -> dict[str, float]:
    """Share of true volumes inside the intervals, and mean relative width, means over classes.

    Raises:
        InputError: there are no intervals.
    """
    covered, width = [], []
    for i, (references, predictions) in enumerate(training.validation):
        after = training.calibrators[i] if training.calibrators else None
        fit = fit_derived(Goal("volume", COVERAGE), references, predictions, after=after)
        assert fit.calibrator.intervals is not None
        names = {path.stem for path in training.predictions[i].glob("*.npz")}
        cases = [case for case in evaluation.cases if case.case in names]
        for found in volume_coverage(fit.calibrator.intervals, cases)["classes"].values():
            covered.append(found["n_covered"] / found["n_cases"])
            width.append(found["mean_relative_width"])
    return {"inside": float(np.mean(covered)), "width": float(np.mean(width))}


def of_lesions(evaluation: Evaluation) -> dict[str, float]:
    """The lesions of all scans and classes together."""
    assert evaluation.lesions is not None
    mean_p, right, n_true, found = [], [], 0, 0
    for of_case in evaluation.lesions.values():
        for lesions in of_case.values():
            mean_p += lesions.mean_p
            right += [match is not None for match in lesions.predicted.match]
            n_true += len(lesions.reference.match)
            found += sum(match is not None for match in lesions.reference.match)
    p, is_right = np.array(mean_p), np.array(right)
    first = np.argsort(p, kind="stable")[: max(1, round(FIRST * len(p)))]
    pooled = [entry["pooled"] for entry in evaluation.to_dict()["lesions"]["classes"].values()]
    confidence = [of_class["confidence"]["mean_p"] for of_class in pooled]
    return {
        "n": len(p),
        "precision": float(is_right.mean()),
        "recall": found / n_true,
        "p_right": float(p[is_right].mean()),
        "p_false": float(p[~is_right].mean()),
        "false_first": float((~is_right[first]).mean()),
        "ece": float(np.mean([c["ece"] for c in confidence])),
        "ap": float(np.mean([c["average_precision"] for c in confidence])),
    }


def cell(rows: Sequence[dict[str, float]], key: str, form: str) -> str:
    """The mean over trainings, with the smallest and the largest behind it if there are several."""
    values = [row[key] for row in rows]
    if np.isnan(values).all():
        return "-"
    text = format(np.mean(values), form)
    if len(values) > 1 and key != "n":
        text += f" ({format(min(values), form)} to {format(max(values), form)})"
    return text


def table(models: dict[str, list[dict[str, float]]], columns: dict[str, tuple[str, str]]) -> str:
    """A row for each model; columns are {heading: (key of a training's number, format)}."""
    rows = [["", "trainings", *columns]]
    for name, of_trainings in models.items():
        cells = [cell(of_trainings, *column) for column in columns.values()]
        rows.append([name, str(len(of_trainings)), *cells])
    return markdown_table(rows)


def tables(models: dict[str, list[Training]], lesions: bool, bar: tqdm) -> list[str]:
    """The tables of one data set."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    refused: dict[str, None] = {}
    everywhere = set.intersection(*(t.cases for of_model in models.values() for t in of_model))
    for name, trainings in models.items():
        for training in trainings:
            evaluation = evaluated(training, everywhere, lesions)
            row = of_scans(evaluation)
            try:
                row |= of_volumes(training, evaluation)
            except InputError as error:
                refused[str(error).rpartition(": ")[2]] = None
                row |= dict.fromkeys(("inside", "width"), np.nan)
            if lesions:
                row |= of_lesions(evaluation)
            found[name].append(row)
            bar.update()
    lines = [f"{len(everywhere)} test scans.", "", "Scans:", "", table(found, SCANS)]
    lines += ["", "Volumes:", "", table(found, VOLUMES), ""]
    lines += [f"No intervals: {reason}." for reason in refused]
    if lesions:
        lines += ["", "Lesions:", "", table(found, LESIONS)]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, help="work folder of meep-benchmark")
    parser.add_argument("--lesions", nargs="+", default=[], help="data sets with lesions")
    options = parser.parse_args()
    work = options.work.resolve()
    lines = []
    for data in sorted(path for path in (work / "predictions").iterdir() if path.is_dir()):
        models = find(work, data)
        n = sum(len(trainings) for trainings in models.values())
        with tqdm(total=n, desc=data.name, unit="training") as bar:
            lines += [f"## {data.name}", "", *tables(models, data.name in options.lesions, bar), ""]
    print("\n".join([*lines, machine(("nnunet-meep", "nnunetv2", "numpy", "torch"))]))


if __name__ == "__main__":
    main()
