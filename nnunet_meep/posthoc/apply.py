"""Apply a calibrator to a folder of nnU-Net predictions: another such folder."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.cases import (
    Dataset,
    case_names,
    find_json,
    read_dataset,
    write_label_map,
)
from nnunet_meep.evaluation.labels import Labels
from nnunet_meep.evaluation.stream import PART, open_probabilities, refuse_sums, refuse_values
from nnunet_meep.posthoc.calibrator import Calibrator, read_calibrator

#: In a folder that was calibrated: the calibrator, and what was calibrated with it.
CALIBRATOR_COPY = "calibrator.json"
RECORD = "calib_apply_args.json"

# zlib's fastest level: 0.35 s instead of 1.0 s at numpy's for 21 MB, and files 4 % larger.
_COMPRESSION = 1


def apply(
    calibrator_json: Path,
    pred_folder: Path,
    output: Path,
    *,
    dataset_json: Path | None = None,
    plans_json: Path | None = None,
    progress: bool = False,
) -> list[str]:
    """Calibrate a folder of predictions with probabilities into another folder.

    For each case ``CASE.npz`` (``probabilities``, float32), the segmentation that nnU-Net's rule
    makes of them, and ``CASE.pkl`` copied unopened where there is one; ``dataset.json``,
    ``plans.json``, nnU-Net's record of its arguments if there is one, the calibrator, and a record
    of which folder this is of. Each case appears whole, with the time of the prediction, by which a
    run that was stopped knows what is done and goes on.

    Args:
        calibrator_json: what ``meep-calib-fit`` wrote.
        pred_folder: predictions, ``CASE.npz`` beside ``CASE<file_ending>``.
        output: folder to be made; or empty, or begun by the same call.
        dataset_json, plans_json: nnU-Net's files; looked for in ``pred_folder`` and two folders up.
        progress: show a progress bar on stderr.

    Returns:
        The names of the cases.

    Raises:
        InputError: a file or folder cannot be used; the line names it.
        OSError: something cannot be written.
    """
    job = _Job.prepare(calibrator_json, pred_folder, dataset_json, plans_json)
    if (pred_folder / RECORD).is_file():
        raise InputError(
            f"{pred_folder}: expected predictions as nnU-Net wrote them, found calibrated ones"
        )
    begin(output, pred_folder, calibrator_json)
    job.run(output, progress)
    return job.names


def calibrate_into(
    output: Path, calibrator_json: Path, pred_folder: Path, *, progress: bool = False
) -> list[str]:
    """:func:`apply` to an output folder that :func:`begin` was called for."""
    job = _Job.prepare(calibrator_json, pred_folder)
    job.run(output, progress)
    return job.names


@dataclass(frozen=True)
class _Job:
    """A folder to be calibrated; all that can be said before the first case was looked at."""

    calibrator: Calibrator
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
        calibrator = read_calibrator(calibrator_json)
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
        return cls(calibrator, dataset, pred_folder, names, copied)

    def run(self, output: Path, progress: bool) -> None:
        for name, source in self.copied.items():
            if source.is_file():
                with replacing_file(output / name) as temporary:
                    shutil.copyfile(source, temporary)
        for name in tqdm(self.names, unit="case", disable=not progress):
            if not _is_of(output / f"{name}.npz", self.pred_folder / f"{name}.npz"):
                _calibrate_case(self.calibrator, self.dataset, self.pred_folder, name, output)


def segmentation(probabilities: NDArray[np.float32], labels: Labels) -> NDArray[np.unsignedinteger]:
    """What nnU-Net makes of probabilities, (C, *shape) to (*shape).

    The label of the largest probability, the first of equal ones; for regions the last one of
    ``regions_class_order`` with p > 1/2.
    """
    small = np.uint8 if max(labels.predicted_label) <= np.iinfo(np.uint8).max else np.uint16
    result = np.zeros(probabilities.shape[1:], small)
    for i, target in enumerate(result):  # plane by plane: argmax takes eight bytes a voxel
        plane = probabilities[:, i]
        if labels.regions_class_order is None:
            target[...] = plane.argmax(axis=0)
        else:
            for p, label in zip(plane, labels.regions_class_order, strict=True):
                target[p > 0.5] = label
    return result


def _calibrate_case(
    calibrator: Calibrator, dataset: Dataset, pred_folder: Path, name: str, output: Path
) -> None:
    source = pred_folder / f"{name}.npz"
    labels, ending = dataset.labels, dataset.file_ending
    probabilities = _read_npz(source, labels)
    calibrator(probabilities, out=probabilities)
    # All files in a folder of their own first; the probabilities come last and say that it is done.
    with TemporaryDirectory(prefix=".tmp-", dir=output) as temporary:
        folder = Path(temporary)
        label_map = segmentation(probabilities, labels)
        old = pred_folder / f"{name}{ending}"
        write_label_map(label_map, folder / old.name, old, dataset)
        if (properties := pred_folder / f"{name}.pkl").is_file():
            shutil.copyfile(properties, folder / properties.name)
        others = sorted(folder.iterdir())
        npz = folder / f"{name}.npz"
        _write_npz(npz, probabilities)
        times = source.stat()
        os.utime(npz, ns=(times.st_atime_ns, times.st_mtime_ns))
        for path in (*others, npz):
            os.replace(path, output / path.name)


def _read_npz(path: Path, labels: Labels) -> NDArray[np.float32]:
    """All probabilities of a case, checked as ``meep-calib-eval`` does it, (C, *shape)."""
    with open_probabilities(path) as file:
        expected = (labels.n_channels, *file.shape[1:])
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
        if labels.regions_class_order is None:
            starts = range(0, flat.shape[1], PART)
            sums = (flat[:, i : i + PART].sum(axis=0, dtype=np.float64) for i in starts)
            refuse_sums(path, max(float(np.abs(s - 1).max()) for s in sums), file.dtype)
        if not file.fortran_order:
            return flat.reshape(expected)
        return np.stack([channel.reshape(expected[1:], order="F") for channel in flat])


def _write_npz(path: Path, probabilities: NDArray[np.float32]) -> None:
    """As ``numpy.savez_compressed`` does it, in less time."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array(member, probabilities, allow_pickle=False)


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


def begin(output: Path, pred_folder: Path, calibrator_json: Path) -> None:
    """Make the output folder, or recognize one that the same call began.

    Raises:
        InputError: it is no folder, the one that is read, or holds something else.
    """
    check_output(output, pred_folder, calibrator_json)
    output.mkdir(parents=True, exist_ok=True)
    with replacing_file(output / CALIBRATOR_COPY) as temporary:
        shutil.copyfile(calibrator_json, temporary)
    with replacing_file(output / RECORD) as temporary:
        temporary.write_text(json.dumps(_record(pred_folder), indent=2) + "\n", encoding="utf-8")


def check_output(output: Path, pred_folder: Path, calibrator_json: Path) -> None:
    """May calibrated predictions be written there? Raises what :func:`begin` does."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: expected a folder to write into, found a file (-o)")
    if output.resolve() == pred_folder.resolve():
        raise InputError(f"{output}: expected another folder than the one that is read (-o)")
    if not output.is_dir() or not any(output.iterdir()):
        return
    try:
        same_calibrator = (output / CALIBRATOR_COPY).read_bytes() == calibrator_json.read_bytes()
        same_folder = json.loads((output / RECORD).read_bytes()) == _record(pred_folder)
    except (OSError, ValueError):
        same_calibrator = same_folder = False
    if not (same_calibrator and same_folder):
        raise InputError(
            f"{output}: expected an empty folder, or one that a run with the same calibrator and "
            f"predictions began, found other files; give another folder (-o)"
        )


def _record(pred_folder: Path) -> dict[str, str]:
    return {"pred_folder": str(pred_folder.resolve())}


def _is_of(result: Path, source: Path) -> bool:
    """Was it made of this file? It has its time then."""
    return result.is_file() and result.stat().st_mtime_ns == source.stat().st_mtime_ns
