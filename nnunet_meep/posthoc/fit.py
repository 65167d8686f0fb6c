"""Fits a calibrator to folders of predictions and their references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_meep.errors import InputError, is_meant
from nnunet_meep.evaluation.counting.bins import CellTotals, grid
from nnunet_meep.evaluation.counting.roi import Roi, parse_roi
from nnunet_meep.evaluation.metrics.calibration import bins_of_voxels
from nnunet_meep.evaluation.metrics.scores import log_loss
from nnunet_meep.nnunet_files.derived import DERIVED
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import PART
from nnunet_meep.posthoc.binary import (
    NothingToLearn,
    WeightedVoxels,
    best_temperature,
    fit_binary,
)
from nnunet_meep.posthoc.calibrator import (
    METHODS,
    Calibrator,
    binary_channel,
    binary_keys,
    is_joint,
    label_entries,
)
from nnunet_meep.posthoc.fitting_set import FittingSet
from nnunet_meep.posthoc.maps import LOGIT_FLOOR, BinaryMap, JointMap, JointTemperature
from nnunet_meep.posthoc.sample import SEED, Sample, sample_case, voxels_per_case
from nnunet_meep.posthoc.scalings import check_installed, fit_scaling
from nnunet_meep.posthoc.values import MAX_COUNTS, ValueCounts
from nnunet_meep.posthoc.voxels import FileVoxels, Voxels

#: Number of bins of the reliability diagrams before and after calibration.
N_BINS = 15


@dataclass(frozen=True)
class ClassFit:
    """The calibration of one class on the fitting set, before and after calibrating.

    Attributes:
        name: name of the class.
        n_voxels: number of voxels with the class in the fitting set.
        before, after: ``edges``, ``count``, ``mean_p``, ``mean_y`` of the bins, as in
            ``calibration.json``.
        log_loss_before, log_loss_after: log loss of the class against the rest, mean over voxels,
            with probabilities raised to at least ``LOGIT_FLOOR``.
    """

    name: str
    n_voxels: int
    before: dict[str, list[float]]
    after: dict[str, list[float]]
    log_loss_before: float
    log_loss_after: float


@dataclass(frozen=True)
class Fit:
    """The result of :func:`fit`.

    Attributes:
        calibrator: the calibrator.
        classes: {key of a class: its calibration on the fitting set}. If several classes are each
            calibrated against the rest, this is before they are normalised to sum 1.
        incomplete_folds: see
            :meth:`nnunet_meep.nnunet_files.predictions.Predictions.incomplete_folds`.
    """

    calibrator: Calibrator
    classes: dict[str, ClassFit]
    incomplete_folds: list[dict[str, Any]]


def check_method(method: str) -> None:
    """Check that there is such a method, and what it needs; to be called before any work.

    Raises:
        InputError: it is none of ``METHODS``, or fiducio is needed, but not installed.
    """
    if method in DERIVED:
        raise InputError(
            f"method: expected one that calibrates probabilities, got {method}; it has a function "
            f"of its own"
        )
    if method not in METHODS:
        known = (*METHODS, *DERIVED)
        raise InputError(
            f"method: {is_meant(method, known)}expected one of {', '.join(known)}, got {method}"
        )
    check_installed(method)


def fit(
    method: str,
    gt_folder: Path | None,
    pred_folders: Path | Sequence[Path],
    *,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    roi: str = "image",
    cases: Sequence[str] | None = None,
    folds: bool = False,
    progress: bool = False,
) -> Fit:
    """Learn a calibrator from predictions with probabilities and their references.

    Maps of one class against the rest are fitted to all voxels: ``isotonic`` to its distinct
    probabilities (see :mod:`.values`); ``platt``, and all other methods if there are two classes or
    regions, to the evaluator's cells. Maps of several classes together are fitted to a weighted
    sample, see :mod:`.sample`.

    Args:
        method: one of ``METHODS``.
        gt_folder, pred_folders, dataset_json, plans_json: as for
            :func:`nnunet_meep.evaluation.evaluate.evaluate`.
        roi: the voxels to use, see :mod:`nnunet_meep.evaluation.counting.roi`; nnU-Net's padding is
            always left out.
        cases: names of the cases to learn from; None: all.
        folds: the calibrator is for the average of the folds whose validation predictions are
            given (cross-fitting), not for each of them.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a folder, file or argument cannot be used, or there is nothing to learn.
    """
    check_method(method)
    # Padding is not a prediction: it is neither calibrated nor used for fitting.
    where = replace(parse_roi(roi), without_padding=True)
    given = FittingSet.open(
        gt_folder, pred_folders, dataset_json, plans_json, cases, where, folds=folds
    )
    dataset = given.dataset
    with tqdm(given.cases, desc="fit", unit="case", disable=not progress) as bar:
        voxels = (FileVoxels(case, dataset, where) for case in bar)
        learnt = learn(method, voxels, len(given.cases), dataset.labels, where)
    given.refuse_changed()
    calibrator = Calibrator(
        method,
        dataset.labels,
        label_entries(dataset.dataset_json),
        network=given.network,
        fitted_on={**given.to_dict(), **learnt.on},
        **learnt.maps,
    )
    return Fit(calibrator, learnt.classes, given.predictions.incomplete_folds())


@dataclass(frozen=True)
class Learnt:
    """The result of :func:`learn`.

    Attributes:
        maps: the arguments ``binary`` and ``reasons``, or ``joint``, for :class:`.Calibrator`.
        classes: see :class:`Fit`.
        on: entries for ``fitted_on`` of the calibrator: numbers of voxels and log loss.
    """

    maps: dict[str, Any]
    classes: dict[str, ClassFit]
    on: dict[str, Any]


def learn(method: str, cases: Iterable[Voxels], n_cases: int, labels: Labels, roi: Roi) -> Learnt:
    """Fit the maps of a calibrator to voxels, in files or in memory.

    Args:
        method: one of ``METHODS``.
        cases: the cases; iterated over once.
        n_cases: number of cases.
        labels: the classes.
        roi: the voxels to use.

    Raises:
        InputError: a case cannot be used, or there is nothing to learn.
    """
    if is_joint(method, labels):
        maps, classes, learnt_on = _fit_joint(method, cases, n_cases, labels, roi)
    else:
        maps, classes, learnt_on = _fit_binaries(method, cases, labels, roi)
    learnt_on["classes"] = {
        key: {
            "name": c.name,
            "n_voxels": c.n_voxels,
            "log_loss_before": c.log_loss_before,
            "log_loss_after": c.log_loss_after,
        }
        for key, c in classes.items()
    }
    return Learnt(maps, classes, learnt_on)


def _fit_binaries(
    method: str, cases: Iterable[Voxels], labels: Labels, roi: Roi
) -> tuple[dict[str, Any], dict[str, ClassFit], dict[str, Any]]:
    read = _read_values if method == "isotonic" else _read_cells
    maps: dict[str, BinaryMap | None] = {}
    reasons: dict[str, str] = {}
    classes = {}
    n_voxels = 0
    for key, voxels in read(cases, labels, roi).items():
        n_voxels = round(voxels.weight.sum())
        if not n_voxels:
            raise InputError(f"{method}: nothing to learn: all voxels are ignored or padding")
        try:
            maps[key] = fit_binary(method, voxels)
        except NothingToLearn as error:
            maps[key], reasons[key] = None, str(error)
        function = maps[key]
        after = voxels.p if function is None else function(voxels.p)
        classes[key] = _class_fit(_name(labels, key), voxels, after)
    if not any(maps.values()):
        why = "; ".join(f"{classes[key].name}: {reason}" for key, reason in reasons.items())
        raise InputError(f"{method}: nothing to learn from these {n_voxels} voxels: {why}")
    return {"binary": maps, "reasons": reasons}, classes, {"n_voxels": n_voxels}


def _read_cells(cases: Iterable[Voxels], labels: Labels, roi: Roi) -> dict[str, WeightedVoxels]:
    """For each key the voxels in the evaluator's cells; reads each file once."""
    totals = {key: CellTotals(grid(N_BINS).n_cells) for key in binary_keys(labels)}
    for case in cases:
        sums = case.counts(N_BINS).sums_of(roi)
        for key, total in totals.items():
            total.add(sums.channels[binary_channel(labels, key)].cells)
    return {key: WeightedVoxels.from_cells(total.total()) for key, total in totals.items()}


def _read_values(cases: Iterable[Voxels], labels: Labels, roi: Roi) -> dict[str, WeightedVoxels]:
    """For each key the voxels by their distinct probabilities; reads each file twice."""
    keys = binary_keys(labels)
    counts = {binary_channel(labels, key): ValueCounts(MAX_COUNTS // len(keys)) for key in keys}
    y_of_code = {c: labels.y_of_code(labels.channel_members(c)) for c in counts}
    for case in cases:
        codes = case.counts(N_BINS).codes_in(roi)  # checks the probabilities, and finds padding
        for part in case.parts():
            if part.channel in counts:
                y = y_of_code[part.channel][codes[part.start : part.stop]]
                counts[part.channel].add(part.p[y < 2], y[y < 2])
            part.release()
    return {key: counts[binary_channel(labels, key)].voxels() for key in keys}


def _fit_joint(
    method: str, cases: Iterable[Voxels], n_cases: int, labels: Labels, roi: Roi
) -> tuple[dict[str, Any], dict[str, ClassFit], dict[str, Any]]:
    n_each = voxels_per_case(n_cases, labels.n_channels)
    samples = [sample_case(case, labels, roi, n_each, i) for i, case in enumerate(cases)]
    sample = Sample.joined(samples)
    samples.clear()
    if (sample.p.argmax(axis=1) == sample.y).all():
        raise InputError(f"{method}: nothing to learn: none of the predicted labels is wrong")
    absent = [n for i, n in enumerate(("background", *labels.names)) if not (sample.y == i).any()]
    if absent and method != "temperature":
        raise InputError(
            f"{method}: expected voxels of each class in the references, found none of "
            f"{', '.join(absent)}, and would learn that it never occurs; temperature, platt and "
            f"isotonic do not"
        )
    joint = (
        _fit_temperature(sample)
        if method == "temperature"
        else fit_scaling(method, sample.p, sample.y, sample.weight)
    )
    after = _in_blocks(joint, sample.p)
    classes = {}
    for channel, value in enumerate(labels.values):
        y = (sample.y == channel).astype(np.float64)
        voxels = WeightedVoxels(sample.p[:, channel].astype(np.float64), y, sample.weight)
        classes[str(value)] = _class_fit(
            _name(labels, str(value)), voxels, after[:, channel].astype(np.float64)
        )
    losses = {
        "log_loss_before": _joint_log_loss(sample.p, sample),
        "log_loss_after": _joint_log_loss(after, sample),
    }
    learnt_on = {
        "n_voxels": round(sample.weight.sum()),
        "sample": {
            "seed": SEED,
            "n_voxels": len(sample.y),
            "strata": "case, class of the reference, whether the predicted label is right",
        },
        **losses,
    }
    return {"joint": joint}, classes, learnt_on


def _fit_temperature(sample: Sample) -> JointMap:
    log_p = np.log(np.maximum(sample.p, LOGIT_FLOOR))
    # Subtract log p of the correct class, so that the loss of a voxel is log sum exp.
    log_p -= np.take_along_axis(log_p, sample.y[:, None], axis=1)
    share = sample.weight / sample.weight.sum()

    def loss(temperature: float) -> float:
        scaled = log_p / np.float32(temperature)
        highest = scaled.max(axis=1)
        scaled -= highest[:, None]
        return float(share @ (np.log(np.exp(scaled, out=scaled).sum(axis=1)) + highest))

    return JointTemperature(best_temperature(loss))


def _in_blocks(joint: JointMap, p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Apply a map to (N, K) in blocks, to avoid a float64 copy of all voxels."""
    result = np.empty_like(p)
    for start in range(0, len(p), PART):
        block = slice(start, start + PART)
        result[block] = joint(p[block].T.astype(np.float64)).T
    return result


def _joint_log_loss(p: NDArray[np.float32], sample: Sample) -> float:
    """Of probabilities (N, K) of the voxels of a sample."""
    likelihood = np.take_along_axis(p, sample.y[:, None], axis=1)[:, 0]
    return log_loss(likelihood, sample.weight, LOGIT_FLOOR)


def _class_fit(name: str, voxels: WeightedVoxels, after: NDArray[np.float64]) -> ClassFit:
    weight, y = voxels.weight, voxels.y

    def loss(p: NDArray[np.float64]) -> float:
        return log_loss(np.where(y == 1, p, 1 - p), weight, LOGIT_FLOOR)

    return ClassFit(
        name=name,
        n_voxels=round(float(weight @ y)),
        before=bins_of_voxels(voxels.p, y, weight, N_BINS),
        after=bins_of_voxels(after, y, weight, N_BINS),
        log_loss_before=loss(voxels.p),
        log_loss_after=loss(after),
    )


def _name(labels: Labels, key: str) -> str:
    return dict(zip(labels.keys, labels.names, strict=True)).get(key, "background")
