"""The report of a benchmark: a comparison with its page for each data set, and all numbers."""

from __future__ import annotations

import gzip
import io
import os
import re
from collections.abc import Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_meep.atomic import replacing_file
from nnunet_meep.benchmark.choose import choices
from nnunet_meep.benchmark.collect import missing
from nnunet_meep.benchmark.plans.plan import THEN, Compare, Data, Plan
from nnunet_meep.benchmark.plans.short_names import short_names
from nnunet_meep.benchmark.plans.trainer_names import finds_lambda, lambda_of
from nnunet_meep.benchmark.results import Results, TrainingResult
from nnunet_meep.benchmark.running.folders import Folders
from nnunet_meep.evaluation.compare import compare
from nnunet_meep.evaluation.comparison import Comparison
from nnunet_meep.evaluation.notes import counted, of_models
from nnunet_meep.evaluation.report.comparison_report import write_comparison_report
from nnunet_meep.evaluation.report.verdict import about, short_verdict
from nnunet_meep.evaluation.results import Evaluation

RESULTS = "results.csv.gz"
#: By the name of a model: its trainings, and the evaluation of each.
_Models: TypeAlias = "dict[str, list[tuple[TrainingResult, Evaluation]]]"


def write_report(
    plan: Plan, results: Results, folder: Path, folders: Folders, *, progress: bool = False
) -> list[tuple[Path, list[str]]]:
    """Write a page with its tables and pictures for each comparison, and ``results.csv.gz``.

    Args:
        results: of the plan's trainings; those that are missing are said to be.
        folder: the report's; one comparison goes into ``DATA/``, several into
            ``DATA/REFERENCE/``, and a further one with the same reference into
            ``DATA/REFERENCE_2/``. That of a further ROI goes into a folder in there, such as
            ``boundary_5/``.
        progress: show progress bars on stderr.

    Returns:
        The pages, each with its verdict and with what is missing; those of further ROIs with a line
        that names the ROI.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_csv(results, folder / RESULTS)
    pages = []
    for name in plan.data:
        of_data = results.of(name)
        comparisons = _comparisons(plan, name)
        targets = _folders(folder / name, comparisons)
        for compared, target in zip(comparisons, targets, strict=True):
            models, notes = _models(plan, compared, name, of_data)
            if not models:
                continue
            pages += _write_pages(plan.data[name], models, notes, target, folders, progress)
    return pages


def _comparisons(plan: Plan, data: str) -> list[Compare]:
    """Those that the plan asks for on a data set; else all models with the first one."""
    names = plan.names_of_models(data)
    asked = [c for c in plan.comparisons if c.data in (None, data) and c.reference in names]
    return asked or [Compare(names[0])] if names else []


def _folders(folder: Path, comparisons: Sequence[Compare]) -> list[Path]:
    """The folder of each comparison."""
    if len(comparisons) == 1:
        return [folder]
    names: list[str] = []
    for compared in comparisons:
        name = re.sub(r"\W+", "_", compared.reference).strip("_")
        used = {name, *(f"{name}_{i}" for i in range(2, len(comparisons) + 1))}.intersection(names)
        names.append(f"{name}_{len(used) + 1}" if used else name)
    return [folder / name for name in names]


def _models(
    plan: Plan, compared: Compare, data: str, results: Sequence[TrainingResult]
) -> tuple[_Models, list[tuple[str, str]]]:
    """The trainings of each model to compare, the reference first, and notes on the models.

    Without a model, and the reason, as long as the reference is missing.
    """
    chosen, notes = choices(plan, data, results)
    if not all(result.has_test_scans for result in results):
        chosen = {}
        notes = [
            (
                name,
                f"{why}; not compared, because there are no other cases with labels (test scans)",
            )
            for name, why in notes
        ]
    asked = compared.models or tuple(plan.names_of_models(data))
    found: _Models = {name: [] for name in (compared.reference, *asked)}
    for result in results:
        names = [name for name, folds in chosen.items() if folds.get(result.fold) == result.trainer]
        for model, evaluation in result.models().items():
            after = model.removeprefix(result.trainer)
            for name in (model, *(choice + after for choice in names)):
                if name in found:
                    found[name].append((result, evaluation))
    notes += [(m.trainer, m.note) for m in plan.models if m.data == data and m.note]
    notes += _without_term(plan, data, results)
    notes += missing(plan, data, results)
    there = {name: trainings for name, trainings in found.items() if trainings}
    if compared.reference not in there:
        return {}, notes
    return there, notes


def _without_term(
    plan: Plan, data: str, results: Sequence[TrainingResult]
) -> Iterator[tuple[str, str]]:
    """Each trainer that was to find lambda, and how many of its trainings never had the term."""
    for trainer in dict.fromkeys(m.trainer for m in plan.models if m.data == data):
        curves = [r.curves for r in results if r.trainer == trainer and r.curves]
        n = sum("lambda" not in curve for curve in curves)
        if n and finds_lambda(trainer):
            yield (
                trainer,
                f"lambda was 0 to the end in {n} of {counted(len(curves), 'training')}, which were "
                f"too short for the term or whose network was underconfident (the end of the "
                f"training log says which): what is compared was trained without it",
            )


def _write_pages(
    data: Data,
    models: _Models,
    notes: Sequence[tuple[str, str]],
    folder: Path,
    folders: Folders,
    progress: bool,
) -> list[tuple[Path, list[str]]]:
    """A page for each ROI that all trainings were evaluated over."""
    names = short_names(list(dict.fromkeys([*models, *(model for model, _ in notes)])))
    for name, found in models.items():
        if "*" in name:
            trainer, *after = names[name].split(THEN)
            names[name] = THEN.join([trainer + _chosen(found), *after])
    evaluations = {names[m]: [evaluation for _, evaluation in found] for m, found in models.items()}
    every = [evaluation for of_model in evaluations.values() for evaluation in of_model]
    first, *others = [roi for roi in every[0].pooled if all(roi in e.pooled for e in every)]
    targets = {first: folder, **{roi: folder / re.sub(r"\W+", "_", roi) for roi in others}}
    named, pages = [(names[model], line) for model, line in notes], []
    for roi, target in targets.items():
        comparison = compare(evaluations, roi=roi, notes=named)
        write_comparison_report(
            comparison,
            target,
            images=_images(folders.raw / data.dataset, comparison),
            needs_slices=False,
            curves={names[m]: _curves(found) for m, found in models.items() if THEN not in m},
            pages={
                other: Path(os.path.relpath(path, target), "report.html").as_posix()
                for other, path in targets.items()
                if other != roi
            },
            progress=progress,
        )
        said = [*short_verdict(comparison), *(f"Note: {line}" for line in of_models(named))]
        if roi != first:
            said = [f"Also compared: {about(comparison)}."]
        pages.append((target / "report.html", said))
    return pages


def _chosen(trainings: Sequence[tuple[TrainingResult, Evaluation]]) -> str:
    """The lambdas that validation cases chose, one for all folds or several: `` (0.1, 0.3)``."""
    found = [lambda_of(result.trainer) for result, _ in trainings]
    values = dict.fromkeys(value.replace("p", ".") for _, value in filter(None, found))
    return f" ({', '.join(values)})"


#: What a training costs, as the page names it: key of :attr:`.TrainingResult.cost`.
_COSTS = {
    "seconds per epoch": "seconds_per_epoch",
    "peak memory, MB": "memory_mb",
    "peak GPU memory, MB": "gpu_memory_mb",
    "device": "device",
}


def _curves(trainings: Sequence[tuple[TrainingResult, Evaluation]]) -> list[dict[str, Any]]:
    """The curves and costs of a model's trainings; calibration after the training has none."""
    return [
        {
            "name": result.name,
            "values": result.curves,
            "costs": {
                **{name: result.cost[key] for name, key in _COSTS.items() if key in result.cost},
                **_trained_with(result),
                **({"temperature": result.temperature} if result.temperature else {}),
            },
        }
        for result, _ in trainings
    ]


def _trained_with(result: TrainingResult) -> dict[str, str]:
    """The versions that matter for a training; nothing if they are not known."""
    names = {"nnunetv2": "nnU-Net", "torch": "torch"}
    found = [f"{names[n]} {result.versions[n]}" for n in names if n in result.versions]
    return {"trained with": ", ".join(found)} if found else {}


def _images(raw: Path, comparison: Comparison) -> Path | None:
    """The folder with the images of all cases; None without it, or without their predictions."""
    for trainings in comparison.evaluations.values():
        folders = trainings[0].sources.pred_folders
        for case in comparison.cases:
            if not any((folder / f"{case}.npz").is_file() for folder in folders):
                return None
    for folder in (raw / "imagesTs", raw / "imagesTr"):
        if all(any(folder.glob(f"{escape(case)}_0000.*")) for case in comparison.cases):
            return folder
    return None


def _write_csv(results: Results, path: Path) -> None:
    """All numbers, a row for each; without a time in it, so that equal results are equal files."""
    buffer = io.StringIO()
    results.to_dataframe().to_csv(buffer, index=False, float_format="%.6g")
    with replacing_file(path) as temporary:
        temporary.write_bytes(gzip.compress(buffer.getvalue().encode(), mtime=0))
