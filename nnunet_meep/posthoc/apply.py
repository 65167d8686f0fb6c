"""Applies a calibrator to a folder of nnU-Net predictions; the result is another such folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nnunet_meep.atomic import is_temporary, move_files, replacing_file, temporary_folder
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.notes import counted
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.calibrated import CALIBRATOR_COPY, note
from nnunet_meep.nnunet_files.cases import (
    ARGUMENTS,
    Dataset,
    case_names,
    find_json,
    n_voxels_of,
    read_dataset,
)
from nnunet_meep.nnunet_files.identity import file_identity, label_map_identity
from nnunet_meep.nnunet_files.images import read_codes, write_label_map
from nnunet_meep.nnunet_files.networks import PLAIN_RECORD, RECORD, Network, network_of
from nnunet_meep.nnunet_files.paths import itk_path, real_path, refuse_no_folder
from nnunet_meep.nnunet_files.probabilities import (
    open_probabilities,
    write_probabilities,
)
from nnunet_meep.posthoc.calibrator import Calibrator, read_calibrator
from nnunet_meep.posthoc.segmentation import segmentation
from nnunet_meep.posthoc.volume_table import write_volumes
from nnunet_meep.posthoc.whole_case import read_probabilities


def apply(
    calibrator_json: Path,
    pred_folder: Path,
    output: Path,
    *,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    any_network: bool = False,
    say: Callable[[str], None] | None = None,
    progress: bool = False,
) -> Applied:
    """Calibrate a folder of predictions with probabilities and write the result to another one.

    For each case it writes ``CASE.npz`` (``probabilities``, float32) and the segmentation that
    follows from these by nnU-Net's rule, or by the calibrator's thresholds, and copies ``CASE.pkl``
    unopened if there is one. It also copies ``dataset.json``, ``plans.json``, nnU-Net's record of
    its arguments (if there is one) and the calibrator, and records the folder and network of the
    predictions. A calibrator with volume intervals adds ``volumes.csv``, see :mod:`.volume_table`.

    The files of a case appear only when they are complete. Each npz has a note about its source, by
    which an interrupted run recognises the finished cases when it is started again.

    Args:
        calibrator_json: written by ``meep-calib-fit``.
        pred_folder: predictions, ``CASE.npz`` and ``CASE<file_ending>``.
        output: a folder that does not exist yet, is empty, or is from an interrupted run of the
            same call.
        dataset_json, plans_json: nnU-Net's files; if None they are searched for in ``pred_folder``
            and two levels up.
        any_network: also accept predictions of another network on the same data set; the
            differences are recorded. Those of another data set are never accepted.
        say: gets the lines of :meth:`.Network.calibrator_notes` before anything is written.
        progress: show a progress bar on stderr.

    Raises:
        InputError: a file or folder cannot be used, or the predictions are from another network or
            data set; the message names the file or folder.
        OSError: a file cannot be written.
    """
    job = _Job.prepare(calibrator_json, pred_folder, dataset_json, plans_json)
    if (pred_folder / RECORD).is_file():
        raise InputError(
            f"{pred_folder}: expected predictions as nnU-Net wrote them, found calibrated ones"
        )
    network = network_of([pred_folder])
    differences = job.calibrator.check_network(network, pred_folder, any_network=any_network)
    if say is not None:
        for line in job.calibrator.network.calibrator_notes(network):
            say(line)
    begin(output, calibrator_json, Record(pred_folder, network, tuple(differences)))
    for name in sorted(case_names(output, ".npz") - set(job.names)):
        raise InputError(
            f"{output / (name + '.npz')}: expected cases of {pred_folder}, found one that is not "
            f"there any more; remove it, or give another folder (-o)"
        )
    return job.run(output, progress)


def calibrate_into(
    output: Path,
    calibrator_json: Path,
    pred_folder: Path,
    *,
    progress: bool = False,
) -> Applied:
    """Like :func:`apply`, for an output folder that :func:`begin` has prepared."""
    return _Job.prepare(calibrator_json, pred_folder).run(output, progress)


@dataclass
class Applied:
    """The result of :func:`apply`. Numbers are of the cases that were calibrated in this run.

    Attributes:
        names: names of all cases.
        calibrated: of these, the ones that this run calibrated.
        not_argmax: by case, if there are any: the voxels whose label was not the one that follows
            from the probabilities by nnU-Net's rule.
        n_changed: by case, if there are any: the voxels to which the rule, or the thresholds, now
            give another label.
        before, after: the labels that any voxel had by the rule, and has now.
        classes: name of each label but background.
        by_thresholds: whether the calibrator has thresholds, which the segmentations then follow.
        volumes: the file with the volumes; None if the calibrator has no intervals.
    """

    names: list[str]
    calibrated: list[str] = field(default_factory=list)
    not_argmax: dict[str, int] = field(default_factory=dict)
    n_changed: dict[str, int] = field(default_factory=dict)
    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)
    classes: dict[int, str] = field(default_factory=dict)
    by_thresholds: bool = False
    volumes: Path | None = None

    @property
    def n_in_words(self) -> str:
        """The number of cases that its numbers are of."""
        n = len(self.calibrated)
        return counted(n, "case") + " calibrated now" * (n < len(self.names))

    @property
    def vanished(self) -> list[str]:
        """Names of the classes that were segmented before and now are nowhere."""
        return [name for label, name in self.classes.items() if label in self.before - self.after]


@dataclass(frozen=True)
class Record:
    """The record in an output folder of what was calibrated.

    Attributes:
        pred_folder: folder of the uncalibrated predictions.
        network: the network that made them.
        any_network: how it differs from the network of the calibrator.
        disagreement: whether maps of the disagreement between folds lie beside the predictions.
    """

    pred_folder: Path
    network: Network
    any_network: tuple[str, ...] = ()
    disagreement: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The content of the file in the output folder."""
        return {
            "pred_folder": str(real_path(self.pred_folder)),
            "network": self.network.to_dict(),
            "any_network": list(self.any_network),
            "disagreement": self.disagreement,
        }


@dataclass(frozen=True)
class _Job:
    """A folder to calibrate; everything that is known before the first case is read."""

    calibrator: Calibrator
    identity: str  # identity of the calibrator's file
    dataset: Dataset
    pred_folder: Path
    names: list[str]
    copied: dict[str, Path]  # {name in the output: file to copy}, for files that belong to no case

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
        itk_path(pred_folder)  # before an output folder is begun
        dataset = read_dataset([pred_folder], dataset_json, plans_json)
        dataset_path = find_json(pred_folder, dataset_json, "dataset.json", "-djfile")
        calibrator.check_labels(dataset.labels, dataset_path)
        copied = {
            "dataset.json": dataset_path,
            "plans.json": find_json(pred_folder, plans_json, "plans.json", "-pfile"),
            ARGUMENTS: pred_folder / ARGUMENTS,
        }
        names = _cases(pred_folder, dataset.file_ending)
        return cls(calibrator, identity, dataset, pred_folder, names, copied)

    def run(self, output: Path, progress: bool) -> Applied:
        """Calibrate the cases that are not finished yet."""
        for name, source in self.copied.items():
            if source.is_file():
                with replacing_file(output / name) as temporary:
                    shutil.copyfile(source, temporary)
        labels = self.dataset.labels
        values = labels.regions_class_order or labels.values[1:]
        classes = dict(zip(values, labels.names, strict=True))
        by_thresholds = self.calibrator.thresholds is not None
        applied = Applied(self.names, classes=classes, by_thresholds=by_thresholds)
        for name in tqdm(self.names, desc="calibration", unit="case", disable=not progress):
            if not self._is_done(name, output):
                self._calibrate(name, output, applied)
                applied.calibrated.append(name)
        if (intervals := self.calibrator.intervals) is not None:
            applied.volumes = write_volumes(output, intervals, self.dataset, progress)
        return applied

    def _is_done(self, name: str, output: Path) -> bool:
        """Whether the output already has this case, from the same prediction and calibrator."""
        if not (output / f"{name}{self.dataset.file_ending}").is_file():
            return False
        try:
            with (
                open_probabilities(self.pred_folder / f"{name}.npz") as source,
                open_probabilities(output / f"{name}.npz") as result,
            ):
                if source.comment:  # a calibrated case that meep-predict put here; see predict.py
                    return (source.comment, source.identity) == (result.comment, result.identity)
                return result.comment == self._note(name, source.identity)
        except InputError:
            return False

    def _note(self, name: str, probabilities: str) -> bytes:
        """The note for a case with these probabilities, and with its other files as they are.

        Raises:
            InputError: one of these cannot be read.
        """
        beside = [label_map_identity(self.pred_folder / f"{name}{self.dataset.file_ending}")]
        if (properties := self.pred_folder / f"{name}.pkl").is_file():
            beside.append(file_identity(properties))
        return note(probabilities, self.identity, " ".join(beside))

    def _calibrate(self, name: str, output: Path, applied: Applied) -> None:
        """Calibrate a case, and note in ``applied`` what became of its labels."""
        source = self.pred_folder / f"{name}.npz"
        labels, ending = self.dataset.labels, self.dataset.file_ending
        old = self.pred_folder / f"{name}{ending}"
        codes, _, _ = read_codes(old, self.dataset, n_voxels_of(source))
        # Its shape comes first: a small npz may declare, or inflate to, more than the memory holds.
        probabilities, identity = read_probabilities(
            source, (labels.n_channels, *codes.shape), labels
        )
        before = segmentation(probabilities, labels)
        if n := int(np.count_nonzero(codes != labels.encode(before))):
            applied.not_argmax[name] = n
        del codes
        self.calibrator(probabilities, out=probabilities)
        after = self.calibrator.segmentation(probabilities)
        if n := int(np.count_nonzero(before != after)):
            applied.n_changed[name] = n
        applied.before.update(np.unique(before).tolist())
        applied.after.update(np.unique(after).tolist())
        npz = output / f"{name}.npz"
        with temporary_folder(output, error_names=npz) as new:
            # Some of nnU-Net's readers write a second file beside the segmentation.
            write_label_map(after, new / old.name, old, self.dataset)
            if (properties := self.pred_folder / f"{name}.pkl").is_file():
                shutil.copyfile(properties, new / properties.name)
            write_probabilities(new / npz.name, probabilities, self._note(name, identity))
            move_files(new, output, last=npz.name)  # it marks the case as finished


def _cases(folder: Path, ending: str) -> list[str]:
    """Names of the cases, each of which must have probabilities and a segmentation.

    Raises:
        InputError: a case lacks one of the two, or there are no probabilities.
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


def begin(output: Path, calibrator_json: Path | None, record: Record) -> None:
    """Create the output folder, or accept one from an interrupted run of the same call.

    Args:
        output: the folder.
        calibrator_json: the calibrator, which is copied; None: predictions stay as they are.
        record: what is written down.

    Raises:
        InputError: ``output`` is not a folder, is the folder of the predictions, or has other
            content.
    """
    check_output(output, calibrator_json, record)
    output.mkdir(parents=True, exist_ok=True)
    if calibrator_json is not None:
        with replacing_file(output / CALIBRATOR_COPY) as temporary:
            shutil.copyfile(calibrator_json, temporary)
    with replacing_file(output / _record_name(calibrator_json)) as temporary:
        temporary.write_text(json.dumps(record.to_dict(), indent=2) + "\n", encoding="utf-8")


def check_output(output: Path, calibrator_json: Path | None, record: Record) -> None:
    """Check that predictions can be written to ``output``; raise as :func:`begin`."""
    refuse_no_folder(output)
    itk_path(output)
    if real_path(output) == real_path(record.pred_folder):
        raise InputError(f"{output}: expected another folder than the one that is read (-o)")
    if not output.is_dir():
        return
    found = {path.name for path in output.iterdir() if not is_temporary(path)}
    if not found:
        return
    try:
        same_calibrator = (
            CALIBRATOR_COPY not in found
            if calibrator_json is None
            else (output / CALIBRATOR_COPY).read_bytes() == calibrator_json.read_bytes()
        )
        # A run that was killed before it wrote its record has left the calibrator and nothing else.
        asked, recorded = record.to_dict(), None
        if found != {CALIBRATOR_COPY}:
            recorded = read_json(output / _record_name(calibrator_json))
        same_folder = found == {CALIBRATOR_COPY} or recorded == asked
    except (OSError, ValueError):
        same_calibrator = same_folder = False
    else:
        but_for_maps = isinstance(recorded, dict) and (
            recorded | {"disagreement": record.disagreement} == asked
        )
        if same_calibrator and not same_folder and but_for_maps:
            how = "without" if record.disagreement else "with"
            raise InputError(
                f"{output}: expected the same options, found a folder begun {how} --disagreement; "
                f"give another folder (-o)"
            )
    if not (same_calibrator and same_folder):
        raise InputError(
            f"{output}: expected an empty folder, or one that a run with the same calibrator, "
            f"network and predictions began, found other files; give another folder (-o)"
        )


def _record_name(calibrator_json: Path | None) -> str:
    return PLAIN_RECORD if calibrator_json is None else RECORD
