"""An image in blocks, so that what is computed of a block stays small."""

from __future__ import annotations

import numpy as np

_BLOCK = 1 << 18  # voxels


def blocks_of(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """Split an image along its first two axes into blocks of about ``_BLOCK`` voxels."""
    rows = shape[1] if len(shape) > 1 else 1
    in_row = int(np.prod(shape[2:]))
    step = max(_BLOCK // max(in_row, 1), 1)
    if step >= rows:
        planes = max(step // max(rows, 1), 1)
        return [(slice(i, i + planes),) for i in range(0, shape[0], planes)]
    return [
        (slice(i, i + 1), slice(j, j + step)) for i in range(shape[0]) for j in range(0, rows, step)
    ]
