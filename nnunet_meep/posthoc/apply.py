"""Apply a calibrator to a folder of nnU-Net predictions: another such folder."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.calibrated import CALIBRATOR_COPY, note, read_note
from nnunet_meep.nnunet_files.cases import Dataset, case_names, find_json, read_dataset
from nnunet_meep.nnunet_files.identity import file_identity
from nnunet_meep.nnunet_files.images import read_codes, write_label_map
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.networks import RECORD, Network, network_of
from nnunet_meep.nnunet_files.probabilities import (
    PART,
    open_probabilities,
    refuse_sums,
    refuse_values,
    write_probabilities,
)
from nnunet_meep.posthoc.calibrator import Calibrator, read_calibrator


def apply(
    calibrator_json: Path,
    pred_folder: Path,
    output: Path,
    *,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    any_network: bool = False,
    progress: bool = False,
) -> Applied:
    """Calibrate a folder of predictions with probabilities into another folder.

    For each case ``CASE.npz`` (``probabilities``, float32), the segmentation that nnU-Net's rule
    makes of them, and ``CASE.pkl`` copied unopened where there is one; ``dataset.json``,
    ``plans.json``, nnU-Net's record of its arguments if there is one, the calibrator, and a record
    of which folder this is of, and which network. Each case appears whole, with a note of what it
    was made of, by which a run that was stopped knows what is done and goes on.

    Args:
        calibrator_json: what ``meep-calib-fit`` wrote.
        pred_folder: predictions, ``CASE.npz`` beside ``CASE<file_ending>``.
        output: folder to be made; or empty, or begun by the same call.
        dataset_json, plans_json: nnU-Net's files; looked for in ``pred_folder`` and two folders up.
        any_network: apply the calibrator to predictions of another network, too, which is written
            down; never to those of another data set.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a file or folder cannot be used, or is of another network; the line names it.
        OSError: something cannot be written.
    """
    job = _Job.prepare(calibrator_json, pred_folder, dataset_json, plans_json)
    if (pred_folder / RECORD).is_file():
        raise InputError(
            f"{pred_folder}: expected predictions as nnU-Net wrote them, found calibrated ones"
        )
    network = network_of([pred_folder])
    differences = job.calibrator.check_network(network, pred_folder, any_network=any_network)
    begin(output, calibrator_json, Record(pred_folder, network, tuple(differences)))
    for name in sorted(case_names(output, ".npz") - set(job.names)):
        raise InputError(
            f"{output / (name + '.npz')}: expected cases of {pred_folder}, found one that is not "
            f"there any more; remove it, or give another folder (-o)"
        )
    not_argmax = job.run(output, progress)
    unknown = job.calibrator.network.unknown_of_either(network)
    return Applied(job.names, not_argmax, tuple(differences), unknown)


def calibrate_into(
    output: Path,
    calibrator_json: Path,
    pred_folder: Path,
    record: Record,
    *,
    progress: bool = False,
) -> Applied:
    """:func:`apply` to an output folder that :func:`begin` was called for."""
    job = _Job.prepare(calibrator_json, pred_folder)
    not_argmax = job.run(output, progress)
    unknown = job.calibrator.network.unknown_of_either(record.network)
    return Applied(job.names, not_argmax, record.any_network, unknown)


@dataclass(frozen=True)
class Applied:
    """What :func:`apply` did.

    Attributes:
        names: of the cases.
        not_argmax: of the cases calibrated now, in how many voxels the segmentation was another one
            than nnU-Net's rule made of the probabilities, where it was.
        differences: in what the predictions are of another network than the calibrator.
        unknown: what is not known of the network of the predictions, or of the calibrator, and
            so was not checked.
    """

    names: list[str]
    not_argmax: dict[str, int]
    differences: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """What an output folder is of.

    Attributes:
        pred_folder: the predictions.
        network: what made them.
        any_network: in what that is another network than the calibrator's.
    """

    pred_folder: Path
    network: Network
    any_network: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the folder."""
        return {
            "pred_folder": str(self.pred_folder.resolve()),
            "network": self.network.to_dict(),
            "any_network": list(self.any_network),
        }


@dataclass(frozen=True)
class _Job:
    """A folder to be calibrated; all that can be said before the first case was looked at."""

    calibrator: Calibrator
    identity: str  # of the calibrator's file
    dataset: Dataset
    pred_folder: Path
    names: list[str]
    copied: dict[str, Path]  # files that are not of a case

    @classmethod
    def prepare(
        cls,
        calibrator_json: Path,
        pred_folder: Path,
        dataset_json: Path | None = None,
        plans_json: Path | None = None,
    ) -> _Job:
        calibrator, identity = read_calibrator(calibrator_json), file_identity(calibrator_json)
        if not pred_folder.is_dir():
            raise InputError(f"{pred_folder}: expected a folder of predictions, found none")
        dataset = read_dataset([pred_folder], dataset_json, plans_json)
        dataset_path = find_json(pred_folder, dataset_json, "dataset.json", "-djfile")
        calibrator.check_labels(dataset.labels, dataset_path)
        arguments = "predict_from_raw_data_args.json"
        copied = {
            "dataset.json": dataset_path,
            "plans.json": find_json(pred_folder, plans_json, "plans.json", "-pfile"),
            arguments: pred_folder / arguments,
        }
        names = _cases(pred_folder, dataset.file_ending)
        return cls(calibrator, identity, dataset, pred_folder, names, copied)

    def run(self, output: Path, progress: bool) -> dict[str, int]:
        """Calibrate what is not done yet; see ``Applied.not_argmax``."""
        for name, source in self.copied.items():
            if source.is_file():
                with replacing_file(output / name) as temporary:
                    shutil.copyfile(source, temporary)
        not_argmax = {}
        for name in tqdm(self.names, unit="case", disable=not progress):
            if not self._is_done(name, output) and (n := self._calibrate(name, output)):
                not_argmax[name] = n
        return not_argmax

    def _is_done(self, name: str, output: Path) -> bool:
        """Was a case made of this very prediction, by this calibrator?"""
        if not (output / f"{name}{self.dataset.file_ending}").is_file():
            return False
        try:
            with (
                open_probabilities(self.pred_folder / f"{name}.npz") as source,
                open_probabilities(output / f"{name}.npz") as result,
            ):
                if source.comment:  # a finished one that meep-predict showed to nnU-Net
                    return (source.comment, source.identity) == (result.comment, result.identity)
                return result.comment == note(source.identity, self.identity)
        except InputError:
            return False

    def _calibrate(self, name: str, output: Path) -> int:
        """Calibrate a case; in how many voxels its segmentation was not the argmax."""
        source = self.pred_folder / f"{name}.npz"
        labels, ending = self.dataset.labels, self.dataset.file_ending
        probabilities, identity = _read_npz(source, labels)
        old = self.pred_folder / f"{name}{ending}"
        codes, _, _ = read_codes(old, self.dataset)
        if codes.shape != probabilities.shape[1:]:
            raise InputError(
                f"{old}: expected a segmentation of shape {probabilities.shape[1:]} like its "
                f"probabilities, got {codes.shape}"
            )
        n_not_argmax = int(
            np.count_nonzero(codes != labels.encode(segmentation(probabilities, labels)))
        )
        del codes
        self.calibrator(probabilities, out=probabilities)
        # All files in a folder of their own first; the probabilities come last and say that it is
        # done.
        with TemporaryDirectory(prefix=".tmp-", dir=output) as temporary:
            folder = Path(temporary)
            write_label_map(
                segmentation(probabilities, labels), folder / old.name, old, self.dataset
            )
            if (properties := self.pred_folder / f"{name}.pkl").is_file():
                shutil.copyfile(properties, folder / properties.name)
            others = sorted(folder.iterdir())
            npz = folder / f"{name}.npz"
            write_probabilities(npz, probabilities, note(identity, self.identity))
            for path in (*others, npz):
                os.replace(path, output / path.name)
        return n_not_argmax


def segmentation(probabilities: NDArray[np.float32], labels: Labels) -> NDArray[np.unsignedinteger]:
    """What nnU-Net makes of probabilities, (C, *shape) to (*shape).

    The label of the largest probability, the first of equal ones; for regions the last one of
    ``regions_class_order`` with p > 1/2.
    """
    small = np.uint8 if max(labels.predicted_label) <= np.iinfo(np.uint8).max else np.uint16
    result = np.zeros(probabilities.shape[1:], small)
    for i, target in enumerate(result):  # plane by plane: argmax takes eight bytes a voxel
        plane = probabilities[:, i]
        if not labels.is_region_based:
            target[...] = plane.argmax(axis=0)
        else:
            for p, label in zip(plane, labels.regions_class_order, strict=True):
                target[p > 0.5] = label
    return result


def _read_npz(path: Path, labels: Labels) -> tuple[NDArray[np.float32], str]:
    """All probabilities of a case, checked as ``meep-calib-eval`` does it, (C, *shape); and what
    they are (:mod:`nnunet_meep.nnunet_files.identity`)."""
    with open_probabilities(path) as file:
        expected = (labels.n_channels, *file.shape[1:])
        if read_note(file.comment):
            raise InputError(
                f"{path}: expected a prediction as nnU-Net wrote it, found a calibrated one"
            )
        if file.shape != expected or len(expected) < 2 or not math.prod(expected):
            raise InputError(
                f"{path}: expected probabilities of shape {expected} (classes or regions first), "
                f"got {file.shape}"
            )
        flat = np.empty((expected[0], math.prod(expected[1:])), np.float32)
        n_not_finite, low, high = 0, 0.0, 1.0
        for part in file.parts():
            flat[part.channel, part.start : part.stop] = part.p
            n_not_finite += part.p.size - int(np.isfinite(part.p).sum())
            low, high = min(low, float(part.p.min())), max(high, float(part.p.max()))
            part.release()
        refuse_values(path, n_not_finite, low, high)
        if not labels.is_region_based:
            starts = range(0, flat.shape[1], PART)
            sums = (flat[:, i : i + PART].sum(axis=0, dtype=np.float64) for i in starts)
            refuse_sums(path, max(float(np.abs(s - 1).max()) for s in sums), file.dtype)
        if not file.fortran_order:
            return flat.reshape(expected), file.identity
        arrays = np.stack([channel.reshape(expected[1:], order="F") for channel in flat])
        return arrays, file.identity


def _cases(folder: Path, ending: str) -> list[str]:
    """Cases that have both of their files.

    Raises:
        InputError: one has not, or there are none.
    """
    probabilities, segmentations = case_names(folder, ".npz"), case_names(folder, ending)
    if not probabilities:
        raise InputError(
            f"{folder}: expected CASE.npz files with probabilities, found none beside "
            f"{len(segmentations)} segmentations ({ending}); predict with --save_probabilities (or "
            f"train with --npz)"
        )
    for name in sorted(probabilities ^ segmentations):
        there, missing = (".npz", ending) if name in probabilities else (ending, ".npz")
        raise InputError(
            f"{folder / (name + there)}: expected {name}{missing} beside it, found none; predict "
            f"with --save_probabilities (or train with --npz)"
        )
    return sorted(probabilities)


def begin(output: Path, calibrator_json: Path, record: Record) -> None:
    """Make the output folder, or recognize one that the same call began.

    Raises:
        InputError: it is no folder, the one that is read, or holds something else.
    """
    check_output(output, calibrator_json, record)
    output.mkdir(parents=True, exist_ok=True)
    with replacing_file(output / CALIBRATOR_COPY) as temporary:
        shutil.copyfile(calibrator_json, temporary)
    with replacing_file(output / RECORD) as temporary:
        temporary.write_text(json.dumps(record.to_dict(), indent=2) + "\n", encoding="utf-8")


def check_output(output: Path, calibrator_json: Path, record: Record) -> None:
    """May calibrated predictions be written there? Raises what :func:`begin` does."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: expected a folder to write into, found a file (-o)")
    if output.resolve() == record.pred_folder.resolve():
        raise InputError(f"{output}: expected another folder than the one that is read (-o)")
    if not output.is_dir() or not any(output.iterdir()):
        return
    try:
        same_calibrator = (output / CALIBRATOR_COPY).read_bytes() == calibrator_json.read_bytes()
        same_folder = json.loads((output / RECORD).read_bytes()) == record.to_dict()
    except (OSError, ValueError):
        same_calibrator = same_folder = False
    if not (same_calibrator and same_folder):
        raise InputError(
            f"{output}: expected an empty folder, or one that a run with the same calibrator, "
            f"network and predictions began, found other files; give another folder (-o)"
        )
