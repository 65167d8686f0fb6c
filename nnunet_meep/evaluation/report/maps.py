"""Probability and entropy maps as images that a viewer can overlay on the scan.

For each case: ``CASE/probability_CLASS.nii.gz`` for each class or region, and
``CASE/entropy.nii.gz`` (for regions, which overlap, ``CASE/entropy_REGION.nii.gz`` each). They are
float32 in the geometry of the reference, even if nnU-Net's reader permutes the axes. Entropy is
divided by its maximum, log K: 0 is certain, 1 means that all K classes are equally likely.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_meep.atomic import creating_folder
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.geometry import geometry
from nnunet_meep.nnunet_files.images import read_label_map
from nnunet_meep.nnunet_files.paths import itk_path
from nnunet_meep.nnunet_files.probabilities import read_channels


def write_maps(case: Case, dataset: Dataset, folder: Path) -> Path:
    """Write the maps of a case into ``folder / case.name``, replacing older ones.

    Returns:
        That folder.

    Raises:
        InputError: a file cannot be read, or probabilities and reference differ in shape.
        OSError: the maps cannot be written.
    """
    labels = dataset.labels
    reference = read_label_map(case.reference, dataset)
    shape, spacing_mm = reference.labels.shape, reference.spacing_mm
    del reference
    to_image = geometry(case, dataset, spacing_mm)
    target, new = folder / case.name, folder / f".new-{case.name}"
    shutil.rmtree(new, ignore_errors=True)
    with creating_folder(new) as temporary:
        names = {labels.channel(i): _file_name(name) for i, name in enumerate(labels.names)}
        n_channels = labels.n_channels
        entropy = np.zeros(shape, np.float32)
        for channel, p in read_channels(case.probabilities, (n_channels, *shape)):
            if not labels.is_region_based:
                entropy += minus_p_log_p(p) / np.float32(np.log(n_channels))
            else:
                two = (minus_p_log_p(p) + minus_p_log_p(1 - p)) / np.float32(np.log(2))
                _write(to_image(two), temporary / f"entropy_{names[channel]}.nii.gz")
            if channel in names:
                _write(to_image(p), temporary / f"probability_{names[channel]}.nii.gz")
        if not labels.is_region_based:
            _write(to_image(np.clip(entropy, 0, 1)), temporary / "entropy.nii.gz")
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
    return target


def minus_p_log_p(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """-p log p; 0 where p is 0."""
    return -p * np.log(np.maximum(p, np.finfo(np.float32).tiny))


def _write(image: sitk.Image, path: Path) -> None:
    sitk.WriteImage(image, itk_path(path), True)


def _file_name(name: str) -> str:
    """A class name without characters that are unsafe in file names."""
    return re.sub(r"[^\w.+-]+", "_", name)
