"""Averages the probabilities that several folds predicted for a case, and maps their disagreement.

The average is that of ``nnUNetv2_ensemble``. The files of all members are read side by side, part
by part, so that their number does not matter for the memory.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.atomic import move_files, temporary_folder
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.cases import Case, Dataset, n_voxels_of
from nnunet_meep.nnunet_files.geometry import geometry
from nnunet_meep.nnunet_files.images import read_label_map, write_label_map
from nnunet_meep.nnunet_files.probabilities import (
    ProbabilityFile,
    open_probabilities,
    refuse_shape,
    write_probabilities,
)
from nnunet_meep.nnunet_files.writing import write_image
from nnunet_meep.posthoc.disagreement import Disagreement
from nnunet_meep.posthoc.segmentation import segmentation

#: Folder of the maps, in that of the predictions: nnU-Net's commands would take images beside the
#: segmentations for cases.
MAPS = "disagreement"


def average_case(
    name: str,
    members: Sequence[Path],
    dataset: Dataset,
    target: Path,
    *,
    average: bool = True,
    disagreement: bool = False,
) -> None:
    """Write the average of a case, the maps of the disagreement, or both.

    Args:
        name: name of the case.
        members: folders of nnU-Net's predictions with probabilities, one of each member.
        dataset: that of the predictions.
        target: an existing folder, which gets the files once all are complete.
        average: write ``CASE.npz`` (mean of the probabilities, float32), the segmentation that
            follows from it by nnU-Net's rule, and ``CASE.pkl`` of the first member, unopened.
        disagreement: write ``CASE_mutual_information.nii.gz`` and ``CASE_std.nii.gz`` into
            ``target / MAPS``, float32 in the geometry of the segmentation; see
            :mod:`.disagreement`.

    Raises:
        InputError: a file cannot be read, or the members do not fit together.
        OSError: a file cannot be written.
    """
    ending, labels = dataset.file_ending, dataset.labels
    old = members[0] / f"{name}{ending}"
    label_map = read_label_map(old, dataset, n_voxels_of(members[0] / f"{name}.npz"))
    shape, spacing_mm = label_map.labels.shape, label_map.spacing_mm
    del label_map
    n_channels, n_voxels = labels.n_channels, math.prod(shape)
    mean = np.empty((n_channels, n_voxels), np.float32) if average else None
    maps = Disagreement(n_voxels, is_region_based=labels.is_region_based) if disagreement else None
    with ExitStack() as stack:
        paths = [member / f"{name}.npz" for member in members]
        files = [stack.enter_context(open_probabilities(path)) for path in paths]
        _check(files, (n_channels, *shape))
        order = files[0].order
        for parts in zip(*(file.parts() for file in files), strict=True):
            p = np.stack([part.p for part in parts])
            channel, voxels = parts[0].channel, slice(parts[0].start, parts[0].stop)
            if mean is not None:
                # nnU-Net adds up and divides in float32, in this order.
                mean[channel, voxels] = p.sum(axis=0, dtype=np.float32) / np.float32(len(p))
            if maps is not None:
                maps.add(voxels, p)
            for part in parts:
                part.release()

    npz = f"{name}.npz"
    with temporary_folder(target, error_names=target / npz) as new:
        if maps is not None:
            (new / MAPS).mkdir()
            case = Case(name, reference=old, probabilities=paths[0])
            to_image = geometry(case, dataset, spacing_mm)
            for what in ("mutual_information", "std"):
                image = to_image(getattr(maps, what).reshape(shape, order=order))
                write_image(image, new / MAPS / f"{name}_{what}.nii.gz")
        if mean is not None:
            probabilities = _shaped(mean, shape, order)
            write_label_map(segmentation(probabilities, labels), new / old.name, old, dataset)
            if (properties := members[0] / f"{name}.pkl").is_file():
                shutil.copyfile(properties, new / properties.name)
            write_probabilities(new / npz, probabilities, b"")
        move_files(new, target, last=npz)


def _check(files: Sequence[ProbabilityFile], expected: tuple[int, ...]) -> None:
    for file in files:
        refuse_shape(file.path, file.shape, expected, "the segmentation of the first fold")
        if file.order != files[0].order:
            raise InputError(
                f"{file.path}: expected an array in {files[0].order} order as in {files[0].path}, "
                f"got {file.order} order; predict all folds again"
            )


def _shaped(flat: NDArray[np.float32], shape: tuple[int, ...], order: str) -> NDArray[np.float32]:
    """Channels of voxels in the order of a file as (C, *shape)."""
    if order == "C":
        return flat.reshape(len(flat), *shape)
    return np.stack([channel.reshape(shape, order="F") for channel in flat])
