"""A small synthetic data set that resembles left atria in MRI, in nnU-Net's raw format.

Each scan has what makes a left atrium difficult to segment and a network overconfident:

- a bright chamber (label 1, ``LA``) with tubular veins that continue beyond the end of the label;
- the aorta next to it, which is about as bright but background;
- borders that are blurred, and labels that do not follow the change in intensity exactly;
- a bias field and Rician noise, as in magnitude MR images.

It is meant for trying out the software, not for judging a method.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nnunet_meep.atomic import creating_folder
from nnunet_meep.nnunet_files.writing import write_image

#: Voxels along z, y and x. (SimpleITK gives the axes of the files in the order x, y, z.)
SHAPE = (24, 32, 32)
SPACING_MM = 1.25


def make_dataset(
    folder: Path,
    *,
    n_training: int = 12,
    n_test: int = 6,
    shape: tuple[int, int, int] = SHAPE,
    seed: int = 0,
) -> None:
    """Write ``folder``, a ``DatasetXXX_NAME`` in nnU-Net's raw format, with labelled test scans.

    A scan depends only on ``seed``, its number and whether it is for training or testing (and on
    ``shape``), not on how many others there are.

    Raises:
        FileExistsError: ``folder`` exists.
    """
    with creating_folder(folder) as new:
        for part, n_scans in enumerate((n_training, n_test)):
            images, labels = (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs"))[part]
            (new / images).mkdir()
            (new / labels).mkdir()
            for i in range(n_scans):
                image, mask = make_scan(np.random.default_rng([seed, part, i]), shape)
                case = f"LA_{'train' if part == 0 else 'test'}_{i + 1:02d}"
                _write(image, new / images / f"{case}_0000.nii.gz")
                _write(mask, new / labels / f"{case}.nii.gz")
        description = {
            "name": "Synthetic left atria",
            "channel_names": {"0": "MRI"},
            "labels": {"background": 0, "LA": 1},
            "numTraining": n_training,
            "file_ending": ".nii.gz",
        }
        (new / "dataset.json").write_text(json.dumps(description, indent=2) + "\n")


def make_scan(
    rng: np.random.Generator, shape: tuple[int, int, int] = SHAPE
) -> tuple[np.ndarray, np.ndarray]:
    """One scan: the image (int16) and the mask of the atrium (uint8), both of ``shape``."""
    from scipy.ndimage import gaussian_filter

    def smooth_noise(scale_mm: float) -> np.ndarray:
        """Gaussian noise of unit variance, correlated over about ``scale_mm``."""
        noise: np.ndarray = gaussian_filter(rng.standard_normal(shape), scale_mm / SPACING_MM)
        noise = (noise - noise.mean()) / noise.std()
        return noise

    size_mm = SPACING_MM * np.array(shape)
    unit = size_mm.min() / 40  # in mm; all structures scale with the scan
    centre = size_mm / 2 + rng.uniform(-3, 3, 3) * unit
    z, y, x = np.meshgrid(*(SPACING_MM * (np.arange(n) + 0.5) for n in shape), indexing="ij")
    offset = np.stack([z, y, x], axis=-1) - centre

    # Every structure is an approximate signed distance in mm, negative inside.
    radii = rng.uniform([8, 10, 11], [11, 13, 15]) * unit
    chamber = (np.linalg.norm(offset / radii, axis=-1) - 1) * radii.mean()
    to_centre = np.linalg.norm(offset, axis=-1)
    veins = np.full(shape, np.inf)
    for side in (-1, -1, 1, 1):
        direction = rng.normal([0, -0.5, side], [0.5, 0.3, 0.2])
        direction /= np.linalg.norm(direction)
        along = offset @ direction
        across = np.linalg.norm(offset - along[..., None] * direction, axis=-1)
        radius = rng.uniform(2, 3) * unit
        veins = np.minimum(veins, np.where(along > 0, across - radius, to_centre))
    blood = np.minimum(chamber, veins) + 0.7 * unit * smooth_noise(4 * unit)

    # Where a vein ends and the atrium begins is a convention, and annotators draw the border
    # slightly differently. Neither can be seen in the image.
    vein_ends = to_centre - radii.mean() - rng.uniform(4, 6) * unit
    drawn = np.maximum(blood + 0.5 * unit * smooth_noise(3 * unit), vein_ends)
    mask = (drawn < 0).astype(np.uint8)

    # The aorta runs behind the atrium, roughly along z.
    aorta_at = rng.uniform([15, -8], [18, 8]) * unit
    across = offset[..., 1:] - aorta_at - offset[..., :1] * rng.normal(0, 0.15, 2)
    aorta = np.linalg.norm(across, axis=-1) - rng.uniform(5, 6.5) * unit

    intensity = 0.35 + 0.08 * smooth_noise(3 * unit)
    for structure, brightness in ((aorta, rng.normal(0.95, 0.06)), (blood, 1.0)):
        inside = 1 / (1 + np.exp(np.clip(structure / (0.8 * unit), -50, 50)))
        intensity += inside * (brightness - intensity)
    intensity *= np.exp(0.2 * smooth_noise(20 * unit))
    intensity = gaussian_filter(intensity, 0.6)
    noise = rng.normal(0, 0.09, (2, *shape))
    intensity = np.hypot(intensity + noise[0], noise[1])
    return (300 * intensity).astype(np.int16), mask


def _write(array: np.ndarray, path: Path) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array)
    image.SetSpacing([SPACING_MM] * 3)
    write_image(image, path)
