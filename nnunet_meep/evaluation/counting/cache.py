"""Saves the sums of finished cases, so that an interrupted run can continue where it stopped.

They are reused only if the key is the same: content of the case's files, classes, bins, ROIs, other
settings, and the version of this package.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep import __version__
from nnunet_meep.atomic import replacing_file
from nnunet_meep.evaluation.counting.bins import CaseSums, Cells, ClassSums, RoiSums
from nnunet_meep.evaluation.counting.components import Lesions
from nnunet_meep.evaluation.counting.roi import Roi
from nnunet_meep.json_file import parse_json
from nnunet_meep.nnunet_files.calibrated import read_note
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.identity import label_map_identity
from nnunet_meep.nnunet_files.probabilities import open_probabilities

#: Increase this whenever the meaning of the saved sums changes.
_FORMAT = 4
_SCALARS = tuple(f.name for f in fields(ClassSums) if f.name != "cells")


def cache_key(
    case: Case,
    dataset: Dataset,
    n_bins: int,
    rois: Sequence[Roi],
    surface: bool,
    tolerance_mm: float,
    lesions: float | None,
    segmentation: str,
) -> dict[str, Any]:
    """Everything that the sums of a case depend on, as JSON; its files as identities of content.

    Raises:
        InputError: a file cannot be read.
    """
    key = {
        "format": _FORMAT,
        "version": __version__,
        "case": case.name,
        "labels": asdict(dataset.labels),
        "reader": dataset.reader,
        "bins": n_bins,
        "rois": [r.name for r in rois],
        "surface": surface,
        "tolerance_mm": tolerance_mm if surface else None,
        "lesions": lesions,
        "segmentation": segmentation,
        "files": case_identity(case, dataset.file_ending, rois),
    }
    # Turns tuples into lists, as when read from a file.
    as_read: dict[str, Any] = json.loads(json.dumps(key))
    return as_read


def case_identity(case: Case, file_ending: str, rois: Sequence[Roi]) -> dict[str, str]:
    """Identities of the content of a case's files (see :mod:`nnunet_meep.nnunet_files.identity`).

    Returns:
        Identities of ``probabilities``, ``reference``, ``segmentation`` (if there is one), and of
        each ROI's mask under the name of the ROI. For probabilities that ``meep-calib-apply``
        wrote, also of the ``uncalibrated`` probabilities and the ``calibrator``.

    Raises:
        InputError: a file cannot be read.
    """
    with open_probabilities(case.probabilities) as file:
        files = {"probabilities": file.identity}
        files |= read_note(file.comment)
    files["reference"] = label_map_identity(case.reference)
    if case.segmentation is not None:
        files["segmentation"] = label_map_identity(case.segmentation)
    for roi in rois:
        mask = roi.mask_path(case.name, file_ending)
        if mask is not None and mask.is_file():
            files[roi.name] = label_map_identity(mask)
    return files


def save(path: Path, sums: CaseSums, key: dict[str, Any]) -> None:
    """Save the sums of a case.

    Raises:
        OSError: the file cannot be written.
    """
    cells = [c for roi in sums.rois.values() for c in _all_cells(roi)]
    about = {
        "key": key,
        "case": sums.case,
        "n_clipped": sums.n_clipped,
        "scalars": {
            name: [[getattr(c, s) for s in _SCALARS] for c in roi.channels]
            for name, roi in sums.rois.items()
        },
        "has_top_label": [r.top_label is not None for r in sums.rois.values()],
        "surfaces": sums.surfaces,
        "n_not_argmax": sums.n_not_argmax,
        "lesions": sums.lesions and [asdict(of_class) for of_class in sums.lesions],
        "wmh": sums.wmh,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary:
        np.savez_compressed(
            temporary,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            length=np.array([len(c.index) for c in cells]),
            index=np.concatenate([c.index for c in cells]),
            count=np.concatenate([c.count for c in cells]),
            sum_p=np.concatenate([c.sum_p for c in cells]),
        )


def find(path: Path, key: dict[str, Any]) -> CaseSums | None:
    """The saved sums of a case; None if there are none with the same key."""
    try:
        found, sums = load(path)
    except Exception:  # missing, not our file, or damaged in any way: count the case again
        return None
    return sums if found == key else None


def has(path: Path, key: dict[str, Any]) -> bool:
    """Whether :func:`find` would find sums, unless they are damaged; they are not read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found: dict[str, Any] = parse_json(archive["about"].tobytes())["key"]
            return found == key
    except Exception:  # as in find()
        return False


def load(path: Path) -> tuple[dict[str, Any], CaseSums]:
    """The key and the sums that :func:`save` wrote."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        about = parse_json(archive["about"].tobytes())
        arrays = {name: archive[name] for name in ("length", "index", "count", "sum_p")}
    return about["key"], _case_sums(about, arrays)


def _all_cells(roi: RoiSums) -> list[Cells]:
    top = [] if roi.top_label is None else [roi.top_label]
    return [c.cells for c in roi.channels] + top


def _case_sums(about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> CaseSums:
    cuts = np.cumsum(arrays["length"])[:-1]
    pieces = zip(*(np.split(arrays[k], cuts) for k in ("index", "count", "sum_p")), strict=True)
    cells = (Cells(*piece) for piece in pieces)
    rois = {}
    for (name, scalars), has_top in zip(
        about["scalars"].items(), about["has_top_label"], strict=True
    ):
        channels = tuple(
            ClassSums(**dict(zip(_SCALARS, values, strict=True)), cells=next(cells))
            for values in scalars
        )
        rois[name] = RoiSums(channels, next(cells) if has_top else None)
    surfaces, lesions = about["surfaces"], about["lesions"]
    return CaseSums(
        about["case"],
        about["n_clipped"],
        rois,
        None if surfaces is None else tuple(surfaces),
        about["n_not_argmax"],
        None if lesions is None else tuple(map(Lesions.from_dict, lesions)),
        about["wmh"],
    )
