"""Reads all probabilities of a case that are to be calibrated."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.nnunet_files.calibrated import read_note
from nnunet_meep.nnunet_files.labels import Labels
from nnunet_meep.nnunet_files.probabilities import (
    PART,
    open_probabilities,
    refuse_shape,
    refuse_sums,
    refuse_values,
)


def read_probabilities(
    path: Path, expected: tuple[int, ...], labels: Labels, axes: str = "the segmentation beside it"
) -> tuple[NDArray[np.float32], str]:
    """Read all probabilities of a case, with the same checks as ``meep-calib-eval``.

    Args:
        path: the npz.
        expected: the shape (C, *shape) that it must have, from labels and segmentation.
        labels: the classes.
        axes: names the label map with the shape that is expected.

    Returns:
        Probabilities, (C, *shape), and their identity (see
        :mod:`nnunet_meep.nnunet_files.identity`).

    Raises:
        InputError: the file cannot be read or is calibrated already, or its values are not
            probabilities of this shape.
    """
    with open_probabilities(path) as file:
        if read_note(file.comment):
            raise InputError(
                f"{path}: expected a prediction as nnU-Net wrote it, found a calibrated one"
            )
        refuse_shape(path, file.shape, expected, axes)
        flat = np.empty((expected[0], math.prod(expected[1:])), np.float32)
        n_not_finite, low, high = 0, 0.0, 1.0
        for part in file.parts():
            with np.errstate(over="ignore", invalid="ignore"):  # what is none is refused below
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
