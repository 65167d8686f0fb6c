"""nnU-Net's padding around the crop that it predicted.

Padding has p = 1 in the background channel and p = 0 elsewhere; regions have no background channel.
The crop is the smallest box around all that is not padding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Not 0, and as good as 0 for whatever reads it.
_LEAST = 1e-30


def not_padding(probabilities: NDArray[np.floating], has_regions: bool) -> NDArray[np.bool_]:
    """Which voxels (*shape) of probabilities (C, *shape) are not padding."""
    result: NDArray[np.bool_] = probabilities[0] != (0 if has_regions else 1)
    for channel in probabilities[1:]:
        result |= channel != 0
    return result


def keep_apart(inside: NDArray[np.float32], has_regions: bool) -> None:
    """Keep a calibrated crop (C, *its shape) apart from the padding around it, in place.

    A map may reach 0 and 1, as isotonic regression does, and so turn the crop's background into
    padding. Two opposite corners keep the box.
    """
    for corner in (0, -1):
        voxel: tuple[Any, ...] = (slice(None), *[corner] * (inside.ndim - 1))
        p = inside[voxel]
        if not not_padding(p, has_regions):
            p[-1] = _LEAST
