"""Probability and entropy maps as images that a viewer can overlay on the scan.

For each case: ``CASE/probability_CLASS.nii.gz`` for each class or region, and
``CASE/entropy.nii.gz`` (for regions, which overlap, ``CASE/entropy_REGION.nii.gz`` each). They are
float32 in the geometry of the reference, even if nnU-Net's reader permutes the axes. Entropy is
divided by its maximum, log K: 0 is certain, 1 means that all K classes are equally likely.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.atomic import replacing_folder
from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.cases import Case, Dataset
from nnunet_meep.nnunet_files.geometry import geometry, is_sheared
from nnunet_meep.nnunet_files.images import read_label_map
from nnunet_meep.nnunet_files.probabilities import read_channels
from nnunet_meep.nnunet_files.writing import write_image

#: Of a class name in a file name; file systems take 255 for the whole name.
_MOST_BYTES = 150


def write_maps(case: Case, dataset: Dataset, folder: Path) -> Path:
    """Write the maps of a case into ``folder / case.name``, replacing older ones.

    Returns:
        That folder.

    Raises:
        InputError: a file cannot be read, probabilities and reference differ in shape, or the axes
            of the reference are not perpendicular.
        OSError: the maps cannot be written.
    """
    if is_sheared(case, dataset):
        raise InputError(
            f"{case.reference}: expected perpendicular axes for maps (--maps), found oblique ones, "
            "which SimpleITK cannot write"
        )
    labels = dataset.labels
    reference = read_label_map(case.reference, dataset)
    shape, spacing_mm = reference.labels.shape, reference.spacing_mm
    del reference
    to_image = geometry(case, dataset, spacing_mm)
    target = folder / case.name
    with replacing_folder(target) as temporary:
        names = {labels.channel(i): name for i, name in enumerate(file_names(labels.names))}
        n_channels = labels.n_channels
        entropy = np.zeros(shape, np.float32)
        for channel, p in read_channels(case.probabilities, (n_channels, *shape)):
            if not labels.is_region_based:
                entropy += minus_p_log_p(p) / np.float32(np.log(n_channels))
            else:
                two = (minus_p_log_p(p) + minus_p_log_p(1 - p)) / np.float32(np.log(2))
                write_image(to_image(two), temporary / f"entropy_{names[channel]}.nii.gz")
            if channel in names:
                write_image(to_image(p), temporary / f"probability_{names[channel]}.nii.gz")
        if not labels.is_region_based:
            write_image(to_image(np.clip(entropy, 0, 1)), temporary / "entropy.nii.gz")
    return target


def minus_p_log_p(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """-p log p; 0 where p is 0."""
    floored: NDArray[np.float32] = np.maximum(p, np.finfo(np.float32).tiny)
    return -p * np.log(floored)


def file_names(names: Sequence[str]) -> list[str]:
    """A different file name for each class, of what of its name is safe in one, and not too long.

    Names that become the same, also on file systems that do not tell capitals apart, get the number
    of their class, from 1, behind a sign that no other name has.
    """
    safe = [
        re.sub(r"[^\w.+-]+", "_", name).encode()[:_MOST_BYTES].decode(errors="ignore")
        for name in names
    ]
    n_alike = Counter(map(str.casefold, safe))
    return [
        f"{name}@{i}" if n_alike[name.casefold()] > 1 else name for i, name in enumerate(safe, 1)
    ]
