"""Apply a calibrator to a folder of nnU-Net predictions: another such folder."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
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

#: The copy of the calibrator in a folder that was calibrated with it.
CALIBRATOR_COPY = "calibrator.json"

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
    ``plans.json``, nnU-Net's record of its arguments if there is one, and the calibrator. Each case
    appears whole; a run that was stopped goes on where it was.

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
    calibrator = read_calibrator(calibrator_json)
    if not pred_folder.is_dir():
        raise InputError(f"{pred_folder}: expected a folder of predictions, found none")
    dataset = read_dataset([pred_folder], dataset_json, plans_json)
    dataset_path = find_json(pred_folder, dataset_json, "dataset.json", "-djfile")
    calibrator.check_labels(dataset.labels, dataset_path)
    names = _cases(pred_folder, dataset.file_ending)
    check_output(output, pred_folder, calibrator_json)

    output.mkdir(parents=True, exist_ok=True)
    once = {
        CALIBRATOR_COPY: calibrator_json,  # the first one, by which a later run knows its own
        "dataset.json": dataset_path,
        "plans.json": find_json(pred_folder, plans_json, "plans.json", "-pfile"),
        "predict_from_raw_data_args.json": pred_folder / "predict_from_raw_data_args.json",
    }
    for name, source in once.items():
        if source.is_file() and not (output / name).exists():
            with replacing_file(output / name) as temporary:
                shutil.copyfile(source, temporary)
    for name in tqdm(names, unit="case", disable=not progress):
        if not _is_newer(output / f"{name}.npz", pred_folder / f"{name}.npz"):
            _calibrate_case(calibrator, dataset, pred_folder, name, output)
    return names


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


def check_output(output: Path, pred_folder: Path, calibrator_json: Path) -> None:
    """May calibrated predictions be written there?

    Raises:
        InputError: it is no folder, the one that is read, or holds something else.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: expected a folder to write into, found a file (-o)")
    if output.resolve() == pred_folder.resolve():
        raise InputError(f"{output}: expected another folder than the one that is read (-o)")
    if not output.is_dir() or not any(output.iterdir()):
        return
    copy = output / CALIBRATOR_COPY
    if not copy.is_file() or copy.read_bytes() != calibrator_json.read_bytes():
        raise InputError(
            f"{output}: expected an empty folder, or one that a run with the same calibrator "
            f"began, found other files; give another folder (-o)"
        )


def _is_newer(result: Path, source: Path) -> bool:
    return result.is_file() and result.stat().st_mtime_ns >= source.stat().st_mtime_ns
